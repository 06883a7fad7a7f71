"""λmax and trace along training: where they go."""

from __future__ import annotations

from functools import partial
from typing import Any

from common.claims import NO, YES, Claim, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from stability.training import Course, stacked, watched


def flattening(run: Run, sizes: Any) -> Section:
    """Five trainings, each with λmax and trace."""
    found = {}
    for i, (name, course) in enumerate(sizes.courses.items()):
        job = partial(seeds, course, ("lambda_max", "trace"), ("lambda_max", "trace"), sizes.seeds)
        found[name] = run.arrays(f"course/{i}", (course, sizes.seeds), job)
    return Section(flattening_text(found), [flattens(found)], draw(found))


def seeds(course: Course, rows: Any, keys: tuple[str, ...], num: int) -> Arrays:
    """All seeds of one training."""
    return stacked([watched(course, seed, rows, keys) for seed in range(num)])


def ratio(values: Tensor) -> Tensor:
    """The last over the first, by seed."""
    return values[:, -1] / values[:, 0]


def flattens(found: dict[str, Arrays]) -> Claim:
    """Falls is: the last look below the first, of λmax and trace, in each seed of a setting.

    YES if in all settings; NO if in none; else "only when", with the settings where both fall.
    """
    falls = {
        name: all(bool((ratio(part[key]) < 1).all()) for key in ("lambda_max", "trace"))
        for name, part in found.items()
    }
    down = [name for name, fell in falls.items() if fell]
    holds = YES if len(down) == len(falls) else f"only when: {'; '.join(down)}" if down else NO
    return Claim(
        "Over training the largest eigenvalue and the trace decrease",
        "last over first, λmax and trace: "
        + "; ".join(
            f"{name} {spread(ratio(part['lambda_max']))} and {spread(ratio(part['trace']))}"
            for name, part in found.items()
        ),
        holds,
        "landscapes/training-flattens",
        tuple(found) if holds == NO else (),
    )


def flattening_text(found: dict[str, Arrays]) -> str:
    """First, highest and last."""
    rows = [
        [
            name,
            f"{spread(part['losses'][:, 0])} to {spread(part['losses'][:, -1])}",
            *(
                spread(value)
                for key in ("lambda_max", "trace")
                for value in (part[key][:, 0], part[key].max(1).values, part[key][:, -1])
            ),
        ]
        for name, part in found.items()
    ]
    head = [
        "training",
        "loss",
        *(f"{what} {when}" for what in ("λmax", "trace") for when in ("first", "highest", "last")),
    ]
    return (
        "Perceptrons 49-16-10 (tanh) on 100 digits; λmax and trace of the Hessian of all data by "
        f"`hs.Monitor`.\n\n{table(head, rows)}"
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """Both over training, over their first values."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(2.5 * len(found) + 0.8, 3.2), sharey=True, squeeze=False
    )
    for ax, (name, part) in zip(axes[0], found.items(), strict=True):
        for key, label, color in (("lambda_max", "λmax", POSITIVE), ("trace", "trace", NEGATIVE)):
            for i, values in enumerate(part[key] / part[key][:, :1]):
                ax.plot(part["step"], values.clamp(min=1e-4), color=color, lw=0.9, alpha=0.8,
                        label=label if i == 0 else None)  # fmt: skip
        ax.axhline(1, color="black", lw=0.7, ls=":")
        ax.set(yscale="log", xlabel="step")
        ax.set_title(name.replace(", ", "\n", 1), fontsize=9)
    axes[0, 0].set_ylabel("over its first value")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
