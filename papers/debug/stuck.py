"""Where training stops early at a high loss: gradients there, and what restarts and kicks do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common import data
from common.claims import NO, PARTLY, UNDECIDED, YES, Claim, number, spread, verdict
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import hesscope as hs

# By name: widths, activation, lr, batch (0: all data). Three reasons for which descent stops.
SETTINGS = {
    "dead units, ReLU 2-3-3-4, lr 0.1": ((2, 3, 3, 4), "relu", 0.1, 0),
    "a plateau, sigmoid 2-4-4-4-4, lr 0.1": ((2, 4, 4, 4, 4), "sigmoid", 0.1, 0),
    "too long a step, tanh 2-3-3-4, lr 10": ((2, 3, 3, 4), "tanh", 10.0, 0),
    "noise, ReLU 2-3-3-4, lr 1, batches of 10": ((2, 3, 3, 4), "relu", 1.0, 10),
}
HIGH, STILL, HEALTHY = 0.5, 0.02, 0.1
RADII = (0.01, 0.1, 0.3, 1.0)  # of kicks, in norms of θ
EXAMPLES, CLASSES = 80, 4


def measure(run: Run, sizes: Any) -> Section:
    """Trains many small networks four ways, looks where they stop, and kicks them."""
    num, steps, looks = sizes.stuck
    found = {
        name: run.arrays(
            f"stuck/{i}",
            (sizes.stuck, setting),
            lambda setting=setting: course(*setting, num, steps),
        )
        for i, (name, setting) in enumerate(SETTINGS.items())
    }
    ways = {
        name: run.arrays(
            f"stuck/ways-{i}",
            (sizes.stuck, SETTINGS[name], RADII),
            lambda name=name: away(found[name], *SETTINGS[name][:3], steps, looks),
        )
        for i, name in enumerate(list(SETTINGS)[:2])
    }
    claims = [healthy(found), helped(ways), named(ways)]
    return Section(text(found, ways, sizes), claims, draw(found))


def points() -> tuple[Tensor, Tensor]:
    """Four clouds on a circle, well apart."""
    return data.blobs(EXAMPLES, 0.2, classes=CLASSES)


def course(
    layers: tuple[int, ...], activation: str, lr: float, batch: int, num: int, steps: int
) -> Arrays:
    """Losses and gradient norms on all data at forty times, (time, network), and where it ended."""
    X, y = points()
    e = hs.ensemble.initialise(layers, num, seed=0, activation=activation)
    every = max(steps // 40, 1)
    generator = torch.Generator().manual_seed(0)
    losses, norms = [], []
    for step in range(0, steps + 1, every):
        losses.append(hs.ensemble.losses(e, X, y))
        norms.append(hs.ensemble.gradients(e, X, y).norm(dim=1))
        if step == steps:
            break
        if not batch:
            e = hs.ensemble.train(e, X, y, lr=lr, steps=every).ensemble
        for _ in range(every if batch else 0):
            some = torch.randperm(len(y), generator=generator)[:batch]
            e = replace(e, theta=e.theta - lr * hs.ensemble.gradients(e, X[some], y[some]))
    return {"loss": torch.stack(losses), "norm": torch.stack(norms), "theta": e.theta}


def stopped(part: Arrays) -> Tensor:
    """Networks whose loss stays above HIGH of chance and has not fallen in the last third.

    By less than STILL of itself, comparing means of the last sixth and of the one before it.
    """
    loss = part["loss"]
    sixth = max(len(loss) // 6, 1)
    last, before = loss[-sixth:].mean(0), loss[-2 * sixth : -sixth].mean(0)
    return (last > HIGH * torch.tensor(CLASSES).log()) & (last > (1 - STILL) * before)


def ratio(part: Arrays) -> Tensor:
    """The gradient's norm in the last sixth over its median in the first, of stopped networks.

    0 where it was zero from the start.
    """
    norm = part["norm"][:, stopped(part)]
    sixth = max(len(norm) // 6, 1)
    found = norm[-sixth:].median(0).values / norm[:sixth].median(0).values
    return found.nan_to_num(0.0)


def healthy(found: dict[str, Arrays]) -> Claim:
    """A gradient is healthy at HEALTHY of its size in the first sixth of training, or above.

    YES if it is for 90 % of the stopped networks of each setting, NO if for less than 10 % of
    each; between, "only when" names the settings with 90 %, or it holds in part.
    """
    shares = {
        name: float((ratio(part) >= HEALTHY).double().mean())
        for name, part in found.items()
        if bool(stopped(part).any())
    }
    told = "; ".join(
        f"{name}: {int(stopped(found[name]).sum())} networks stop, {100 * share:.0f} % of them "
        "with a "
        f"healthy gradient, {spread(ratio(found[name]))} of the first"
        for name, share in shares.items()
    )
    good = [name.split(",")[0] for name, share in shares.items() if share >= 0.9]
    if len(good) == len(shares):
        holds = YES
    elif all(share < 0.1 for share in shares.values()):
        holds = NO
    else:
        holds = f"only when it stops for {' or '.join(good)}" if good else PARTLY
    return Claim(
        "Where training stops early at a high loss, the gradient norm is healthy",
        told,
        holds,
        "debugging/gradient-norm",
        tuple(shares) if holds == NO else (),
    )


def away(
    part: Arrays, layers: tuple[int, ...], activation: str, lr: float, steps: int, looks: int
) -> Arrays:
    """What restarts and kicks of the stopped networks come to, and what verdicts say of some."""
    X, y = points()
    stuck, free = stopped(part).nonzero()[:, 0], (~stopped(part)).nonzero()[:, 0]
    goal = HIGH * torch.tensor(CLASSES).log()
    if not len(stuck):
        none = torch.zeros(0)
        return {"goal": goal, "losses": torch.zeros(2 + len(RADII), 0), "least": torch.zeros(0, 2),
                "named": none, "false": none}  # fmt: skip
    theta = part["theta"][stuck]

    def ends(start: Tensor) -> Tensor:
        e = hs.ensemble.Ensemble(layers, activation, start)
        return hs.ensemble.train(e, X, y, lr=lr, steps=steps).losses

    fresh = hs.ensemble.initialise(layers, len(stuck), seed=1, activation=activation).theta
    kicked = [torch.stack([kick(t, radius, i) for i, t in enumerate(theta)]) for radius in RADII]
    losses = torch.stack([ends(start) for start in (theta, fresh, *kicked)])
    e = hs.ensemble.Ensemble(layers, activation, part["theta"])
    return {
        "goal": goal,
        "losses": losses,
        "named": torch.tensor([says_stuck(e.member(int(i)), X, y) for i in stuck[:looks]]),
        "false": torch.tensor([says_stuck(e.member(int(i)), X, y) for i in free[:looks]]),
        "least": torch.tensor([lowest(e.member(int(i)), X, y) for i in stuck[:looks]]),
    }


def kick(theta: Tensor, radius: float, seed: int) -> Tensor:
    """`hs.kick` by a share of the norm of θ."""
    problem = hs.Problem.from_function(lambda t: t.sum(), theta)
    return hs.kick(problem, radius * float(theta.norm()), seed=seed)


def says_stuck(model: torch.nn.Module, X: Tensor, y: Tensor) -> bool:
    """Whether the verdict "stuck high" speaks of a stop, and so of a restart or a kick."""
    problem = hs.Problem(model, F.cross_entropy, (X, y))
    look = hs.diagnose(problem, check=False, seed=0, gradient_tolerance=1e-3)
    return not look.verdict("stuck_high").claim.startswith(("no", "undecided"))


def lowest(model: torch.nn.Module, X: Tensor, y: Tensor) -> list[float]:
    """λmin and λmax, exactly."""
    values = hs.spectrum(hs.Hessian(hs.Problem(model, F.cross_entropy, (X, y)))).eigenvalues
    return [float(values[0]), float(values[-1])]


def helped(ways: dict[str, Arrays]) -> Claim:
    """YES if in both networks the best of restart and kicks frees half of the stopped networks.

    Freed are those that end below the loss that counts as high, beyond the share that the same
    number of further steps frees without either. PARTLY if a quarter is freed in one of them.
    """
    gains, told = [], []
    for name, part in ways.items():
        if not part["losses"].shape[1]:
            continue
        freed = (part["losses"] < part["goal"]).double().mean(1)
        gains.append(float(freed[1:].max() - freed[0]))
        kicks = ", ".join(
            f"{radius:g}: {100 * float(share):.0f} %"
            for radius, share in zip(RADII, freed[2:], strict=True)
        )
        told.append(
            f"{name}: {part['losses'].shape[1]} stopped; freed by as many steps again "
            f"{100 * float(freed[0]):.0f} %, by a restart {100 * float(freed[1]):.0f} %, by a kick "
            "of "
            f"so many norms of θ {kicks}"
        )
    return Claim(
        "Where training has stopped at a high loss, a restart or a kick helps",
        "; ".join(told),
        verdict(min(gains) >= 0.5, max(gains) >= 0.25) if gains else UNDECIDED,
        "debugging/restart-kick",
        (*ways, f"kicks of {len(RADII)} radii") if gains and max(gains) < 0.25 else (),
    )


def named(ways: dict[str, Arrays]) -> Claim:
    """YES if the verdict names nine of ten of the stopped and one of ten of the others at most.

    PARTLY if it names more of the stopped than twice its share of the others.
    """
    hits = torch.cat([part["named"] for part in ways.values()]).double()
    alarms = torch.cat([part["false"] for part in ways.values()]).double()
    hit, alarm = float(hits.mean()), float(alarms.mean())
    return Claim(
        "The verdict stuck high tells where to restart or kick",
        f"of stopped networks it names {int(hits.sum())} of {len(hits)}, of the others "
        f"{int(alarms.sum())} of {len(alarms)}",
        verdict(hit >= 0.9 and alarm <= 0.1, hit > 2 * alarm) if len(hits) else UNDECIDED,
        "debugging/restart-kick",
        (*ways, "gradients below 1e-3 counted as zero") if len(hits) and hit <= 2 * alarm else (),
    )


def text(found: dict[str, Arrays], ways: dict[str, Arrays], sizes: Any) -> str:
    """What stops, and what kind of place that is."""
    num, steps, _ = sizes.stuck
    rows = [
        [
            name,
            str(int(stopped(part).sum())),
            spread(part["loss"][-1][stopped(part)]) if bool(stopped(part).any()) else "",
            spread(ratio(part)) if bool(stopped(part).any()) else "",
            spread((part["norm"][-1] / part["norm"][0])[stopped(part)])
            if bool(stopped(part).any())
            else "",
        ]
        for name, part in found.items()
    ]
    places = []
    for name, part in ways.items():
        low, high = part["least"].T
        saddles, minima = int((low < -1e-4 * high).sum()), int((low > 1e-6 * high).sum())
        places.append(
            f"{name}: of {len(low)} looked at {saddles} have negative curvature beyond 1e-4 of "
            "λmax, "
            f"{minima} are strictly positive definite, the others have eigenvalues of zero"
        )
    head = [
        "training",
        "stopped high",
        "their loss",
        "gradient, last sixth over first",
        "very last over very first",
    ]
    return (
        f"{num} small networks each, {EXAMPLES} points in {CLASSES} clouds that a network can tell "
        f"apart, cross-entropy (chance {number(float(torch.tensor(CLASSES).log()))}), {steps:,} "
        "steps. "
        f"A network counts as stopped at a high loss if in the end it is above {HIGH:g} of chance "
        "and "
        f"has fallen by less than {100 * STILL:g} % between the last two sixths of training. Its "
        "gradient counts "
        f"as healthy from {HEALTHY:g} of its norm in the first sixth on.\n\n{table(head, rows)}\n\n"
        "On a plateau the gradient is small beside that of the very start, and grows again. What "
        f"the first two stop at: {'; '.join(places)}."
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """Loss and gradient norm over training of some stopped networks, a column for each setting."""
    figure, axes = plt.subplots(2, len(found), figsize=(11, 4.6), sharex="col", sharey="row")
    for column, (name, part) in zip(axes.T, found.items(), strict=True):
        some = stopped(part).nonzero()[:30, 0]
        times = torch.linspace(0, 1, len(part["loss"]))
        for ax, key, color in zip(column, ("loss", "norm"), (POSITIVE, NEGATIVE), strict=True):
            ax.plot(times, part[key][:, some], color=color, lw=0.7, alpha=0.5)
            ax.plot(times, part[key].median(1).values, color=ZERO, lw=1.6, ls="--")
            ax.set_yscale("log")
        column[0].plot([], [], color=POSITIVE, label="stopped high, one each")
        column[0].plot([], [], color=ZERO, ls="--", label="median of all")
        column[0].axhline(
            HIGH * float(torch.tensor(CLASSES).log()), color=MARK, lw=1, label="high from here on"
        )
        column[0].set_title(name.replace(", ", "\n", 1), fontsize=9)
        column[1].set_xlabel("share of training")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("gradient norm")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return figure
