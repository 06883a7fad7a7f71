"""A few hundred examples, evenly from all the data: inputs, outputs and targets side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hesscope.problem.problem import Problem

MOST = 512  # examples
MOST_ENTRIES = 20_000_000  # of their inputs and outputs


@dataclass(frozen=True)
class Sample:
    """Examples of a problem; what is no tensor with a row for each example is None."""

    places: Tensor  # (m,) in the order of the data
    inputs: Tensor | None  # (m, ...)
    outputs: Tensor  # (m, ...)
    targets: Tensor | None  # (m, ...)


def sample(problem: Problem) -> Sample | None:
    """Every k-th example, with k such that `MOST` to 2 `MOST` are kept; all of smaller data.

    The inputs are what the model is called with: its first tensor. None for closures and functions,
    whose outputs are not known, and where no batch has a row for each example. Costs one forward
    pass over the data.

    Raises:
        ValueError: if the outputs are no floating tensor.

    >>> import torch, hesscope as hs
    >>> data = torch.ones(3, 2), torch.zeros(3, 1)
    >>> sample(hs.Problem(torch.nn.Linear(2, 1), torch.nn.MSELoss(), data)).places
    tensor([0, 1, 2])
    """
    if problem.predict is None or problem.loss_fn is None:
        return None
    kept, given = _Kept(), list[Tensor]()

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        given[:] = given[:1] or tensors[:1]

    handle = problem.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with problem.evaluation() as e, torch.no_grad():
            for batch in problem.batches:
                given.clear()
                outputs, targets = e.outputs(batch)
                if outputs.ndim == 0:
                    return None
                kept.add(given[0] if given else None, outputs, targets)
    finally:
        handle.remove()
    return kept.sample()


class _Kept:
    """Rows with one place in `every`, which doubles when they are too many."""

    def __init__(self) -> None:
        self.every, self.seen, self.most = 1, 0, MOST
        self.rows: list[tuple[Tensor, ...]] = []  # place, input, output, target: one row each
        self.known = [True, True]  # whether inputs and targets have a row for each example

    def add(self, inputs: Any, outputs: Tensor, targets: Any) -> None:
        num = len(outputs)
        columns = [inputs, targets]
        for i, column in enumerate(columns):
            self.known[i] &= isinstance(column, Tensor) and column.ndim > 0 and len(column) == num
        blank = torch.zeros(num)
        inputs, targets = (
            c if known else blank for c, known in zip(columns, self.known, strict=True)
        )
        if not self.rows and num:
            self.most = max(
                2, min(MOST, MOST_ENTRIES // max(inputs[0].numel(), outputs[0].numel(), 1))
            )
        for i in range(-self.seen % self.every, num, self.every):
            row = torch.tensor(self.seen + i), inputs[i], outputs[i], targets[i]
            self.rows.append(tuple(part.detach().cpu() for part in row))
        self.seen += num
        while len(self.rows) > 2 * self.most:
            self.rows, self.every = self.rows[::2], 2 * self.every

    def sample(self) -> Sample | None:
        """The rows as tensors; None where outputs differ in shape."""
        places, inputs, outputs, targets = (list(column) for column in zip(*self.rows, strict=True))
        if not _alike(outputs):
            return None
        return Sample(
            torch.stack(places),
            torch.stack(inputs) if self.known[0] and _alike(inputs) else None,
            torch.stack(outputs),
            torch.stack(targets) if self.known[1] and _alike(targets) else None,
        )


def _alike(rows: list[Tensor]) -> bool:
    return len({row.shape for row in rows}) == 1
