"""Newton steps against dense float64 algebra that shares no code, and what moves them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.optim.newton import GOOD, POOR, RAISE
from tests.oracles import data, gauss_newton, hessian, network
from tests.thinning import thinned

X, Y = data(40, 4, 3)


def of_network(loss_fn=F.cross_entropy, targets=Y):
    net = network(4, 5, 3)
    return net, hs.Problem(net, loss_fn, (X, targets))


def backward(net, some=slice(None)):
    net.zero_grad()
    loss = F.cross_entropy(net(X[some]), Y[some])
    loss.backward()
    return loss.detach()


def function(f, *start):
    """A problem of a function, and a closure for its gradients."""
    problem = hs.Problem.from_function(f, torch.tensor(start, dtype=torch.float64))
    theta = problem.point.leaves()[0]

    def closure():
        theta.grad = None
        loss = f(theta)
        loss.backward()
        return loss.detach()

    return problem, closure


def counts(optimizer):
    group = optimizer.param_groups[0]
    return {name: n for name, n in group.items() if name.startswith("num_")}


def absolute(H):
    values, V = torch.linalg.eigh(H)
    return V @ values.abs().diag() @ V.T


@pytest.mark.parametrize(
    ("name", "damping"),
    [("ggn", 0.3), ("ggn", 3.0), ("hessian", 3.0), ("saddle-free", 0.3), ("saddle-free", 3.0)],
)
def test_the_step_is_that_of_dense_algebra(name, damping):
    net, problem = of_network()
    n, theta = problem.n, problem.theta
    A = (gauss_newton if name == "ggn" else hessian)(problem, X, Y)
    if name == "saddle-free":
        optimizer = hs.optim.SaddleFreeNewton(problem, lr=0.5, damping=damping, max_matvecs=n)
        A = absolute(A)
    else:
        optimizer = hs.optim.NewtonCG(problem, 0.5, damping=damping, curvature=name, max_matvecs=n)
    backward(net)
    g = torch.cat([p.grad.flatten() for p in net.parameters()])
    optimizer.step()
    d = -torch.linalg.solve(A + damping * torch.eye(n, dtype=torch.float64), g)
    tolerance = 1e-9 if name == "saddle-free" else 3e-2  # CG ends where little is gained
    assert torch.allclose(problem.theta - theta, 0.5 * d, rtol=0, atol=tolerance * float(d.norm()))


def test_conjugate_gradients_end_where_the_paper_says():
    """The classical recurrence, with the stop of section 4.4, gives the same d.

    It is well enough conditioned here: with more, the recurrence loses digits, which d does not.
    """
    generator = torch.Generator().manual_seed(3)
    values = torch.logspace(-1, 1, 40, dtype=torch.float64)
    V = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64, generator=generator))[0]
    A, b = V @ values.diag() @ V.T, torch.randn(40, dtype=torch.float64, generator=generator)
    problem, closure = function(lambda t: t @ A @ t / 2 - b @ t, *[0.0] * 40)
    optimizer = hs.optim.NewtonCG(problem, curvature="hessian", damping=1e-2)
    optimizer.step(closure)
    x, r, q = torch.zeros_like(b), b.clone(), [0.0]
    p = r.clone()
    while True:
        Ap = A @ p + 1e-2 * p
        step = (r @ r) / (p @ Ap)
        x, new = x + step * p, r - step * Ap
        p, r = new + (new @ new) / (r @ r) * p, new
        q.append(float(x @ (A @ x + 1e-2 * x) / 2 - b @ x))
        i = len(q) - 1
        k = max(10, -(-i // 10))
        if i > k and (q[i] - q[i - k]) / q[i] < k * 5e-4:
            break
    assert 11 < i < 40
    assert counts(optimizer)["num_matvecs"] == i
    assert torch.allclose(problem.theta, x, rtol=0, atol=1e-8 * float(x.norm()))


@pytest.mark.parametrize("make", [hs.optim.NewtonCG, hs.optim.SaddleFreeNewton])
@pytest.mark.parametrize("unit", [1e-120, 1e-30, 1.0, 1e30])
def test_a_quadratic_is_solved_in_one_step_whatever_its_unit(make, unit):
    options = {"curvature": "hessian"} if make is hs.optim.NewtonCG else {}

    def f(t):
        return (unit * t[0]) * t[0] + (3 * unit * (t[1] - 2)) * (t[1] - 2) + unit * t[2] * t[0]

    problem, closure = function(lambda t: f(t) + (t[2] * unit) * t[2], 1.0, 2.5, -4.0)
    optimizer = make(problem, damping=1e-12 * unit, **options)
    for _ in range(2):
        optimizer.step(closure)
    expected = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    assert torch.allclose(problem.theta, expected, atol=1e-6)


def test_the_last_direction_is_where_conjugate_gradients_start():
    """On a quadratic half a step leaves half the way, in the same direction: one product."""
    A = torch.diag(torch.logspace(-1, 1, 30, dtype=torch.float64))
    problem, closure = function(lambda t: t @ A @ t / 2, *[1.0] * 30)
    optimizer = hs.optim.NewtonCG(problem, 0.5, curvature="hessian", damping=1e-9)
    spent = []
    for _ in range(3):
        before = counts(optimizer)["num_matvecs"]
        optimizer.step(closure)
        spent.append(counts(optimizer)["num_matvecs"] - before)
    assert spent[0] > 12
    assert spent[1] <= 13
    assert float(problem.theta.abs().max()) == pytest.approx(0.125, rel=0.05)


@pytest.mark.parametrize(
    ("f", "way"),
    [
        (lambda t: (t**2).sum() / 2, 1 / RAISE),  # the model holds
        (lambda t: (1 + t**2).sqrt().sum(), RAISE),  # from 3, Newton overshoots
    ],
)
def test_damping_follows_the_reduction_ratio(f, way):
    problem, closure = function(f, 3.0)
    optimizer = hs.optim.NewtonCG(problem, curvature="hessian", damping=1e-3)
    optimizer.step(closure)
    damping = optimizer.param_groups[0]["damping"] / 1e-3
    assert np.log(damping) / np.log(way) == pytest.approx(round(np.log(damping) / np.log(way)))
    assert np.log(damping) / np.log(way) > 0.9
    assert 0 < POOR < GOOD < 1


def test_rejected_dampings_cost_losses_and_no_products():
    problem, closure = function(lambda t: (1 + t**2).sqrt().sum(), 3.0, 0.5)
    before = float(closure())
    optimizer = hs.optim.NewtonCG(problem, curvature="hessian", damping=1e-3)
    optimizer.step(closure)
    assert counts(optimizer)["num_losses"] > 6
    assert counts(optimizer)["num_matvecs"] <= 2
    assert float(closure()) < before


def test_theta_stays_where_no_step_lowers_the_loss():
    problem, closure = function(lambda t: (t**2).sum() / 2, 3.0, 0.5)
    for make in (hs.optim.NewtonCG, hs.optim.SaddleFreeNewton):
        options = {"curvature": "hessian"} if make is hs.optim.NewtonCG else {}
        optimizer = make(problem, **options)
        closure()
        theta = problem.point.leaves()[0]
        theta.grad.neg_()  # as if from other data: uphill
        before = theta.detach().clone()
        optimizer.step()
        assert torch.equal(theta, before)
        assert counts(optimizer)["num_rejected"] == 1
        assert optimizer.param_groups[0]["damping"] > 5


def test_without_gradients_nothing_is_done():
    net, problem = of_network()
    optimizer = hs.optim.NewtonCG(problem)
    optimizer.step()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert counts(optimizer)["num_losses"] == 0


def test_parameters_that_have_no_gradient_count_as_having_zero():
    net, problem = of_network()
    other, twin = of_network()
    for one, p in ((net, problem), (other, twin)):
        backward(one)
        one[0].bias.grad = None if one is net else torch.zeros(5, dtype=torch.float64)
        hs.optim.NewtonCG(p).step()
    assert torch.equal(problem.theta, twin.theta)


def test_a_part_of_the_parameters_moves_alone():
    net = network(4, 5, 3)
    problem = hs.Problem(net, F.cross_entropy, (X, Y), params="2.*")
    kept = net[0].weight.detach().clone()
    optimizer = hs.optim.NewtonCG(problem, damping=0.1)
    losses = [float(optimizer.step(lambda: backward(net))) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert torch.equal(net[0].weight, kept)


def test_curvature_and_losses_are_those_of_the_batch():
    net, _ = of_network()
    alone = network(4, 5, 3)
    whole = hs.optim.NewtonCG(hs.Problem(net, F.cross_entropy, (X, Y)), damping=0.1)
    part = hs.optim.NewtonCG(hs.Problem(alone, F.cross_entropy, (X[:10], Y[:10])), damping=0.1)
    for _ in range(3):
        backward(net)
        whole.step(batch=(X[:10], Y[:10]))
        backward(alone)
        part.step()
    assert torch.equal(whole.problem.theta, part.problem.theta)


def test_batches_normalised_by_themselves_are_the_function_whose_gradient_is_given():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    problem = hs.Problem(net, F.cross_entropy, (X, Y), training=True)
    optimizer = hs.optim.NewtonCG(problem, damping=1.0)
    losses = []
    for i in range(12):
        some = slice(20 * (i % 2), 20 * (i % 2) + 20)
        losses.append(
            optimizer.step(lambda some=some: backward(net, some), batch=(X[some], Y[some]))
        )
    assert losses[-1] < losses[0] < 2
    assert int(net[1].num_batches_tracked) == 12  # of the closure alone
    assert counts(optimizer)["num_rejected"] == 0


def saddle(t):
    return (t[0] ** 2 - 1) ** 2 / 4 + (t[1] ** 2 + t[2] ** 2) / 2


@pytest.mark.parametrize("damping", [1.0, 1e-3])
def test_the_saddle_free_step_leaves_a_saddle_in_twenty_steps(damping):
    problem, closure = function(saddle, 1e-6, 0.7, -0.4)
    optimizer = hs.optim.SaddleFreeNewton(problem, damping=damping)
    for _ in range(20):
        optimizer.step(closure)
    assert float(closure()) < 1e-6


def test_exactly_on_the_stable_manifold_it_ends_in_the_saddle():
    problem, closure = function(saddle, 0.0, 0.7, -0.4)
    optimizer = hs.optim.SaddleFreeNewton(problem, damping=1e-3)
    for _ in range(20):
        optimizer.step(closure)
    assert problem.theta.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_negative_curvature_ends_conjugate_gradients_before_it():
    """H = diag(2, -1): the first direction g is of positive curvature, the second is not."""
    problem, closure = function(lambda t: t[0] ** 2 - t[1] ** 2 / 2 + t[1] ** 4, 1.0, 1e-3)
    optimizer = hs.optim.NewtonCG(problem, curvature="hessian", damping=1e-9)
    closure()
    g = problem.gradient()
    before = problem.theta
    optimizer.step()
    d = problem.theta - before
    assert float(d @ g / (d.norm() * g.norm())) == pytest.approx(-1)
    assert counts(optimizer)["num_matvecs"] == 2


def test_where_the_gradient_itself_is_of_negative_curvature_the_step_goes_down_it():
    for make in (hs.optim.NewtonCG, hs.optim.SaddleFreeNewton):
        options = {"curvature": "hessian"} if make is hs.optim.NewtonCG else {}
        problem, closure = function(lambda t: (t[0] ** 2 - 1) ** 2 / 4, 1e-3)
        optimizer = make(problem, damping=1e-6, **options)
        for _ in range(10):
            optimizer.step(closure)
        assert abs(float(problem.theta)) == pytest.approx(1, abs=1e-6)


def test_numbers_that_are_not_finite_are_told_and_theta_stays():
    net, problem = of_network()
    optimizer = hs.optim.NewtonCG(problem)
    before = problem.theta
    backward(net)
    net[0].weight.grad[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="the gradient is not finite"):
        optimizer.step()
    backward(net)
    with pytest.raises(RuntimeError, match=r"product|finite|nan"):
        optimizer.step(batch=(X * torch.inf, Y))
    assert torch.equal(problem.theta, before)


def test_steps_do_not_depend_on_the_contexts_of_the_caller():
    thetas = []
    for plain in (True, False):
        net, problem = of_network()
        optimizer = hs.optim.NewtonCG(problem)
        for _ in range(2):
            backward(net)
            if plain:
                optimizer.step()
            else:
                with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
                    optimizer.step()
        thetas.append(problem.theta)
    assert torch.equal(*thetas)


@pytest.mark.parametrize("make", thinned([hs.optim.NewtonCG, hs.optim.SaddleFreeNewton], 2))
def test_training_goes_on_where_curvature_is_no_more_than_rounding(make):
    """Separable classes in float32: the loss goes to zero, and with it the digits of H."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    x = X.float()
    optimizer = make(hs.Problem(net, F.cross_entropy, (x, Y)), damping=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), Y)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-6
    assert optimizer.param_groups[0]["damping"] < 1e8
