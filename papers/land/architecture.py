"""What moves the bulk and what moves the top: the architecture, or the data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from common import data
from common.claims import Claim, number, spread, verdict
from common.keeping import Arrays, Run
from common.seeds import over
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from land import networks
from land.bulk import FLAT, share
from land.sizes import Sizes

NETWORKS = {
    "49-6-10": (49, 6, 10), "49-12-10": (49, 12, 10), "49-6-6-10": (49, 6, 6, 10),
    "49-12-12-10": (49, 12, 12, 10),
}  # fmt: skip


def measure(run: Run, s: Sizes) -> Section:
    """Every network on every data, from the same seeds."""
    found = {
        (a, b): over(run, f"architecture/{a}/{b.replace(' ', '-')}", (s.steps, s.examples), [0],
                     lambda _, a=a, b=b: _spectra(NETWORKS[a], kinds(s)[b], s))
        for a in list(NETWORKS)[: s.networks] for b in kinds(s)
    }  # fmt: skip
    shape = min(s.networks, len(NETWORKS)), len(kinds(s)), s.seeds
    grids = {
        name: torch.stack([f[name][0] for f in found.values()]).view(shape)
        for name in ("flat", "share", "top")
    }
    numbers = {name: grid.median(-1).values for name, grid in grids.items()}
    return Section(_text(grids, s), claims(grids), _draw(grids, s), numbers)


def kinds(s: Sizes) -> dict[str, networks.Pair]:
    """Four kinds of data with 49 inputs and ten classes."""
    X, y = networks.images(s.examples)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    centres = torch.randn(10, 49, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise, _ = data.like(X, 2)
    return {
        "digits": (X, y),
        "digits, random labels": (X, shuffled),
        "random inputs": data.like(X, 0),
        "ten blobs": (0.3 * centres[y] + 0.5 * noise, y),
    }


def _spectra(layers: tuple[int, ...], pair: networks.Pair, s: Sizes) -> Arrays:
    start = hs.ensemble.initialise(layers, s.seeds, seed=0)
    t = hs.ensemble.train(start, *pair, lr=0.2, steps=s.steps)
    values = hs.ensemble.spectra(t.ensemble, *pair)
    flat = (values.abs() <= FLAT * values.abs().amax(-1, keepdim=True)).sum(-1)
    return {"flat": flat.double(), "share": share(values), "top": values[:, -1]}


def parts(grid: Tensor) -> dict[str, float]:
    """Shares of the variance of a grid (architectures, data, seeds) by what explains it.

    The variance between the means of the rows, of the columns, of what is left of the cells' means,
    and within cells: a two-way analysis of variance, whose four parts add up.
    """
    mean = grid.mean()
    cells = grid.mean(-1)
    rows, columns = cells.mean(1, keepdim=True), cells.mean(0, keepdim=True)
    sizes = {
        "architecture": (rows - mean).square().mean(),
        "data": (columns - mean).square().mean(),
        "both": (cells - rows - columns + mean).square().mean(),
        "seeds": (grid - cells[..., None]).square().mean(),
    }
    total = sum(float(v) for v in sizes.values())
    return (
        {name: float(v) / total for name, v in sizes.items()}
        if total
        else dict.fromkeys(sizes, 0.0)
    )


def claims(grids: dict[str, Tensor]) -> Sequence[Claim]:
    """What explains more of the variance than the other by half is what it depends on."""
    flat, part, top = (parts(grids[name].log()) for name in ("flat", "share", "top"))

    def told(p: dict[str, float]) -> str:
        return f"architecture {p['architecture']:.0%}, data {p['data']:.0%}, seeds {p['seeds']:.0%}"

    by_count = flat["architecture"] > 1.5 * flat["data"]
    by_share = part["architecture"] > 1.5 * part["data"]
    by_data = top["data"] > 1.5 * top["architecture"]
    return (
        Claim(
            "The bulk depends on the architecture more than on the data",
            f"of the variance of the logarithm over {flat_size(grids)}: number in the bulk "
            f"({told(flat)}); share in the bulk ({told(part)})",
            verdict(by_count and by_share, by_count or by_share), "sagun/bulk-architecture",
            _tried(grids["share"]) if not (by_count or by_share) else (),
        ),
        Claim(
            "The largest eigenvalue depends on the data more than on the architecture",
            f"of the variance of log λmax: {told(top)}",
            verdict(by_data, top["data"] > top["architecture"]), "sagun/bulk-architecture",
            _tried(grids["top"]) if not top["data"] > top["architecture"] else (),
        ),
    )  # fmt: skip


def flat_size(grids: dict[str, Tensor]) -> str:
    """How many networks there are."""
    a, b, seeds = grids["flat"].shape
    return f"{a} architectures, {b} kinds of data and {seeds} seeds"


def _tried(grid: Tensor) -> tuple[str, ...]:
    return tuple(f"{name}: {spread(row)}" for name, row in zip(NETWORKS, grid, strict=False))


def _text(grids: dict[str, Tensor], s: Sizes) -> str:
    names = list(kinds(s))
    rows = [
        [name, *(f"{number(float(grids['flat'][i, j].median()))} of "
                 f"{sum(o * (w + 1) for w, o in pairwise(layers))}; "
                 f"λmax {number(float(grids['top'][i, j].median()))}" for j in range(len(names)))]
        for i, (name, layers) in enumerate(list(NETWORKS.items())[: s.networks])
    ]  # fmt: skip
    return (
        f"ReLU perceptrons, {s.steps:,} full-batch steps of rate 0.2, {s.examples} examples. Each "
        f"cell: eigenvalues within {FLAT:g} of the largest |λ|, of how many, and λmax; medians "
        f"over {s.seeds} seeds.\n\n" + table(["network", *names], rows)
    )


def _draw(grids: dict[str, Tensor], s: Sizes) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    names = list(kinds(s))
    colours = [POSITIVE, NEGATIVE, "#8a8f98", "#b8860b"]
    for ax, what in zip(figure.subplots(1, 3), ("flat", "share", "top"), strict=True):
        for j, name in enumerate(names):
            spots = torch.arange(len(grids[what])) + 0.14 * (j - 1.5)
            x = spots[:, None].expand(-1, s.seeds).flatten()
            ax.plot(x, grids[what][:, j].flatten(), "o", ms=4, alpha=0.7, color=colours[j],
                    label=name)  # fmt: skip
        ax.set_xticks(range(len(grids[what])), list(NETWORKS)[: s.networks], fontsize=7.5)
        ax.set_title({"flat": "eigenvalues in the bulk", "share": "share in the bulk",
                      "top": "λmax"}[what], fontsize=10)  # fmt: skip
        ax.spines[["top", "right"]].set_visible(False)
        if what == "top":
            ax.set_yscale("log")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
