"""The monitor inside trainers: callbacks that make it when training begins and close it at the end.

The hooks of the optimiser do the watching, so a callback here only knows when there is one. The
trainers themselves are imported when a callback is made, not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from hesscope.monitor.monitor import Monitor
from hesscope.problem.problem import Problem
from hesscope.results.history import History
from hesscope.steps.kinds import unwrapped
from hesscope.system.contexts import public_methods


class _Callback:
    """What the callbacks share: a monitor that lives as long as a training.

    An object of a subclass is at once one of the trainer's own class of callbacks, which is mixed
    in when it is made.
    """

    _homes: ClassVar[tuple[str, ...]]  # modules that have it; the first that is loaded counts
    _base: ClassVar[str]  # its name there
    _cure: ClassVar[str]  # what brings it

    def __new__(cls, *_: Any, **__: Any) -> Any:
        if "_mixed" in vars(cls):  # a copy of one that was made already
            return object.__new__(cls)
        parts = {"_mixed": True, "__module__": cls.__module__, "__doc__": cls.__doc__}
        return object.__new__(type(cls.__name__, (cls, *_bases(cls)), parts))

    def __init__(self, problem: Problem | Callable[[Any], Problem], **options: Any) -> None:
        super().__init__()
        inspect.signature(Monitor).bind(problem, None, **options)  # a wrong name is told now
        self._problem, self._options = problem, options
        self.monitor: Monitor | None = None

    @property
    def history(self) -> History:
        """What has been found so far; that of the last training when it has ended."""
        return History.of({}) if self.monitor is None else self.monitor.history

    def close(self) -> None:
        """Ends watching. The callback does so itself when training ends."""
        if self.monitor is not None:
            self.monitor.close()

    def _begin(self, model: Any, optimizer: Any, step: int, logger: Any) -> None:
        """Makes the monitor of a training that goes on from a step."""
        self.close()
        problem = self._problem if isinstance(self._problem, Problem) else self._problem(model)
        inside = unwrapped(optimizer)
        _check_trained(problem, inside)
        # At step 0 a folder with an earlier run is continued, and not emptied.
        options = {"first_step": step or None, "log": logger, **self._options}
        self.monitor = Monitor(problem, inside, **options)


@public_methods
class LightningMonitor(_Callback):
    """Watches a training by Lightning: a callback of its Trainer, and nothing else to do.

    `Trainer(callbacks=[LightningMonitor(problem, every=100, to="run/")])`. The gradient is seen as
    the step is made with it: accumulated, unscaled, clipped. The loss of each step is recorded as
    `train_loss`, the mean over its batches. The numbers go to the Trainer's loggers. A training
    that is resumed from a checkpoint goes on in the folder from the step of the checkpoint. Works
    with `pytorch_lightning` and with `lightning.pytorch`; needs automatic optimisation or one
    optimiser that is stepped by hand.

    Args:
        problem: what is looked at: the module that trains, or the network in it, with a fixed batch
            of data; or a function that makes one of the LightningModule when training begins.
        options: the arguments of `hs.Monitor`: every, overhead, to, quantities, held_out, log (in
            place of the Trainer's loggers), seed, delta.

    Attributes:
        monitor: the `hs.Monitor` of the training; None before the first.

    Raises:
        RuntimeError: if Lightning is not installed.
        TypeError: if an option is not one of `hs.Monitor`.
        ValueError: when training begins, if it has several optimisers, or the problem is of another
            model than the one that trains.
    """

    _homes = ("lightning.pytorch", "pytorch_lightning")
    _base = "Callback"
    _cure = "pip install pytorch-lightning"

    def __init__(self, problem: Problem | Callable[[Any], Problem], **options: Any) -> None:
        super().__init__(problem, **options)
        self._losses: list[Tensor] = []
        self._step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins to watch; checkpoints have been restored by now."""
        self._losses, self._step = [], trainer.global_step
        self._begin(pl_module, _only(trainer.optimizers), self._step, trainer.loggers)

    def on_train_batch_end(
        self, trainer: Any, _module: Any, outputs: Any, _batch: Any, _batch_idx: int
    ) -> None:
        """Keeps the loss of the batch until the step that it belongs to is made."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # Lightning has divided it by the number of batches of a step
            self._losses.append(loss.detach() * trainer.accumulate_grad_batches)
        if trainer.global_step != self._step and self.monitor is not None:
            self._step = trainer.global_step
            if self._losses:
                self.monitor.step(sum(self._losses) / len(self._losses))
            self._losses = []

    def on_train_end(self, _trainer: Any, _module: Any) -> None:
        """Ends watching."""
        self.close()

    def on_exception(self, _trainer: Any, _module: Any, _error: BaseException) -> None:
        """Ends watching; Ctrl-C comes here, too."""
        self.close()


@public_methods
class HuggingFaceMonitor(_Callback):
    """Watches a training by the Trainer of transformers: a callback, and nothing else to do.

    `Trainer(..., callbacks=[HuggingFaceMonitor(problem, every=100, to="run/")])`. The gradient is
    seen as the step is made with it: accumulated, clipped. The losses that the Trainer logs (means
    over its `logging_steps`) are recorded as `train_loss`. The numbers are added to the Trainer's
    `state.log_history`, which its checkpoints hold; with
    `log=lambda numbers, step: trainer.log(numbers)` they go to all that the Trainer reports to.
    A training that is resumed from a checkpoint goes on in the folder from its step.

    Args:
        problem: what is looked at: the model that trains with a fixed batch of data; or a function
            that makes one of the model when training begins, as `model_init` needs it.
        options: the arguments of `hs.Monitor`: every, overhead, to, quantities, held_out, log (in
            place of the history of logs), seed, delta.

    Attributes:
        monitor: the `hs.Monitor` of the training; None before the first.

    Raises:
        RuntimeError: if transformers is not installed.
        TypeError: if an option is not one of `hs.Monitor`.
        ValueError: when training begins, if the problem is of another model than the one that
            trains.
    """

    _homes = ("transformers",)
    _base = "TrainerCallback"
    _cure = "pip install 'hesscope[hf]' accelerate"

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **parts: Any) -> None:
        """Begins to watch; checkpoints have been restored by now."""

        def log(numbers: dict[str, float], step: int) -> None:
            state.log_history.append({**numbers, "step": step})

        self._begin(parts["model"], parts["optimizer"], state.global_step, log)

    def on_log(
        self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_parts: Any
    ) -> None:
        """Takes the training loss from what the Trainer logs."""
        if self.monitor is not None and isinstance(logs, Mapping) and "loss" in logs:
            self.monitor.step(float(logs["loss"]))

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_parts: Any) -> None:
        """Ends watching."""
        self.close()


def _bases(kind: type[_Callback]) -> list[type]:
    """The trainer's own class of callbacks, from those of its packages that are in use.

    Raises:
        RuntimeError: if none is installed.
    """
    loaded = [name for name in kind._homes if name in sys.modules]
    homes = loaded or [name for name in kind._homes if _is_installed(name)][:1]
    if not homes:
        msg = f"{kind.__name__} needs {kind._homes[-1]}: {kind._cure}."
        raise RuntimeError(msg)
    return [getattr(importlib.import_module(name), kind._base) for name in homes]


def _is_installed(module: str) -> bool:
    package = module.partition(".")[0]
    return importlib.util.find_spec(package) is not None


def _only(optimizers: Sequence[Optimizer]) -> Optimizer:
    """The one optimiser of a training.

    Raises:
        ValueError: if there are several, or none.
    """
    if len(optimizers) != 1:
        msg = (
            f"this training has {len(optimizers)} optimisers, and LightningMonitor watches one. "
            "Make an hs.Monitor(problem, optimizer) for each in on_train_start of the module."
        )
        raise ValueError(msg)
    return optimizers[0]


def _check_trained(problem: Problem, optimizer: Optimizer) -> None:
    """Whether the parameters that are watched are those that train.

    Raises:
        ValueError: if none of them is.
    """
    own = dict(problem.model.named_parameters())
    watched = {id(own[name]) for name in problem.layout.names}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not watched & trained:
        msg = (
            "the optimizer trains none of the parameters of the problem: it was made of another "
            "model, perhaps a copy. Give a function of the model that trains in its place: "
            "lambda model: hs.Problem(model, loss, batch)."
        )
        raise ValueError(msg)
