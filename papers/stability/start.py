"""The first steps: which learning rates survive, with and without a warm-up; and the catapult."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common.claims import Claim, number, spread, verdict
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import hesscope as hs
from stability.training import SQUARED, Course, examples, network

TIMES = tuple(2 ** (k / 2) for k in range(-2, 13))  # lr over 2/λmax at the start
SETTINGS = {"tanh": "tanh", "ReLU": "relu"}
CATAPULT = (0.8, 0.95, 1.05, 1.2, 1.4, 1.6, 1.8, 1.95, 2.05, 2.2, 2.4)  # lr over 2/λ
WIDTHS = (16, 64, 1024)
CALM = 100  # steps after which a catapult has landed


def warm_up(run: Run, sizes: Any) -> Section:
    """All learning rates, from the first step on and approached."""
    found = {
        name: run.arrays(
            f"start/{activation}",
            (sizes.warm, sizes.seeds, TIMES),
            lambda activation=activation: survived(activation, *sizes.warm, sizes.seeds),
        )
        for name, activation in list(SETTINGS.items())[: sizes.settings]
    }
    return Section(text(found, sizes), [bears_more(found), flattened(found)], draw(found))


def survived(activation: str, warm: int, steps: int, seeds: int) -> Arrays:
    """By seed and lr: whether the loss ends below its start, and λmax before and after warm-up."""
    course = Course(0.0, steps, 1, activation)
    X, y = examples(course.examples, SQUARED)
    tops, alive, after = [], [], []
    for seed in range(seeds):
        model = network(course, seed)
        tops.append(top(hs.Problem(model, F.mse_loss, (X, y))))
        theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        e = hs.ensemble.Ensemble((49, course.width, 10), activation, theta.repeat(len(TIMES), 1))
        lrs = torch.tensor(TIMES).double() * 2 / tops[-1]
        first = hs.ensemble.losses(e, X, y, loss="mse")
        constant, _ = run_on(e, X, y, lrs, steps)
        warmed, middle = run_on(e, X, y, lrs, steps, warm)
        alive.append(torch.stack([ends < first for ends in (constant, warmed)]))
        after.append(torch.tensor([
            top(hs.Problem(middle.member(i), F.mse_loss, (X, y))) if bool(ok) else torch.nan
            for i, ok in enumerate(alive[-1][1])
        ]))  # fmt: skip
    return {"top": torch.tensor(tops), "alive": torch.stack(alive), "after": torch.stack(after)}


def top(problem: hs.Problem) -> float:
    """λmax."""
    return float(hs.eigsh(hs.Hessian(problem), 1, verify=False, seed=0).eigenvalues[0])


def run_on(
    e: hs.ensemble.Ensemble, X: Tensor, y: Tensor, lrs: Tensor, steps: int, warm: int = 0
) -> tuple[Tensor, hs.ensemble.Ensemble]:
    """The last losses, and the networks after the warm-up; each row has its own lr."""
    middle = e
    for step in range(steps):
        share = min(1.0, (step + 1) / warm) if warm else 1.0
        g = hs.ensemble.gradients(e, X, y, loss="mse").nan_to_num(0.0, 0.0, 0.0)
        e = replace(e, theta=e.theta - share * lrs[:, None] * g)
        if step == warm - 1:
            middle = e
    losses = hs.ensemble.losses(e, X, y, loss="mse")
    return losses.nan_to_num(torch.inf), middle


def largest(alive: Tensor) -> Tensor:
    """(seed,) the largest of TIMES up to which all survive; 0 where the first does not."""
    run_of = alive.long().cumprod(-1).sum(-1)
    return torch.tensor([0.0, *TIMES])[run_of]


def bears_more(found: dict[str, Arrays]) -> Claim:
    """YES if the largest lr that survives is larger with warm-up in each seed and network.

    PARTLY if in the median of one network.
    """
    both = {
        name: (largest(p["alive"][:, 0]), largest(p["alive"][:, 1])) for name, p in found.items()
    }
    always = all(bool((warm > plain).all()) for plain, warm in both.values())
    some = any(float(warm.median()) > float(plain.median()) for plain, warm in both.values())
    told = "; ".join(
        f"{name}: without {spread(plain)}, with {spread(warm)}"
        for name, (plain, warm) in both.items()
    )
    return Claim(
        "A warm-up lets training survive larger learning rates",
        f"largest lr that survives, in 2/λmax of the start: {told}",
        verdict(always, some),
        "landscapes/monitor",
        ()
        if some
        else (*found, "lr to 64 times 2/λmax", "a loss below that of the start is enough"),
    )


def flattened(found: dict[str, Arrays]) -> Claim:
    """YES if after warm-ups to lr beyond 2/λmax of the start λmax is below 2/lr · 1.1 in each run.

    PARTLY if in most runs.
    """
    times = torch.tensor(TIMES)
    ratios = {
        name: part["after"] * times * part["top"][:, None] ** -1 for name, part in found.items()
    }
    some = {
        **{name: ratio[:, times > 1] for name, ratio in ratios.items()},
        "lr up to four times the limit of the start": torch.cat(
            [ratio[:, (times > 1) & (times < 4.1)] for ratio in ratios.values()]
        ),
    }
    some = {name: ratio[ratio.isfinite()] for name, ratio in some.items()}
    ratio = torch.cat([some[name] for name in found])
    low = (ratio <= 1.1).double().mean() if len(ratio) else torch.tensor(0.0)
    return Claim(
        "A warm-up drives λmax down to what the learning rate bears",
        "λmax · lr/2 at its end, where lr is beyond the limit of the start: "
        f"{spread(ratio) if len(ratio) else 'no run'}",
        verdict(bool(low == 1), float(low) > 0.5),
        "landscapes/training-flattens",
        ()
        if float(low) > 0.5
        else tuple(f"{name}: {spread(x)}" for name, x in some.items() if len(x)),
    )


def text(found: dict[str, Arrays], sizes: Any) -> str:
    """Who survives."""
    warm, steps = sizes.warm
    rows = [
        [
            name,
            spread(part["top"]),
            spread(largest(part["alive"][:, 0])),
            spread(largest(part["alive"][:, 1])),
        ]
        for name, part in found.items()
    ]
    head = ["network", "λmax of the start", "largest lr, none", "largest lr, warm-up"]
    return (
        "The perceptrons of the first part, squared error, gradient descent with lr of "
        f"{number(TIMES[0])} to {number(TIMES[-1])} times 2/λmax of their start, {steps} steps. A "
        "run survives if it "
        f"ends below the loss that it began with; the warm-up raises lr from zero over {warm} "
        "steps. The largest lr is "
        f"that up to which all survive, in units of 2/λmax.\n\n{table(head, rows)}"
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """The share of seeds that survive, over the learning rate."""
    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3.2), squeeze=False)
    for ax, (name, part) in zip(axes[0], found.items(), strict=True):
        shares = 100 * part["alive"].double().mean(0)
        for share, word, color in zip(
            shares, ("no warm-up", "warm-up"), (NEGATIVE, POSITIVE), strict=True
        ):
            ax.plot(TIMES, share, "o-", ms=3.5, color=color, label=word)
        ax.axvline(1, color=MARK, lw=1, ls="--", label="2/λmax of the start")
        ax.axvline(2, color=ZERO, lw=1, ls=":", label="4/λmax")
        ax.set(xscale="log", xlabel="lr over 2/λmax of the start", title=name)
        ax.legend(frameon=False, fontsize=8, loc="lower left")
    axes[0, 0].set_ylabel("% of seeds that survive")
    figure.tight_layout()
    return figure


def catapult(run: Run, sizes: Any) -> Section:
    """u'v/√m trained to zero from random u and v."""
    found = {
        width: run.arrays(
            f"catapult/{width}",
            (sizes.catapult, CATAPULT),
            lambda width=width: thrown(width, *sizes.catapult),
        )
        for width in WIDTHS
    }
    return Section(catapult_text(found, sizes), [between(found)], draw_catapult(found))


def thrown(width: int, seeds: int, steps: int) -> Arrays:
    """(lr, seed): first, largest and last loss, and λmax in the end over 2/lr, by `hs.eigsh`.

    L = f²/2 with f = u'v/√m; at f = 0 its only curvature is λ = (|u|² + |v|²)/m, which is what
    the learning rate is measured by (Lewkowycz et al. 2020, section 2).
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(seeds, 2, width, generator=generator, dtype=torch.float64)
    curvature = start.square().sum((1, 2)) / width
    rows = []
    for times in CATAPULT:
        lr = (times * 2 / curvature)[:, None, None]
        theta, first, highest = start, None, torch.zeros(seeds).double()
        for _ in range(steps):
            f = theta.prod(1).sum(1) / width**0.5
            first = f.square() / 2 if first is None else first
            highest = torch.maximum(highest, f.square() / 2)
            theta = theta - lr * (f / width**0.5)[:, None, None] * theta.flip(1)
            theta = theta.clamp(-1e100, 1e100)
        last = theta.prod(1).sum(1).square() / (2 * width)
        alive = last < 1e-6
        ends = [sharpness(t) if bool(ok) else torch.nan for t, ok in zip(theta, alive, strict=True)]
        ratio = torch.tensor(ends) * lr[:, 0, 0] / 2
        rows.append(torch.stack([first, highest, last.nan_to_num(torch.inf), ratio]))
    return {"rows": torch.stack(rows)}


def sharpness(theta: Tensor) -> float:
    """λmax of f²/2 at (u, v)."""
    width = theta.shape[1]
    problem = hs.Problem.from_function(
        lambda t: (t[:width] @ t[width:]) ** 2 / (2 * width), theta.flatten()
    )
    return top(problem)


def alive(part: Arrays) -> Tensor:
    """(lr, seed) whether the loss has gone to zero."""
    return part["rows"][:, 2] < 1e-6


def between(found: dict[int, Arrays]) -> Claim:
    """YES if at the largest width all survive at 2/λ < lr < 4/λ and none beyond.

    And λmax ends below 2/lr. PARTLY if nine of ten survive below and at most one of ten beyond.
    """
    times = torch.tensor(CATAPULT)
    inside, beyond = (times > 1) & (times < 2), times > 2
    told, shares = [], (0.0, 1.0)
    for width, part in found.items():
        ok = alive(part).double()
        shares = float(ok[inside].mean()), float(ok[beyond].mean())
        told.append(
            f"{width} units: {100 * shares[0]:.0f} % between, {100 * shares[1]:.0f} % beyond"
        )
    rows = found[max(found)]["rows"]
    ratio = rows[inside][:, 3]
    ratio = ratio[ratio.isfinite()]
    rose = rows[inside][:, 1] > 1.01 * rows[inside][:, 0]
    flat = bool((ratio < 1).all()) and len(ratio) > 0
    return Claim(
        "The catapult: where 2/λ < lr < 4/λ at the start the loss rises, falls and ends where it "
        "is flatter",
        f"surviving {'; '.join(told)}; between, at {max(found)} units, the loss first rises in "
        f"{100 * float(rose.double().mean()):.0f} %, and λmax ends at {spread(ratio)} of 2/lr",
        verdict(shares == (1.0, 0.0) and flat, shares[0] >= 0.9 and shares[1] <= 0.1),
        "landscapes/training-flattens",
        () if shares[0] >= 0.9 and shares[1] <= 0.1 else tuple(f"{width} units" for width in found),
    )


def catapult_text(found: dict[int, Arrays], sizes: Any) -> str:
    """Shares by lr and width."""
    seeds, steps = sizes.catapult
    rows = [
        [
            f"{times:g}",
            *(f"{100 * float(alive(part)[i].double().mean()):.0f} %" for part in found.values()),
        ]
        for i, times in enumerate(CATAPULT)
    ]
    head = ["lr over 2/λ", *(f"{width} units" for width in found)]
    return (
        "Two linear layers of one input and one output, f = u'v/√m, L = f²/2, from normal u and v: "
        "the model in which Lewkowycz et al. (2020) found the catapult. At f = 0 its one curvature "
        "is "
        f"λ = (|u|² + |v|²)/m. {seeds} starts for each width, {steps} steps; shares that end at a "
        "loss "
        f"of zero.\n\n{table(head, rows)}"
    )


def draw_catapult(found: dict[int, Arrays]) -> Figure:
    """Shares that survive, and λmax in the end."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.3))
    for (width, part), color in zip(found.items(), (ZERO, NEGATIVE, POSITIVE), strict=True):
        share = 100 * alive(part).double().mean(1)
        axes[0].plot(CATAPULT, share, "o-", ms=3.5, color=color, label=f"{width} units")
        for times, row in zip(CATAPULT, part["rows"][:, 3], strict=True):
            axes[1].plot([times] * len(row), row, ".", ms=3, color=color, alpha=0.6)
    axes[0].axvline(2, color=MARK, lw=1, ls="--")
    axes[0].set(xlabel="lr over 2/λ of the start", ylabel="% that survive")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    axes[1].axhline(1, color=MARK, lw=1, ls="--")
    axes[1].set(xlabel="lr over 2/λ of the start", ylabel="λmax · lr/2 in the end", ylim=(0, 1.3))
    figure.tight_layout()
    return figure
