"""Small batches that hold the sharpness: named where it rests below its limit, silent elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.diagnosis.course.batch_edge import batch_edge

Curve = Callable[[int], float]


def run(over: Curve, batches: Curve, loss: Curve, checks: int = 20) -> hs.History:
    keys = {"sharpness_over_limit": over, "batch_sharpness_over_limit": batches, "loss": loss}
    return hs.History.of({k: {100 * t: f(t) for t in range(checks)} for k, f in keys.items()})


def falls(t: int) -> float:
    return 0.8**t


def rests(t: int) -> float:
    return max(0.9 - 0.1 * t, 0.4)


def half(t: int) -> float:
    return 0.55 + 0.1 * (-1) ** t


def test_a_sharpness_that_rests_below_its_limit_is_named_with_its_level() -> None:
    verdict = batch_edge(run(rests, half, falls))
    assert verdict is not None
    assert "λmax of all data rests at 0.4 of 2/lr" in verdict.claim
    assert not verdict.finding
    assert verdict.evidence["first_step"] <= 600
    assert verdict.evidence["last_step"] == 1900
    assert verdict.assumptions[-1].startswith("would be contradicted by a λmax that stays")
    (found,) = [v for v in hs.verdicts(run(rests, half, falls)) if v.key == verdict.key]
    assert found == verdict


@pytest.mark.parametrize(
    ("over", "batches", "loss"),
    [
        (lambda t: 0.4, half, falls),  # a quadratic: it has never moved
        (lambda t: 0.2 + 0.03 * t, half, falls),  # still rises
        (rests, lambda t: 0.1, falls),  # batches feel nothing of it
        (rests, half, lambda t: 1.0),  # training has ended
        (lambda t: 0.95 + 0.3 * (t == 0), half, falls),  # at the edge of full batches
    ],
)
def test_silent_where_something_else_is_the_matter(
    over: Curve, batches: Curve, loss: Curve
) -> None:
    assert batch_edge(run(over, batches, loss)) is None


def test_too_few_checks_are_undecided_and_without_batches_there_is_no_verdict() -> None:
    (few,) = [v for v in hs.verdicts(run(rests, half, falls, 5)) if v.key == "small_batch_edge"]
    assert few.confidence == "undecided"
    without = run(rests, half, falls)
    del without.series["batch_sharpness_over_limit"]
    assert "small_batch_edge" not in {v.key for v in hs.verdicts(without)}


def _watched(
    model: nn.Module, loss: nn.Module, data: tuple[torch.Tensor, torch.Tensor], lr: float, size: int
) -> hs.History:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(2)
    problem = hs.Problem(model, loss, data)
    keys = ["loss", "lambda_max", "stability", "batch_sharpness"]
    with hs.Monitor(problem, optimizer, every=150, quantities=keys, batch_size=size) as monitor:
        for _ in range(3600):
            index = torch.randperm(len(data[0]), generator=generator)[:size]
            optimizer.zero_grad()
            loss(model(data[0][index]), data[1][index]).backward()
            optimizer.step()
    return monitor.history


@pytest.mark.slow
def test_a_network_on_batches_of_two_is_held_and_linear_models_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 8, generator=generator)
    classes = torch.randint(0, 4, (64,), generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
    )
    held = _watched(network, nn.MSELoss(), (x, torch.eye(4)[classes]), 0.6, 2)
    assert "small_batch_edge" in {v.key for v in hs.verdicts(held)}
    for lr in (0.1, 0.3):
        linear, logistic = nn.Linear(8, 4), nn.Linear(8, 4)
        fitted = _watched(linear, nn.MSELoss(), (x, x @ torch.randn(8, 4)), lr, 2)
        separated = _watched(logistic, nn.CrossEntropyLoss(), (x, x[:, :4].argmax(1)), 4 * lr, 2)
        for history in (fitted, separated):
            assert "small_batch_edge" not in {v.key for v in hs.verdicts(history)}
