"""The limit of SGD on random batches, against dense moment operators and against real runs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.curvature.preconditioned import StepHessian
from hesscope.sampling.examples import ExampleCurvatures
from hesscope.sampling.stability import batch_stability
from hesscope.steps.moments import Recurrence, largest_rate, recurrence_of
from tests.oracles import data, gauss_newton, network
from tests.steps.test_moments import RECURRENCES, dense_rate, moments_of

X, Y = data(30, 3, 4)


def tanh_problem(num=30):
    return hs.Problem(network(3, 3, 4), F.cross_entropy, (X[:num], Y[:num]), batch_size=7)


def linear_problem(num=200, dim=12):
    """Squared error, one output: H_i = 2 x_i x_i', whose noise is spread over all directions."""
    torch.manual_seed(1)
    x = torch.randn(num, dim).double() * torch.linspace(1.5, 0.5, dim).double()
    model = nn.Linear(dim, 1, bias=False).double()
    return hs.Problem(model, nn.MSELoss(), (x, x[:, :1])), 2 * x[:, :, None] * x[:, None, :]


def own_curvatures(problem, num=30):
    """G_i of each example by autograd on it alone."""
    return torch.stack([gauss_newton(problem, X[i : i + 1], Y[i : i + 1]) for i in range(num)])


def test_the_curvature_of_each_example_along_vectors_is_its_own():
    problem = tanh_problem()
    G = own_curvatures(problem)
    operator = ExampleCurvatures(problem)
    V = torch.linalg.qr(torch.randn(problem.n, 3, dtype=torch.float64)).Q
    images = operator.images(V)
    assert torch.allclose(operator.curvatures(images), V.T @ G @ V, rtol=1e-10, atol=1e-12)
    mixing = torch.randn(30, 3, 2, dtype=torch.float64)
    expected = torch.einsum("inm,mk,ikj->nj", G, V, mixing) / 30
    assert torch.allclose(operator.pulled_back(images, mixing), expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(operator.to_dense(), G.mean(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 5, 20])
def test_on_a_network_the_limit_is_that_of_the_dense_operator(batch):
    """28 parameters; all 784 numbers of the second moment by a dense eigenproblem."""
    problem = tanh_problem()
    G, share = own_curvatures(problem), (30 - batch) / (batch * 29)
    expected = largest_rate(Recurrence(), moments_of(G), share)
    found = batch_stability(problem, batch)
    assert 0.98 * expected < found.lr_limit < 1.03 * expected
    assert found.full_batch_limit == pytest.approx(
        2 / float(torch.linalg.eigvalsh(G.mean(0))[-1]), rel=1e-3
    )


@pytest.mark.parametrize(("batch", "rtol"), [(1, 0.08), (4, 0.05), (32, 0.01)])
def test_noise_over_many_directions_is_counted(batch, rtol):
    """Inputs near Gaussian ones, where E N M N holds H tr(M H): four vectors alone miss it."""
    problem, H = linear_problem()
    share = (200 - batch) / (batch * 199)
    expected = largest_rate(Recurrence(), moments_of(H), share)
    found = batch_stability(problem, batch, rounds=1)
    assert found.lr_limit == pytest.approx(expected, rel=rtol)


def test_the_dense_reference_is_the_operator_itself():
    _, H = linear_problem(num=20, dim=4)
    for r in RECURRENCES.values():
        assert largest_rate(r, moments_of(H), 1.0) == pytest.approx(dense_rate(r, H, 1.0), rel=3e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9)),
    ],
)
def test_optimisers_are_seen_through_their_preconditioner_and_momentum(make):
    problem = tanh_problem()
    optimiser = make(problem.model.parameters())
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(problem.model(X), Y).backward()
        optimiser.step()
    D, shift = StepHessian(problem, optimiser, lr=1.0).scale_and_shift()
    G = D[:, None] * own_curvatures(problem) * D + shift.diag()
    expected = largest_rate(recurrence_of(optimiser), moments_of(G), 1.0)
    found = batch_stability(problem, 1, optimiser)
    assert 0.95 * expected < found.lr_limit < 1.05 * expected


def lost(start, x, lr, batch, steps=200):
    """How many of five runs of SGD from 1e-6 beside a minimum, on random batches, leave it."""
    y, count = start(x).detach(), 0
    for seed in range(5):
        model = copy.deepcopy(start)
        with torch.no_grad():
            for p in model.parameters():
                p += 1e-6 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            chosen = torch.randint(len(x), (batch,), generator=generator)
            loss = F.mse_loss(model(x[chosen]), y[chosen])
            grads = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), grads, strict=True):
                    p -= lr * g
            if not float(loss.detach()) < 1e-5:
                count += 1
                break
    return count


@pytest.mark.parametrize("batch", [1, 4])
def test_real_runs_at_a_minimum_stay_below_the_limit_and_leave_above(batch):
    """A tanh network that fits its data: no run is lost at 0.7 of the limit, nearly all at 1.6."""
    torch.manual_seed(3)
    model = network(3, 6, 2)
    x = data(24, 3, 2)[0]
    problem = hs.Problem(model, nn.MSELoss(), (x, model(x).detach()))
    limit = batch_stability(problem, batch).lr_limit
    assert lost(model, x, 0.7 * limit, batch) == 0
    assert lost(model, x, 1.6 * limit, batch) >= 4


def test_a_batch_of_all_examples_has_the_limit_of_the_whole():
    found = batch_stability(tanh_problem(), 30)
    assert found.lr_limit == found.full_batch_limit
    assert found.noise_factor == 1.0


def test_the_example_that_makes_the_noise_is_named():
    x = torch.ones(50, 1).double() + 0.01 * torch.arange(50).double()[:, None]
    x[17] = 30.0
    problem = hs.Problem(nn.Linear(1, 1).double(), nn.MSELoss(), (x, x))
    found = batch_stability(problem, 1)
    assert found.largest_example == 17
    assert found.largest_share > 0.9


@pytest.mark.parametrize("batch", [0, 31, 2.5])
def test_batches_larger_than_the_data_are_refused(batch):
    with pytest.raises(ValueError, match=r"^batch_size=.*; the data holds 30 examples: give 1 to"):
        batch_stability(tanh_problem(), batch)


def test_what_couples_or_hides_its_examples_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    with pytest.raises(ValueError, match=r"^1 \(BatchNorm1d\) couples the examples of a batch"):
        batch_stability(hs.Problem(model, F.cross_entropy, (X, Y), training=True), 4)
    with pytest.raises(ValueError, match=r"made from a closure|outputs"):
        batch_stability(hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3)), 1)
    turned = hs.Problem(
        network(3, 3, 4), F.cross_entropy, (X, Y), forward=lambda m, x: m(x)[:15],
        unpack=lambda b: (b[0], b[1][:15]), count=len,
    )  # fmt: skip
    with pytest.raises(ValueError, match="which outputs belong to which example is not known"):
        batch_stability(turned, 4)


def test_without_curvature_there_is_no_limit():
    flat = hs.Problem(nn.Linear(3, 4).double(), nn.MSELoss(), (0 * X, torch.zeros(30, 4).double()),
                      params="weight")  # fmt: skip
    with pytest.raises(ValueError, match="no curvature here"):
        batch_stability(flat, 1)


# --- batch sharpness


def _sharpness(problem, seed):
    return hs.batch_sharpness(problem, 1, num_batches=12, seed=seed)


def test_batch_sharpness_with_its_error_covers_the_mean_over_all_batches():
    problem = tanh_problem(12)
    slopes, curvatures = 0.0, 0.0
    for i in range(12):
        alone = hs.Problem(problem.model, F.cross_entropy, (X[i : i + 1], Y[i : i + 1]))
        g = alone.gradient()
        slopes, curvatures = slopes + g @ g, curvatures + g @ (hs.Hessian(alone) @ g)
    truth = float(curvatures / slopes)
    inside = [truth in _sharpness(problem, s).interval() for s in range(8)]
    assert sum(inside) >= 6
    whole = hs.batch_sharpness(problem, 12, num_batches=2)
    assert whole.stderr < 1e-12
    g = problem.gradient()
    assert whole.value == pytest.approx(float(g @ (hs.Hessian(problem) @ g) / (g @ g)), rel=1e-10)
    with pytest.raises(ValueError, match="num_batches=1; a spread needs two"):
        hs.batch_sharpness(problem, 3, num_batches=1)
