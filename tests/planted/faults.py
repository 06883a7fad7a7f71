"""Forty-five planted faults, by where they hide, each with the name that it must be given."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import hesscope as hs
from tests.planted.model import NUM, Function, Planted, closure, problem, where_marked

Maker = Callable[[torch.dtype], hs.Problem]

cross_entropy = F.cross_entropy
GRADIENT, SECOND = "gradient_is_not_the_derivative", "wrong_second_derivative"
STATE, MEAN, HELD = "stateful_loss", "not_a_mean", "captured_parameters"


# Functions with a wrong first or second derivative


def bent(x: Tensor) -> Tensor:
    return x + 0.5 * x.sin()


class Bent(torch.autograd.Function):
    """bent(x), with its first or second derivative wrong where `where` is so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, where: Tensor, order: int, factor: float) -> Tensor:
        ctx.save_for_backward(x, where)
        ctx.order, ctx.factor = order, factor
        return bent(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, where = ctx.saved_tensors
        slope = 1 + 0.5 * x.cos()
        if ctx.order == 1:
            wrong = ctx.factor * slope
        else:  # the right value, its derivative times a factor
            wrong = ctx.factor * slope + (1 - ctx.factor) * slope.detach()
        return g * torch.where(where, wrong, slope), None, None, None


def wrong(where: Callable[[Tensor], Tensor], order: int, factor: float) -> Callable[..., Tensor]:
    return lambda x, _=None: Bent.apply(x, where(x), order, factor)


def everywhere(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def detached(x: Tensor) -> Tensor:
    return 0.5 * x + bent(x.detach()) - 0.5 * x.detach()


def among_many(bad: Callable[[Tensor], Tensor]) -> Function:
    """As a kernel does that is taken for large batches only."""
    return lambda x, _: bad(x) if len(x) > 16 else bent(x)


def in_marked(bad: Callable[[Tensor], Tensor], marked: Any) -> Maker:
    return lambda dtype: problem(Planted(where_marked(bad, bent)), dtype, marked=marked)


def with_function(function: Function) -> Maker:
    return lambda dtype: problem(Planted(function), dtype)


def with_loss(loss: Callable[[Tensor, Tensor], Tensor], **options: Any) -> Maker:
    return lambda dtype: problem(Planted(), dtype, loss=loss, **options)


# Calls that are counted


def counting(change: Callable[[Tensor, int], Tensor]) -> Maker:
    def make(dtype: torch.dtype) -> hs.Problem:
        calls = itertools.count(1)
        return problem(Planted(lambda x, _: change(x, next(calls))), dtype)

    return make


def remembering() -> Maker:
    """The loss moves towards the mean of what was seen last."""

    def make(dtype: torch.dtype) -> hs.Problem:
        seen: list[Tensor] = [torch.zeros(())]

        def function(x: Tensor, _: Tensor) -> Tensor:
            shifted = x + 0.1 * seen[0]
            seen[0] = x.detach().mean()
            return shifted

        return problem(Planted(function), dtype)

    return make


def averaging() -> Maker:
    """A running mean that lives in a tensor of nobody's."""

    def make(dtype: torch.dtype) -> hs.Problem:
        mean = torch.zeros(6, dtype=dtype)

        def function(x: Tensor, _: Tensor) -> Tensor:
            mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
            return x - mean

        return problem(Planted(function), dtype)

    return make


# Hooks


def hooked(register: Callable[[Planted], Any]) -> Maker:
    def make(dtype: torch.dtype) -> hs.Problem:
        model = Planted()
        register(model)
        return problem(model, dtype)

    return make


def hook_that_counts(model: Planted) -> None:
    calls = itertools.count(1)
    model.middle.register_forward_hook(lambda m, i, o: o * (1 + 1e-3 * next(calls)))


def scaled_inside(x: Tensor, _: Tensor) -> Tensor:
    y = bent(x)
    if y.requires_grad:
        y.register_hook(lambda g: 0.9 * g)
    return y


def clipped_inside(x: Tensor, _: Tensor) -> Tensor:
    y = bent(x)
    if y.requires_grad:
        y.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    return y


class HalfDetached(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight + 0.5 * weight.detach()


def parametrised(dtype: torch.dtype) -> hs.Problem:
    model = Planted()
    parametrize.register_parametrization(model.middle, "weight", HalfDetached())
    return problem(model, dtype)


# Tensors that the loss holds


def penalty(tensors: Callable[[Planted], list[Tensor]]) -> Maker:
    """A penalty on tensors that were taken from the model beforehand."""

    def make(dtype: torch.dtype) -> hs.Problem:
        model = Planted().to(dtype)
        held = tensors(model)

        def loss(model: nn.Module, batch: Any) -> Tensor:
            return cross_entropy(model(batch[0]), batch[1]) + 0.1 * sum(
                t.square().sum() for t in held
            )

        return closure(model, loss, dtype)

    return make


def aliased(register: Callable[[Planted], None]) -> Maker:
    """The model itself has a second name for the memory of a weight."""

    def make(dtype: torch.dtype) -> hs.Problem:
        model = Planted().to(dtype)
        register(model)
        model.function = lambda x, _: x @ model.alias
        return problem(model, dtype)

    return make


def as_buffer(model: Planted) -> None:
    model.register_buffer("alias", model.middle.weight.data)


def as_attribute(model: Planted) -> None:
    model.alias = model.middle.weight.detach()


def critic_in_training_mode(dtype: torch.dtype) -> hs.Problem:
    critic = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).to(dtype)
    return closure(
        Planted(), lambda model, batch: cross_entropy(critic(model(batch[0])), batch[1]), dtype
    )


def critic_with_dropout(dtype: torch.dtype) -> hs.Problem:
    critic = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 3)).to(dtype)
    return closure(
        Planted(), lambda model, batch: cross_entropy(critic(model(batch[0])), batch[1]), dtype
    )


# Batches and their order


def sums_when_incomplete(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="mean" if len(targets) == 20 else "sum")


def ignoring_in_the_last(dtype: torch.dtype) -> hs.Problem:
    found = problem(Planted(), dtype)
    x, y = (torch.cat(parts) for parts in zip(*(b.content for b in found.batches), strict=True))
    y[45:52] = -100
    return hs.Problem(found.model, cross_entropy, (x, y), batch_size=20)


def by_position(outputs: Tensor, targets: Tensor) -> Tensor:
    weights = torch.linspace(1.0, 2.0, len(targets), dtype=outputs.dtype)
    return (weights * cross_entropy(outputs, targets, reduction="none")).sum() / weights.sum()


def without_the_first(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs[1:], targets[1:]) if len(targets) > 1 else 0 * outputs.sum()


def of_neighbours(outputs: Tensor, targets: Tensor) -> Tensor:
    ordered = outputs[outputs[:, 0].argsort()]
    return cross_entropy(outputs, targets) + (ordered[1:] - ordered[:-1]).square().mean()


def mixed_at_random(x: Tensor, _: Tensor) -> Tensor:
    return 0.8 * x + 0.2 * x[torch.randperm(len(x))]


def late(x: Tensor, n: int, after: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(x) if n > after else x


LARGE, SMALL = (lambda x: x > 1.5), (lambda x: x.abs() < 0.05)

FAULTS: dict[str, tuple[str, Maker]] = {
    # in some batches or examples
    "detached in the second batch": (GRADIENT, in_marked(detached, range(20, 40))),
    "detached in the last three examples": (GRADIENT, in_marked(detached, range(57, 60))),
    "detached in one example": (GRADIENT, in_marked(detached, [41])),
    "detached in every seventh example": (GRADIENT, in_marked(detached, range(0, NUM, 7))),
    "backward wrong in the last batch": (
        GRADIENT, in_marked(wrong(everywhere, 1, 0.8), range(40, 60))),
    "second derivative wrong in the last batch": (
        SECOND, in_marked(wrong(everywhere, 2, 0.0), range(40, 60))),
    "second derivative wrong beyond example 20": (
        SECOND, in_marked(wrong(everywhere, 2, 0.5), range(20, 60, 2))),
    "detached in large batches": (GRADIENT, with_function(among_many(detached))),
    "backward wrong in large batches": (
        GRADIENT, with_function(among_many(wrong(everywhere, 1, 0.9)))),
    "second derivative wrong in large batches": (
        SECOND, with_function(among_many(wrong(everywhere, 2, 0.0)))),
    "a sum over incomplete batches": (MEAN, with_loss(sums_when_incomplete, num=50)),
    "ignored labels in the last batch": ("ignored_targets", ignoring_in_the_last),
    # at some scale
    "backward wrong above 1.5": (GRADIENT, with_function(wrong(LARGE, 1, 0.5))),
    "second derivative wrong above 1.5": (SECOND, with_function(wrong(LARGE, 2, 0.0))),
    "detached near zero": (
        GRADIENT, with_function(lambda x, _: torch.where(SMALL(x), x.detach(), x))),
    "second derivative wrong in large inputs": (
        SECOND, lambda dtype: problem(nn.Sequential(
            nn.Linear(5, 4), Large(), nn.Linear(4, 3)), dtype)),
    "rounded to a grid": (
        GRADIENT, with_function(lambda x, _: x + (torch.round(8 * x) / 8 - x).detach())),
    "gradient clipped inside": ("asymmetric", with_function(clipped_inside)),
    "first derivative off by one percent": (GRADIENT, with_function(wrong(everywhere, 1, 0.99))),
    "second derivative off by three percent": (SECOND, with_function(wrong(everywhere, 2, 0.97))),
    "second derivative left out": (SECOND, with_function(wrong(everywhere, 2, 0.0))),
    # after some calls
    "loss changes after 30 calls": (
        STATE, counting(lambda x, n: late(x, n, 30, lambda x: 1.01 * x))),
    "loss changes after 12 calls": (
        STATE, counting(lambda x, n: late(x, n, 12, lambda x: x + 0.01))),
    "every fifth call differs": (STATE, counting(lambda x, n: x * (1 + 0.05 * (n % 5 == 0)))),
    "loss grows a little at each call": (STATE, counting(lambda x, n: x * (1 + 1e-3 * n))),
    "gradient is dropped after 25 calls": (
        STATE, counting(lambda x, n: late(x, n, 25, lambda x: 0.5 * x + 0.5 * x.detach()))),
    "only the first three calls differ": (STATE, counting(lambda x, n: x * (1 + 0.1 * (n <= 3)))),
    # by hooks
    "module backward hook doubles": (GRADIENT, hooked(
        lambda m: m.activation.register_full_backward_hook(lambda _, i, o: (2 * i[0],)))),
    "module backward hook drops": (GRADIENT, hooked(
        lambda m: m.middle.register_full_backward_hook(lambda _, i, o: (0 * i[0],)))),
    "tensor hook scales": (GRADIENT, with_function(scaled_inside)),
    "forward hook detaches": (GRADIENT, hooked(
        lambda m: m.activation.register_forward_hook(lambda _, i, o: 0.5 * (o + o.detach())))),
    "forward hook adds noise": ("random_loss", hooked(
        lambda m: m.middle.register_forward_hook(lambda _, i, o: o + 0.1 * torch.randn_like(o)))),
    "forward hook rounds": (GRADIENT, hooked(
        lambda m: m.head.register_forward_pre_hook(
            lambda _, i: (i[0] + ((4 * i[0]).round() / 4 - i[0]).detach(),)))),
    "forward hook counts": (STATE, hooked(hook_that_counts)),
    "parametrisation detaches": (GRADIENT, parametrised),
    # in buffers and other tensors
    "penalty on listed parameters": (HELD, penalty(lambda m: list(m.parameters()))),
    "penalty on a detached view": (HELD, penalty(lambda m: [m.middle.weight.detach()])),
    "weight used through a buffer": (HELD, aliased(as_buffer)),
    "weight used through an attribute": (HELD, aliased(as_attribute)),
    "running mean outside the model": (STATE, averaging()),
    "critic left in training mode": ("batch_statistics", critic_in_training_mode),
    "critic with dropout": ("dropout", critic_with_dropout),
    # by the order of examples and batches
    "the last batch is remembered": (STATE, remembering()),
    "weights by position": (MEAN, with_loss(by_position)),
    "the first example is left out": (MEAN, with_loss(without_the_first)),
    "neighbours are compared": (MEAN, with_loss(of_neighbours)),
    "sum along the batch": (MEAN, with_function(lambda x, _: x + 0.1 * x.cumsum(0))),
    "mixed at random": ("random_loss", with_function(mixed_at_random)),
}  # fmt: skip


class Large(nn.Module):
    """Wrong in its second derivative where what it is given is large, which few examples are."""

    def forward(self, x: Tensor) -> Tensor:
        return Bent.apply(x, x.abs() > 2, 2, 0.0)
