"""Forward mode by dual numbers, meaning what autograd means; and why a block cannot have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from hesscope.autodiff.elementary import ELEMENTARY
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.autodiff.recomputed import recomputes
from hesscope.system.agreement import shared_error

OTHERWISE = "use product='reverse-over-reverse'"
GRADIENTS = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}


@dataclass(frozen=True)
class Misfit:
    """Why the lean product cannot be had of a model, and what would help."""

    cause: str
    cure: str = ""


@shared_error
class LeanError(RuntimeError):
    """The lean product cannot be had of a model, or would be wrong; here or in another process."""

    def __init__(self, why: Misfit | str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        if isinstance(self.why, str):
            return self.why
        cause, cure = self.why.cause, self.why.cure
        either = f"Either {cure}, or {OTHERWISE}" if cure else OTHERWISE.capitalize()
        return f"product='lean' does not fit this model: {cause}. {either}."


CHECKPOINTS = Misfit(
    "a block is run inside gradient checkpointing, or another hook for saved tensors",
    "switch it off (model.gradient_checkpointing_disable()): the product saves more",
)
DERIVATIVES = Misfit("the loss takes derivatives itself, and blocks would cut their graph")
HOOKS_ON_ALL = Misfit("hooks on all modules would fire more often than in an ordinary pass")
NEVER_CALLED = Misfit(
    "the loss calls none of its blocks as modules, so the whole graph would be kept",
    "call them (block(x))",
)


class dual_numbers(TorchFunctionMode):  # noqa: N801  used as a context manager
    """Inside, tangents go where autograd would go.

    Forward mode takes no notice of `torch.no_grad`: there, tangents are taken off. What torch
    differentiates wrongly has its elementary form.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls `func`, or what stands for it.

        Raises:
            LeanError: if the block takes derivatives itself, or checkpoints.
        """
        kwargs = kwargs or {}
        refuse_checkpoints()
        if func in GRADIENTS:
            raise LeanError(DERIVATIVES)
        if not torch.is_grad_enabled():
            args, kwargs = tree_map_only(Tensor, _primal, (args, kwargs))
        if func in ELEMENTARY:
            result = ELEMENTARY[func](*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def refuse_checkpoints() -> None:
    """Refuses a forward pass that will be run again piece by piece by somebody else.

    Raises:
        LeanError: if hooks for saved tensors are on, as in gradient checkpointing.
    """
    if recomputes():
        raise LeanError(CHECKPOINTS)


def _primal(tensor: Tensor) -> Tensor:
    return forward_ad.unpack_dual(tensor).primal


@contextmanager
def explained_forward(block: str) -> Iterator[None]:
    """Says what torch's error of an operation without forward mode means.

    Raises:
        LeanError: in its place.
        RuntimeError: any other, as it is.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, LeanError) or not any(mark in str(error) for mark in MARKS):
            raise
        cause = f"torch has no forward mode for something in {block}: {str(error).rstrip('.')}"
        raise LeanError(Misfit(cause, "write that operation in elementary ones")) from error


MARKS = ("forward AD", "forward mode AD", "jvp")


class restful(fast_second_derivatives):  # noqa: N801  used as a context manager
    """The mode for glue between blocks, which rests while a block is run with dual numbers."""

    resting = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls the replacement of `func`, or `func` itself at rest."""
        if self.resting:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Inside, everything is torch's own."""
        self.resting += 1
        try:
            yield
        finally:
            self.resting -= 1
