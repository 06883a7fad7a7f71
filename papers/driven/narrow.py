"""784-2-10 after convergence: what three trainers reach, and whether a gradient vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from common.claims import NO, Claim, spread, verdict
from common.data import digest, digits
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import ZERO
from matplotlib.figure import Figure
from sagun import networks
from torch import Tensor

import hesscope as hs
from driven import lbfgs, newton
from driven.sizes import NAMED, Sizes
from driven.small import COLOURS

SIGMA, LR = 0.1, 0.05  # of the page of all figures
BETAS = (10.0, 30.0, 100.0, 1e3, 1e4)
FACTOR = 1.2  # by which |θ| grows in the last half of the steps of a point that goes far


def measure(run: Run, s: Sizes) -> Section:
    """The trainers one after the other."""
    field, start = _field(s)
    key = (digest(field.X, field.t, start.theta), SIGMA)
    descent = (key, LR, s.narrow_descent)
    found = {
        "gradient descent": run.arrays(
            "narrow/gradient descent", descent, lambda: _descent(field, start, s)
        ),
        "L-BFGS": run.arrays(
            "narrow/L-BFGS", (key, s.narrow_lbfgs),
            lambda: _described(field, lbfgs.ends(field, start.theta, s.narrow_lbfgs)),
        ),
        "Newton": _newton(run, field, start.theta, key, s),
    }  # fmt: skip
    numbers = {
        kind: {k: f[k] for k in ("losses", "gradient_norms", "tops", "lowest", "lengths")}
        for kind, f in found.items()
    }
    return Section(_text(found, s), judged(found), _draw(found), numbers)


def _field(s: Sizes) -> tuple[newton.Field, hs.ensemble.Ensemble]:
    """Without the inputs that are zero in all images: their weights change nothing."""
    X, y = digits(examples=s.examples, pool=s.pool)
    live = (X != 0).any(0).nonzero().flatten()
    start = networks.starts((X.shape[1], 2, 10), s.narrow_seeds, SIGMA).theta
    weights = (torch.arange(2)[:, None] * X.shape[1] + live).flatten()
    theta = torch.cat([start[:, weights], start[:, 2 * X.shape[1] :]], 1)
    layers = (len(live), 2, 10)
    e = hs.ensemble.Ensemble(layers, "relu", theta)
    return newton.Field(layers, X[:, live], y, "cross_entropy"), e


def _descent(field: newton.Field, start: hs.ensemble.Ensemble, s: Sizes) -> Arrays:
    steps = s.narrow_descent
    t = hs.ensemble.train(
        start, field.X, field.t, lr=LR, steps=steps, tolerance=NAMED, record=(steps // 2,)
    )
    found = _described(field, {"theta": t.ensemble.theta})
    return {**found, "before": t.snapshots[steps // 2].theta.norm(dim=1)}


def _newton(
    run: Run, field: newton.Field, start: Tensor, key: tuple[object, ...], s: Sizes
) -> Arrays:
    """Each start by itself, in stages of growing β; norms with kinks rounded, and on ReLU."""
    parts = []
    for i, theta in enumerate(start):
        name, conditions = f"narrow/Newton/{i}", (key, BETAS, s.narrow_newton)
        parts.append(run.arrays(name, conditions, lambda t=theta: _stages(field, t[None], s)))
    return networks.together(parts)


def _stages(field: newton.Field, theta: Tensor, s: Sizes) -> Arrays:
    smooth, own, losses, lengths = [], [], [], []
    for beta, steps in zip(BETAS, s.narrow_newton, strict=True):
        at = replace(field, beta=beta)
        theta, _ = newton.descended(at, theta, steps, NAMED / 100)
        smooth.append(at.norms(theta))
        own.append(field.norms(theta))
        losses.append(field.losses(theta))
        lengths.append(theta.norm(dim=1))
    rows = {"smooth": smooth, "own": own, "stage_losses": losses, "stage_lengths": lengths}
    found = _described(field, {"theta": theta})
    return {**found, **{name: torch.stack(row, 1) for name, row in rows.items()},
            "before": lengths[0]}  # fmt: skip


def _described(field: newton.Field, found: Arrays) -> Arrays:
    """With loss, gradient and both ends of the exact spectrum."""
    theta = found["theta"]
    e = hs.ensemble.Ensemble(field.layers, "relu", theta)
    ends = [_spectrum(networks.problem(e, i, field.X, field.t)) for i in range(len(e))]
    return {
        "theta": theta, "losses": field.losses(theta), "gradient_norms": field.norms(theta),
        "tops": torch.stack([s.eigenvalues[-1] for s in ends]),
        "lowest": torch.stack([s.eigenvalues[0] for s in ends]),
        "errors": torch.tensor([s.error for s in ends], dtype=torch.float64),
        "negative": torch.tensor([s.count(high=-s.error) for s in ends]),
        "lengths": theta.norm(dim=1), "before": theta.norm(dim=1),
    }  # fmt: skip


def _spectrum(problem: hs.Problem) -> hs.Spectrum:
    return hs.spectrum(hs.Hessian(problem), check=False)


def judged(found: dict[str, Arrays]) -> Sequence[Claim]:
    """The statement about figure 1, trainer by trainer; and whether a point is near at all."""
    return [not_zero(found), negative(found), recedes(found)]


def not_zero(found: dict[str, Arrays]) -> Claim:
    """Holds if no trainer gets below NAMED in any start; in part if in less than half."""
    every = torch.cat([f["gradient_norms"] >= NAMED for f in found.values()])
    each = tuple(f"{kind} {spread(f['gradient_norms'])}" for kind, f in found.items())
    holds = verdict(bool(every.all()), float(every.double().mean()) > 0.5)
    return Claim(
        "784-2-10 stops where the gradient is not zero, with each of three trainers",
        f"gradient norm at the end: {'; '.join(each)} ({len(found['Newton']['losses'])} starts)",
        holds,
        "sagun/critical",
        each if holds == NO else (),
    )


def negative(found: dict[str, Arrays]) -> Claim:
    """Holds if λmin is below zero beyond its error in every start of every trainer."""
    below = {kind: f["lowest"] < -f["errors"] for kind, f in found.items()}
    every = torch.cat(list(below.values()))
    each = tuple(
        f"{kind} {float(below[kind].double().mean()):.0%}, |λmin|/λmax "
        f"{spread(f['lowest'].abs() / f['tops'])}, {spread(f['negative'])} of them"
        for kind, f in found.items()
    )
    holds = verdict(bool(every.all()), float(every.double().mean()) > 0.5)
    return Claim(
        "784-2-10 still has negative eigenvalues there, small in size",
        f"λmin certainly negative: {'; '.join(each)}",
        holds,
        "sagun/critical",
        each if holds == NO else (),
    )


def recedes(found: dict[str, Arrays]) -> Claim:
    """Holds if |θ| is FACTOR larger after Newton's last stage than after its first, in every start.

    In part if in most.
    """
    f = found["Newton"]
    grows = f["lengths"] / f["before"]
    far = grows > FACTOR
    holds = verdict(bool(far.all()), float(far.double().mean()) > 0.5)
    return Claim(
        "No critical point is near: while the loss falls, the weights go on growing",
        f"|θ| after the last Newton stage over that after the first: {spread(grows)}, the loss "
        f"{spread(f['losses'] / f['stage_losses'][:, 0])}",
        holds,
        "sagun/critical",
        tuple(f"start {i}: {float(g):.3g}" for i, g in enumerate(grows)) if holds == NO else (),
    )


def _text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [kind, spread(f["gradient_norms"]), spread(f["losses"]), spread(f["tops"]),
         spread(f["lowest"]), spread(f["negative"]), spread(f["lengths"])]
        for kind, f in found.items()
    ]  # fmt: skip
    stages = [
        [f"{beta:g}", spread(f["smooth"][:, i]), spread(f["own"][:, i]),
         spread(f["stage_losses"][:, i]), spread(f["stage_lengths"][:, i])]
        for f in (found["Newton"],) for i, beta in enumerate(BETAS)
    ]  # fmt: skip
    return (
        f"784-2-10 on {s.examples:,} digits, {s.narrow_seeds} starts. Gradient descent: lr = "
        f"{LR:g}, {s.narrow_descent:,} steps; L-BFGS: strong Wolfe, {s.narrow_lbfgs} iterations at "
        f"most; Newton: at most {sum(s.narrow_newton)} steps with the exact |H| on rounded "
        "kinks.\n\n"
        + table(["trainer", "gradient norm", "loss", "λmax", "λmin", "negative eigenvalues",
                 "norm of θ"], rows)
        + "\n\nNewton's stages. With kinks rounded the norm is one of the derivatives between 0 "
        "and 1 that a kink allows:\n\n"
        + table(["β", "gradient norm, rounded", "of ReLU", "loss", "norm of θ"], stages)
        + "\n\nRounding the kinks leaves the norm about as large, so that kinks alone are not what "
        "is in the way. The loss goes down as the weights grow: two units carry ten classes, "
        "whose boundaries are angles in a plane, and long weights draw these sharper. More steps "
        "may go further; these did not come to an end."
    )  # fmt: skip


def _draw(found: dict[str, Arrays]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, f in found.items():
        for ax, what in ((left, "gradient_norms"), (right, "tops")):
            ax.plot(f["losses"], f[what], "o", color=COLOURS[kind], label=kind, ms=5)
    left.axhline(NAMED, color=ZERO, lw=0.9, ls="--")
    left.set_ylabel("gradient norm (dashed: 0.0001)")
    right.set_ylabel("λmax")
    right.axhline(2 / LR, color=ZERO, lw=0.9, ls="--")
    right.set_title(f"dashed: 2/lr of gradient descent, {2 / LR:g}", fontsize=10)
    for ax in (left, right):
        ax.set(yscale="log", xlabel="loss at the end")
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure
