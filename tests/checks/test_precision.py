"""Precision is that of the weakest step on the way to the loss, and examples lie where they lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem.precision import Lifted
from hesscope.sampling.gradient import gradient_with_noise


class InFloat32(nn.Module):
    """A float64 network that computes a part of itself in float32, as many of others do."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.body, self.head, self.where = nn.Linear(5, 8), nn.Linear(8, 4), where

    def forward(self, x):
        hidden = self.body(x).tanh()
        if self.where == "inside":
            hidden = (hidden.float() * 1.7).to(hidden.dtype)
        outputs = self.head(hidden)
        return outputs.float() if self.where == "loss" else outputs


def batches(dtype, num=2, size=7):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 5, generator=generator).to(dtype), torch.arange(size) % 4)
        for _ in range(num)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("where", ["inside", "loss", "nowhere"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounding_of_a_weaker_step_is_no_fault_of_the_mean(where, dtype, seed):
    torch.manual_seed(seed)
    problem = hs.Problem(InFloat32(where).to(dtype), F.cross_entropy, batches(dtype))
    assert hs.check_problem(problem).ok
    assert problem.weakest == (torch.float32 if where != "nowhere" else dtype)


@pytest.mark.parametrize("where", ["inside", "loss", "nowhere"])
def test_a_sum_is_still_found_in_a_weaker_precision(where):
    torch.manual_seed(0)
    model = InFloat32(where).double()
    loss = nn.CrossEntropyLoss(reduction="sum")
    check = hs.check_problem(hs.Problem(model, loss, batches(torch.float64)))
    assert [fault.name for fault in check.faults] == ["sum_reduction"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batches_in_half_precision_are_a_mean_to_its_rounding(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)
    check = hs.check_problem(hs.Problem(model, F.cross_entropy, batches(dtype, 3)))
    assert "not_a_mean" not in [finding.name for finding in check.findings]


class TimeFirst(nn.Module):
    def __init__(self, kind) -> None:
        super().__init__()
        self.layer, self.head = kind(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def of_every_step(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def time_first(num):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(6, 5, 3, generator=generator).double(),
            torch.randint(0, 2, (6, 5), generator=generator),
        )
        for _ in range(num)
    ]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("num", [1, 3])
def test_sequences_with_time_first_are_no_fault(kind, num):
    torch.manual_seed(0)
    model, data = TimeFirst(kind).double(), time_first(num)
    problem = hs.Problem(model, of_every_step, data, count=lambda y: y.numel())
    check = hs.check_problem(problem)
    assert check.ok
    assert "examples_on_axis_1" in [note.name for note in check.findings]
    parameters = list(model.parameters())
    loss = sum(of_every_step(model(x), y) for x, y in data) / num
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
    g, noise = gradient_with_noise(problem)
    assert torch.allclose(g, gradient, rtol=1e-10, atol=1e-14)
    assert math.isnan(noise) is (num == 1)


def contrastive(outputs, targets):
    """InfoNCE: every example is compared with all others of its batch."""
    z = F.normalize(outputs, dim=1)
    return F.cross_entropy(z @ z.roll(1, 0).T / 0.5, torch.arange(len(z)))


def test_a_loss_that_couples_its_examples_is_not_cut_for_its_noise():
    torch.manual_seed(0)
    model = nn.Linear(5, 8).double()
    data = torch.randn(40, 5).double(), torch.arange(40)
    problem = hs.Problem(model, contrastive, data)
    gradient, noise = gradient_with_noise(problem)
    assert torch.equal(gradient, problem.gradient())
    assert math.isnan(noise)


class Scaled(torch.autograd.Function):
    """SiLU with a second derivative that is off by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return F.silu(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        slope = s * (1 + x * (1 - s))
        return g * (ctx.factor * slope + (1 - ctx.factor) * slope.detach()), None


class CastTwice(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body, self.head, self.factor = nn.Linear(5, 8), nn.Linear(8, 4), factor

    def forward(self, x):
        hidden = Scaled.apply(4 * self.body(x), self.factor).float()
        return self.head(hidden.to(self.head.weight.dtype)).to(torch.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_small_error_of_a_second_derivative_is_found_behind_casts_to_float32(dtype, seed):
    for factor, names in ((1.0, []), (0.95, ["wrong_second_derivative"])):
        torch.manual_seed(seed)
        model = CastTwice(factor).to(dtype)
        check = hs.check_problem(hs.Problem(model, F.cross_entropy, batches(dtype)))
        assert [fault.name for fault in check.faults] == names, check


def test_lifting_leaves_no_step_in_float32_and_changes_no_value():
    torch.manual_seed(0)
    model, (x, y) = CastTwice(1.0).double(), batches(torch.float64)[0]
    plain = F.cross_entropy(model(x), y)
    with Lifted() as mode:
        lifted = F.cross_entropy(model(x), y)
    assert plain.dtype == torch.float32
    assert lifted.dtype == mode.weakest == torch.float64
    assert abs(float((lifted - plain).detach())) < 1e-6


def test_constants_in_float32_are_lifted_where_they_meet_float64():
    weight = torch.tensor([1.0, 2.0])
    with Lifted():
        assert (torch.ones(2, 2, dtype=torch.float64) @ weight).dtype == torch.float64
        kept = torch.zeros(2, dtype=torch.int64)
        assert kept.add_(1).dtype == torch.int64


@pytest.mark.parametrize(("margin", "dtype", "found"), [
    (5, torch.float32, []), (15, torch.float64, []), (20, torch.float64, []),
    (20, torch.float32, ["cancellation"]), (40, torch.float64, ["cancellation"]),
])  # fmt: skip
def test_cancellation_is_named_where_examples_are_fitted_almost_perfectly(margin, dtype, found):
    x = torch.tensor([[1.0, 0.2], [-1.0, 0.1], [1.0, -0.3], [-1.0, -0.2]], dtype=dtype)
    y = torch.tensor([[1.0], [0.0], [1.0], [0.0]], dtype=dtype)
    model = nn.Linear(2, 1, bias=False).to(dtype)
    model.weight.data = torch.tensor([[float(margin), 0.0]], dtype=dtype)
    check = hs.check_problem(hs.Problem(model, F.binary_cross_entropy_with_logits, (x, y)))
    assert [fault.name for fault in check.faults] == found
