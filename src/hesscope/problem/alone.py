"""A problem that one of several processes looks at by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hesscope.system.agreement import several
from hesscope.system.sweep import sweeping

if TYPE_CHECKING:
    from hesscope.problem.problem import Problem


@contextmanager
def by_itself(problem: Problem) -> Iterator[Problem]:
    """Inside, this process is alone with the problem on all of the data. All processes enter it.

    Raises:
        ValueError: if it does not have all of the data.
    """
    if not several():
        yield problem
        return
    if not problem.batches.sharded:
        msg = (
            "the data of each process is its own share, so none can look at all of it alone. Give "
            "all of them the same data, and say so: Problem(..., shard=True)."
        )
        raise ValueError(msg)
    whole = problem.frozen_copy() if problem.point.gathered else problem
    with sweeping(pulse=True):
        yield whole._reading(problem.batches.unshared())
