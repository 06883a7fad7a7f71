"""Every eigenvalue of 784-k-k-10 up to k = 70, the networks of figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from common import style
from common.claims import Claim, number
from common.data import digest, digits
from common.keeping import Arrays, Run
from common.study import Section, table
from matplotlib import colormaps
from matplotlib.figure import Figure
from sagun import claims, networks
from sagun.settings import TAU, Digits
from torch import Tensor

import hesscope as hs
from driven import rank
from driven.sizes import Sizes

ALMOST, IN_PLACE = 15_000, 20_000  # rows


def measure(run: Run, s: Sizes) -> Section:
    """The spectrum of each width, and what is near zero."""
    found = {k: spectrum(run, s, k) for k in s.widths}
    sizes = [int(f["n"]) for f in found.values()]
    return Section(_text(found), judged(sizes, found), _draw(found), _numbers(found))


def spectrum(run: Run, s: Sizes, k: int) -> Arrays:
    """The network as page and figure have it, its eigenvalues, and Lanczos at both ends."""
    X, y = digits(examples=s.examples, pool=s.pool)
    d = Digits(examples=s.examples, pool=s.pool, steps=s.steps, stage=s.stage)
    layers, name = (X.shape[1], k, k, 10), f"width/{k}"
    trained = networks.trained_digits(run, f"{name}/trained", layers, X, y, d)
    problem = networks.problem(hs.ensemble.Ensemble(layers, "relu", trained["theta"]), 0, X, y)
    key = (digest(problem.theta), digest(X, y))
    found = run.arrays(f"{name}/spectrum", key, lambda: _eigenvalues(run, name, problem, X))
    return {**found, **{one: trained[one][0] for one in ("losses", "gradient_norms", "steps")}}


def _eigenvalues(run: Run, name: str, problem: hs.Problem, X: Tensor) -> Arrays:
    """All of them, with the moments of H and its ends by other ways."""
    parts = rank.blocks(problem, X)
    moments, M = parts.moments, rank.small(parts)
    del parts
    M = _roomy(M)
    found = hs.spectrum(hs.as_operator(M), check=False, scratch=run.scratch(name))
    ends = hs.eigsh(hs.Hessian(problem), k=2, which="BE", tol=1e-6, max_matvecs=1_000)
    zeros = torch.zeros(max(0, problem.n - len(M)), dtype=torch.float64)
    values = torch.cat([found.eigenvalues, zeros])
    values = values[values.abs().argsort(descending=True)[: problem.n]].sort().values
    return {
        "eigenvalues": values,
        "n": torch.tensor(problem.n),
        "rows": torch.tensor(len(M)),
        "moments": torch.tensor(moments, dtype=torch.float64),
        "ends": ends.eigenvalues.double(),
        "residuals": ends.residuals.double(),
    }


def _roomy(M: Tensor) -> Tensor:
    """With zeros up to the size from which `hs.spectrum` works in place and in parts it resumes."""
    if not ALMOST <= len(M) < IN_PLACE:
        return M
    out = torch.zeros(IN_PLACE, IN_PLACE, dtype=M.dtype)
    out[: len(M), : len(M)] = M
    return out


def errors(f: Arrays) -> tuple[float, ...]:
    """Of trace and squares, relative to the sums of their terms, and of both ends to λmax."""
    values, (trace, squares) = f["eigenvalues"], f["moments"].tolist()
    top = float(values.abs().max())
    return (
        abs(float(values.sum()) - trace) / float(values.abs().sum()),
        abs(float(values.square().sum()) / squares - 1),
        *(
            float((values - end).abs().min()) / top
            for end in (f["ends"].max(), f["ends"].min())
        ),
    )  # fmt: skip


def _near(f: Arrays, *, relative: bool) -> int:
    return int(networks.near_zero(f["eigenvalues"][None], TAU, relative=relative)[0])


def judged(sizes: Sequence[int], found: dict[int, Arrays]) -> list[Claim]:
    """The rules of the page of all figures: growth of the bulk, λmax, and singularity."""
    rows = []
    for relative, what in ((True, f"{TAU:g} λmax"), (False, f"{TAU:g}")):
        zeros = torch.tensor([_near(f, relative=relative) for f in found.values()]).double()
        rows.append(claims.bulk_surely_grows(sizes, zeros, zeros, f"digits, exact, within {what}"))
    tops = [float(f["eigenvalues"][-1]) for f in found.values()]
    rows.append(claims.top_does_not_grow(sizes, tops, "digits"))
    shares = torch.tensor([_near(f, relative=True) for f in found.values()]) / torch.tensor(sizes)
    rows.append(claims.very_singular(shares, f"all widths, share within {TAU:g} λmax"))
    return [replace(row, statement="sagun/k-70") for row in rows]


def _text(found: dict[int, Arrays]) -> str:
    head = ["k", "n", "rows of the small matrix", "loss", "gradient norm", "λmax", "λmin",
            f"within {TAU:g} λmax", f"within {TAU:g}", "below -1e-12 λmax",
            "errors: trace, squares, λmax, λmin"]  # fmt: skip
    return (
        "784-k-k-10 on 1,000 digits, gradient descent with lr = 0.5 until the gradient norm is "
        "below 0.0001, one start each: the networks of [figure 1](sagun2016.md). ReLU makes the "
        "Hessian linear in the first layer, so its rank is at most 9,000 (examples times "
        "directions in which softmax curves) plus twice the number of later parameters; "
        "`papers/driven/rank.py` writes the same eigenvalues, but for zeros, as those of a matrix "
        "of so many rows (from 15,000 filled with zeros up to 20,000, where `hs.spectrum` works in "
        "place), and `hs.spectrum` finds all of them. The exact spectrum of k = 50 is on that "
        "page. Errors are relative: the first two "
        "compare sums with the trace and the squares of H, the others both ends with `hs.eigsh` "
        "on H itself.\n\n" + table(head, [_row(k, f) for k, f in found.items()])
    )


def _row(k: int, f: Arrays) -> list[str]:
    values = f["eigenvalues"]
    top = float(values[-1])
    return [
        f"{k}", f"{len(values):,}", f"{int(f['rows']):,}", f"{float(f['losses']):.2g}",
        f"{float(f['gradient_norms']):.2g}", number(top), number(float(values[0])),
        f"{_near(f, relative=True):,}", f"{_near(f, relative=False):,}",
        f"{int((values < -1e-12 * top).sum()):,}",
        ", ".join(f"{e:.0e}" for e in errors(f)),
    ]  # fmt: skip


def _numbers(found: dict[int, Arrays]) -> dict[str, object]:
    return {
        str(k): {
            "n": f["n"], "rows": f["rows"], "loss": f["losses"], "steps": f["steps"],
            "largest": f["eigenvalues"][-20:], "smallest": f["eigenvalues"][:20],
            "near zero": [_near(f, relative=True), _near(f, relative=False)],
            "errors": errors(f),
        }
        for k, f in found.items()
    }  # fmt: skip


def _draw(found: dict[int, Arrays]) -> Figure:
    """All decades on the left, and the linear axis of the paper on the right."""
    figure = Figure(figsize=(12, 1.2 + 1.7 * len(found)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.3, 1])
    axes = left.subplots(len(found), 1, sharex=True, sharey=True)
    top = max(float(f["eigenvalues"][-1]) for f in found.values())
    low = min(float(f["eigenvalues"][0]) for f in found.values())
    tau = TAU * top
    for ax, (k, f) in zip(axes, found.items(), strict=True):
        hs.plots.spectrum_histogram(networks.as_spectrum(f["eigenvalues"]), tau=tau, ax=ax)
        middle = int((f["eigenvalues"].abs() <= tau).sum())
        title = f"k = {k}: {len(f['eigenvalues']):,} eigenvalues, {middle:,} in the middle bin"
        ax.set_title(title, fontsize=10)
        style.decades(ax, tau, 2 * low, 2 * top)
    for ax in axes[:-1]:
        ax.set_xlabel("")
    _overlay(right.subplots(), found, low, top)
    return figure


def _overlay(ax: object, found: dict[int, Arrays], low: float, top: float) -> None:
    edges = torch.linspace(low - 0.02 * top, 1.02 * top, 60, dtype=torch.float64)
    colours = colormaps["cividis"](torch.linspace(0, 0.85, len(found)).numpy())
    for (k, f), colour in zip(found.items(), colours, strict=True):
        values = f["eigenvalues"]
        counts = [int(((values >= a) & (values < b)).sum()) for a, b in pairwise(edges)]
        ax.stairs(counts, edges, color=colour, lw=1.3, label=f"k = {k}")
    ax.set(yscale="log", xlabel="eigenvalue", ylabel="eigenvalues per bin")
    ax.set_ylim(bottom=0.6)
    ax.set_title("as the paper draws them: linear axis", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
