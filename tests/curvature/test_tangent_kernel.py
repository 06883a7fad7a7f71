"""The tangent kernel, and Gauss-Newton's spectrum through the Gram matrix."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.curvature.square_root import square_root_rows
from hesscope.perceptron.layerwise import layerwise_gram
from hesscope.perceptron.mlp import recognise
from tests import oracles
from tests.oracles import data, network

X, Y = data(12, 5, 3)
REAL = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("batch_size", [None, 5, 1])
@pytest.mark.parametrize("memory", [None, 0])
def test_the_kernel_is_jacobian_times_its_transpose(batch_size, memory):
    problem = hs.Problem(network(5, 9, 3), F.cross_entropy, (X, Y), batch_size=batch_size)
    J = oracles.jacobian(problem, X)
    K = hs.TangentKernel(problem, memory=memory)
    assert torch.allclose(K.to_dense(), J @ J.T, rtol=0, atol=1e-12)
    assert hs.check_operator(K).ok


@pytest.mark.parametrize(
    ("loss_fn", "targets", "count"),
    [
        (F.cross_entropy, Y, None),
        (F.mse_loss, REAL, None),
        (nn.BCEWithLogitsLoss(), (REAL > 0).double(), None),
        (nn.HuberLoss(), REAL, None),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]).double()), Y, "weights"),
        (F.cross_entropy, torch.where(torch.arange(12) % 4 == 0, -100, Y), "kept"),
    ],
)
@pytest.mark.parametrize("batch_size", [None, 5])
def test_the_gram_matrix_has_the_spectrum_of_gauss_newton(loss_fn, targets, count, batch_size):
    counts = {
        None: None,
        "weights": lambda y: loss_fn.weight[y].sum(),
        "kept": lambda y: (y != -100).sum(),
    }
    problem = hs.Problem(
        network(5, 9, 3), loss_fn, (X, targets), count=counts[count], batch_size=batch_size
    )
    spectrum = hs.gram_spectrum(problem)
    expected = torch.linalg.eigvalsh(oracles.gauss_newton(problem, X, targets))
    assert len(spectrum) == problem.n
    assert float((spectrum.eigenvalues - expected).abs().max()) < 1e-13 * float(expected[-1]) * 84


def test_cross_entropy_gives_one_row_less_than_classes_for_each_example():
    problem = hs.Problem(network(5, 9, 3), F.cross_entropy, (X, Y))
    assert hs.gram_spectrum(problem).facts["matrix"] == "Gram matrix of 24 rows of the Jacobian"


def test_more_rows_than_parameters_are_refused():
    problem = hs.Problem(network(5, 3), F.cross_entropy, data(40, 5, 3))
    with pytest.raises(ValueError, match=r"^the Gram matrix would have 80 rows, more than the 18"):
        hs.gram_spectrum(problem)


@pytest.mark.parametrize("params", [None, "0.weight", "2.*", ["0.bias", "2.weight"]])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize(("loss_fn", "targets"), [(F.cross_entropy, Y), (F.mse_loss, REAL)])
def test_layer_by_layer_equals_rows_of_the_jacobian(params, activation, loss_fn, targets):
    """The same spectrum: the columns of a root are free up to a rotation."""
    model = network(5, 30, 3, activation=activation)
    problem = hs.Problem(model, loss_fn, (X, targets), params=params, batch_size=5)
    found = layerwise_gram(recognise(problem), 2 if loss_fn is F.cross_entropy else 3)
    rows = square_root_rows(problem)
    expected = torch.linalg.eigvalsh(rows @ rows.T)
    slack = 1e-13 * float(expected[-1]) * len(expected)
    assert float((torch.linalg.eigvalsh(found) - expected).abs().max()) < slack


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_bare_linear_layer_has_the_spectrum_of_its_gauss_newton(wrapped, bias):
    torch.manual_seed(0)
    inputs = torch.randn(4, 30, dtype=torch.float64)
    linear = nn.Linear(30, 2, bias=bias).double()
    model = nn.Sequential(nn.Flatten(), linear) if wrapped else linear
    problem = hs.Problem(model, F.mse_loss, (inputs, inputs[:, :2]))
    expected = torch.linalg.eigvalsh(hs.GaussNewton(problem).to_dense())
    found = hs.gram_spectrum(problem).eigenvalues
    assert float(expected[-1]) > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)
