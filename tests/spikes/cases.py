"""Planted causes of spikes, and healthy runs, in both ways of looking at them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import hesscope as hs
from tests.spikes.runs import (
    NUM,
    WATCHED,
    Training,
    at,
    corrupted,
    half_moments,
    lr_times,
    nothing,
    ramp,
    shuffled,
    subject,
    teacher,
)

SGD = partial(torch.optim.SGD, momentum=0.9)
Adam, AdamW = torch.optim.Adam, torch.optim.AdamW
PLANTED, LATER = 60, 150  # the step of what is planted, and where more has to be learned first
BEFORE, AFTER = 14, 6  # checkpoints around it, a step apart


@dataclass(frozen=True)
class Case:
    """A training whose cause is known: the key of the first verdict, empty where it is healthy."""

    name: str
    cause: str
    look: Callable[[int], hs.Postmortem]
    adam: bool = False  # a spike of Adam's own, which should be announced


def training(
    seed: int,
    make: Callable[..., torch.optim.Optimizer],
    *,
    lr: float,
    change: Callable[[Any], None] = nothing,
    depth: int = 2,
    activation: type[nn.Module] = nn.Tanh,
    batch_size: int = 64,
    grouped: bool = False,
    **others: Any,
) -> Training:
    model, data = subject(seed, depth, activation)
    layers = [{"params": list(m.parameters())} for m in model if isinstance(m, nn.Linear)]
    optimizer = make(layers if grouped else model.parameters(), lr=lr)
    return Training(model, optimizer, data, batch_size, change=change, **others)


def left_behind(
    run: Training, steps: int, around: int, *, suspect: int | None = None, apart: int = 1
) -> hs.Postmortem:
    """The post-mortem of the checkpoints around a step, and of a batch under suspicion."""
    run.run(steps)
    kept = [
        step
        for step in range(around - BEFORE * apart, around + AFTER * apart + 1, apart)
        if step in run.weights
    ]
    return hs.postmortem(
        run.problem(),
        {step: run.weights[step] for step in kept},
        optimizers={step: run.states[step] for step in kept},
        batch=None if suspect is None else run.batches[suspect],
    )


def watched(run: Training, steps: int, every: int = 3) -> hs.Postmortem:
    """The post-mortem of a run beside which a monitor stood."""
    problem = run.problem()
    with hs.Monitor(problem, run.optimizer, every=every, quantities=WATCHED) as monitor:
        run.run(steps, monitor.step)
    return hs.postmortem(monitor.history)


def lag(seed: int, lr: float, beta1: float) -> hs.Postmortem:
    """Adam on what can be learned exactly: its second moments fall until they bear no step.

    The first spike after a time of calm, from checkpoints every fourth step.
    """
    model, data = teacher(seed)
    optimizer = Adam(model.parameters(), lr=lr, betas=(beta1, 0.99))
    run = Training(model, optimizer, data, 64, mse_loss)
    run.run(600)
    spikes = (i for i in range(80, 600) if _spikes(run.losses[i - 60 : i + 1]))
    spike = next(spikes, None)
    if spike is None:  # this one stays calm for so long: another takes its place
        return lag(seed + 1000, lr, beta1)
    kept = range(spike - 60, min(spike + 9, 600), 4)
    return hs.postmortem(
        run.problem(),
        {step: run.weights[step] for step in kept},
        optimizers={step: run.states[step] for step in kept},
    )


def _spikes(losses: list[float]) -> bool:
    """Whether the last loss is far above those just before, and these are calm."""
    *before, last = losses
    return last > max(3 * min(before[-10:]), 0.02) and max(before) < 2 * before[0] + 0.005


def exploded(factor: float) -> Callable[[Any], None]:
    """The weights of the second layer are written over by larger ones."""

    def change(run: Training) -> None:
        with torch.no_grad():
            run.model[2].weight.mul_(factor)

    return change


def small_loss(scale: float) -> Callable[..., torch.Tensor]:
    """Cross-entropy times a small number."""
    return lambda outputs, labels: scale * cross_entropy(outputs, labels)


def _from(step: int, change: Callable[[Any], None]) -> Callable[[Any], None]:
    """The change after every step from this one on."""

    def later(run: Training) -> None:
        if run.step >= step:
            change(run)

    return later


def _jump(seed: int, make: Any, lr: float, factor: float, **options: Any) -> hs.Postmortem:
    run = training(seed, make, lr=lr, change=at(PLANTED, lr_times(factor)))
    suspect = PLANTED if options else None
    return left_behind(run, PLANTED + 7, PLANTED, suspect=suspect)


RELU = partial(training, make=SGD, lr=0.1, depth=3, activation=nn.ReLU)
CORRUPT = partial(RELU, change=at(LATER, corrupted(30.0)))
NOT_A_NUMBER = partial(RELU, change=at(PLANTED, corrupted(float("nan"))))
SHUFFLED = partial(training, make=SGD, lr=0.3, batch_size=NUM, change=at(300, shuffled))
LAYERS = partial(training, make=SGD, lr=0.2, depth=4, grouped=True)

CASES = {
    case.name: case
    for case in (
        Case("lr x 20, SGD", "lr_too_high", lambda s: _jump(s, SGD, 0.5, 20)),
        Case("lr x 100, Adam", "lr_too_high", lambda s: _jump(s, Adam, 0.01, 100), adam=True),
        Case(
            "lr x 20, an innocent batch suspected",
            "lr_too_high",
            lambda s: _jump(s, SGD, 0.5, 20, suspect=True),
        ),
        Case(
            "lr too high from the start",
            "lr_too_high",
            lambda s: left_behind(training(s, SGD, lr=20.0), 12, 8),
        ),
        Case("β₂ too large, Adam", "preconditioner_lag", lambda s: lag(s, 0.2, 0.9), adam=True),
        Case(
            "β₂ too large, without β₁",
            "preconditioner_lag",
            lambda s: lag(s, 0.1, 0.0),
            adam=True,
        ),
        Case(
            "corrupted batch",
            "bad_batch",
            lambda s: left_behind(CORRUPT(s), LATER + 7, LATER, suspect=LATER),
        ),
        Case("corrupted batch, watched", "bad_batch", lambda s: watched(CORRUPT(s), LATER + 12)),
        Case(
            "a batch with NaN",
            "bad_batch",
            lambda s: left_behind(NOT_A_NUMBER(s), PLANTED + 2, PLANTED, suspect=PLANTED),
        ),
        Case("a batch with NaN, watched", "bad_batch", lambda s: watched(NOT_A_NUMBER(s), 62, 1)),
        Case(
            "shuffled labels",
            "bad_batch",
            lambda s: left_behind(SHUFFLED(s), 307, 300, suspect=300),
        ),
        Case("shuffled labels, watched", "bad_batch", lambda s: watched(SHUFFLED(s), 312)),
        Case(
            "exploding layer, its lr x 60",
            "layer",
            lambda s: left_behind(LAYERS(s, change=at(PLANTED, lr_times(60.0, [1]))), 67, PLANTED),
        ),
        Case(
            "exploding layer, its weights x 8",
            "layer",
            lambda s: left_behind(RELU(s, change=at(LATER, exploded(8.0))), LATER + 7, LATER),
        ),
        Case(
            "warm-up too steep, SGD",
            "warm_up",
            lambda s: left_behind(training(s, SGD, lr=0.01, change=ramp(0.01, 15.0, 30)), 24, 12),
        ),
        Case(
            "warm-up too steep, Adam",
            "warm_up",
            lambda s: left_behind(training(s, Adam, lr=0.001, change=ramp(1e-3, 5.0, 30)), 24, 12),
            adam=True,
        ),
        Case(
            "second moments in half precision",
            "underflow",
            lambda s: left_behind(
                training(
                    s, Adam, lr=0.01, loss_fn=small_loss(0.01), after=_from(PLANTED, half_moments)
                ),
                PLANTED + 7,
                PLANTED,
            ),
        ),
        Case(
            "gradients in half precision",
            "underflow",
            lambda s: watched(
                training(s, Adam, lr=0.01, loss_fn=small_loss(1e-6), half_gradients=True), 40
            ),
        ),
        Case("healthy: SGD", "", lambda s: left_behind(training(s, SGD, lr=0.1), 68, PLANTED)),
        Case("healthy: Adam", "", lambda s: left_behind(training(s, Adam, lr=0.01), 68, PLANTED)),
        Case(
            "healthy: Adam from the start, watched",
            "",
            lambda s: watched(training(s, AdamW, lr=0.01), 60),
        ),
        Case(
            "healthy: warm-up",
            "",
            lambda s: left_behind(training(s, Adam, lr=1e-3, change=ramp(1e-4, 0.01, 20)), 40, 14),
        ),
        Case(
            "healthy: ReLU, small batches, watched",
            "",
            lambda s: watched(
                training(s, SGD, lr=0.02, activation=nn.ReLU, depth=3, batch_size=8), 90
            ),
        ),
        Case(
            "healthy: edge of stability",
            "",
            lambda s: left_behind(
                training(s, torch.optim.SGD, lr=0.8, batch_size=NUM), 300, 200, apart=6
            ),
        ),
    )
}
