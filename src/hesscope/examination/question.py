"""What is asked of a problem, checked at the door, with the products shared out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from hesscope.curvature.shared import shared_seed
from hesscope.examination.efforts import EFFORTS, Effort, EffortName, Spending, spending
from hesscope.problem.problem import Problem
from hesscope.steps.kinds import ball_of, is_adaptive, unwrapped


@dataclass(frozen=True)
class Question:
    """What is asked of a problem."""

    effort: Effort
    spending: Spending
    optimizer: Optimizer | None = None
    lr: float | None = None
    batch_size: int | None = None
    tolerance: float = 0.0
    seed: int = 0
    delta: float = 1e-3
    held_out: Problem | None = None  # whose data the network has not seen
    scratch: Path | None = None  # a folder that keeps products of the Hessian

    def given(self) -> dict[str, Any]:
        """What the user gave, for the record."""
        return {
            "effort": self.effort.name,
            "optimizer": None if self.optimizer is None else type(self.optimizer).__name__,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "tolerance": self.tolerance,
            "delta": self.delta,
        }


def asked(
    optimizer: Optimizer | None,
    lr: float | None,
    effort: EffortName,
    max_matvecs: int | None,
    *,
    batch_size: int | None = None,
    tolerance: float = 0.0,
    seed: int | None = None,
    delta: float = 1e-3,
    held_out: Problem | None = None,
) -> Question:
    """The arguments as a question, with the products shared out.

    Raises:
        ValueError: if one is out of range.
    """
    if lr is not None and not lr >= 0:
        msg = f"lr={lr} is not a learning rate; give the lr of your optimiser."
        raise ValueError(msg)
    if lr is not None and optimizer is not None:
        msg = "give the optimizer, whose lr is known, or lr for plain gradient descent, not both."
        raise ValueError(msg)
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        msg = (
            f"batch_size={batch_size} is no number of examples; give that of your training batches."
        )
        raise ValueError(msg)
    if held_out is not None and not isinstance(held_out, Problem):
        msg = (
            f"held_out is of type {type(held_out).__name__}; give a hesscope.Problem of the same "
            "model and loss on the held-out data."
        )
        raise ValueError(msg)
    if not 0 < delta < 0.05:
        msg = f"delta={delta} must lie between 0 and 0.05; the usual is 1e-3."
        raise ValueError(msg)
    if effort not in EFFORTS:
        msg = f"effort={effort!r}; choose {', '.join(map(repr, EFFORTS))}."
        raise ValueError(msg)
    optimizer = None if optimizer is None else unwrapped(optimizer)
    parts = spending(
        EFFORTS[effort],
        max_matvecs,
        updated=optimizer is not None,
        adaptive=optimizer is not None
        and (is_adaptive(optimizer) or ball_of(optimizer) is not None),
    )
    own = shared_seed(seed)
    return Question(
        EFFORTS[effort], parts, optimizer, lr, batch_size, tolerance, own, delta, held_out
    )
