"""Exact zeros of perceptrons: a basis that loses nothing, and counts with known answers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.perceptron.mlp import recognise
from hesscope.perceptron.reductions import Reduction, reduce, reduced_hessian, row_space
from tests.perceptron.test_mlp import CLASSES, DIM, LOSSES, NUM, by_matvecs, inputs, labels, stack
from tests.thinning import thinned

ROUNDING = 1e-12
SOFTMAX = {
    "cross-entropy", "class weights", "smoothing", "weights and smoothing", "ignored",
    "probabilities",
}  # fmt: skip


def reduction(problem: hs.Problem) -> Reduction:
    mlp = recognise(problem)
    assert mlp is not None
    return reduce(mlp)


def assert_exact(problem: hs.Problem) -> Reduction:
    """P is orthonormal, P (PᵀHP) Pᵀ = H, and the spectra agree; returns the reduction."""
    found, H = reduction(problem), by_matvecs(problem)
    norm = float(H.norm())
    reduced = reduced_hessian(found)
    P = found.lift(torch.eye(found.size, dtype=H.dtype))
    assert torch.equal(reduced, reduced.T)
    torch.testing.assert_close(P.T @ P, torch.eye(found.size, dtype=H.dtype), rtol=0, atol=1e-13)
    torch.testing.assert_close(found.project(H), P.T @ H, rtol=0, atol=1e-13 * norm)
    assert float((P @ reduced @ P.T - H).norm()) <= ROUNDING * norm
    zeros = reduced.new_zeros(found.n - found.size)
    spectrum = torch.cat([torch.linalg.eigvalsh(reduced), zeros]).sort().values
    assert float((spectrum - torch.linalg.eigvalsh(H)).abs().max()) <= ROUNDING * norm
    assert found.size + sum(found.zeros.values()) == problem.n
    return found


def classifier(model: nn.Module, X: Tensor, **options: object) -> hs.Problem:
    return hs.Problem(model, F.cross_entropy, (X, labels(len(X))), **options)


def spoilt(dim: int = 7, num: int = NUM) -> Tensor:
    """Inputs of which two are always zero and two are equal."""
    X = inputs(num, dim)
    X[:, 1] = X[:, 5] = 0
    X[:, 3] = X[:, 2]
    return X


@pytest.mark.parametrize("seed", thinned(range(3), 3))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Hardtanh, nn.GELU])
@pytest.mark.parametrize("widths", [(), (5,), (6, 4), (6, 5, 4)])
def test_nothing_is_lost(widths, activation, seed):
    model = stack(7, *widths, CLASSES, activation=activation, seed=seed)
    if len(widths) > 1:
        with torch.no_grad():
            model[0].bias[1] = model[2].bias[2] = -30.0
    assert_exact(classifier(model, spoilt(), batch_size=5))


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_lost_with_any_loss(name):
    loss_fn, targets = LOSSES[name]
    model = stack(7, 5, CLASSES, activation=nn.ReLU)
    found = assert_exact(hs.Problem(model, loss_fn, (spoilt(), targets), batch_size=5))
    assert ("softmax shift" in found.zeros) == (name in SOFTMAX)


@pytest.mark.parametrize(
    "params", ["0.*", "2.*", "4.*", "*.weight", "*.bias", ["0.bias", "4.*"], ["2.weight", "4.bias"]]
)
def test_nothing_is_lost_on_subsets_of_the_parameters(params):
    model = stack(7, 6, 5, CLASSES, activation=nn.ReLU)
    with torch.no_grad():
        model[0].bias[1] = model[2].bias[2] = -30.0
    assert_exact(classifier(model, spoilt(), params=params))


def test_dead_inputs_are_named_and_counted():
    found = assert_exact(classifier(stack(7, 6, CLASSES), spoilt(num=40)))
    assert found.dead_inputs == (1, 5)
    assert found.zeros["dead inputs"] == 2 * 6
    assert found.zeros["inputs confined to a subspace"] == 6  # the two equal inputs


def test_a_dead_unit_takes_what_comes_in_and_what_goes_out():
    model = stack(DIM, 6, 5, CLASSES, activation=nn.ReLU)
    with torch.no_grad():
        model[0].bias[3] = -100.0
        model[2].weight.abs_()  # the units above stay alive
        model[2].bias.fill_(1.0)
    found = assert_exact(classifier(model, inputs(60)))
    assert found.dead_units == ("0[3]",)
    assert found.zeros == {"dead units": (DIM + 1) + 5, "softmax shift": 6}


def test_softmax_shift_has_one_zero_for_each_weight_of_a_class():
    found = assert_exact(classifier(stack(DIM, 6, CLASSES), inputs(40)))
    assert found.zeros == {"softmax shift": 7}
    squared = hs.Problem(stack(DIM, 6, CLASSES), F.mse_loss, (inputs(40), inputs(40, CLASSES)))
    assert assert_exact(squared).zeros == {}


def test_the_shift_is_found_where_the_softmax_saturates():
    model = stack(DIM, CLASSES)
    with torch.no_grad():
        model[0].weight.mul_(40)
    assert reduction(classifier(model, inputs(40))).zeros == {"softmax shift": DIM + 1}


def test_outputs_that_the_loss_ignores():
    def first_only(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square().mean()

    found = assert_exact(
        hs.Problem(stack(DIM, 6, CLASSES), first_only, (inputs(40), inputs(40)[:, 0]))
    )
    assert found.zeros == {"outputs that the loss ignores": 2 * 7}


def test_units_that_are_never_active_together():
    """One unit is active for x > 0, the other for x < 0, and the unit above for x > 1 only."""
    model = stack(1, 2, 1, 1, activation=nn.ReLU)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model[2].bias.fill_(-1.0)
    X = torch.tensor([[-2.0], [-1.0], [0.5], [2.0], [3.0]], dtype=torch.float64)
    found = assert_exact(hs.Problem(model, F.mse_loss, (X, X)))
    assert found.zeros == {"units never active together": 1, "dead units": 2}
    assert found.dead_units == ("0[1]",)  # active, but nothing above it ever is


def test_copies_of_a_hidden_unit_are_no_zeros():
    """Equal activations have deficient rank, yet their weights' difference has curvature."""
    model = stack(DIM, 4, CLASSES)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    problem = classifier(model, inputs(40))
    found = assert_exact(problem)
    assert found.zeros == {"softmax shift": 5}
    last = reduction(problem.block("2.*"))  # but they are if the weights below are held fixed
    assert last.zeros == {"inputs confined to a subspace": 3, "softmax shift": 4}


def test_examples_of_no_weight_do_not_count():
    X, y = inputs(12, 20), labels(12)
    y[5:] = -100
    found = assert_exact(hs.Problem(stack(20, CLASSES), F.cross_entropy, (X, y)))
    assert found.size == 5 * (CLASSES - 1)


def test_few_active_examples_leave_a_small_span():
    model = stack(30, 4, CLASSES, activation=nn.ReLU)
    found = assert_exact(classifier(model, inputs(6, 30)))
    active = (model[0](inputs(6, 30)) > 0).sum(0)
    rank = int(active.sum())
    assert found.zeros["inputs confined to a subspace"] == 31 * int((active > 0).sum()) - rank


def test_the_tolerance_is_relative_to_the_largest_singular_value():
    M = torch.diag(torch.tensor([10.0, 1e-8, 1e-20], dtype=torch.float64))
    assert row_space(M, 1e-13).shape == (3, 2)
    assert row_space(M, 1e-8).shape == (3, 1)
    assert row_space(M[:0], 1e-8).shape == (3, 0)
    assert row_space(torch.zeros(4, 3, dtype=torch.float64), 1e-13).shape == (3, 0)
    X = inputs(40)
    X[:, 1] = X[:, 0] * (1 + 1e-6 * inputs(40, seed=1)[:, 0])
    problem = classifier(stack(DIM, 5, CLASSES), X)
    assert reduction(problem).zeros == {"softmax shift": 6}
    with_bias = torch.cat([X, X.new_ones(len(X), 1)], 1)
    assert row_space(with_bias, 1e-4).shape == (DIM + 1, DIM)


def test_a_flat_loss_leaves_nothing():
    model = stack(DIM, 5, CLASSES)
    problem = hs.Problem(model, lambda z, t: 0 * z.square().mean(), (inputs(), labels()))
    found = reduction(problem)
    assert found.size == 0
    assert reduced_hessian(found).shape == (0, 0)
    assert sum(found.zeros.values()) == problem.n
