"""Flat beyond basins, basins by their curvature, and zero directions put to use."""

from __future__ import annotations

import torch
from common.claims import NO, PARTLY, YES, Claim, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import jacrev

import hesscope as hs
from degenerate.bottoms import FITTED, Bottom, Outputs, bottom, fitted, walk
from degenerate.settings import Sizes

RISES = (1e-4, 1e-2, 1.0)  # of the loss, where widths are read
RISE = 1e-2  # of the straight walks; the loss before training is about 0.3
PAIRS = 5
KINDS = "curved", "random", "flat"


def measure(run: Run, sizes: Sizes) -> Section:
    """All seeds."""
    key = (sizes.seeds, sizes.iterations, sizes.walk, sizes.straight, RISES, PAIRS)
    found = run.arrays("flat", key, lambda: _measured(sizes))
    claims = [beyond(found), used(found), basins(found)]
    return Section(_text(found), claims, draw(found))


def _measured(sizes: Sizes) -> Arrays:
    b = bottom()
    rows = [_one(b, theta, sizes) for theta in fitted(b, sizes.seeds, sizes.iterations)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _one(b: Bottom, theta: Tensor, sizes: Sizes) -> Arrays:
    """One network: a walk away, two walks to something better, and widths."""
    residuals, norm = b.outputs(), float(theta.norm())
    generator = torch.Generator().manual_seed(14)
    first = torch.randn(len(theta), generator=generator, dtype=torch.float64)

    def away(t: Tensor, _: Tensor) -> Tensor:
        return t - theta + 1e-3 * first

    away_path = walk(residuals, theta, away, sizes.walk, 3 * norm / sizes.walk)
    inwards = walk(residuals, theta, lambda t, _: -t, sizes.walk, norm / sizes.walk)
    flatter = walk(residuals, theta, _flatter(residuals), sizes.walk, norm / sizes.walk)
    line = theta + torch.linspace(0, 1, 41, dtype=torch.float64)[:, None] * (away_path[-1] - theta)
    ends = [theta, away_path[-1], inwards[-1], flatter[-1]]
    return {
        "norm": torch.tensor(norm),
        "distance": (away_path - theta).norm(dim=1),
        "loss": _losses(residuals, away_path),
        "line": _losses(residuals, line),
        "losses": torch.tensor([float(_losses(residuals, t[None])) for t in ends]),
        "norms": torch.stack([t.norm() for t in ends]),
        "traces": torch.tensor([_trace(residuals, t) for t in ends]),
        "tests": torch.tensor([b.test_loss(t) for t in ends]),
        **_widths(b, theta, sizes.straight),
    }


def _losses(residuals: Outputs, points: Tensor) -> Tensor:
    return torch.stack([residuals(t).square().mean() for t in points])


def _trace(residuals: Outputs, theta: Tensor) -> float:
    """Of the Hessian at zero loss: 2 |J|² over the number of residuals."""
    J = jacrev(residuals)(theta)
    return float(2 * J.square().sum() / len(J))


def _flatter(residuals: Outputs):
    """Down the trace of the Hessian."""

    def trace(theta: Tensor) -> Tensor:
        return jacrev(residuals)(theta).square().sum()

    gradient = torch.func.grad(trace)
    return lambda theta, _: -gradient(theta)


def _widths(b: Bottom, theta: Tensor, straight: int) -> Arrays:
    """Widths that were measured and those that curvature predicts, (rises, kinds, directions).

    Along eigenvectors of the largest eigenvalues, random directions, and the null space, of which
    `hs.basin` finds some by products alone: `straight`.
    """
    values, vectors = torch.linalg.eigh(b.on.hessians(theta[None])[0])
    generator = torch.Generator().manual_seed(16)
    z = torch.randn(len(theta), 2 * PAIRS, generator=generator, dtype=torch.float64)
    null = vectors[:, values < 1e-9 * values[-1]]
    ways = torch.cat([vectors[:, -PAIRS:], z[:, :PAIRS], null @ (null.mT @ z[:, PAIRS:])], dim=1)
    ways = ways / ways.norm(dim=0)
    curvature = ((vectors.mT @ ways).square() * values[:, None]).sum(0).abs()
    measured = torch.stack([_where(b, theta, v) for v in ways.mT], dim=1)
    predicted = (2 * torch.tensor(RISES, dtype=torch.float64)[:, None] / curvature).sqrt()
    found = hs.basin(
        b.on.problem(theta), radius=100.0, rise=RISE, num_directions=straight, max_matvecs=150
    )
    return {
        "measured": measured.reshape(len(RISES), len(KINDS), PAIRS),
        "predicted": predicted.reshape(len(RISES), len(KINDS), PAIRS),
        "straight": torch.tensor([w.width for w in found.of_kind("flat")]).double(),
    }


def _where(b: Bottom, theta: Tensor, v: Tensor) -> Tensor:
    """Distances along ±v at which the loss has risen by each of RISES, on the worse side: (rises,).

    From distances in ratios of 2 %, which is how well they are known.
    """
    t = torch.logspace(-4, 2.5, 756, dtype=torch.float64)
    both = torch.cat([t, -t])
    losses = b.on.losses(theta + both[:, None] * v).reshape(2, -1).amax(0)
    above = [losses >= rise for rise in RISES]
    return torch.stack(
        [t[hit.nonzero()[0, 0]] if bool(hit.any()) else t.new_tensor(torch.inf) for hit in above]
    )


def beyond(found: Arrays) -> Claim:
    """Yes if from every network the bottom can be followed as far as |θ| away, at zero loss.

    In part if from half of them. Zero loss: below 1e-9 at every point of the way.
    """
    far = found["distance"].amax(1) / found["norm"]
    ok = (far >= 1) & (found["loss"].amax(1) <= 10 * FITTED)
    share = float(ok.double().mean())
    holds = YES if share == 1 else PARTLY if share >= 0.5 else NO
    flat = found["straight"] / found["norm"][:, None]
    return Claim(
        "The bottom is flat beyond wide basins, at a global scale",
        f"along the bottom, which is curved, {spread(far)} |θ| away at a loss of at most "
        f"{float(found['loss'].max()):.1e}; straight on along flat directions the loss rises by "
        f"{RISE:g} after {spread(flat)} |θ|, and on the line between both ends of the walk to "
        f"{spread(found['line'].amax(1))}",
        holds,
        "sagun/beyond-basins",
        tuple(f"seed {i}: {float(x):.2f}" for i, x in enumerate(far)) if holds == NO else (),
    )


def used(found: Arrays) -> Claim:
    """Yes if at zero loss weights and trace of H are lowered by a tenth from every network.

    In part if one of them is.
    """
    norms = found["norms"][:, 2] / found["norms"][:, 0]
    traces = found["traces"][:, 3] / found["traces"][:, 0]
    zero = bool((found["losses"] <= 10 * FITTED).all())
    good = [bool((x <= 0.9).all()) for x in (norms, traces)]
    holds = YES if all(good) and zero else PARTLY if any(good) and zero else NO
    tests = found["tests"] / found["tests"][:, :1]
    return Claim(
        "The directions of zero curvature may be used",
        f"walks in the null space at zero loss: down |θ| to {spread(norms)} of it, down the trace "
        f"of H to {spread(traces)} of it; the loss on other digits goes to {spread(tests[:, 2])} "
        f"and {spread(tests[:, 3])} of what it was, on the walk away to {spread(tests[:, 1])}",
        holds,
        "sagun/zero-directions",
        tuple(f"seed {i}: {float(x):.2f}" for i, x in enumerate(traces)) if holds == NO else (),
    )


def basins(found: Arrays) -> Claim:
    """Yes if √(2 rise/curvature) is the width to a factor of 1.25 for 90 % of the directions.

    Of all kinds and rises; only when ... names the kinds for which it is so at every rise.
    """
    ratio = found["measured"] / found["predicted"]
    near = (ratio <= 1.25) & (ratio >= 0.8)
    good = (near.double().mean((0, 3)) >= 0.9).all(0)
    right = [kind for kind, ok in zip(KINDS, good.tolist(), strict=True) if ok]
    holds = YES if bool(good.all()) else NO if not right else PARTLY
    if holds == PARTLY:
        holds = f"only when directions are {' or '.join(right)}"
    by_rise = [
        f"{kind} {spread(ratio[:, :, j].flatten())}"
        for j, kind in enumerate(KINDS)
        if kind != "flat"
    ]
    flat = found["measured"][:, :, KINDS.index("flat")] / found["norm"][:, None, None]
    widths = ", ".join(
        f"{spread(flat[:, i].flatten())} at {rise:g}" for i, rise in enumerate(RISES)
    )
    return Claim(
        "The Hessian quantifies shape and width of basins",
        f"width over √(2 rise/curvature), for rises of {', '.join(f'{r:g}' for r in RISES)}: "
        f"{', '.join(by_rise)}. Along flat directions, where that is without end, it is {widths}"
        " |θ|",
        holds,
        "landscapes/basins",
        tuple(by_rise) if holds == NO else (),
    )


def draw(found: Arrays) -> Figure:
    """Loss along the walk and along lines; widths."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i in range(len(found["norm"])):
        far = found["distance"][i] / found["norm"][i]
        left.plot(far, found["loss"][i].clamp(min=1e-32), color=POSITIVE, lw=1.2,
                  label="along the bottom" if i == 0 else None)  # fmt: skip
        t = torch.linspace(0, 1, found["line"].shape[1]) * far[-1]
        left.plot(t, found["line"][i].clamp(min=1e-32), color=NEGATIVE, lw=1,
                  label="straight between its ends" if i == 0 else None)  # fmt: skip
    left.set_yscale("log")
    left.set_xlabel("distance / |θ|")
    left.set_ylabel("loss")
    left.legend(frameon=False, fontsize=8, loc="center right")
    for j, (kind, colour) in enumerate(zip(KINDS, (NEGATIVE, MARK, POSITIVE), strict=True)):
        x, y = (found[k][:, :, j].flatten() for k in ("predicted", "measured"))
        keep = y.isfinite()
        right.plot(x[keep], y[keep], "o", ms=3.5, color=colour, alpha=0.7, label=kind)
    ends = torch.tensor([1e-3, 1e5])
    right.plot(ends, ends, "--", color=ZERO, lw=1)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("√(2 rise / curvature)")
    right.set_ylabel("width that was measured")
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _text(found: Arrays) -> str:
    names = "start", "away", "down |θ|", "down the trace"
    rows = [
        [
            name,
            f"{float(found['losses'][:, i].max()):.1e}",
            spread(found["norms"][:, i]),
            spread(found["traces"][:, i]),
            spread(found["tests"][:, i]),
        ]
        for i, name in enumerate(names)
    ]
    b = bottom()
    n, targets = found["norms"].shape[0], b.on.targets
    total = sum((a + 1) * c for a, c in zip(b.on.layers, b.on.layers[1:], strict=False))
    return (
        f"{n} networks, {b.on.words}: {total} parameters, {targets} numbers to fit, all of them "
        f"fitted to rounding, so at least {total - targets} directions are flat. A walk goes a "
        "step in the null space of the Jacobian and comes back to zero loss by Gauss-Newton "
        "steps. Straight walks are those of `hs.basin`; widths are where the loss has risen on "
        "the worse side, by a scan of the line.\n\n"
        + table(["walk", "loss, at most", "norm of θ", "trace of H", "loss on other digits"], rows)
    )
