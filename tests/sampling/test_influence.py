"""Influence scores against leaving examples out and training again."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.results.influence import rank_correlation
from hesscope.sampling.slopes import slopes_along

DECAY = 0.1


def classes(num, seed, flipped=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([2.0, -1.0, 0.5]).double() > 0).long()
    y[:flipped] = 1 - y[:flipped]
    return x, y


def minimum(model, x, y, steps=60):
    """The minimum of the cross-entropy with weight decay."""
    theta = list(model.parameters())
    optimizer = torch.optim.LBFGS(theta, max_iter=steps * 20, tolerance_grad=1e-10,
                                  tolerance_change=0, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + DECAY / 2 * sum(p.square().sum() for p in theta)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def left_out(make, x, y, test, base):
    """The rise of the test loss for every example that is left out, by training again."""
    changes = []
    for i in range(len(x)):
        keep = torch.arange(len(x)) != i
        # The mean over all with one taken away: what is left weighs (N - 1)/N against the decay.
        model = make()
        model.load_state_dict(base.state_dict())
        theta = list(model.parameters())
        optimizer = torch.optim.LBFGS(
            theta,
            max_iter=400,
            tolerance_grad=1e-11,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure(model=model, theta=theta, keep=keep, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[keep]), y[keep], reduction="sum") / len(x)
            loss = loss + DECAY / 2 * sum(p.square().sum() for p in theta)
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            before, after = (F.cross_entropy(m(test[0]), test[1]) for m in (base, model))
        changes.append(float(after - before))
    return torch.tensor(changes).double()


@pytest.mark.parametrize("matrix", ["Hessian", "Gauss-Newton"])
def test_of_a_logistic_regression_they_are_what_leaving_out_does(matrix):
    def make():
        torch.manual_seed(0)
        return nn.Linear(3, 2).double()

    (x, y), test = classes(40, 0, flipped=3), classes(30, 1)
    model = minimum(make(), x, y)
    found = hs.influence(
        hs.Problem(model, F.cross_entropy, (x, y), batch_size=16), test,
        damping=DECAY, matrix=matrix, tol=1e-9,
    )  # fmt: skip
    truth = left_out(make, x, y, test, model)
    assert rank_correlation(found.scores[:, 0], truth) > 0.97  # first order in 1/40
    off = (found.scores[:, 0] - truth).abs().max()
    assert float(off) < 0.1 * float(truth.abs().max())
    assert torch.equal(found.harmful(num=2), truth.sort().indices[:2])
    assert found.harmful(num=1).tolist() == [0]  # a flipped label


def test_of_a_small_network_the_order_is_right():
    def make():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    (x, y), test = classes(30, 0, flipped=3), classes(30, 1)
    model = minimum(make(), x, y)
    problem = hs.Problem(model, F.cross_entropy, (x, y))
    truth = left_out(make, x, y, test, model)
    found = hs.influence(problem, test, damping=DECAY, matrix="Hessian", tol=1e-9)
    assert rank_correlation(found.scores[:, 0], truth) > 0.9


def test_slopes_of_examples_against_their_gradients_one_by_one():
    torch.manual_seed(0)
    x, y = classes(20, 0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    problem = hs.Problem(model, F.cross_entropy, (x, y), batch_size=8)
    closure = hs.Problem.from_closure(
        model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [(x[:8], y[:8]), (x[8:], y[8:])]
    )
    V = torch.randn(problem.n, 2).double()
    truth = torch.stack([
        problem.with_batches([(x[i : i + 1], y[i : i + 1])]).gradient() @ V / 20
        for i in range(20)
    ])  # fmt: skip
    torch.testing.assert_close(slopes_along(problem, V), truth)
    torch.testing.assert_close(slopes_along(closure, V), truth)


def test_every_test_example_has_its_column_and_they_average():
    torch.manual_seed(0)
    data, test = classes(30, 0), classes(6, 1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    problem = hs.Problem(model, F.cross_entropy, data)
    mean = hs.influence(problem, test, damping=0.1, tol=1e-9)
    each = hs.influence(problem, problem.with_batches([test]), damping=0.1, tol=1e-9, each=True)
    assert each.scores.shape == (30, 6)
    torch.testing.assert_close(each.scores.mean(1, keepdim=True), mean.scores, rtol=1e-5, atol=1e-9)
    assert list(each.columns()) == [f"test {i}" for i in range(6)]


def test_the_damping_is_chosen_by_what_is_known_and_said():
    torch.manual_seed(0)
    data, test = classes(30, 0), classes(6, 1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    problem = hs.Problem(model, F.cross_entropy, data)
    top = float(hs.spectrum(hs.GaussNewton(problem)).eigenvalues[-1])
    found = hs.influence(problem, test)
    assert found.damping == pytest.approx(1e-3 * top, rel=0.1)
    assert "of the largest" in str(found)
    low = float(hs.spectrum(hs.Hessian(problem)).eigenvalues[0])
    assert low < 0
    damped = hs.influence(problem, test, matrix="Hessian")
    assert damped.damping >= -1.5 * low
    assert "definite" in damped.why_damping
    with pytest.raises(RuntimeError, match="damping"):
        hs.influence(problem, test, matrix="Hessian", damping=1e-6 * top, tol=1e-8)


def test_the_order_is_compared_with_that_at_other_dampings():
    torch.manual_seed(0)
    x = torch.randn(40, 30).double() * torch.logspace(0, -3, 30).double()
    problem = hs.Problem(nn.Linear(30, 1).double(), nn.MSELoss(), (x, torch.randn(40, 1).double()))
    test = torch.randn(1, 30).double(), torch.zeros(1, 1).double()
    found, less, more = (
        hs.influence(problem, test, damping=d, tol=1e-9) for d in (1e-4, 1e-4 / 3, 3e-4)
    )
    least = min(rank_correlation(found.scores[:, 0], other.scores[:, 0]) for other in (less, more))
    assert found.stability == pytest.approx(least, abs=1e-6)
    assert "the order depends" not in str(dataclasses.replace(found, stability=0.95))
    assert "the order depends on the damping" in str(dataclasses.replace(found, stability=0.5))
