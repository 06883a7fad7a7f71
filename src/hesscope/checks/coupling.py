"""Which module makes of one example something else when its neighbours change?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.checks.state import State
from hesscope.problem.contents import tensors_in
from hesscope.problem.data import Batch
from hesscope.problem.examples import num_examples


@dataclass(frozen=True)
class Call:
    """What one module was given and gave back, in the order in which modules finish."""

    name: str
    module: nn.Module
    inputs: list[Tensor]
    outputs: list[Tensor]


def coupling_module(state: State, whole: Batch, part: Batch) -> Call | None:
    """The first module whose outputs for the examples of a part change with what follows them.

    Its inputs do not. `part` holds the first examples of `whole`, and both are evaluated under one
    random seed. None where every module agrees, so that the loss itself is to blame, or where its
    calls cannot be compared. Costs two forward passes of a batch.
    """
    share = num_examples(part.content) / num_examples(whole.content)
    with state.problem.evaluation() as e:
        calls = []
        for batch in (whole, part):
            with _calls(state.modules()) as seen:
                e.loss(batch)
            calls.append(seen)
    if [call.name for call in calls[0]] != [call.name for call in calls[1]]:
        return None
    for of_whole, of_part in zip(*calls, strict=True):
        changed = _differ(of_whole.outputs, of_part.outputs, share, state.tolerance)
        if changed and not _differ(of_whole.inputs, of_part.inputs, share, state.tolerance):
            return of_whole
    return None


@contextmanager
def _calls(modules: list[tuple[str, nn.Module]]) -> Iterator[list[Call]]:
    calls: list[Call] = []

    def noting(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
            calls.append(Call(name, module, _kept(inputs), _kept(outputs)))

        return note

    handles = [
        module.register_forward_hook(noting(name))
        for name, module in modules
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _kept(content: Any) -> list[Tensor]:
    return [t.detach() for t in tensors_in(content) if t.is_floating_point() and t.ndim]


def _differ(whole: list[Tensor], part: list[Tensor], share: float, tolerance: float) -> bool:
    """Whether rows of a part are other rows than in the whole; tensors without rows do not count.

    Rounding in the layers before may have grown, so a tenth of a thousandth is not seen in float32.
    """
    for all_rows, some in zip(whole, part, strict=False):
        fits = len(some) == round(share * len(all_rows)) and some.shape[1:] == all_rows.shape[1:]
        if fits:
            gap = float((all_rows[: len(some)] - some).norm())
            if gap > 10 * tolerance * float(some.norm()):
                return True
    return False
