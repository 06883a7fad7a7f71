"""The Hessian of wide networks against the covariance of the tangent kernel's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from common.claims import Claim, interval, number, spread, verdict
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from split.sizes import Sizes

INPUTS, EXAMPLES = 4, 20
STEEP, NEAR = -0.3, 0.1  # slope of the distance in width, and the distance at the widest
TIMES = ("start", "end")


class Wide(nn.Module):
    """A·tanh(W x / √d + b) / √m, all drawn from N(0, 1): the tangent kernel's parametrisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(width, INPUTS))
        self.b = nn.Parameter(torch.randn(width))
        self.A = nn.Parameter(torch.randn(1, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) to (N, 1)."""
        hidden = torch.tanh(x @ self.W.T / math.sqrt(INPUTS) + self.b)
        return hidden @ self.A.T / math.sqrt(len(self.b))


def measure(run: Run, s: Sizes) -> Section:
    """Distances by width, before and after training to the same data."""
    found = {
        width: over(run, f"kernel/{width}", s.descent, range(s.seeds), partial(_one, width, s))
        for width in s.widths
    }
    slopes = {
        f"{norm} {when}": _slopes(found, f"{norm} {when}") for norm in NORMS for when in TIMES
    }
    numbers = {**{str(width): f for width, f in found.items()}, "slopes": slopes}
    return Section(_text(found, s), claims(found, slopes), _draw(found, s), numbers)


NORMS = ("spectral", "Frobenius")


def _one(width: int, s: Sizes, seed: int) -> Arrays:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        X = F.normalize(torch.randn(EXAMPLES, INPUTS).double()) * math.sqrt(INPUTS)
        model = Wide(width).double()
    y = X[:, :1] * X[:, 1:2]
    found = _distances(model, (X, y), "start")
    _train(model, X, y, s.descent)
    return {**found, **_distances(model, (X, y), "end")}


def _train(model: nn.Module, X: Tensor, y: Tensor, steps: int) -> None:
    """Gradient descent with momentum at a tenth of the largest stable rate at the start."""
    top = hs.eigsh(hs.GaussNewton(hs.Problem(model, F.mse_loss, (X, y))), 1, seed=0).eigenvalues
    optimizer = torch.optim.SGD(model.parameters(), 0.2 / float(top[0]), momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(X), y).backward()
        optimizer.step()


def _distances(model: nn.Module, pair: tuple[Tensor, Tensor], when: str) -> Arrays:
    """‖H - 2 JᵀJ/N‖ / ‖H‖, in both norms; the covariance's eigenvalues are those of the kernel."""
    problem = hs.Problem(model, F.mse_loss, pair)
    H, G = (A(problem).to_dense() for A in (hs.Hessian, hs.GaussNewton))
    R, values = torch.linalg.eigvalsh(H - G), torch.linalg.eigvalsh(H)
    kernel = torch.linalg.eigvalsh(hs.TangentKernel(problem).to_dense()) * 2 / len(pair[0])
    k = min(len(kernel), 10)
    covariance = hs.spectrum(hs.GaussNewton(problem), check=False).eigenvalues[-k:]
    return {
        f"spectral {when}": R.abs().max() / values.abs().max(),
        f"Frobenius {when}": R.norm() / values.norm(),
        f"kernel {when}": (covariance - kernel[-k:]).abs().max() / kernel[-1],
        f"loss {when}": scalar(problem.loss()),
    }


def _slopes(found: dict[int, Arrays], key: str) -> Tensor:
    """Of the logarithm of a distance in that of the width, for each seed."""
    x = torch.tensor([math.log(width) for width in found], dtype=torch.float64)
    logs = torch.stack([f[key].log() for f in found.values()])  # (widths, seeds)
    x = x - x.mean()
    return (x @ logs) / x.square().sum()


def claims(found: dict[int, Arrays], slopes: dict[str, Tensor]) -> Sequence[Claim]:
    """Converging: a slope in width surely below STEEP, and a distance of NEAR at the widest.

    Or a distance of at most NEAR at every width, where a slope is that of what training left over.
    In part: at the start or at the end only.
    """
    widest = found[max(found)]
    rows = []
    for norm in NORMS:
        said, good, falling = [], [], []
        for when in TIMES:
            key = f"{norm} {when}"
            mean, half = interval(slopes[key])
            far = widest[key]
            said.append(
                f"at the {when} ~ width^({mean:.2f} ± {half:.2f}), {spread(far)} at width "
                f"{max(found)}"
            )
            falling.append(mean + half < 0)
            there = all(bool((f[key] <= NEAR).all()) for f in found.values())
            good.append(there or (mean + half < STEEP and bool((far <= NEAR).all())))
        some = any(good) or all(falling)
        rows.append(
            Claim(
                f"‖H - JᵀJ‖/‖H‖ goes to zero as width grows ({norm} norm)",
                "; ".join(said), verdict(all(good), some), "landscapes/ntk",
                tuple(f"width {w}: {spread(f[f'{norm} start'])} and {spread(f[f'{norm} end'])}"
                      for w, f in found.items()) if not some else (),
            )
        )  # fmt: skip
    error = torch.cat([f[f"kernel {when}"] for f in found.values() for when in TIMES])
    rows.append(
        Claim(
            "The covariance JᵀJ has the eigenvalues of the tangent kernel JJᵀ",
            f"relative difference at most {number(float(error.max()))}",
            verdict(bool((error < 1e-10).all()), False), "landscapes/ntk",
            ("all widths, start and end",) * 3 if not (error < 1e-10).all() else (),
        )
    )  # fmt: skip
    return rows


def _text(found: dict[int, Arrays], s: Sizes) -> str:
    rows = [
        [str(width), spread(f["loss end"]), *(spread(f[f"{n} {t}"]) for n in NORMS for t in TIMES)]
        for width, f in found.items()
    ]
    head = ["width", "loss at the end", *(f"{n}, {t}" for n in NORMS for t in TIMES)]
    return (
        f"A·tanh(W x / √d + b) / √m on {EXAMPLES} points of a sphere in {INPUTS} dimensions, "
        f"squared error, {s.descent:,} full-batch steps with momentum, {s.seeds} seeds. Numbers "
        "are ‖H - G‖/‖H‖ with G = 2 JᵀJ / N, in the spectral norm (the largest |λ|) and in the "
        "Frobenius norm. Jacot, Gabriel and Hongler (2020) say that the residual's square has a "
        "trace that does not vanish with width.\n\n" + table(head, rows)
    )


def _draw(found: dict[int, Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    for ax, norm in zip(figure.subplots(1, 2, sharey=True), NORMS, strict=True):
        for when, colour in zip(TIMES, (NEGATIVE, POSITIVE), strict=True):
            d = torch.stack([f[f"{norm} {when}"] for f in found.values()])
            ax.plot(s.widths, d, "o", color=colour, ms=4, alpha=0.4)
            ax.plot(s.widths, d.median(1).values, color=colour, label=f"at the {when}")
        first = float(torch.stack([f[f"{norm} start"] for f in found.values()])[0].median())
        ax.plot(s.widths, [first * (w / s.widths[0]) ** -0.5 for w in s.widths], color=ZERO,
                ls=":", label="width^(-1/2)")  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="width", title=f"{norm} norm")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("‖H - G‖ / ‖H‖")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
