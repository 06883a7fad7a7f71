"""Where the modules of a model lie in theta."""

from __future__ import annotations

from hesscope.problem.problem import Problem


def layer_slices(problem: Problem) -> dict[str, list[slice]]:
    """The places in theta that each module of `problem.blocks()` owns."""
    places = problem.layout.slices()
    return {
        owner: [places[name] for name in block.layout.names]
        for owner, block in problem.blocks().items()
    }
