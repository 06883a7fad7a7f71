"""The loss at other parameters is what it is, and what else goes wrong is told as it is."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.landscape.convexity import negative_curvature_probes
from hesscope.landscape.flat import fall_along
from hesscope.landscape.smoothness import smoothness
from hesscope.problem.calls import NonFiniteLossError
from tests.networks import SMOOTH, make, mlp, smooth, vectors
from tests.processes import in_processes
from tests.state import state_of


def elsewhere(problem: hs.Problem, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    step = torch.randn(problem.n, generator=generator, dtype=torch.float64)
    return (problem.theta.double() + 0.3 * step).to(problem.dtype)


@pytest.mark.parametrize("name", SMOOTH)
def test_it_is_the_loss_of_the_problem_that_stands_there(name):
    problem = smooth(name).problem(batch_size=3)
    before = state_of(problem.model)
    theta = elsewhere(problem)
    assert problem.loss_at(theta) == problem.at(theta).loss()
    assert problem.loss_at(problem.theta) == problem.loss()
    assert state_of(problem.model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("seed", range(5))
def test_in_any_dtype_and_for_a_block_too(seed, batch_size, dtype):
    problem = make(lambda: (mlp(), F.cross_entropy, vectors()), dtype).problem(
        batch_size=batch_size
    )
    part = problem.block("0")
    for one in (problem, part, problem.at(elsewhere(problem)), part.at(elsewhere(part))):
        theta = elsewhere(one, seed)
        assert one.loss_at(theta) == one.at(theta).loss()
        assert one.loss_at(theta.double()) == one.loss_at(theta)


VALUES = {
    "inf": (lambda t: -t.log().sum(), 0.0, math.inf),
    "-inf": (lambda t: t.log().sum(), 0.0, -math.inf),
    "NaN": (lambda t: t.log().sum(), -1.0, math.nan),
    "overflow": (lambda t: t.exp().sum(), 1e4, math.inf),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_loss_that_is_not_finite_is_a_value_there_and_an_error_where_it_is_differentiated(name):
    f, where, value = VALUES[name]
    problem = hs.Problem.from_function(f, torch.ones(2).double())
    theta = torch.tensor([2.0, where])
    assert str(problem.loss_at(theta)) == str(value)
    there = problem.at(theta)
    for measure in (there.loss, there.gradient, lambda: hs.Hessian(there) @ torch.ones(2)):
        with pytest.raises(NonFiniteLossError, match=f"^the loss of batch 0 is {value}; a Hessian"):
            measure()


@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        ((1.0, 3.0), 2.0),
        ((1.0, math.inf), math.inf),
        ((-math.inf, 1.0), -math.inf),
        ((math.inf, -math.inf), math.nan),
        ((math.nan, math.inf), math.nan),
    ],
)
def test_the_mean_over_batches_is_that_of_arithmetic(losses, mean):
    problem = hs.Problem.from_closure(
        nn.Linear(1, 1),
        lambda model, batch: model.weight.sum() * 0 + batch[0].sum(),
        [(torch.tensor([loss]),) for loss in losses],
    )
    assert str(problem.loss_at(problem.theta)) == str(mean)


def _overflow_in_one_process(rank: int) -> list[float]:
    data = [(torch.tensor([0.0, 1e4][rank]),)]
    model = nn.Linear(1, 1).double()
    problem = hs.Problem.from_closure(
        model, lambda m, batch: (m.bias * batch[0]).exp().sum(), data, count=lambda _: 1
    )
    return [problem.loss_at(torch.tensor([0.0, bias])) for bias in (0.0, 1.0)]


def test_all_processes_hear_of_an_infinite_loss_in_one():
    assert in_processes(_overflow_in_one_process, 2) == [[1.0, math.inf]] * 2


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_vector_of_another_length_is_refused(size):
    problem = hs.Problem.from_function(lambda t: t.sum(), torch.ones(2))
    with pytest.raises(ValueError, match=rf"shape \({size},\) does not fit 2 parameters"):
        problem.loss_at(torch.ones(size))


# Whoever looks at the loss away from the parameters


class Shifting:
    """Four batches that are read anew at every pass, and shift as soon as they are told to."""

    def __init__(self) -> None:
        self.shifted = False

    def __iter__(self):
        for i in range(4):
            yield (torch.full((2,), i + float(self.shifted)),)


def out_of_memory(data: Shifting) -> None:
    msg = "out of memory, as a device would say it"
    raise torch.OutOfMemoryError(msg)


def shift(data: Shifting) -> None:
    data.shifted = True


def stumble(data: Shifting) -> None:
    msg = "a bug in forward"
    raise KeyError(msg)


TROUBLE = {
    "memory": (out_of_memory, torch.OutOfMemoryError, "^out of memory, as a device would say it$"),
    "drift": (shift, RuntimeError, "^the data changes between passes: batch 1 differs from the"),
    "bug": (stumble, ValueError, "^the model or the loss fails on batch 0 .*KeyError: 'a bug in"),
}


class Bare(nn.Module):
    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start)


def troubled(trouble, start: torch.Tensor) -> hs.Problem:
    """A saddle t0² - t1² + t1⁴/2 whose loss meets trouble anywhere but at the start."""
    data = Shifting()

    def loss(model, batch):
        if not torch.equal(model.theta.detach(), start):
            trouble(data)
        x, y = model.theta
        return x**2 - y**2 + y**4 / 2 + 0 * batch[0].sum()

    return hs.Problem.from_closure(Bare(start.clone()), loss, data, cache_bytes=1)


UP = torch.tensor([0.0, 1.0]).double()
AWAY = {
    "escape": lambda p: hs.escape(p),
    "fall_along": lambda p: fall_along(p, UP, p.loss(), 0.0),
    "interpolate": lambda p: hs.interpolate(p, p.theta, p.theta + UP),
    "convexity": lambda p: negative_curvature_probes(p, 1),
    "smoothness": lambda p: smoothness(p, UP),
    "loss_at": lambda p: p.loss_at(p.theta + UP),
}


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("look", AWAY)
def test_trouble_away_from_the_parameters_is_no_infinite_loss(look, trouble):
    cause, error, message = TROUBLE[trouble]
    problem = troubled(cause, torch.tensor([0.1, 0.2]).double())
    before = state_of(problem.model)
    with pytest.raises(error, match=message):
        AWAY[look](problem)
    assert state_of(problem.model) == before


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_after_a_step_leaves_the_verdict_undecided_with_its_cause(trouble):
    cause, _, message = TROUBLE[trouble]
    problem = troubled(cause, torch.tensor([0.1, 0.2]).double())
    examined = hs.diagnose(problem, lr=0.05, effort="quick", check=False)
    why = examined.measurements.missing["step"].removeprefix("out of memory (")
    assert re.match(message.rstrip("$"), why)
    verdict = examined.verdict("step_size")
    assert verdict.claim == f"undecided: {examined.measurements.missing['step']}"
    assert "not finite" not in verdict.claim
    assert not verdict.finding


def test_a_barrier_of_infinities_keeps_their_kind():
    problem = hs.Problem.from_function(lambda t: (1 / t).log().sum(), torch.ones(1).double())
    line = hs.interpolate(problem, torch.tensor([1.0]), torch.tensor([-1.0]), 5)
    assert line.losses.isnan().tolist() == [False, False, False, True, True]
    assert line.losses[2] == math.inf
