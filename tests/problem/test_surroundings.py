"""A measurement leaves no trace, whatever happens inside it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem.surroundings import twice_differentiable
from tests.networks import Encoder, mlp, smooth, token_loss, tokens, vectors
from tests.state import state_of


class Messy(nn.Module):
    """BatchNorm, dropout, a counter buffer, frozen parts, mixed modes, gradients: all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("nothing", None)
        self.body[3].bias.requires_grad_(False)
        self.body[1].eval()
        self.body[0].weight.grad = torch.ones(5, 4)

    def forward(self, x):
        self.calls += 1
        random.random(), np.random.rand(), torch.rand(2)  # noqa: NPY002
        return self.body(x)


MEASUREMENTS = {
    "loss": lambda p: p.loss(),
    "gradient": lambda p: p.gradient(),
    "product": lambda p: hs.Hessian(p) @ torch.ones(p.n),
    "rebuilt product": lambda p: hs.Hessian(p, memory=0) @ torch.ones(p.n),
    "forward mode": lambda p: hs.Hessian(p, "for") @ torch.ones(p.n),
    "differences": lambda p: hs.Hessian(p, hs.CentralDifference(1e-3)) @ torch.ones(p.n),
    "other parameters": lambda p: p.at(p.theta + 1).gradient(),
    "block": lambda p: p.block("body.0").gradient(),
    "subsample": lambda p: p.subsample(10).loss(),
    "check": hs.check_problem,
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("measure", MEASUREMENTS)
def test_the_model_and_the_generators_are_what_they_were(measure, training):
    model, data = Messy(), vectors(12)
    before = state_of(model)
    problem = hs.Problem(model, F.cross_entropy, data, training=training, batch_size=6)
    MEASUREMENTS[measure](problem)
    assert state_of(model) == before


@pytest.mark.parametrize("measure", sorted(set(MEASUREMENTS) - {"check", "subsample"}))
def test_the_model_is_what_it_was_after_an_error_in_the_second_batch(measure):
    def explode(output, targets):
        return F.cross_entropy(output, targets) + {0: 0.0}[int(targets[0])]

    model, data = Messy(), (vectors(12)[0], torch.arange(12) // 6)
    before = state_of(model)
    problem = hs.Problem(model, explode, data, training=True, batch_size=6)
    with pytest.raises(ValueError, match=r"^the model or the loss fails on batch 1 .*KeyError: 1$"):
        MEASUREMENTS[measure](problem)
    assert state_of(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StopAsyncIteration])
def test_foreign_exceptions_pass_unchanged_and_leave_no_trace(error):
    def explode(output, targets):
        raise error

    model, data = Messy(), vectors()
    before = state_of(model)
    with pytest.raises(error):
        hs.Problem(model, explode, data).gradient()
    assert state_of(model) == before


def test_parameters_written_to_in_forward_get_their_values_back():
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            self.body[0].weight.data.add_(1.0)
            return self.body(x)

    model, data = Drifting(), vectors()
    before = state_of(model)
    hs.Problem(model, F.cross_entropy, data).gradient()
    assert state_of(model) == before


def test_gradients_that_a_user_accumulated_are_kept_and_not_added_to():
    case = smooth("mlp")
    case.loss().backward()
    kept = [(p.grad, p.grad.clone()) for p in case.model.parameters()]
    numbers = case.problem().gradient()
    hs.check_problem(case.problem())
    for p, (grad, value) in zip(case.model.parameters(), kept, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, value)
    assert torch.allclose(numbers, torch.cat([value.flatten() for _, value in kept]))


@pytest.mark.parametrize("training", [False, True])
def test_inside_all_modules_are_in_one_mode(training):
    problem = hs.Problem(Messy(), F.cross_entropy, vectors(), training=training)
    with problem.evaluation():
        assert {module.training for module in problem.model.modules()} == {training}


def test_each_batch_sees_the_buffers_as_the_user_left_them():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()
            self.register_buffer("calls", torch.ones(()))

        def forward(self, x):
            self.calls += 1
            return self.body(x) * self.calls

    model = Counting().double()
    x, y = vectors()
    data = (x.double(), y)
    whole, split = (hs.Problem(model, F.cross_entropy, data, batch_size=b) for b in (7, 2))
    assert split.loss() == pytest.approx(whole.loss(), rel=1e-14)
    assert float(model.calls) == 1.0
    assert hs.check_problem(split).ok


def test_the_switches_of_torch_are_on_inside_and_back_outside():
    model = Encoder()
    before = state_of(model)
    with torch.no_grad(), twice_differentiable(model, torch.device("cpu")):
        assert torch.is_grad_enabled()
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert not torch.is_autocast_enabled("cpu")
    assert state_of(model) == before


def test_a_fused_transformer_layer_has_a_second_derivative_inside():
    x, y = tokens()
    model = Encoder().double().eval()
    H = hs.Hessian(hs.Problem(model, token_loss, (x, y)))
    assert hs.check_operator(H).ok
    torch.backends.mha.set_fastpath_enabled(True)
    assert torch.backends.mha.get_fastpath_enabled()
