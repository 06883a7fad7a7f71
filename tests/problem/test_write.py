"""Writing parameters into the model: what is written is what is read, and nothing else moves."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.networks import (
    SMOOTH,
    Tied,
    frozen_body,
    make,
    mlp,
    relative_error,
    smooth,
    theta_of,
    vectors,
)
from tests.state import state_of


def other(problem: hs.Problem, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    step = torch.randn(problem.n, generator=generator, dtype=torch.float64)
    return problem.theta + 0.3 * step.to(problem.dtype)


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_written_is_read_and_measured(name):
    problem = smooth(name).problem()
    start, theta = problem.theta, other(problem)
    loss, gradient = problem.loss_at(theta), problem.at(theta).gradient()
    problem.write(theta)
    assert torch.equal(problem.theta, theta)
    assert problem.loss() == loss
    assert torch.equal(problem.gradient(), gradient)
    problem.write(start)
    assert torch.equal(problem.theta, start)


def test_the_tensors_stay_the_models_own_and_keep_their_gradients_and_flags():
    model = frozen_body()
    x, y = vectors()
    F.cross_entropy(model(x), y).backward()
    problem = hs.Problem(model, F.cross_entropy, (x, y))
    before = state_of(model)
    problem.write(other(problem))
    after = state_of(model)
    for name, (identity, content, wants_gradient) in before["parameters"].items():
        assert after["parameters"][name][::2] == (identity, wants_gradient)
        assert (after["parameters"][name][1] == content) == (name in problem.frozen)
    del before["parameters"], after["parameters"]
    assert after == before


def test_a_tied_parameter_is_written_once_and_seen_in_both_places():
    case = smooth("tied")
    assert isinstance(case.model, Tied)
    problem = case.problem()
    problem.write(other(problem))
    assert case.model.decoder.weight is case.model.encoder.weight
    assert problem.loss() == pytest.approx(case.loss().item(), rel=1e-13)


def test_a_block_writes_its_own_part_alone():
    problem = smooth("mlp").problem()
    start = problem.theta
    for name, part in problem.blocks().items():
        theta = other(part)
        part.write(theta)
        whole = problem.theta
        places = [problem.layout.slices()[n] for n in part.layout.names]
        assert torch.equal(torch.cat([whole[place] for place in places]), theta), name
        inside = torch.zeros(problem.n, dtype=torch.bool)
        for place in places:
            inside[place] = True
        assert torch.equal(whole[~inside], start[~inside])
        problem.write(start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_it_is_converted_to_the_dtype_of_the_model(dtype):
    model = mlp().to(dtype)
    problem = hs.Problem(model, F.cross_entropy, tuple(t for t in vectors()))
    theta = torch.linspace(-1, 1, problem.n, dtype=torch.float64, requires_grad=True)
    rounded = theta.detach().to(dtype).to(problem.dtype)
    problem.write(theta)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(problem.theta, rounded)
    problem.write(theta.detach().numpy())
    assert torch.equal(problem.theta, rounded)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_operators_notice_in_whatever_mode_it_is_written(mode):
    problem = smooth("mlp").problem()
    H, v = hs.Hessian(problem), torch.linspace(-1, 1, problem.n).double()
    old, theta = H @ v, other(problem)
    expected = hs.Hessian(problem.at(theta)) @ v
    with mode():
        problem.write(theta)
    assert relative_error(H @ v, expected) < 1e-12
    assert relative_error(old, expected) > 1e-3
    assert all(p.requires_grad and p.is_leaf for p in problem.model.parameters())


def test_a_function_moves_and_the_tensor_that_it_was_made_from_does_not():
    start = torch.ones(2)
    problem = hs.Problem.from_function(lambda t: t.square().sum(), start)
    problem.write(torch.tensor([3.0, 4.0]))
    assert (problem.loss(), start.tolist()) == (25.0, [1.0, 1.0])


def test_descent_by_writing_is_descent_by_an_optimiser():
    one, two = (smooth("mlp") for _ in range(2))
    problem = one.problem()
    optimiser = torch.optim.SGD(two.model.parameters(), lr=0.1)
    for _ in range(20):
        problem.write(problem.theta - 0.1 * problem.gradient())
        optimiser.zero_grad()
        two.loss().backward()
        optimiser.step()
    assert relative_error(problem.theta, theta_of(two.model)) < 1e-12


BAD = {
    "too short": (torch.ones(3), "theta has shape (3,); this problem has n=4 parameters, so give "),
    "a matrix": (torch.ones(2, 2), "theta has shape (2, 2); this problem has n=4 parameters, so "),
    "NaN": (torch.tensor([1.0, math.nan, 1.0, 1.0]), "theta has 1 entries that are NaN or infin"),
    "inf": (torch.full((4,), math.inf), "theta has 4 entries that are NaN or infinite in torch.fl"),
    "overflow": (
        torch.full((4,), 1e300, dtype=torch.float64),
        "theta has 4 entries that are NaN or infinite ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_stand_in_the_model_is_refused_and_nothing_is_written(name):
    theta, message = BAD[name]
    model = nn.Linear(2, 2, bias=False)
    problem = hs.Problem(model, F.mse_loss, (torch.ones(1, 2), torch.ones(1, 2)))
    before = state_of(model)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        problem.write(theta)
    assert state_of(model) == before


def test_a_problem_that_stands_elsewhere_does_not_write_into_the_model():
    case = make(lambda: (mlp(), F.cross_entropy, vectors()))
    problem = case.problem()
    before = state_of(case.model)
    for moved in (problem.at(problem.theta), problem.block("0").at(problem.block("0").theta),
                  problem.at(problem.theta).block("0")):  # fmt: skip
        with pytest.raises(ValueError, match=r"^this problem stays at parameters of its own"):
            moved.write(moved.theta)
    assert state_of(case.model) == before
