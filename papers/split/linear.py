"""Deep linear networks, where every local minimum is global (Kawaguchi 2016), and one that is not.

With X centred the best product of rank p is known: the first p principal directions of the
projected targets (reduced-rank regression). Any other p of them make a saddle.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from common.claims import Claim, number, spread, verdict
from common.keeping import Arrays, Run
from common.seeds import over
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from torch import Tensor

import hesscope as hs
from split.sizes import Sizes

LAYERS = {"one hidden layer": (4, 2, 3), "two hidden layers": (4, 2, 2, 3)}
STOPPED = 1e-6  # gradient norm
EQUAL = 1e-4  # of the loss of zero: two losses that differ by less are the same


def data(seed: int, num: int = 40) -> tuple[Tensor, Tensor]:
    """Random centred inputs, and targets that no linear map fits."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 4, generator=g, dtype=torch.float64)
    Y = X @ torch.randn(4, 3, generator=g, dtype=torch.float64)
    Y = Y + 0.5 * torch.randn(num, 3, generator=g, dtype=torch.float64)
    return X - X.mean(0), Y - Y.mean(0)


def directions(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares (d, C), and the principal directions of its predictions with their squares."""
    B = torch.linalg.lstsq(X, Y).solution
    _, s, Vh = torch.linalg.svd(X @ B, full_matrices=False)
    return B, Vh.T, s.square()


def critical_loss(X: Tensor, Y: Tensor, chosen: Sequence[int]) -> float:
    """The mean square error of B projected on some principal directions."""
    B, V, _ = directions(X, Y)
    P = V[:, list(chosen)] @ V[:, list(chosen)].T
    return float((X @ B @ P - Y).square().mean())


def critical_point(
    layers: tuple[int, ...], X: Tensor, Y: Tensor, chosen: Sequence[int]
) -> hs.ensemble.Ensemble:
    """A network whose product is B projected on the chosen directions, as wide as its layers."""
    B, V, _ = directions(X, Y)
    W = [torch.zeros(o, i, dtype=torch.float64) for i, o in itertools.pairwise(layers)]
    for unit, j in enumerate(chosen):
        W[0][unit] = B @ V[:, j]
        for M in W[1:-1]:
            M[unit, unit] = 1
        W[-1][:, unit] = V[:, j]
    pieces = [piece for M in W for piece in (M.flatten(), torch.zeros(len(M)).double())]
    return hs.ensemble.Ensemble(layers, "identity", torch.cat(pieces)[None])


def measure(run: Run, s: Sizes) -> Section:
    """Where many starts end, and the curvature of all saddles that theory names."""
    found = {
        name: over(run, f"linear/{name.replace(' ', '-')}", (s.starts, s.linear_steps),
                   range(s.seeds), partial(_ends, layers, "identity", s))
        for name, layers in LAYERS.items()
    }  # fmt: skip
    found["ReLU, narrow"] = over(
        run, "linear/relu", (s.starts, s.linear_steps), range(s.seeds),
        partial(_ends, (4, 2, 3), "relu", s),
    )  # fmt: skip
    saddles = {
        name: over(run, f"linear/{name.replace(' ', '-')}/saddles", "all", range(s.seeds),
                   partial(_saddles, layers))
        for name, layers in LAYERS.items()
    }  # fmt: skip
    numbers = {f"{name}, saddles": {k: v for k, v in f.items()} for name, f in saddles.items()}
    return Section(_text(found, s), claims(found, saddles), _draw(found), numbers)


def _ends(layers: tuple[int, ...], activation: str, s: Sizes, seed: int) -> Arrays:
    """Losses of many ends over that of the best, in units of the loss of a network that is zero."""
    X, Y = data(seed)
    start = hs.ensemble.initialise(layers, s.starts, seed=seed, activation=activation)
    t = hs.ensemble.train(start, X, Y, loss="mse", lr=0.1, steps=s.linear_steps, tolerance=STOPPED)
    values = hs.ensemble.spectra(t.ensemble, X, Y, loss="mse")
    losses = hs.ensemble.losses(t.ensemble, X, Y, loss="mse")
    best = critical_loss(X, Y, range(2)) if activation == "identity" else float(losses.min())
    return {
        "excess": (losses - best) / Y.square().mean(),
        "gradient": t.gradient_norms, "lowest": values[:, 0] / values[:, -1],
    }  # fmt: skip


def _saddles(layers: tuple[int, ...], seed: int) -> Arrays:
    """Every set of principal directions but the first two: loss, gradient and lowest curvature."""
    X, Y = data(seed)
    rows = []
    for size in (2, 1, 0):
        for chosen in itertools.combinations(range(3), size):
            if chosen == (0, 1):
                continue
            e = critical_point(layers, X, Y, chosen)
            values = hs.ensemble.spectra(e, X, Y, loss="mse")[0]
            gradient = hs.ensemble.gradients(e, X, Y, loss="mse").norm()
            rows.append([size, float(gradient), float(values[0]), float(values[-1])])
    found = torch.tensor(rows, dtype=torch.float64)
    return {"rank": found[:, 0], "gradient": found[:, 1], "lowest": found[:, 2], "top": found[:, 3]}


def minima(f: Arrays) -> Tensor:
    """Which ends are critical points without negative curvature beyond rounding."""
    return (f["gradient"] < 10 * STOPPED) & (f["lowest"] > -1e-6)


def claims(found: dict[str, Arrays], saddles: dict[str, Arrays]) -> Sequence[Claim]:
    """All minima found at the loss of the best; full-rank saddles with negative curvature."""
    excess = torch.cat([found[name]["excess"][minima(found[name])] for name in LAYERS])
    same = bool((excess.abs() <= EQUAL).all()) and len(excess) > 0
    tried = tuple(
        f"{name} {spread(found[name]['excess'][minima(found[name])])}" for name in LAYERS
        if minima(found[name]).any()
    )  # fmt: skip
    relu = found["ReLU, narrow"]
    stuck = relu["excess"][minima(relu)]
    worse = float((stuck > 0.01).double().mean()) if len(stuck) else 0.0
    return (
        Claim(
            "In deep linear networks every local minimum that is found is global",
            f"{len(excess)} of {sum(found[n]['excess'].numel() for n in LAYERS)} starts ended at a "
            f"minimum (gradient below {10 * STOPPED:g}, no negative curvature): loss over that of "
            f"the best rank-2 map at most {number(float(excess.max()) if len(excess) else 0)} of "
            "the loss of zero",
            "yes" if same else "undecided" if not len(excess) else "no", "landscapes/kawaguchi",
            tried if not same else (),
        ),
        *_curved(saddles),
        Claim(
            "In ReLU networks of the same widths it is so, too",
            f"of {len(stuck)} minima {worse:.0%} are worse than the best one found by more than a "
            f"hundredth of the loss of zero, by up to "
            f"{number(float(stuck.max()) if len(stuck) else 0)}",
            "undecided" if not len(stuck) else verdict(worse == 0, worse < 0.1),
            "",
            tuple(f"data {i}: {spread(e[m])}" for i, (e, m) in
                  enumerate(zip(relu["excess"], minima(relu), strict=True)) if m.any())
            if worse >= 0.1 else (),
        ),
    )  # fmt: skip


def _curved(saddles: dict[str, Arrays]) -> Sequence[Claim]:
    """Kawaguchi's second theorem: strict where the hidden product has full rank."""
    rows = []
    full = {n: (f["lowest"] / f["top"])[f["rank"] == 2] for n, f in saddles.items()}
    every = torch.cat(list(full.values()))
    gradients = torch.cat([f["gradient"].flatten() for f in saddles.values()])
    rows.append(
        Claim(
            "A saddle of full rank has negative curvature",
            f"{len(every)} saddles of rank 2 made from other principal directions (gradient norm "
            f"at most {number(float(gradients.max()))}): λmin/λmax {spread(every)}",
            verdict(bool((every < -1e-6).all()), bool((every < -1e-6).double().mean() > 0.5)),
            "landscapes/kawaguchi",
            tuple(f"{n} {spread(v)}" for n, v in full.items())
            if not (every < -1e-6).double().mean() > 0.5 else (),
        )
    )  # fmt: skip
    poor = {
        f"{name}, rank {rank}": f["lowest"][f["rank"] == rank]
        for name, f in saddles.items() for rank in (1, 0)
    }  # fmt: skip
    strict = {name: bool((v < -1e-6).all()) for name, v in poor.items()}
    said = "; ".join(f"{name}: λmin {spread(v)}" for name, v in poor.items())
    with_one = [name for name, good in strict.items() if good]
    holds = "yes" if all(strict.values()) else f"only when there is {', or '.join(with_one)}"
    rows.append(
        Claim(
            "So has every other saddle", said, holds if with_one else "no",
            "sagun/strict-saddles", tuple(poor) if not with_one else (),
        )
    )  # fmt: skip
    return rows


def _text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [
            name, f"{int(minima(f).sum())} of {f['excess'].numel()}",
            spread(f["excess"][minima(f)]) if minima(f).any() else "",
            spread(f["excess"]), number(float(f["gradient"].max())),
        ]
        for name, f in found.items()
    ]  # fmt: skip
    head = ["network", "ended at a minimum", "excess loss there", "excess loss of all ends",
            "largest gradient norm"]  # fmt: skip
    return (
        f"Networks 4-2-3 and 4-2-2-3 without activation on 40 random points, squared error, "
        f"{s.starts} starts on each of {s.seeds} data sets, at most {s.linear_steps:,} steps. "
        "*Excess*: loss over that of the best map of rank 2, which is known in closed form (for "
        "ReLU: over the best that was found), in units of the loss of a network that is zero. The "
        "other critical points are made by hand: any other set of principal directions of the "
        "predictions, two, one or none of them.\n\n" + table(head, rows)
    )


def _draw(found: dict[str, Arrays]) -> Figure:
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    ax = figure.subplots()
    for i, f in enumerate(found.values()):
        g = torch.Generator().manual_seed(i)
        for which, colour in ((minima(f), POSITIVE), (~minima(f), NEGATIVE)):
            x = f["excess"][which].clamp(min=1e-10)
            ax.plot(x, i + 0.5 * (torch.rand(len(x), generator=g) - 0.5), "o", ms=3.5, alpha=0.5,
                    color=colour)  # fmt: skip
    ax.axvline(EQUAL, color=ZERO, lw=0.8, ls=":")
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="loss over the global minimum / loss of zero (1e-10: equal)")
    ax.plot([], [], "o", color=POSITIVE, label="minimum")
    ax.plot([], [], "o", color=NEGATIVE, label="still moving, or a saddle")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
