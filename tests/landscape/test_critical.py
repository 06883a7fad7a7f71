"""The step from which on the loss rises, in six losses, whoever makes the step."""

import math

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from hesscope.steps.update import update
from tests.oracles import data, network
from tests.state import state_of
from tests.steps.test_update import STEPPED, trained

H = torch.tensor([100.0, 10.0, 3.0, 1.0, 0.3, 0.1]).double()


def quadratic():
    return hs.Problem.from_function(lambda t: (H * t * t).sum() / 2, torch.ones(6).double())


@pytest.mark.parametrize("start", [1e-3, 0.3, 1.0, 3.0, 1e3])
def test_on_a_quadratic_it_is_the_curvature_along_the_gradient(start):
    limit = 2 * float(H @ H) / float(H @ (H * H))
    found = hs.critical_sharpness(quadratic(), lr=start * limit)
    assert found.low * start <= 1 <= found.high * start
    assert found.high / found.low < 1.08
    assert found.num_losses <= 6
    assert found.sharpness == pytest.approx(2 / limit, rel=0.03)


@pytest.mark.parametrize("name", [n for n in STEPPED if n != "ascent"])
def test_the_bracket_holds_for_every_optimiser(name):
    problem, optimiser = trained(STEPPED[name])
    before = state_of(problem.model)
    found = hs.critical_sharpness(problem, optimiser)
    assert state_of(problem.model) == before
    assert found.num_losses <= 6
    d, loss = update(problem, optimiser, problem.gradient()).step, problem.loss()
    changes = {s: problem.loss_at(problem.theta + s * d) - loss for s, _ in found.points}
    if found.slope >= 0:
        assert (found.low, found.high, found.sharpness) == (0, 0, math.inf)
        return
    assert found.low == 0 or changes[found.low] <= 0
    assert math.isinf(found.high) or changes[found.high] > 0
    assert found.high / max(found.low, 1.0) < 30


def test_the_step_of_ascent_points_uphill():
    problem, optimiser = trained(STEPPED["ascent"])
    found = hs.critical_sharpness(problem, optimiser)
    assert (found.low, found.high) == (0, 0)
    assert str(found) == "the step of SGD points uphill: it climbs at any length"


def test_losses_that_are_not_finite_bound_the_step_from_above():
    problem = hs.Problem.from_function(lambda t: -t.log().sum() + t.sum() * 4, torch.ones(1))
    found = hs.critical_sharpness(problem, lr=10.0)  # θ = 1 - 30 s: finite below s = 1/30
    truth = 0.9802 / 30  # of -log θ + 4 θ = 4 at θ = 0.0198
    assert found.low <= truth <= found.high
    assert found.high < 0.1


def test_where_nothing_rises_there_is_no_upper_end():
    problem = hs.Problem.from_function(lambda t: t.sum(), torch.zeros(2).double())
    found = hs.critical_sharpness(problem, lr=1.0)
    assert math.isinf(found.high)
    assert found.low >= 8**4
    assert found.sharpness == 0
    assert "no rise up to" in str(found)


def test_a_warm_guess_and_the_gradient_of_a_batch():
    X, Y = data(40, 5, 3)
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    batch = hs.Problem(problem.model, F.cross_entropy, (X[:5], Y[:5]))
    cold = hs.critical_sharpness(problem, lr=0.1, gradient=batch.gradient())
    warm = hs.critical_sharpness(problem, lr=0.1, gradient=batch.gradient(), guess=cold.scale)
    assert warm.num_losses <= cold.num_losses
    assert cold.low <= warm.scale <= cold.high or warm.low <= cold.scale <= warm.high


def test_what_cannot_be_looked_along_is_refused():
    with pytest.raises(ValueError, match="the step of gradient descent is zero"):
        hs.critical_sharpness(quadratic(), lr=0.0)
    with pytest.raises(ValueError, match=r"max_losses=2, guess=1\.0; give 3 or more"):
        hs.critical_sharpness(quadratic(), lr=1.0, max_losses=2)
