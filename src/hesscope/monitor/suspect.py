"""Rows that hold one batch under suspicion against the probe data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hesscope.examination import gradients
from hesscope.examination.look import Look
from hesscope.monitor.check import Check
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.results.history import Series
from hesscope.sampling.parts import parts_of


def loss_deviation(look: Look) -> float:
    """The standard deviation of the loss of single items of the probe data, from its parts.

    With parts of c_b items of loss l_b and their mean l, σ² = B/(B - 1) mean c_b (l_b - l)².
    """
    losses, counts = [], []
    with look.problem.evaluation() as e:
        for part in parts_of(look.problem, e):
            losses.append(float(e.loss(part).detach()))
            counts.append(part.count)
    look.spend(gradients=0.5)
    if len(losses) < 2:
        return math.nan
    mean = sum(c * x for c, x in zip(counts, losses, strict=True)) / sum(counts)
    squares = sum(c * (x - mean) ** 2 for c, x in zip(counts, losses, strict=True))
    return math.sqrt(squares / (len(losses) - 1))


def suspect(batch: Problem) -> Callable[[Check], dict[str, float]]:
    """The row of a batch, given as the problem on that batch alone."""

    def compare(look: Check) -> dict[str, float]:
        """Its loss and gradient; by how many standard errors, and how many times, they are large.

        A batch of B of N items drawn like the probe data has a loss within σ/√B of the mean, and a
        gradient with E‖g_B‖² = ‖g‖² + N/B s², where s is the standard error of g. A loss that is
        not finite is infinitely large.
        """
        standing = look.problem.on(batch)
        loss = standing.loss_at(standing.theta)
        if not math.isfinite(loss):
            return {"batch_loss": loss, "batch_loss_excess": math.inf}
        g = standing.gradient()
        size = batch.num_items
        mean = look.of(gradients.gradient)
        noise = look.of(gradients.gradient_noise)
        usual = look.dot(mean, mean) + look.problem.num_items / size * noise**2
        error = look.of(loss_deviation) / math.sqrt(size)
        return {
            "batch_loss": loss,
            "batch_loss_excess": (loss - look.of(gradients.loss)) / error if error else math.nan,
            "batch_gradient_norm": math.sqrt(look.dot(g, g)),
            "batch_gradient_excess": math.sqrt(look.dot(g, g) / usual) if usual else math.nan,
        }

    return compare


def example_losses(batch: Problem) -> Callable[[Check], Series | None]:
    """The row of the losses of a batch's single examples, over their places in it."""

    def losses(look: Check) -> Series | None:
        """None where its examples cannot be told apart."""
        found = []
        for content in batch.batches:
            try:
                singles = _singles(content.content)
            except ValueError:
                return None
            with look.problem.with_batches(singles).evaluation() as e:
                found += [float(e.loss(one).detach()) for one in e.batches]
        values = torch.tensor(found, dtype=torch.float64)
        return Series(torch.arange(len(found)), values)

    return losses


def _singles(content: Any) -> list[Any]:
    return [
        take(content, torch.tensor([i], dtype=torch.int64)) for i in range(num_examples(content))
    ]
