"""Plateaus: how long training stays at small gradients high up, and which saddle is near."""

from __future__ import annotations

import math

import torch
from common.claims import NO, PARTLY, YES, Claim, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from stationary import finder
from stationary.networks import Setting, setting
from stationary.settings import Sizes

QUIET = 0.1  # of the largest gradient norm of the path: below, it is a plateau, if the loss is high
HIGH = 0.01  # of the way from the last loss to the first: above, the loss is high
HIGHER = 0.1  # the same, told besides
NEAR = 0.1  # of |θ_end - θ_start|: how near the saddle of a plateau has to be


def measure(run: Run, sizes: Sizes) -> Section:
    """Every setting."""
    found = {name: _of(run, sizes, name) for name in sizes.paths}
    return Section(_text(found), [slow(found)], draw(found))


def looks(sizes: Sizes) -> tuple[int, ...]:
    """Steps at which paths are looked at, in about equal ratios."""
    powers = torch.logspace(0, math.log10(sizes.plateau_steps), sizes.looks, dtype=torch.float64)
    return tuple(sorted({0, *powers.round().long().tolist()}))


def _of(run: Run, sizes: Sizes, name: str) -> Arrays:
    on, steps = setting(name), looks(sizes)
    key = (on.words, on.scale, steps, sizes.plateau_seeds, sizes.iterations, HIGH, HIGHER)
    return run.arrays(f"plateaus/{name}", key, lambda: _measured(on, steps, sizes))


def _measured(on: Setting, steps: tuple[int, ...], sizes: Sizes) -> Arrays:
    """Losses and gradient norms, (looks, seeds); shares of time; saddles; what an escape saves."""
    run = on.trained(on.starts(sizes.plateau_seeds, seed=6), steps[-1], steps)
    thetas = torch.stack([run.snapshots[step].theta for step in steps])
    losses = torch.stack([on.losses(theta) for theta in thetas])
    norms = torch.stack([on.gradients(theta).norm(dim=1) for theta in thetas])
    quiet = on_plateau(losses, norms)
    time = torch.tensor(steps).double()
    quietest = torch.where(quiet, norms, torch.inf).argmin(0)
    seeds = torch.arange(sizes.plateau_seeds)
    points = thetas[quietest, seeds]
    found = finder.described(on.field, points, finder.search(on.field, points, sizes.iterations))
    way = (thetas[-1] - thetas[0]).norm(dim=1)
    saddle = found["certain"] & (finder.index(found["eigenvalues"]) > 0) & quiet.any(0)
    level = _level(losses)
    rest = _first(time, losses, level) - time[quietest]
    return {
        "steps": time,
        "losses": losses,
        "norms": norms,
        "share": share_of_time(time, losses, quiet),
        "sooner": share_of_time(time, losses, on_plateau(losses, norms, HIGHER), HIGHER),
        "quietest": time[quietest],
        "distance": torch.where(saddle, found["distance"] / way, torch.inf),
        "index": torch.where(saddle, finder.index(found["eigenvalues"]), -1),
        "rest": rest,
        "escaped": _after_escape(on, points, level, quiet.any(0), steps),
    }


def _level(losses: Tensor, high: float = HIGH) -> Tensor:
    """Where a loss is no more high, (seeds,)."""
    return losses[-1] + high * (losses[0] - losses[-1])


def on_plateau(losses: Tensor, norms: Tensor, high: float = HIGH) -> Tensor:
    """Where the loss is high and the gradient below a tenth of its largest: (looks, seeds)."""
    return (norms <= QUIET * norms.amax(0)) & (losses > _level(losses, high))


def share_of_time(time: Tensor, losses: Tensor, quiet: Tensor, high: float = HIGH) -> Tensor:
    """Share of the steps until the loss is no more high, by the trapezium rule: (seeds,)."""
    lengths = time.diff()[:, None]
    above = (losses > _level(losses, high)).double()
    weight = (quiet[1:].double() + quiet[:-1].double()) / 2
    all_of_it = (above[1:] + above[:-1]) / 2
    return (weight * lengths).sum(0) / (all_of_it * lengths).sum(0)


def _first(time: Tensor, losses: Tensor, level: Tensor) -> Tensor:
    """The step at which each loss is first below, (seeds,); infinite if it never is."""
    below = torch.where(losses < level, time[:, None], torch.inf)
    return below.amin(0)


def _after_escape(
    on: Setting, points: Tensor, level: Tensor, quiet: Tensor, steps: tuple[int, ...]
) -> Tensor:
    """Steps that are left after one hs.escape from the plateau, (seeds,); NaN without a plateau."""
    if not bool(quiet.any()):
        return torch.full((len(points),), math.nan, dtype=torch.float64)
    starts = torch.stack([hs.escape(on.problem(theta), seed=0).theta for theta in points])
    run = on.trained(starts, steps[-1], steps)
    losses = torch.stack([on.losses(run.snapshots[step].theta) for step in steps])
    taken = _first(torch.tensor(steps).double(), losses, level)
    return torch.where(quiet, taken, math.nan)


def holds_in(f: Arrays) -> bool:
    """Whether three seeds of four spend half of their time on plateaus and have a saddle near."""
    good = (f["share"] >= 0.5) & (f["distance"] <= NEAR)
    return float(good.double().mean()) >= 0.75


def slow(found: dict[str, Arrays]) -> Claim:
    """Yes if it holds in every setting; only when the start is small, if in all of these and in no
    other; in part if in some.
    """
    good = {name: holds_in(f) for name, f in found.items()}
    small = [ok for name, ok in good.items() if "small" in name]
    usual = [ok for name, ok in good.items() if "small" not in name]
    if all(good.values()):
        holds = YES
    elif small and all(small) and not any(usual):
        holds = "only when training starts at small weights"
    else:
        holds = PARTLY if any(good.values()) else NO
    each = tuple(
        f"{name} {spread(f['share'])}, saddle {_known(f['distance'])}" for name, f in found.items()
    )
    saved = torch.cat([f["rest"] / f["escaped"].clamp(min=1) for f in found.values()])
    saved = saved[saved.isfinite()]
    measured = "share of training until the loss is low that goes by on plateaus, and how near a "
    measured += "saddle is"
    measured += "" if holds == NO else f": {'; '.join(each)}"
    measured += (
        f". One hs.escape from a plateau shortens the rest {spread(saved)} times"
        if len(saved)
        else ""
    )
    return Claim(
        "Plateaus at saddles slow training",
        measured,
        holds,
        "landscapes/plateaus-slow",
        each if holds == NO else (),
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """Loss and gradient norm of one seed of each setting."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    columns = -(-len(found) // 2)
    axes = figure.subplots(2, columns, squeeze=False).flat
    for ax, (name, f) in zip(axes, found.items(), strict=False):
        steps, losses, norms = f["steps"] + 1, f["losses"][:, 0], f["norms"][:, 0]
        quiet = on_plateau(f["losses"], f["norms"])[:, 0]
        ax.plot(steps, losses, color=POSITIVE, label="loss")
        ax.plot(steps, norms, color=NEGATIVE, lw=1, label="gradient norm")
        ax.plot(steps[quiet], losses[quiet], "o", ms=4, color=MARK, label="on a plateau")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(bottom=1e-5)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("steps + 1")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _known(values: Tensor) -> str:
    """The range of those that are finite, and how many they are if not all."""
    there = values[values.isfinite()]
    if not len(there):
        return "none"
    return spread(there) + (f" ({len(there)} of {len(values)})" if len(there) < len(values) else "")


def _text(found: dict[str, Arrays]) -> str:
    rows = [
        [
            name,
            spread(f["share"]),
            spread(f["sooner"]),
            _known(f["distance"]),
            spread(f["index"][f["index"] >= 0].double())
            if bool((f["index"] >= 0).any())
            else "none",
            _known(f["rest"][f["escaped"].isfinite()]),
            _known(f["escaped"]),
        ]
        for name, f in found.items()
    ]
    head = [
        "setting", "share of time on plateaus",
        f"with {HIGHER:g}", "distance to the saddle", "its index",
        "steps still to go", "after hs.escape",
    ]  # fmt: skip
    return (
        f"A path is on a plateau where its gradient norm is below {QUIET:g} of the largest and its "
        f"loss is high: above the last one by {HIGH:g} of all that it falls. Time is counted until "
        "the loss is no more high. The saddle is what the search finds from the quietest of these "
        "points, its distance in units of |θ_end - θ_start|. From there training goes on as it "
        "is, or after one "
        "hs.escape. *small*: started at a tenth of the usual weights.\n\n" + table(head, rows)
    )
