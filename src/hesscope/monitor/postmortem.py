"""The post-mortem: what a Monitor would have seen, from the checkpoints that are left."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope import store
from hesscope.diagnosis.postmortem.judge import judged
from hesscope.examination import gradients
from hesscope.examination.question import asked
from hesscope.monitor.check import Check, Memory, NotFiniteError
from hesscope.monitor.checkpoints import Checkpoints, Saved, by_step, move_to
from hesscope.monitor.monitor import Found
from hesscope.monitor.rows import ROWS, Row, chosen
from hesscope.monitor.suspect import example_losses, loss_deviation, suspect
from hesscope.problem.problem import Problem
from hesscope.results.history import Event, History
from hesscope.results.postmortem import Postmortem
from hesscope.results.result import Result
from hesscope.steps.state import load_optimizer, optimizer_from_state
from hesscope.system.contexts import public
from hesscope.system.progress import report

UNKNOWN = ("training_gradient_norm", "held_out_loss")  # what no checkpoint tells
QUANTITIES = tuple(
    row.key for row in ROWS if (row.usual or row.key == "layer_norms") and row.key not in UNKNOWN
)
log = logging.getLogger("hesscope")


class PastCheck(Check):
    """A check of a checkpoint: the step that followed is taken to be that of the mean gradient."""

    @property
    def training_gradient(self) -> Tensor:
        """(n,) the gradient of the probe data: the batch that came next is not known."""
        found: Tensor = self.of(gradients.gradient)
        return found


@public
def postmortem(
    problem: Problem | History | str | Path,
    checkpoints: Checkpoints | None = None,
    *,
    optimizers: Checkpoints | None = None,
    batch: Any = None,
    quantities: Sequence[str] | None = None,
    to: str | Path | None = None,
    seed: int = 0,
) -> Postmortem:
    """Why a run has spiked or diverged: which signal came first, and what to change.

    At each checkpoint the rows of a `Monitor` are measured on the data of `problem`, on a copy of
    the model, so that the model is not touched; the optimiser is rebuilt from its state. From these
    series the spike is found, and the signals before it are brought into order: see
    `hesscope.diagnosis.postmortem`. A run that a Monitor has watched is judged from its history or
    folder alone, and nothing is measured.

    Args:
        problem: model, loss and the probe data; or a `History`, or the folder of a run.
        checkpoints: {step: weights}, or a list whose files have the step in their names. Weights
            are a state dict, or a path to one (.pt, .safetensors). Step t is the state before the
            step number t is made. Five or more before the spike are best.
        optimizers: the states of the optimiser likewise, for all of these steps or some; without
            them nothing is said of lr, step and preconditioner.
        batch: a batch under suspicion, as the problem's data holds them.
        quantities: keys of a Monitor's rows in place of the usual ones.
        to: a run folder that takes the numbers as they come; what it holds is not measured again.
        seed: of all that is random.

    Returns:
        The causes, most likely first, the signals on one axis of time, and the history. It costs
        some 12 gradients of the probe data for each checkpoint, two dozen for the first.

    Raises:
        ValueError: if a checkpoint or state cannot be read, or does not fit the model.

    >>> import torch, hesscope as hs
    >>> bowl = hs.Problem.from_function(lambda t: (t**2).sum(), torch.zeros(1).double())
    >>> steps = {i: {"theta": torch.tensor([(-3.0) ** i]).double()} for i in range(6)}
    >>> sgd = torch.optim.SGD(bowl.model.parameters(), lr=2.0)
    >>> found = hs.postmortem(bowl, steps, optimizers=dict.fromkeys(steps, sgd.state_dict()))
    >>> found.cause, found.onset
    ('lr_too_high', 1)
    """
    if checkpoints is None:
        history = problem if isinstance(problem, History) else None
        if isinstance(problem, (str, Path)):
            history = store.read(problem)
        if history is None:
            msg = "give checkpoints, {step: weights}, or the History of a run that was watched."
            raise ValueError(msg)
        return judged(history)
    if not isinstance(problem, Problem):
        msg = f"problem is a {type(problem).__name__}; checkpoints are looked at with a Problem."
        raise ValueError(msg)
    weights = by_step(checkpoints, "checkpoints")
    states = by_step(optimizers, "optimizers") if optimizers is not None else {}
    if not states.keys() <= weights.keys():
        extra = sorted(states.keys() - weights.keys())
        msg = f"optimizers: there is no checkpoint of step {extra[0]}."
        raise ValueError(msg)
    rows = _rows(problem, batch, quantities, stepping=bool(states))
    return judged(_measured(problem, weights, states, rows, to, seed))


def _rows(
    problem: Problem, batch: Any, quantities: Sequence[str] | None, *, stepping: bool
) -> tuple[Row, ...]:
    rows = chosen(QUANTITIES if quantities is None else quantities, stepping=stepping)
    rows = tuple(row for row in rows if stepping or not row.of_step)
    if batch is None:
        return rows
    alone = problem.with_batches([batch])
    return (
        *rows,
        Row("loss_deviation", loss_deviation),
        Row("batch", suspect(alone)),
        Row("batch_examples", example_losses(alone)),
    )


def _measured(
    problem: Problem,
    weights: dict[int, Saved],
    states: dict[int, Saved],
    rows: tuple[Row, ...],
    to: str | Path | None,
    seed: int,
) -> History:
    """The history of the checkpoints; those that the folder knows are not measured again."""
    standing, memory = problem.frozen_copy(), Memory(seed)
    numbers: dict[str, dict[int, float]] = {}
    results: dict[str, dict[int, Result]] = {}
    events: list[Event] = []
    known = store.read(to) if to is not None and store.holds_run(to) else History({})
    done = set(known.steps.tolist()) | {event.step for event in known.events}
    folder = store.RunFolder(to) if to is not None else None
    try:
        for i, (step, saved) in enumerate(weights.items()):
            report("checkpoints", i, len(weights))
            if step in done:
                continue
            optimizer = _standing_at(standing, saved, states.get(step))
            found = _look(step, standing, optimizer, rows, memory, seed)
            events += found.events
            for key, value in found.numbers.items():
                numbers.setdefault(key, {})[step] = value
            for key, result in found.results.items():
                results.setdefault(key, {})[step] = result
            if folder is not None:
                folder.add(step, found.numbers, results=found.results, events=found.events)
    finally:
        if folder is not None:
            folder.close()
    if to is not None:
        return store.read(to)
    return History.of(numbers, events=tuple(events), facts=problem.facts(), results=results)


def _standing_at(problem: Problem, saved: Saved, state: Saved | None) -> Optimizer | None:
    """Moves the copy of the model to a checkpoint; gives the optimiser as it was there.

    Raises:
        ValueError: if one of them does not fit.
    """
    model = problem.model
    move_to(model, saved)
    if state is None:
        return None
    if isinstance(state, Mapping):
        return optimizer_from_state(model, copy.deepcopy(dict(state)))
    return load_optimizer(model, state)


def _look(
    step: int,
    problem: Problem,
    optimizer: Optimizer | None,
    rows: tuple[Row, ...],
    memory: Memory,
    seed: int,
) -> Found:
    """All rows of one checkpoint; one that fails is told of, and is tried again at the next.

    What several fail of is told once.
    """
    look = PastCheck(problem, asked(optimizer, None, "quick", None, seed=seed), memory)
    found = Found()
    causes: dict[str, list[str]] = {}
    if not bool(torch.isfinite(problem.theta).all()):
        found.events.append(Event(step, "not finite", "parameters are NaN or infinite"))
        return found
    for row in rows:
        if row.of_step and optimizer is None:
            continue
        try:
            found.keep(row, look.of(row.measure))
        except NotFiniteError as error:
            found.events.append(Event(step, "not finite", str(error)))
            break
        except (ValueError, RuntimeError) as error:
            causes.setdefault(str(error), []).append(row.key)
    for cause, keys in causes.items():
        text = f"not measured: {', '.join(keys)} ({cause})"
        found.events.append(Event(step, "not measured", text))
        log.warning("step %d: %s", step, text)
    return found
