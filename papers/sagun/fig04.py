"""Figure 4: two-dimensional blobs, networks of 18, 74, 162, 282 and 434 parameters, and one MSE."""

from __future__ import annotations

from typing import Any

import torch
from common.data import blobs
from matplotlib.figure import Figure

import hesscope as hs
from sagun import claims, networks, simple
from sagun.context import Context, finished
from sagun.settings import TAU

TITLE = "Networks of growing size on two blobs, and one with mean-square loss"


def measure(c: Context) -> dict[str, Any]:
    """Many seeds of each size; and the small case on other data."""
    s = c.settings.blobs
    data = blobs(s.points, s.std)
    sizes, found = [], []
    for k in s.widths:
        layers = (2, k, k, 2)
        sizes.append(networks.num_parameters(layers))
        found.append(simple.trained(c, f"blobs/{sizes[-1]}", layers, data))
    k = s.widths[1]
    mse = simple.trained(c, "blobs/mse", (2, k, k, 2), data, loss="mse", num=s.mse_seeds)
    more = simple.continued(c, "blobs/continued", (2, k, k, 2), found[1], data)
    return {
        "sizes": sizes, "found": found, "mse": mse, "more": more, "settings": s,
        "classes": _classes(c, early=False), "early": _classes(c, early=True), "random": _random(c),
    }  # fmt: skip


def _classes(c: Context, *, early: bool) -> dict[int, dict[str, torch.Tensor]]:
    """The same width with two to four blobs, early in training or at its end."""
    s = c.settings.blobs
    k = s.widths[-1] if c.settings.tiny else 10
    found = {}
    for C in (2, 3, 4):
        name, data = f"blobs/classes-{C}", blobs(s.points, s.std, classes=C)
        if early:
            name += "-early"
        steps = s.early if early else None
        found[C] = simple.trained(c, name, (2, k, k, C), data, steps=steps)
    return found


def _random(c: Context) -> dict[str, torch.Tensor]:
    """Inputs of one Gaussian with the covariance of the blobs, labels at random."""
    s = c.settings.blobs
    k = s.widths[1]
    generator = torch.Generator().manual_seed(7)
    X = torch.randn(s.points, 2, generator=generator, dtype=torch.float64)
    X = X * (s.std**2 + 1) ** 0.5
    y = torch.randint(2, (s.points,), generator=generator)
    return simple.trained(c, "blobs/random", (2, k, k, 2), (X, y), num=s.mse_seeds)


def draw(m: dict[str, Any]) -> Figure:
    """One network of each size, and the one with mean-square loss."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = list(figure.subplots(2, 3).flat)
    runs = [(f"n = {n}", f) for n, f in zip(m["sizes"], m["found"], strict=True)]
    rows = [(name, f["eigenvalues"][simple.first(f)]) for name, f in runs]
    tau = TAU * max(float(row.abs().max()) for _, row in rows)  # one threshold for all
    for ax, (name, row) in zip(axes, rows, strict=False):
        _panel(ax, row, tau, name)
        ax.set_xlim(2 * min(float(r.min()) for _, r in rows), 3 * tau / TAU)
        ax.set_ylim(0.6, 2.2 * m["sizes"][-1])
    row = m["mse"]["eigenvalues"][simple.first(m["mse"])]
    title = f"n = {m['sizes'][1]}, mean-square loss"
    _panel(axes[len(rows)], row, TAU * float(row.abs().max()), title)
    for ax in axes[len(rows) + 1 :]:
        ax.remove()
    return figure


def _panel(ax: Any, row: torch.Tensor, tau: float, title: str) -> None:
    hs.plots.spectrum_histogram(networks.as_spectrum(row), tau=tau, ax=ax)
    ax.set_title(f"{title}: {int((row.abs() <= tau).sum())} in the middle bin", fontsize=10)


def caption(m: dict[str, Any]) -> str:
    """Training, dead starts."""
    s = m["settings"]
    lines = [f"One network of each; {s.seeds} seeds of each size were trained (lr = {s.lr:g})."]
    for n, found in zip(m["sizes"], m["found"], strict=True):
        lines.append(f"n = {n}: {finished(found, s.tolerance)}, {simple.living(found)}.")
    lines.append(
        f"Mean-square loss, lr = {s.mse_lr:g}, {s.mse_seeds} seeds: "
        f"{finished(m['mse'], s.tolerance)}, {simple.living(m['mse'])}; median λ1 "
        f"{float(m['mse']['eigenvalues'][:, -1].median()):.3g} beside 2/lr = {2 / s.mse_lr:g}."
    )
    noise = m["random"]
    lines.append(
        f"Random inputs and labels, lr = {s.lr:g}, {s.mse_seeds} seeds: "
        f"{finished(noise, s.tolerance)}, median loss {float(noise['losses'].median()):.2g}, "
        f"median λ1 {float(noise['eigenvalues'][:, -1].median()):.3g} beside 2/lr = {2 / s.lr:g}."
    )
    return " ".join(lines)


def check(m: dict[str, Any]) -> list[claims.Claim]:
    """The claims of section 3 over seeds."""
    sizes, s = m["sizes"], m["settings"]
    runs = _same_number([simple.alive(f) for f in m["found"]])
    values = [r["eigenvalues"] for r in runs]
    seeds = f"blobs, {len(values[0])} seeds"
    zeros = {
        kind: torch.stack([networks.near_zero(v, TAU, relative=kind) for v in values])
        for kind in (True, False)
    }
    counts = [networks.isolated(v, 2) for v in values]
    return [
        claims.bulk_grows(sizes, zeros[True], f"{seeds}, within {TAU:g} λmax"),
        claims.bulk_grows(sizes, zeros[False], f"{seeds}, within {TAU:g}"),
        claims.isolated_stay(
            sizes, torch.stack([n for n, _ in counts]), torch.stack([k for _, k in counts])
        ),
        claims.tops_stay(sizes, torch.stack([v[:, -1] for v in values])),
        *_other_data(m),
        *_points(m, f"n = {sizes[1]}, {s.seeds} seeds"),
    ]


def _same_number(runs: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """As many seeds of each size as the size with most dead starts has left."""
    num = min(len(r["losses"]) for r in runs)
    return [{name: array[:num] for name, array in r.items()} for r in runs]


def _other_data(m: dict[str, Any]) -> list[claims.Claim]:
    """Random inputs, more classes, another loss."""
    tops = [simple.alive(m["found"][1])["eigenvalues"][:, -1]]
    tops += [simple.alive(m["random"])["eigenvalues"][:, -1]]
    mse = networks.isolated(simple.alive(m["mse"])["eigenvalues"], 2)
    return [
        claims.data_matter(
            ["blobs", "random inputs"], tops, f"n = {m['sizes'][1]}, after training"
        ),
        _count_classes(m["early"], f"log loss, after {m['settings'].early} steps"),
        _count_classes(m["classes"], "log loss, at the end"),
        claims.classes_count([2], mse[0][None], mse[1][None], "mean-square loss"),
    ]


def _count_classes(runs: dict[int, Any], law: str) -> claims.Claim:
    same = _same_number([simple.alive(f) for f in runs.values()])
    found = [networks.isolated(f["eigenvalues"], C) for C, f in zip(runs, same, strict=True)]
    counts, clear = (torch.stack(list(part)) for part in zip(*found, strict=True))
    return claims.classes_count(list(runs), counts, clear, law)


def _points(m: dict[str, Any], where: str) -> list[claims.Claim]:
    """The end point of training: negative eigenvalues, gradient, and what more steps do."""
    run = simple.alive(m["found"][1])
    values = run["eigenvalues"]
    eps = torch.finfo(torch.float64).eps
    errors = 5 * eps * values.shape[1] ** 0.5 * values.abs().amax(1)
    kinds = [("log loss", run), ("mean-square loss", simple.alive(m["mse"]))]
    return [
        claims.negative_remain(values[:, 0], errors, values[:, -1], where),
        *(
            claims.not_critical(
                r["gradient_norms"],
                networks.gradient_rounding(r["theta"], r["eigenvalues"]),
                f"{name}, {len(r['losses'])} seeds, stopped at {m['settings'].tolerance:g}",
            )
            for name, r in kinds
        ),
        claims.no_critical_point_near(
            m["found"][1]["losses"], m["more"]["losses"],
            m["found"][1]["theta"].norm(dim=1), m["more"]["theta"].norm(dim=1), where,
        ),
    ]  # fmt: skip
