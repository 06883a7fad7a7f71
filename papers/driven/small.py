"""Networks of 74 parameters on overlapping blobs, random points, mean squares: three trainers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common.claims import Claim, number, spread
from common.data import blobs, digest
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from sagun import networks
from torch import Tensor

import hesscope as hs
from driven import lbfgs, newton
from driven.reached import index, kinks, others_do_not, overlap, reached, reaches, stays
from driven.sizes import NAMED, Sizes

FAR = 1e-8  # where Newton stops
LAYERS, SIGMA = (2, 6, 6, 2), 0.5
BETAS = (10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e6)
COLOURS = {"gradient descent": NEGATIVE, "L-BFGS": MARK, "Newton": POSITIVE}


@dataclass(frozen=True)
class Setting:
    """Data, loss and the step size that gradient descent takes on the page of all figures."""

    X: Tensor
    t: Tensor
    loss: str
    lr: float

    @property
    def field(self) -> newton.Field:
        """With ReLU."""
        return newton.Field(LAYERS, self.X, self.t, self.loss)

    @property
    def words(self) -> tuple[object, ...]:
        """What a result depends on."""
        return (LAYERS, SIGMA, self.loss, self.lr, digest(self.X, self.t))


def settings(s: Sizes) -> dict[str, Setting]:
    """What gradient descent drives to that norm in part of the seeds or in none."""
    found = {}
    for std in s.stds:
        X, y = blobs(s.points, std)
        found[f"blobs, std {std:g}"] = Setting(X, y, "cross_entropy", 1.0)
    generator = torch.Generator().manual_seed(7)  # the points of figure 4
    X = torch.randn(s.points, 2, generator=generator, dtype=torch.float64) * (0.5**2 + 1) ** 0.5
    y = torch.randint(2, (s.points,), generator=generator)
    found["random points"] = Setting(X, y, "cross_entropy", 1.0)
    X, y = blobs(s.points, 0.5)
    found["blobs, mean squares"] = Setting(X, networks.one_hot(y), "mse", 0.02)
    return found


def measure(run: Run, s: Sizes) -> Section:
    """Three trainers from the same starts, and what each reached."""
    found = {name: _ends(run, s, name, each) for name, each in settings(s).items()}
    numbers = {
        name: {
            kind: {one: f[one] for one in ("losses", "gradient_norms", "tops")}
            for kind, f in ends.items()
        }
        for name, ends in found.items()
    }
    return Section(_text(found, s), judged(found, s), _draw(found), numbers)


def _ends(run: Run, s: Sizes, name: str, at: Setting) -> dict[str, Arrays]:
    start = networks.starts(LAYERS, s.seeds, SIGMA)
    steps = s.newton_steps
    jobs = {
        "gradient descent": (s.descent, lambda: _descent(at, start, s.descent)),
        "L-BFGS": (s.lbfgs, lambda: lbfgs.ends(at.field, start.theta, s.lbfgs)),
        "Newton": (
            (BETAS, steps, FAR),
            lambda: newton.driven(at.field, start.theta, BETAS, steps, FAR),
        ),
    }
    return {
        kind: run.arrays(
            f"small/{name}/{kind}", (at.words, s.seeds, key), lambda job=job: _described(at, job())
        )
        for kind, (key, job) in jobs.items()
    }


def _descent(at: Setting, start: hs.ensemble.Ensemble, steps: int) -> Arrays:
    t = hs.ensemble.train(
        start, at.X, at.t, loss=at.loss, lr=at.lr, steps=steps, tolerance=NAMED
    )  # fmt: skip
    return {"theta": t.ensemble.theta, "losses": t.losses, "gradient_norms": t.gradient_norms}


def _described(at: Setting, found: Arrays) -> Arrays:
    """With both ends of the exact spectrum, and how near to a kink the point is."""
    e = hs.ensemble.Ensemble(LAYERS, "relu", found["theta"])
    values = hs.ensemble.spectra(e, at.X, at.t, loss=at.loss)
    return {
        **found, "tops": values[:, -1], "lowest": values[:, 0],
        "distance": torch.stack([_nearest_kink(e.member(i), at.X) for i in range(len(e))]),
    }  # fmt: skip


def _nearest_kink(model: torch.nn.Sequential, X: Tensor) -> Tensor:
    """The smallest |z| of any example and hidden unit, of the largest of that unit."""
    near, z = [], X
    with torch.no_grad():
        for module in model[:-1]:
            z = module(z)
            if isinstance(module, torch.nn.Linear):
                size = z.abs().amax(0)
                near.append((z.abs() / size)[:, size > 0].min())
    return torch.stack(near).min()


def judged(found: dict[str, dict[str, Arrays]], s: Sizes) -> list[Claim]:
    """Who reaches the norm; what step size could stay; negative eigenvalues there."""
    rates = {name: each.lr for name, each in settings(s).items()}
    return [
        reaches(found), kinks(found), others_do_not(found), stays(found, rates), index(found),
        overlap(found, s),
    ]  # fmt: skip


def _text(found: dict[str, dict[str, Arrays]], s: Sizes) -> str:
    rows = [
        [name, kind, f"{int(reached(f).sum())} of {len(f['losses'])}", spread(f["gradient_norms"]),
         spread(f["losses"]), spread(f["tops"]), spread(f["theta"].norm(dim=1)),
         number(float(f["distance"].median()))]
        for name, ends in found.items()
        for kind, f in ends.items()
    ]  # fmt: skip
    head = ["data", "trainer", f"below {NAMED:g}", "gradient norm", "loss", "λmax", "norm of θ",
            "nearest kink"]  # fmt: skip
    return (
        f"2-6-6-2 networks of 74 parameters, {s.points} points, {s.seeds} starts, float64, full "
        f"batch. Gradient descent has the step sizes of [the page of all figures](sagun2016.md), "
        f"at most {s.descent:,} steps; L-BFGS is torch's, with a strong Wolfe line search and at "
        f"most {s.lbfgs} iterations; Newton steps with |H| go over networks whose kinks are "
        "rounded (softplus of β = 10 to 1,000,000) until the network of ReLU itself has a norm "
        f"below {FAR:g} (`papers/driven/newton.py`). *Nearest kink*: the smallest |z| of all "
        "examples and hidden units, of the largest of that unit, median over seeds. A minimum "
        "that lies on a kink has no small gradient beside it: line searches stall there.\n\n"
        + table(head, rows)
    )


def _draw(found: dict[str, dict[str, Arrays]]) -> Figure:
    """Every end: gradient norm against loss."""
    figure = Figure(figsize=(12, 2.9 * -(-len(found) // 3) + 0.4), layout="constrained")
    axes = list(figure.subplots(-(-len(found) // 3), min(3, len(found)), squeeze=False).flat)
    for ax, (name, ends) in zip(axes, found.items(), strict=False):
        for kind, f in ends.items():
            norms = f["gradient_norms"].clamp(min=1e-17)
            ax.plot(f["losses"].clamp(min=1e-17), norms, "o", ms=4, alpha=0.6,
                    color=COLOURS[kind], label=kind, markeredgewidth=0)  # fmt: skip
        ax.axhline(NAMED, color=ZERO, lw=0.9, ls="--")
        ax.set(xscale="log", yscale="log", title=name)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_formatter(NullFormatter())
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(found) :]:
        ax.remove()
    figure.supxlabel("loss at the end", fontsize=10)
    figure.supylabel("gradient norm (dashed: 0.0001)", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure
