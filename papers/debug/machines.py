"""Support-vector machines and logistic regression: Hessians in closed form, and convexity.

L(w, b) = λ/2 |w|² + mean φ(y (w'x + b)), with φ(m) = max(0, 1 - m), its square, or log(1 + e^-m).
"""

from __future__ import annotations

from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, number, verdict
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import hesscope as hs

LAMBDA = 0.1
HINGE, SQUARED, LOGISTIC, TURNED = "hinge", "squared hinge", "logistic", "hinge upside down"
PHI = {
    HINGE: lambda m: F.relu(1 - m),
    SQUARED: lambda m: F.relu(1 - m).square(),
    LOGISTIC: lambda m: F.softplus(-m),
    TURNED: lambda m: -F.relu(1 - m),
}
SECOND = {
    HINGE: torch.zeros_like,
    SQUARED: lambda m: 2.0 * (m < 1).double(),
    LOGISTIC: lambda m: m.sigmoid() * (-m).sigmoid(),
    TURNED: torch.zeros_like,
}
EXACT = 1e-12  # relative
RADIUS = 0.5  # over which differences see the kinks


def measure(run: Run, sizes: Any) -> Section:
    """Hessians at random points, chords, and the bias alone."""
    found = {
        name: run.arrays(
            f"machines/{name.replace(' ', '-')}",
            (sizes.machines, sizes.seeds, LAMBDA, RADIUS),
            lambda name=name: looked_at(name, *sizes.machines, sizes.seeds),
        )
        for name in PHI
    }
    claims = [
        closed(found),
        definite(found),
        convex(found),
        shown(found, f"{sizes.machines[1] * sizes.seeds:,}"),
    ]
    return Section(text(found, sizes), claims, draw())


def examples(seed: int, num: int = 60, inputs: int = 5) -> tuple[Tensor, Tensor]:
    """Two clouds, as many of each label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.where(torch.arange(num) % 2 == 0, 1.0, -1.0).double()
    X = torch.randn(num, inputs, generator=generator, dtype=torch.float64)
    X[:, 0] += y
    return X, y


def loss(name: str, theta: Tensor, X: Tensor, y: Tensor, *, bias: bool = True) -> Tensor:
    """L at θ = (w, b), or at θ = w."""
    w, b = (theta[:-1], theta[-1]) if bias else (theta, 0.0)
    return LAMBDA / 2 * w.square().sum() + PHI[name](y * (X @ w + b)).mean()


def hessian(name: str, theta: Tensor, X: Tensor, y: Tensor) -> Tensor:
    """λI on w and 0 on b, plus the mean of φ''(m) (x, 1)(x, 1)'."""
    Z = torch.cat([X, torch.ones(len(X), 1).double()], 1)
    weights = SECOND[name](y * (Z @ theta)) / len(X)
    penalty = torch.full((len(theta),), LAMBDA, dtype=torch.float64)
    penalty[-1] = 0
    return torch.diag(penalty) + Z.T @ (weights[:, None] * Z)


def looked_at(name: str, points: int, chords: int, seeds: int) -> Arrays:
    """Errors of `hs.Hessian`, both ends of its spectrum with and without bias, chords above."""
    errors, lows, bare, seen, above = [], [], [], [], 0
    for seed in range(seeds):
        X, y = examples(seed)
        n = X.shape[1] + 1
        theta = torch.randn(points, n, generator=torch.Generator().manual_seed(seed)).double()
        for t in theta:
            problem = hs.Problem.from_function(lambda u, X=X, y=y: loss(name, u, X, y), t)
            H, ours = hs.Hessian(problem).to_dense(), hessian(name, t, X, y)
            errors.append(float((H - ours).norm() / ours.norm()))
            lows.append(hs.spectrum(hs.Hessian(problem)).eigenvalues)
            alone = hs.Problem.from_function(
                lambda u, X=X, y=y: loss(name, u, X, y, bias=False), t[:-1]
            )
            bare.append(hs.spectrum(hs.Hessian(alone)).eigenvalues[0])
            wide = hs.Hessian(problem, hs.CentralDifference(RADIUS))
            unit = F.one_hot(torch.tensor(n - 1), n).double()
            seen.append(float(unit @ (wide @ unit)))
        above += bent_down(name, X, y, chords, seed)
    return {
        "errors": torch.tensor(errors),
        "spectra": torch.stack(lows),
        "bare": torch.stack(bare),
        "seen": torch.tensor(seen),
        "above": torch.tensor(above),
        "flat": torch.tensor([flat(name, *examples(seed)) for seed in range(seeds)]),
    }


def bent_down(name: str, X: Tensor, y: Tensor, chords: int, seed: int) -> int:
    """How many random chords lie below the loss in their middle by more than rounding."""
    generator = torch.Generator().manual_seed(1_000 + seed)
    ends = 2 * torch.randn(chords, 2, X.shape[1] + 1, generator=generator).double()
    found = torch.func.vmap(torch.func.vmap(lambda t: loss(name, t, X, y)))(ends)
    middle = torch.func.vmap(lambda t: loss(name, t, X, y))(ends.mean(1))
    return int((middle > found.mean(1) + 1e-12).sum())


def flat(name: str, X: Tensor, y: Tensor) -> float:
    """Between w = 0 and b from -1/2 to 1/2: by how much the loss differs."""
    theta = torch.zeros(101, X.shape[1] + 1).double()
    theta[:, -1] = torch.linspace(-0.5, 0.5, 101).double()
    values = torch.stack([loss(name, t, X, y) for t in theta])
    return float(values.max() - values.min())


def closed(found: dict[str, Arrays]) -> Claim:
    """YES if `hs.Hessian` is the closed form to EXACT at all points."""
    worst = {name: float(part["errors"].max()) for name, part in found.items() if name != TURNED}
    return Claim(
        "The Hessian is λI on the weights and 0 on the bias for the hinge, plus the mean of "
        "φ'' (x, 1)(x, 1)' for the squared hinge and logistic regression",
        "largest relative difference to hs.Hessian: "
        + ", ".join(f"{name} {number(error)}" for name, error in worst.items()),
        verdict(max(worst.values()) <= EXACT, min(worst.values()) <= EXACT),
        "debugging/svm",
    )


def definite(found: dict[str, Arrays]) -> Claim:
    """By the least eigenvalue at all points with the bias and without.

    YES if both are positive; "only when" without a bias if those are; NO if neither.
    """
    part = found[HINGE]
    with_bias, without = part["spectra"][:, 0], part["bare"]
    holds = NO
    if float(without.min()) > 0:
        holds = (
            YES
            if float(with_bias.min()) > 0
            else "only when there is no bias, or it is penalised too"
        )
    return Claim(
        "The Hessian of the L2-SVM is positive definite",
        f"least eigenvalue with bias {number(float(with_bias.min()))} to "
        f"{number(float(with_bias.max()))}, "
        f"without {number(float(without.min()))}; with w = 0 and as many of each label the loss is "
        "the "
        f"same for b from -1/2 to 1/2 (to {number(float(part['flat'].max()))})",
        holds,
        "debugging/svm",
        (HINGE, "without bias", "other λ") if holds == NO else (),
    )


def convex(found: dict[str, Arrays]) -> Claim:
    """YES if no chord of the three losses lies below them."""
    above = {name: int(part["above"]) for name, part in found.items() if name != TURNED}
    return Claim(
        "The L2-SVM is a convex problem, and so are the squared hinge and logistic regression",
        "chords that the loss rises above: "
        + ", ".join(f"{name} {n}" for name, n in above.items()),
        YES if not any(above.values()) else PARTLY if above[HINGE] == 0 else NO,
        "debugging/svm",
        tuple(above) if above[HINGE] else (),
    )


def shown(found: dict[str, Arrays], chords: str) -> Claim:
    """YES if among losses with a Hessian without negative eigenvalues none has a chord below it.

    "Only when the gradient has no jumps" if the smooth ones have none.
    """
    low = {name: float(part["spectra"][:, 0].min()) for name, part in found.items()}
    semi = [name for name in found if low[name] > -1e-12]
    bad = [name for name in semi if int(found[name]["above"])]
    holds = YES if not bad else NO
    if bad and not set(bad) & {SQUARED, LOGISTIC}:
        holds = "only when the gradient has no jumps"
    turned = found[TURNED]
    return Claim(
        "A Hessian without negative eigenvalues wherever it exists shows that the problem is "
        "convex",
        "the hinge upside down has the same Hessian, λI and 0 (least eigenvalue "
        f"{number(low[TURNED])}), "
        f"and rises above {int(turned['above']):,} chords of {chords}; the curvature of the bias "
        "over a radius "
        "of "
        f"{RADIUS:g}, by hs.CentralDifference: hinge "
        f"{number(float(found[HINGE]['seen'].median()))}, "
        f"upside down {number(float(turned['seen'].median()))}",
        holds,
        "debugging/svm",
        tuple(bad) if holds == NO else (),
    )


def text(found: dict[str, Arrays], sizes: Any) -> str:
    """Ends of the spectra."""
    points, chords, seeds = *sizes.machines, sizes.seeds
    rows = [
        [
            name,
            number(float(part["errors"].max())),
            f"{number(float(part['spectra'][:, 0].min()))} to "
            f"{number(float(part['spectra'][:, 0].max()))}",
            f"{number(float(part['spectra'][:, -1].min()))} to "
            f"{number(float(part['spectra'][:, -1].max()))}",
            f"{int(part['above']):,}",
            number(float(part["seen"].median())),
        ]
        for name, part in found.items()
    ]
    head = ["loss", "difference to the closed form", "least eigenvalue", "largest"]
    head += ["chords below the loss", f"curvature of b over {RADIUS:g}"]
    return (
        f"L(w, b) = λ/2 |w|² + mean φ(y (w'x + b)), λ = {LAMBDA:g}, 60 points in five dimensions; "
        f"{points} random (w, b) and {chords:,} random chords on each of {seeds} data "
        f"sets.\n\n{table(head, rows)}\n\n"
        "All that bends the hinge are its kinks, which second derivatives do not see: they see the "
        "same "
        "in its mirror image. That the hinge is convex follows from its being a maximum of linear "
        "functions, not from its Hessian. Without a penalty of the bias nothing holds b but the "
        "kinks, "
        "so its best value need not be a single one."
    )


def draw() -> Figure:
    """The losses along the bias, with w = 0 and along a random line."""
    X, y = examples(0)
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2))
    t = torch.linspace(-3, 3, 301).double()
    direction = torch.zeros(X.shape[1] + 1).double()
    direction[-1] = 1
    line = torch.randn(len(direction), generator=torch.Generator().manual_seed(5)).double()
    for ax, v, label in zip(
        axes, (direction, line), ("b, with w = 0", "along a random direction"), strict=True
    ):
        for name, color in zip(PHI, (POSITIVE, MARK, ZERO, NEGATIVE), strict=True):
            values = torch.stack([loss(name, s * v, X, y) for s in t])
            ax.plot(t, values - loss(name, 0 * v, X, y), color=color, lw=1.4, label=name)
        ax.set(xlabel=label, ylim=(-3.2, 6))
    axes[0].set_ylabel("loss less that at 0")
    axes[0].legend(frameon=False, fontsize=8, loc="upper center")
    figure.tight_layout()
    return figure
