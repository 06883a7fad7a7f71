"""One thread at a time looks at models, and it is noticed when another uses the same one.

While hesscope runs a model, its mode, buffers, gradients and the generators and switches of the
process are not what others expect, and in the end they are put back: a step of training in another
thread would be undone, or torn. So threads that look take turns, and whoever runs the model or
steps its optimiser meanwhile waits until it is as it was; the look, which then belongs to no point,
ends with an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from hesscope.system import interrupts

LOCK = threading.RLock()  # generators and switches belong to the process: one for all models
WAIT = 30.0  # seconds that another thread waits, in case the one that looks waits for it


STEP, PAUSE = 1.0, 1e-4  # seconds that a step which has begun may take; between two looks at it
_steps: dict[int, Optimizer] = {}  # that are under way, by thread
_turns: list[Turn] = []  # that are under way: of one thread, one inside another


class Turn:
    """A model while this thread looks at it; knows which other threads have used it meanwhile.

    Calls of the model itself and steps of optimisers of torch are seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.owner = model, threading.current_thread()
        self.others: list[str] = []
        self._handles: list[Any] = []

        self.alone = threading.active_count() == 1

    def __enter__(self) -> Turn:
        if not self.alone:
            _turns.append(self)
            self._handles.append(self.model.register_forward_pre_hook(_called))
            self._await_steps()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the turn.

        Raises:
            RuntimeError: if another thread has used the model, naming it and the cure.
        """
        for handle in self._handles:
            handle.remove()
            _turns.remove(self)
        if self.others and (error is None or isinstance(error, Exception)):
            msg = (
                f"thread {self.others[0]!r} used this {type(self.model).__name__} while hesscope "
                "looked at it in another thread, so what was measured belongs to no point. Look "
                "at a copy, made between two steps of the training: problem.frozen_copy()."
            )
            raise RuntimeError(msg) from error

    def _await_steps(self) -> None:
        """Lets a step that another thread has begun end; one that failed in its midst is over."""
        until = time.monotonic() + STEP
        while time.monotonic() < until:
            begun = [o for thread, o in list(_steps.items()) if thread != threading.get_ident()]
            if not any(self._is_moved_by(optimizer) for optimizer in begun):
                return
            time.sleep(PAUSE)
        _steps.clear()

    def _is_moved_by(self, optimizer: Optimizer) -> bool:
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return any(id(p) in moved for p in self.model.parameters())


@contextmanager
def taken(model: nn.Module) -> Iterator[None]:
    """Inside it is this thread's turn. Nothing of the user's changes where there is no other."""
    turn = Turn(model)
    with LOCK, nullcontext() if turn.alone else interrupts.deferred(), turn:
        yield


def _called(model: nn.Module, _: Any) -> None:
    """Before each call of a model that is looked at."""
    _meet([turn for turn in list(_turns) if turn.model is model])


def _stepped(optimizer: Optimizer, *_: Any) -> None:
    """Before each step of any optimiser: no step begins in a turn, no turn in a step."""
    me = threading.get_ident()
    _steps[me] = optimizer
    while turns := [t for t in list(_turns) if t.owner.ident != me and t._is_moved_by(optimizer)]:
        del _steps[me]
        if not _meet(turns):
            return
        _steps[me] = optimizer


def _has_stepped(*_: Any) -> None:
    _steps.pop(threading.get_ident(), None)


def _meet(turns: list[Turn]) -> bool:
    """Lets another thread wait for the end of these turns, which are told its name."""
    thread = threading.current_thread()
    met = [turn for turn in turns if turn.owner is not thread]
    if not met or isinstance(thread, threading._DummyThread):  # one of autograd's own
        return False
    for turn in met:
        turn.others.append(thread.name)
    if not LOCK.acquire(timeout=WAIT):
        return False
    LOCK.release()
    return True


# For good: torch runs through these hooks in Python, so one that comes or goes meanwhile would
# end the step of another thread with an error.
register_optimizer_step_pre_hook(_stepped)
register_optimizer_step_post_hook(_has_stepped)
