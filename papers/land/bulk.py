"""The bulk of the spectrum across architectures, tasks, losses, optimisers and modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from common.claims import Claim, number, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from land import networks
from land.networks import Recipe
from land.sizes import Sizes

FLAT = 1e-3  # of the largest |λ|: the bulk
MOST = 0.8  # of all eigenvalues: then there is a bulk
ALIKE = 0.1  # of all eigenvalues: shares and shapes that differ less are roughly the same


@dataclass(frozen=True)
class Setting:
    """A network, its task and its training."""

    what: str
    make: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    pair: networks.Pair
    recipe: Recipe
    outputs: int


def settings(s: Sizes) -> dict[str, Setting]:
    """The first is the one that the others are compared with; each differs from it in its name."""
    digits, text = networks.images(s.examples), networks.text(s.windows)
    one_hot = digits[0], F.one_hot(digits[1], 10).double()
    ce, mse, long, short = F.cross_entropy, F.mse_loss, s.brief, s.short
    relu = lambda: networks.perceptron(49, s.hidden, 10)  # noqa: E731
    tanh = lambda: networks.perceptron(49, s.hidden, s.hidden, 10, act=nn.Tanh)  # noqa: E731
    former = lambda: networks.Transformer(28, 28, s.d)  # noqa: E731
    cnn = lambda: networks.convolutions(10, *s.channels)  # noqa: E731
    adam = Recipe(0.01, long, adam=True)
    return {
        "perceptron": Setting("perceptron, digits", relu, ce, digits, Recipe(0.05, long), 10),
        "tanh": Setting("deeper, tanh", tanh, ce, digits, Recipe(0.05, long), 10),
        "cnn": Setting("CNN", cnn, ce, digits, Recipe(0.05, short), 10),
        "transformer": Setting("transformer, text", former, ce, text, Recipe(0.1, short), 28),
        "table": Setting(
            "table of waveforms", lambda: networks.perceptron(21, s.hidden + 4, 3), ce,
            networks.waveforms(s.examples), Recipe(0.05, long), 3,
        ),
        "regression": Setting(
            "regression, one output", lambda: networks.perceptron(10, s.hidden + 20, 1), mse,
            networks.friedman(s.examples), Recipe(0.02, long), 1,
        ),
        "mse": Setting("squared error, digits", relu, mse, one_hot, Recipe(0.2, long), 10),
        "adam": Setting("perceptron by Adam", relu, ce, digits, adam, 10),
        "cnn-adam": Setting(
            "CNN by Adam", cnn, ce, digits, Recipe(0.01, short, adam=True), 10
        ),
        "transformer-adam": Setting(
            "transformer by Adam", former, ce, text, Recipe(0.02, short, adam=True), 28
        ),
    }  # fmt: skip


def measure(run: Run, s: Sizes) -> Section:
    """Exact spectra at the end of training, and at its start."""
    every = settings(s)
    every = {name: every[name] for name in s.kinds or every}
    found = {name: _runs(run, name, setting, s) for name, setting in every.items()}
    stats = {name: _statistics(f, every[name].outputs, found) for name, f in found.items()}
    return Section(
        _text(every, found, stats, s), claims(stats), _draw(every, found, stats),
        {name: {key: v for key, v in f.items() if v.ndim == 1} for name, f in stats.items()},
    )  # fmt: skip


def _runs(run: Run, name: str, setting: Setting, s: Sizes) -> Arrays:
    def job(seed: int) -> Arrays:
        model = networks.made(setting.make, seed)
        before = hs.Problem(model, setting.loss, setting.pair)
        start = before.loss()
        first = hs.eigsh(hs.Hessian(before), 1, seed=0).eigenvalues[0]
        trace = hs.trace(hs.Hessian(before), max_matvecs=40, seed=0).value
        networks.trained(model, setting.loss, setting.pair, setting.recipe, seed)
        after = hs.Problem(model, setting.loss, setting.pair)
        values = networks.eigenvalues(model, setting.loss, setting.pair)
        return {
            "values": values, "start": scalar(start), "loss": scalar(after.loss()),
            "gradient": after.gradient().norm(), "first": first, "trace": scalar(trace),
        }  # fmt: skip

    key = (setting.recipe, digest(*setting.pair))
    return over(run, f"bulk/{name}", key, range(s.seeds), job)


def share(values: Tensor) -> Tensor:
    """The share of each row within FLAT of its largest |λ|."""
    return (values.abs() <= FLAT * values.abs().amax(-1, keepdim=True)).double().mean(-1)


def shape(values: Tensor, outputs: int) -> Tensor:
    """All but the `outputs` largest |λ|, over their own root mean square, with clean zeros."""
    small = values[values.abs().argsort(descending=True)[outputs:]]
    scaled = small / small.square().mean().sqrt()
    return torch.where(scaled.abs() < FLAT, 0.0, scaled)


def distance(a: Tensor, b: Tensor) -> float:
    """Kolmogorov and Smirnov's: the largest difference of the two distribution functions."""
    return float(ks_2samp(a.numpy(), b.numpy()).statistic)


def _statistics(f: Arrays, outputs: int, every: dict[str, Arrays]) -> Arrays:
    values = f["values"]
    reference = [shape(row, 10) for row in every["perceptron"]["values"]]
    own = [shape(row, outputs) for row in values]
    away = [[distance(a, b) for b in reference] for a in own]
    return {
        "share": share(values), "top": values[:, -1], "lowest": values[:, 0],
        "away": torch.tensor(away).median(-1).values.double(), "loss": f["loss"],
        "ratio": values[:, -1] / f["first"], "trace_ratio": values.sum(-1) / f["trace"],
    }  # fmt: skip


def claims(stats: dict[str, Arrays]) -> Sequence[Claim]:
    """The rules: MOST in the bulk; shares and shapes within ALIKE; λmax apart by a factor of 3."""
    shares = {name: s["share"] for name, s in stats.items()}
    middle = {name: float(v.quantile(0.5)) for name, v in shares.items()}
    away = {n: float(s["away"].quantile(0.5)) for n, s in stats.items() if n != "perceptron"}
    differ = {name: abs(m - middle["perceptron"]) for name, m in middle.items()}
    by_adam = {name: name.removesuffix("-adam") for name in stats if name.endswith("-adam")}
    by_adam["adam"] = "perceptron"
    moved = {a: middle[a] - middle[b] for a, b in by_adam.items()}
    everything = torch.cat(list(shares.values()))
    return (
        _claim(
            "There is a bulk near zero in every network",
            f"share of eigenvalues within {FLAT:g} of the largest: {spread(everything)} over "
            f"{len(shares)} settings and their seeds; at least half everywhere: "
            f"{bool((everything >= 0.5).all())}",
            verdict(bool((everything >= MOST).all()), bool((everything >= 0.5).all())), shares,
        ),
        _claim(
            "The share in the bulk is roughly the same whatever the network and task",
            f"medians by setting {number(min(middle.values()))} to {number(max(middle.values()))}; "
            f"{_within(differ)} settings within {ALIKE} of the perceptron on digits",
            _judged(differ), shares,
        ),
        _claim(
            "The shape of the bulk, in units of its own width, is roughly the same",
            f"Kolmogorov-Smirnov distance to the perceptron's, medians {number(min(away.values()))}"
            f" to {number(max(away.values()))} by setting, between its own seeds "
            f"{number(float(stats['perceptron']['away'].quantile(0.5)))}; {_within(away)} settings "
            f"within {ALIKE}",
            _judged(away), {n: stats[n]["away"] for n in away},
        ),
        outliers_shift(stats),
        _claim(
            "It takes SGD for the bulk to stay: by Adam it is another",
            "share by Adam less that by SGD of the same network, medians: "
            + ", ".join(f"{name} {d:+.2f}" for name, d in moved.items()),
            verdict(
                all(abs(d) > ALIKE for d in moved.values()),
                any(abs(d) > ALIKE for d in moved.values()),
            ),
            {a: stats[a]["share"] for a in by_adam},
        ),
        flattened(stats),
    )  # fmt: skip


def outliers_shift(stats: dict[str, Arrays]) -> Claim:
    """The medians of λmax are apart by a factor of 3; in part by half as much."""
    tops = [float(s["top"].quantile(0.5)) for s in stats.values()]
    far = max(tops) / min(tops)
    return Claim(
        "The outliers shift in scale",
        f"median λmax by setting {number(min(tops))} to {number(max(tops))}, "
        f"a factor of {number(far)}",
        verdict(far >= 3, far >= 1.5),
        "landscapes/bulk-everywhere",
    )


def flattened(stats: dict[str, Arrays]) -> Claim:
    """Lower at the end than at the start, λmax and trace, in all runs (yes) or in most of them."""
    top = torch.cat([s["ratio"] for s in stats.values()])
    trace = torch.cat([s["trace_ratio"] for s in stats.values()])
    both = (top < 1) & (trace < 1)
    where = [
        f"{name} λmax x {spread(s['ratio'])}, trace x {spread(s['trace_ratio'])}"
        for name, s in stats.items()
    ]
    return Claim(
        "Both λmax and the trace are lower at the end of training than at its start",
        f"in {int(both.sum())} of {len(both)} runs; λmax grew up to {number(float(top.max()))} "
        f"times, fell to {number(float(top.min()))}; the trace (at the start by 40 products) "
        f"{number(float(trace.min()))} to {number(float(trace.max()))} times",
        verdict(bool(both.all()), bool(both.double().mean() > 0.5)),
        "landscapes/training-flattens",
        tuple(where) if not both.double().mean() > 0.5 else (),
    )


def _claim(text: str, measured: str, holds: str, tried: dict[str, Tensor]) -> Claim:
    attempts = tuple(f"{name} {spread(v)}" for name, v in tried.items())
    return Claim(
        text, measured, holds, "landscapes/bulk-everywhere", attempts if holds == "no" else ()
    )


def _within(differences: dict[str, float]) -> str:
    own = [d for name, d in differences.items() if name != "perceptron"]
    return f"{sum(d <= ALIKE for d in own)} of {len(own)}"


def _judged(differences: dict[str, float]) -> str:
    own = [d for name, d in differences.items() if name != "perceptron"]
    return verdict(all(d <= ALIKE for d in own), sum(d <= ALIKE for d in own) * 2 >= len(own))


def _text(
    every: dict[str, Setting], found: dict[str, Arrays], stats: dict[str, Arrays], s: Sizes
) -> str:
    rows = [
        [
            every[name].what, f"{found[name]['values'].shape[1]:,}",
            f"{number(float(found[name]['start'].median()))} to "
            f"{number(float(v['loss'].median()))}",
            spread(v["share"]), spread(v["away"]), spread(v["top"]), spread(v["lowest"]),
        ]
        for name, v in stats.items()
    ]  # fmt: skip
    head = ["network and task", "n", "loss", "share in bulk", "shape distance", "λmax", "λmin"]
    return (
        f"All eigenvalues of the Hessian at the end of training, {s.seeds} seeds each. Digits of "
        f"7 x 7 pixels and tables: {s.examples} examples; text: {s.windows} windows of "
        f"{networks.WINDOW} symbols of what `import this` prints, and the symbol that follows; the "
        "table and the function of the regression are generated (Breiman et al. 1984; Friedman "
        "1991). SGD with momentum 0.9 or Adam, batches of 50; the rate falls to zero over the last "
        f"third. *In the bulk* is what lies within {FLAT:g} of the largest |λ|. For the *shape*, "
        "as many of the largest |λ| are taken away as there are outputs; what is left is divided "
        "by its root mean square, and compared with that of the first row.\n\n" + table(head, rows)
    )


def _draw(every: dict[str, Setting], found: dict[str, Arrays], stats: dict[str, Arrays]) -> Figure:
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1], sharey=True)
    for i, name in enumerate(every):
        values = found[name]["values"]
        relative = (values / values.abs().amax(-1, keepdim=True)).flatten()
        for sign, colour, shift in ((1, POSITIVE, -0.12), (-1, NEGATIVE, 0.12)):
            one = (sign * relative)[sign * relative > 1e-10]
            left.plot(one, torch.full_like(one, i + shift), "|", color=colour, ms=7, alpha=0.25)
        shares = stats[name]["share"]
        right.plot(shares, torch.full_like(shares, i), "o", color=POSITIVE, alpha=0.6)
    left.axvspan(1e-10, FLAT, color=ZERO, alpha=0.12, lw=0)
    left.set(xscale="log", xlim=(1e-10, 1.5), xlabel="|λ| / largest |λ|   (blue +, red -)")
    left.set_yticks(range(len(every)), [setting.what for setting in every.values()])
    left.invert_yaxis()
    right.set(xlim=(0, 1), xlabel=f"share within {FLAT:g} of the largest |λ|")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure
