"""The monitor: an object beside an optimiser that looks now and then, and changes nothing."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from hesscope import store
from hesscope.diagnosis.course.verdicts import verdicts
from hesscope.examination.efforts import GRADIENTS_PER_MATVEC
from hesscope.examination.question import asked
from hesscope.monitor.check import Check, Memory, NotFiniteError
from hesscope.monitor.rows import Row, chosen
from hesscope.monitor.schedule import Every, Overhead
from hesscope.monitor.sinks import sink
from hesscope.problem.problem import Problem
from hesscope.results.history import Event, History
from hesscope.results.result import Result
from hesscope.results.verdict import Verdict
from hesscope.steps.kinds import is_adaptive, unwrapped
from hesscope.system.closing import Closing
from hesscope.system.collectives import is_first_process, num_processes, sum_of_number
from hesscope.system.contexts import public_methods

OVERHEAD = 0.05  # of the time of training, where nothing else is asked for
log = logging.getLogger("hesscope")


@dataclass
class Found:
    """What one check has found, on its way into the record."""

    numbers: dict[str, float] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def keep(self, row: Row, value: Any) -> None:
        """A row's value among the numbers, or among the results.

        Raises:
            TypeError: if it is neither.
        """
        if value is None:
            return
        if isinstance(value, Result):
            self.results[row.key] = value
        elif isinstance(value, dict):
            self.numbers |= {key: float(x) for key, x in value.items()}
        else:
            self.numbers[row.key] = float(value)


@public_methods
class Monitor(Closing):
    """Watches the curvature while a model trains: a line before the loop, and nothing else.

    Before those steps of the optimiser that are due, it looks at `problem` at the parameters as
    they are: λmax (followed from check to check by two to four products, with a proof from above
    every tenth), what the optimiser bears, curvature along gradient and step, what the step was
    predicted to do to the loss of the probe data and what it does. Training is not changed by a
    bit: parameters, `.grad`, buffers, generators and the optimiser's state are what they would have
    been. An error inside is logged once and its row switched off; training goes on.

    A hook of the optimiser is the way in, so it sees the gradient as the step does: accumulated,
    unscaled, clipped; of a step with a closure, the gradient that its first call makes. A step that
    a GradScaler skips is no step.

    Args:
        problem: what is looked at: the model that trains, with a fixed batch of data (a few hundred
            examples do). It costs some 12 gradients of that batch to check.
        optimizer: the one that trains. Without it, call `step()` after each step.
        every: steps between checks.
        overhead: instead, the share of the time of training that checks may take; 0.05 if
            neither is given.
        to: a folder that takes the numbers as they come; `hs.load` reads it, also meanwhile. A
            folder of an earlier run is continued.
        quantities: keys of rows, or functions of the problem, in place of the usual ones; a key
            that is not known is answered with all that are.
        held_out: a problem of the same model on data that is not trained on, for its loss.
        batch_size: of the training, for the curvature of its batches along their own gradients.
        log: loggers: anything with `.log(dict, step=)`, `.log_metrics`, or `.add_scalar`.
        first_step: the number of the next step; by default what follows the folder's last, or 0.
            What the folder holds from that step on is forgotten.
        seed: of all that is random in a check.
        delta: the probability that an upper bound of λmax is wrong, for each.

    Raises:
        ValueError: if an argument is out of range or a quantity is not known.
        RuntimeError: if the folder is being written by another.

    >>> import torch, hesscope as hs
    >>> problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    >>> optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.25)
    >>> monitor = hs.Monitor(problem, optimizer, every=1)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     problem.model.theta.square().sum().backward()
    ...     optimizer.step()
    >>> over = monitor.history["sharpness_over_limit"].last
    >>> monitor.history["loss"].values.tolist(), round(over, 9)
    ([2.0, 0.5, 0.125], 0.25)
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: Optimizer | None = None,
        *,
        every: int | None = None,
        overhead: float | None = None,
        to: str | Path | None = None,
        quantities: Iterable[str | Callable[[Problem], Any]] | None = None,
        held_out: Problem | None = None,
        batch_size: int | None = None,
        log: Any = (),
        first_step: int | None = None,
        seed: int = 0,
        delta: float = 1e-3,
    ) -> None:
        self.problem = problem
        self._held_out = held_out
        self._schedule = _schedule(every, overhead)
        self._rows = list(chosen(quantities, stepping=optimizer is not None))
        loggers = log if isinstance(log, Sequence) else (log,)
        self._sinks = [sink(logger) for logger in loggers]
        self._question = asked(
            optimizer, None, "quick", None, batch_size=batch_size, seed=seed, delta=delta
        )
        self._memory = Memory(seed, delta)
        self._numbers: dict[str, dict[int, float]] = {}
        self._results: dict[str, dict[int, Result]] = {}
        self._events: list[Event] = []
        self._failed: list[Event] = []  # checks, not written yet
        self._losses: list[tuple[int, float | Tensor]] = []  # not written yet
        self._step = first_step or 0
        self._folder = store.RunFolder(to) if to is not None and is_first_process() else None
        if self._folder is not None:
            self._take_up(self._folder, first_step)
        if first_step is None and num_processes() > 1:  # only the first has read the folder
            self._step = int(sum_of_number(self._step))
        self._handles: list[Any] = []
        if optimizer is not None:
            inside = unwrapped(optimizer)
            self._handles = [
                inside.register_step_pre_hook(self._at_step),
                inside.register_step_post_hook(lambda *_: self._after_step()),
            ]

    def step(self, loss: float | Tensor | None = None) -> None:
        """Tells that a step has been made, and the training loss that it was made with.

        With an optimiser, the monitor has seen the step already, and only the loss is new to it.
        """
        if loss is not None:
            last = self._step - 1 if self._handles else self._step
            self._losses.append((last, loss.detach() if isinstance(loss, Tensor) else float(loss)))
        if not self._handles:
            self._before_step()
            self._after_step()

    def check(self) -> None:
        """Looks now, whether it is due or not."""
        began = time.perf_counter()
        try:
            found = self._look()
            found.numbers["check_seconds"] = time.perf_counter() - began
            self._record(found)
        except Exception as error:  # whatever it is, training is worth more than watching it
            log.warning("step %d: a check failed (%s: %s)", self._step, type(error).__name__, error)
            failed = f"a check failed ({type(error).__name__}: {error})"
            self._failed.append(Event(self._step, "failed", failed))
            self._events.append(self._failed[-1])
        self._schedule.spent(time.perf_counter() - began)

    @property
    def history(self) -> History:
        """What has been found so far."""
        return History.of(
            self._numbers,
            events=tuple(self._events),
            facts=self._facts(),
            results=self._results,
        )

    def verdicts(self) -> tuple[Verdict, ...]:
        """What the run has been through so far, and what it is heading for: see `hs.verdicts`."""
        return verdicts(self.history)

    def close(self) -> None:
        """Ends watching: the optimiser is let alone, and what is left is written."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._losses or self._failed:
            try:
                self._record(Found())
            except Exception as error:  # training has ended well, whatever the disk says
                log.warning("the end was not written (%s: %s)", type(error).__name__, error)
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def __str__(self) -> str:
        return str(self.history)

    def _at_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Looks before the step; where a closure makes the gradient first, just after it has."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._before_step()
            return None
        left = [self._before_step]

        def looked_at() -> Any:
            loss = closure()
            if left:  # an optimiser may call it more than once for a step
                left.pop()()
            return loss

        if len(args) > 1:
            return (args[0], looked_at, *args[2:]), kwargs
        return args, {**kwargs, "closure": looked_at}

    def _before_step(self) -> None:
        if self._schedule.is_due(self._step):
            self.check()

    def _after_step(self) -> None:
        self._step += 1

    def _look(self) -> Found:
        """All rows that are on; those that fail go off, each cause told once."""
        look = Check(self.problem, self._question, self._memory, self._held_out)
        found = Found()
        causes: dict[str, list[str]] = {}
        for row in tuple(self._rows):
            try:
                found.keep(row, look.of(row.measure))
            except NotFiniteError as error:
                found.events.append(Event(self._step, "not finite", str(error)))
                break
            except Exception as error:  # a row of the user's may raise anything
                self._rows.remove(row)
                causes.setdefault(f"{type(error).__name__}: {error}", []).append(row.key)
        for cause, keys in causes.items():
            text = f"no longer measured: {', '.join(keys)} ({cause})"
            found.events.append(Event(self._step, "switched off", text))
            log.warning("step %d: %s", self._step, text)
        found.numbers["check_gradients"] = look.gradients + GRADIENTS_PER_MATVEC * look.num_matvecs
        return found

    def _record(self, found: Found) -> None:
        """Into memory, the folder and the loggers."""
        earlier = [("train_loss", step, float(loss)) for step, loss in self._losses]
        self._losses = []
        for key, step, value in earlier:
            self._numbers.setdefault(key, {})[step] = value
        for key, value in found.numbers.items():
            self._numbers.setdefault(key, {})[self._step] = value
        for key, result in found.results.items():
            self._results.setdefault(key, {})[self._step] = result
        self._events += found.events
        if self._folder is not None:
            self._folder.add(
                self._step,
                found.numbers,
                results=found.results,
                earlier=earlier,
                events=[*self._failed, *found.events],
            )
        self._failed = []
        for write in self._sinks:
            write(found.numbers, self._step)

    def _facts(self) -> dict[str, Any]:
        """What is looked at, and what trains."""
        optimizer = self._question.optimizer
        return {
            **self.problem.facts(),
            "data_hash": data_hash(self.problem),
            "num_items": self.problem.num_items,
            "optimizer": None if optimizer is None else type(optimizer).__name__,
            "adaptive": optimizer is not None and is_adaptive(optimizer),
        }

    def _take_up(self, folder: store.RunFolder, first_step: int | None) -> None:
        """What the folder knows already."""
        if first_step is not None:
            folder.forget_after(first_step - 1)
        folder.tell(self._facts())
        known = store.read(folder.folder)
        self._events, self._results = list(known.events), known.results
        self._numbers = {
            key: dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
            for key, series in known.series.items()
        }
        self._step = known.last_step + 1 if first_step is None else first_step


def data_hash(problem: Problem) -> str:
    """Of the data of a problem, to tell whether two runs have looked at the same."""
    return hashlib.sha256(repr(problem.batches.fingerprints).encode()).hexdigest()[:16]


def _schedule(every: int | None, overhead: float | None) -> Every | Overhead:
    """When to look.

    Raises:
        ValueError: if the arguments are out of range, or both are given.
    """
    if every is not None and overhead is not None:
        msg = "give every, a number of steps, or overhead, a share of the time, not both."
        raise ValueError(msg)
    if every is not None:
        if not isinstance(every, int) or every < 1:
            msg = f"every={every!r} is no number of steps; give 1 or more."
            raise ValueError(msg)
        return Every(every)
    share = OVERHEAD if overhead is None else overhead
    if not 0 < share <= 1:
        msg = (
            f"overhead={share!r} is no share of the time; give a number from 0 to 1, such as 0.05."
        )
        raise ValueError(msg)
    return Overhead(share)
