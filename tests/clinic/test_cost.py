"""What a diagnosis of the demonstration's network costs, counted from outside."""

from __future__ import annotations

import importlib
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import hesscope as hs
from hesscope.demo import LEARNING_RATE, digits, trained_network
from hesscope.problem.evaluation import Evaluation
from hesscope.sampling import error as sampling
from tests.thinning import thinned

smoothness = importlib.import_module("hesscope.landscape.smoothness")  # not the function


@cache
def demonstration() -> hs.Problem:
    inputs, labels = digits()
    return hs.Problem(
        trained_network(inputs, labels), torch.nn.functional.cross_entropy, (inputs, labels)
    )


def diagnosed(problem: hs.Problem, check: bool = False) -> hs.Examination:
    return hs.diagnose(problem, lr=LEARNING_RATE, check=check)


def flops(f) -> float:
    with FlopCounterMode(display=False) as counter:
        f()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("check", thinned([True, False], 2))
def test_the_standard_level_costs_at_most_300_gradients_in_arithmetic(check):
    """Floating-point operations of all matrix products, over those of one gradient."""
    problem = demonstration()
    assert flops(lambda: diagnosed(problem, check)) <= 300 * flops(problem.gradient)


def test_the_cost_that_is_told_is_the_cost_that_is_counted(monkeypatch):
    """Two gradients a product, one a gradient, a third a loss: told to within 15 %."""
    problem = demonstration()
    recorded = Recorded(monkeypatch)
    examined = diagnosed(problem)
    products = len(recorded.columns) + recorded.in_parts
    gradients = sum(share for share, _ in recorded.gradients) + recorded.looks
    counted = 2 * products + gradients + (recorded.forward - gradients) / 3
    assert counted <= 300
    assert examined.gradients <= 300
    assert examined.gradients == pytest.approx(counted, rel=0.15)


class Recorded:
    """What was multiplied with H on all data, on parts of it, and where gradients were taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.columns: list[Tensor] = []
        self.in_parts = 0.0
        self.forward = 0.0  # passes over the data, with or without a gradient
        self.looks = 0  # gradients with the loss beside, for smoothness
        self.gradients: list[tuple[float, Tensor]] = []  # the share of the data, and θ
        self.losses: list[tuple[float, Tensor]] = []
        matmat, products_of = hs.Hessian.matmat, sampling.products_of
        gradient, loss, loss_at = Evaluation.gradient, hs.Problem.loss, hs.Problem.loss_at
        loss_of, look = Evaluation.loss, smoothness._look

        def multiplied(H, V):
            self.columns += list(V.detach().clone().unbind(1))
            return matmat(H, V)

        def multiplied_in_parts(e, part, V):
            self.in_parts += V.shape[1] * part.count / e.num_items
            return products_of(e, part, V)

        def gradient_taken(e, batch):
            self.gradients.append((batch.count / e.num_items, e.point.theta()))
            return gradient(e, batch)

        def passed(e, batch, **options):
            self.forward += batch.count / e.num_items
            return loss_of(e, batch, **options)

        def looked(problem, theta, v):
            self.looks += 1
            return look(problem, theta, v)

        def loss_taken(problem):
            self.losses.append((1.0, problem.theta))
            return loss(problem)

        def loss_taken_at(problem, theta):
            self.losses.append((1.0, theta))
            return loss_at(problem, theta)

        monkeypatch.setattr(hs.Hessian, "matmat", multiplied)
        monkeypatch.setattr(sampling, "products_of", multiplied_in_parts)
        monkeypatch.setattr(Evaluation, "gradient", gradient_taken)
        monkeypatch.setattr(hs.Problem, "loss", loss_taken)
        monkeypatch.setattr(hs.Problem, "loss_at", loss_taken_at)
        monkeypatch.setattr(Evaluation, "loss", passed)
        monkeypatch.setattr(smoothness, "_look", looked)


def most_at_one_point(taken: list[tuple[float, Tensor]]) -> float:
    """The largest sum of shares at one θ."""
    totals: dict[bytes, float] = {}
    for share, theta in taken:
        key = theta.numpy().tobytes()
        totals[key] = totals.get(key, 0.0) + share
    return max(totals.values())


def test_no_vector_is_multiplied_twice_and_no_gradient_taken_twice(monkeypatch):
    problem = demonstration()
    recorded = Recorded(monkeypatch)
    examined = diagnosed(problem)
    assert examined.num_matvecs == pytest.approx(len(recorded.columns) + recorded.in_parts)
    V = torch.stack(recorded.columns, 1)
    V = V / V.norm(dim=0)
    repeated = int(((V.T @ V).abs().triu(1) > 1 - 1e-6).sum())
    assert repeated == 0
    # `hs.escape` begins its line with numbers of its own
    again = int("escape" in examined.results)
    assert most_at_one_point(recorded.gradients) == pytest.approx(1 + again)
    assert most_at_one_point(recorded.losses) == 1 + again
