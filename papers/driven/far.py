"""Classes that can be separated: the gradient falls like 1/t, and is zero at infinity alone."""

from __future__ import annotations

import torch
from common.claims import NO, Claim, spread, verdict
from common.data import blobs
from common.keeping import Arrays, Run
from common.study import Section
from common.style import NEGATIVE, POSITIVE, ZERO
from matplotlib.figure import Figure
from sagun import networks

import hesscope as hs
from driven import newton
from driven.sizes import NAMED, Sizes
from driven.small import LAYERS, SIGMA

STD, LR, BETA = 0.5, 1.0, 30.0
NEAR = (-1.2, -0.8)  # slopes that are called 1/t


def measure(run: Run, s: Sizes) -> Section:
    """The norm along gradient descent and along Newton steps, from the same starts."""
    key = (s.points, s.seeds, s.far, s.far_newton)
    found = run.arrays("far", key, lambda: _norms(s))
    return Section(_text(s), [slope(found, s), newtons(found)], _draw(found, s), _numbers(found))


def _numbers(found: Arrays) -> Arrays:
    return {
        "descent": found["descent"].median(1).values,
        "newton": found["newton"].median(1).values,
    }


def _norms(s: Sizes) -> Arrays:
    X, y = blobs(s.points, STD)
    field = newton.Field(LAYERS, X, y, "cross_entropy")
    start = networks.starts(LAYERS, s.seeds, SIGMA)
    t = hs.ensemble.train(start, X, y, lr=LR, steps=max(s.far), record=s.far)
    thetas = [t.snapshots[step].theta for step in s.far]
    at = newton.Field(LAYERS, X, y, "cross_entropy", BETA)
    theta, norms = start.theta, [field.norms(start.theta)]
    for _ in range(s.far_newton):
        theta, _ = newton.descended(at, theta, 1, 0.0)
        norms.append(field.norms(theta))
    return {
        "descent": torch.stack([field.norms(x) for x in thetas]),
        "lengths": torch.stack([x.norm(dim=1) for x in thetas]),
        "newton": torch.stack(norms),
    }  # fmt: skip


def slope(found: Arrays, s: Sizes) -> Claim:
    """Holds if d log norm / d log steps of the last decade is in NEAR in every seed; part: most."""
    steps = torch.tensor(s.far).double()
    before = int((steps <= steps[-1] / 10).nonzero().max())
    change = (found["descent"][-1] / found["descent"][before]).log()
    slopes = change / (steps[-1] / steps[before]).log()
    near = (slopes >= NEAR[0]) & (slopes <= NEAR[1])
    holds = verdict(bool(near.all()), float(near.double().mean()) > 0.5)
    return Claim(
        "Where classes can be separated, gradient descent only brings the norm down like 1/t",
        f"slope of log norm over log steps, {steps[before]:,.0f} to {steps[-1]:,.0f}: "
        f"{spread(slopes)}; |θ| grows by {spread(found['lengths'][-1] / found['lengths'][before])}",
        holds,
        "sagun/critical",
        tuple(f"start {i}: {float(x):.2f}" for i, x in enumerate(slopes)) if holds == NO else (),
    )


def newtons(found: Arrays) -> Claim:
    """Holds if all get below NAMED in the steps that were taken; in part if most do."""
    least = found["newton"].amin(0)
    below = least < NAMED
    first = (found["newton"] < NAMED).double().argmax(0)[below].double()
    holds = verdict(bool(below.all()), float(below.double().mean()) > 0.5)
    steps = spread(first) if len(first) else "none"
    return Claim(
        "Newton steps reach the norm that the paper names there in few steps",
        f"below {NAMED:g} in {float(below.double().mean()):.0%}, after {steps} steps",
        holds,
        "",
        tuple(f"start {i}: {float(x):.1e}" for i, x in enumerate(least)) if holds == NO else (),
    )


def _text(s: Sizes) -> str:
    return (
        f"2-6-6-2 on blobs of standard deviation {STD:g}, {s.seeds} starts; gradient descent with "
        f"lr = {LR:g}, {max(s.far):,} steps, and Newton steps with |H| on kinks rounded with β = "
        f"{BETA:g}. Once every point is on its side, longer weights always lower the loss: its "
        "infimum lies at infinity, and no point on the way has a gradient of zero. Descent goes "
        "there ever more slowly. A Newton step divides what is left by about e. Lines: gradient "
        "norms of ReLU. Dashed: 0.0001; dotted: a slope of -1."
    )


def _draw(found: Arrays, s: Sizes) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(s.far, found["descent"], color=NEGATIVE, lw=0.8, alpha=0.6)
    end = float(found["descent"][-1].median())
    left.plot(s.far, [end * s.far[-1] / step for step in s.far], color="black", lw=1, ls=":")
    left.set(xscale="log", xlabel="steps of gradient descent", ylabel="gradient norm")
    right.plot(found["newton"], color=POSITIVE, lw=0.8, alpha=0.6)
    right.set(xlabel="Newton steps")
    for ax in (left, right):
        ax.axhline(NAMED, color=ZERO, lw=0.9, ls="--")
        ax.set_yscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
