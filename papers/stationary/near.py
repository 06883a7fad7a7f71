"""Saddles near the path of training."""

from __future__ import annotations

from dataclasses import replace

import torch
from common.claims import NO, PARTLY, YES, Claim, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor

from stationary import finder, points
from stationary.networks import setting
from stationary.settings import Sizes

NEAR = 0.1  # of the way that training has gone, as the crow flies


def measure(run: Run, sizes: Sizes) -> Section:
    """Every setting."""
    found = {name: _along(run, sizes, name) for name in sizes.paths}
    nearest = {name: by_seed(f) for name, f in found.items()}
    numbers = {name: {"nearest": n} for name, n in nearest.items()}
    return Section(_text(found, nearest), [near_path(nearest)], draw(found), numbers)


def _along(run: Run, sizes: Sizes, name: str) -> Arrays:
    """Searches from many points of each path."""
    on = setting(name)
    dense = replace(sizes, steps=sizes.path_steps)

    def job() -> Arrays:
        path, step, seed = points.paths(on, dense)
        ends = path[-sizes.seeds :] - path[: sizes.seeds]
        found = finder.described(on.field, path, finder.search(on.field, path, sizes.iterations))
        return {**found, "step": step, "seed": seed, "way": ends.norm(dim=1)[seed]}

    return run.arrays(
        f"path/{name}", (on.words, on.scale, dense.steps, sizes.seeds, sizes.iterations), job
    )


def saddle(found: Arrays) -> Tensor:
    """Which searches ended at a strict saddle, its index certain."""
    return found["certain"] & (finder.index(found["eigenvalues"]) > 0)


def by_seed(found: Arrays) -> Tensor:
    """The shortest way from a path to a saddle, over the way that training has gone: (seeds,)."""
    share = torch.where(saddle(found), found["distance"] / found["way"], torch.inf)
    return torch.stack([share[found["seed"] == seed].min() for seed in found["seed"].unique()])


def near_path(nearest: dict[str, Tensor]) -> Claim:
    """Yes if in every setting three of four paths have a saddle within 0.1 of their length.

    In part if so in some setting. The length is |θ_end - θ_start|.
    """
    often = {name: float((x <= NEAR).double().mean()) for name, x in nearest.items()}
    holds = YES if min(often.values()) >= 0.75 else PARTLY if max(often.values()) >= 0.75 else NO
    each = tuple(
        f"{name}: {often[name]:.0%} of paths, distances {spread(x)}" for name, x in nearest.items()
    )
    measured = f"a strict saddle within {NEAR:g} of |θ_end - θ_start| from the path: "
    if holds == NO:
        measured += f"in no setting in three of four paths; {max(often.values()):.0%} at most"
    else:
        measured += "; ".join(each)
    text = "Saddle points lie near the path of training"
    return Claim(text, measured, holds, "sagun/near-path", each if holds == NO else ())


def draw(found: dict[str, Arrays]) -> Figure:
    """Distance from each point of a path to the saddle that was found from it."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (name, f) in zip(axes, found.items(), strict=True):
        share, is_saddle = f["distance"] / f["way"], saddle(f)
        minimum = f["certain"] & ~is_saddle
        ax.plot(
            f["step"][is_saddle] + 1, share[is_saddle], "o", ms=4, color=NEGATIVE, label="a saddle"
        )
        ax.plot(
            f["step"][minimum] + 1, share[minimum], "o", ms=4, color=POSITIVE, label="a minimum"
        )
        ax.axhline(NEAR, color=MARK, lw=0.9, ls="--")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_title(name, fontsize=10)
        ax.set_ylim(1e-5, 5)
        ax.set_xlabel("steps + 1")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("distance to what was found / length of path")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _text(found: dict[str, Arrays], nearest: dict[str, Tensor]) -> str:
    rows = []
    for name, f in found.items():
        where = saddle(f)
        index = finder.index(f["eigenvalues"])[where].double()
        rows.append(
            [
                name,
                f"{int(f['critical'].sum())} of {len(where)}",
                str(int(where.sum())),
                spread(index) if len(index) else "none",
                spread(nearest[name]),
            ]
        )
    head = ["setting", "critical", "strict saddles", "their index", "nearest one, by path"]
    return (
        "Searches start from points of the path of gradient descent; *small* starts at a tenth of "
        "the usual weights, where training first meets the saddle at zero. Distances are in units "
        "of |θ_end - θ_start|, so 1 is as far as training goes. (Dauphin et al. 2014 looked for "
        "saddles near the path in the same way.)\n\n" + table(head, rows)
    )
