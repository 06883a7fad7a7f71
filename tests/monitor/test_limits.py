"""Rows of what a step may be: brackets that hold, batches beside exact means, balls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import hesscope as hs

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)).double()
Y = (X[:, 0] > 0).long()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.mark.parametrize("kind", ["SGD", "Adam", "Rprop", "Muon"])
def test_the_critical_step_is_where_the_loss_begins_to_rise(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3, bias=False).double() if kind == "Muon" else _model()
    lr = 0.05 if kind in ("SGD", "Muon") else 0.003
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=lr)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    losses: list[int] = []
    inside = problem.loss_at
    keys = ["critical_sharpness"]
    with hs.Monitor(problem, optimizer, every=1, quantities=keys) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            before = problem.theta.clone()
            optimizer.step()
            step = problem.theta - before
            found = monitor.history
            assert not found.events
            low, high = (
                2 / (lr * found[f"critical_sharpness_{end}"].last) for end in ("upper", "lower")
            )
            assert low <= 1 / found["step_over_critical"].last <= high
            start = problem.loss_at(before)
            assert problem.loss_at(before + low * step) <= start + 1e-12
            if math.isfinite(high):
                assert problem.loss_at(before + high * step) > start
            losses.append(int(2 * found["check_gradients"].last))
    # Two gradients' worth for gradient and noise, half a gradient a loss, at most six.
    assert max(losses) <= 2 * (1 + 3)
    assert inside(problem.theta) > 0
    last = monitor.history
    sharp = last["critical_sharpness"].last
    ends = last["critical_sharpness_lower"].last, last["critical_sharpness_upper"].last
    assert ends[0] <= sharp <= ends[1]
    assert ends[1] <= 1.1 * ends[0]  # a warm start closes the bracket


@pytest.mark.slow
def test_batch_sharpness_is_that_of_random_batches_and_says_how_well() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    with hs.Monitor(
        problem, optimizer, every=1, quantities=["batch_sharpness"], batch_size=8
    ) as monitor:
        for _ in range(40):
            optimizer.zero_grad()
            optimizer.step()  # without a gradient nothing moves
    history = monitor.history
    assert not history.events
    true = hs.batch_sharpness(problem, 8, num_batches=600, seed=5)
    values, errors = history["batch_sharpness"].values, history["batch_sharpness_stderr"].values
    assert len(set(values.tolist())) == 40  # other batches at each check
    assert float(values.mean()) == pytest.approx(true.value, rel=0.05)
    scatter = float(values.std())
    assert 0.6 * scatter <= float(errors.mean()) <= 1.5 * scatter
    over = history["batch_sharpness_over_limit"].values
    assert over.tolist() == pytest.approx((0.1 * values / 2).tolist())


@pytest.mark.parametrize(
    ("options", "size", "known"),
    [({"momentum": 0.9}, 8, False), ({}, 10_000, True), ({}, None, None)],
)
def test_where_batches_come_to_rest_is_told_for_plain_sgd_alone(
    options: dict[str, float], size: int | None, known: bool | None
) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    keys = ["batch_sharpness", "gradient_curvature"]
    with hs.Monitor(problem, optimizer, every=1, quantities=keys, batch_size=size) as monitor:
        optimizer.step()
    history = monitor.history
    assert ("batch_sharpness" in history) == (known is not None)
    assert ("batch_sharpness_over_limit" in history) == bool(known)
    if known:  # a batch of all data: the curvature along the gradient
        expected = history["gradient_curvature"].last
        assert history["batch_sharpness"].last == pytest.approx(expected, rel=1e-6)


def test_steps_of_a_ball_have_a_limit_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3, bias=False).double()
    targets = torch.randn(64, 3, generator=torch.Generator().manual_seed(2)).double()
    optimizer = torch.optim.Muon(model.parameters(), lr=0.1, momentum=0.0, weight_decay=0.0)
    problem = hs.Problem(model, nn.MSELoss(), (X, targets))
    with hs.Monitor(problem, optimizer, every=1, quantities=["stability"]) as monitor:
        optimizer.zero_grad()
        mse_loss(model(X), targets).backward()
        optimizer.step()
    history = monitor.history
    assert not history.events
    assert history["step_sharpness"].last == pytest.approx(2 * history["sharpness_over_limit"].last)
    # On this quadratic a step -lr d(g) lowers the loss by lr g·d - lr²/2 d·Hd.
    g = problem.gradient()
    assert history["sharpness_over_limit"].last > 0
    assert bool(g.any())


def test_in_one_dimension_steps_of_fixed_length_hover_at_their_limit() -> None:
    """x goes to and fro between a and a - lr: 2/(1/r₁ + 1/r₂) = 1 for both phases, whatever a."""
    model = nn.Linear(1, 1, bias=False).double()
    data = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    optimizer = torch.optim.Muon(model.parameters(), lr=0.03, momentum=0.0, weight_decay=0.0)
    problem = hs.Problem(model, nn.MSELoss(), data)
    with hs.Monitor(problem, optimizer, every=1, quantities=["stability"]) as monitor:
        for _ in range(100):
            optimizer.zero_grad()
            mse_loss(model(data[0]), data[1]).backward()
            optimizer.step()
    over = monitor.history["sharpness_over_limit"].values[-10:]
    assert float((1 / over).mean()) == pytest.approx(1.0, abs=0.02)
    assert float(over.max()) > 1.05  # each phase by itself tells something else


def test_the_step_lies_in_the_outliers_where_the_gradient_does() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    keys = ["gradient_in_outliers", "update_in_outliers"]
    with hs.Monitor(problem, optimizer, every=1, quantities=keys) as monitor:
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        optimizer.step()
    history = monitor.history
    assert 0 < history["gradient_in_outliers"].last <= 1
    assert history["update_in_outliers"].last == pytest.approx(
        history["gradient_in_outliers"].last, rel=1e-6
    )
