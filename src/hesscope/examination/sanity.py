"""Quantities of outputs and data, and of what is trained: what comes before curvature."""

from __future__ import annotations

from hesscope.anatomy import data_summary as summary_of
from hesscope.anatomy import neighbours as neighbours_of
from hesscope.anatomy import predictions as predictions_of
from hesscope.anatomy.sample import Sample
from hesscope.anatomy.sample import sample as sample_of
from hesscope.anatomy.time_signals import time_signals as time_signals_of
from hesscope.anatomy.trained import trained as trained_of
from hesscope.examination.look import Look
from hesscope.results.sanity import DataSummary, Neighbours, Predictions, TimeSignal, Trained
from hesscope.system import collectives

PASS = 1 / 3  # gradients: a forward pass


def sample(look: Look) -> Sample | None:
    """Some examples; None where the outputs are not known, or every process has its own."""
    if collectives.num_processes() > 1:
        return None
    look.spend(gradients=PASS)
    return sample_of(look.problem)


def predictions(look: Look) -> Predictions | None:
    """What the outputs do over the data."""
    seen, loss_fn = look.of(sample), look.problem.loss_fn
    return None if seen is None or loss_fn is None else predictions_of.predictions(seen, loss_fn)


def data_summary(look: Look) -> DataSummary | None:
    """What the data looks like."""
    seen = look.of(sample)
    if seen is None:
        return None
    own = bool(look.problem.inferred)  # models with a loss of their own may shift tokens themselves
    return summary_of.data_summary(seen, look.problem.model, shifts=own)


def neighbours(look: Look) -> Neighbours | None:
    """Labels beside those of the nearest examples."""
    seen = look.of(sample)
    return None if seen is None else neighbours_of.neighbours(seen)


def trained(look: Look) -> Trained:
    """Which layers are moved by training."""
    look.spend(gradients=PASS)
    return trained_of(look.problem, look.question.optimizer)


def time_signals(look: Look) -> tuple[TimeSignal, ...] | None:
    """The gradients of what recurrent layers are given; None without such layers."""
    found = time_signals_of(look.problem)
    look.spend(gradients=0.0 if found is None else 1.0)
    return found


def held_out_loss(look: Look) -> float | None:
    """The loss on held-out data, where some is given."""
    other = look.question.held_out
    if other is None:
        return None
    look.spend(gradients=PASS)
    return look.problem.on(other).loss()
