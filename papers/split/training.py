"""G and R along training, at minima of low and of high loss; and G against the Fisher matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from common.claims import Claim, number, spread, verdict
from common.data import blobs
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE, ZERO
from land import networks
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from split.sizes import Sizes

LITTLE = 0.1  # ‖R‖ / ‖H‖ in the Frobenius norm: up to there G dominates
LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
COLOURS = (POSITIVE, NEGATIVE, MARK, ZERO, "#5b8c5a", "#7a5195")


@dataclass(frozen=True)
class Setting:
    """A network, its data and its loss; `low` where the loss can go to zero."""

    layers: tuple[int, ...]
    activation: str
    loss: str
    lr: float
    random: float  # share of the labels that are drawn
    low: bool


def settings(s: Sizes) -> dict[str, Setting]:
    """Two losses, two activations, and networks too small for what they are given."""
    wide, narrow = (49, s.hidden, 10), (49, 2, 10)
    return {
        "tanh, cross-entropy": Setting(wide, "tanh", "cross_entropy", 0.5, 0.0, low=True),
        "ReLU, cross-entropy": Setting(wide, "relu", "cross_entropy", 0.3, 0.0, low=True),
        "tanh, squared error": Setting(wide, "tanh", "mse", 1.0, 0.0, low=True),
        "high loss, cross-entropy": Setting(narrow, "tanh", "cross_entropy", 0.3, 1.0, low=False),
        "high loss, squared error": Setting(narrow, "tanh", "mse", 1.0, 1.0, low=False),
        "high loss, ReLU": Setting(narrow, "relu", "cross_entropy", 0.2, 1.0, low=False),
    }


def measure(run: Run, s: Sizes) -> Section:
    """Exact H and G at several steps, from the same starts."""
    found = {
        name: over(run, f"training/{name.replace(', ', '-').replace(' ', '-')}",
                   (setting, s.record, s.examples), range(s.seeds), partial(_course, setting, s))
        for name, setting in settings(s).items()
    }  # fmt: skip
    same = over(run, "training/fisher", s.examples, range(s.seeds), partial(_same, s))
    return Section(
        _text(found, same, s), claims(found, same, s), _draw(found, s), {**found, "Fisher": same}
    )


def _course(setting: Setting, s: Sizes, seed: int) -> Arrays:
    X, y = networks.images(s.examples)
    g = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(y), generator=g) < setting.random
    y = torch.where(drawn, torch.randint(10, (len(y),), generator=g), y)
    targets = y if setting.loss == "cross_entropy" else F.one_hot(y, 10).double()
    start = hs.ensemble.initialise(setting.layers, 1, seed=seed, activation=setting.activation)
    t = hs.ensemble.train(
        start, X, targets, loss=setting.loss, lr=setting.lr, steps=max(s.record), record=s.record
    )
    looks = [_look(t.snapshots[i].member(0), setting.loss, (X, targets)) for i in s.record]
    return {key: torch.stack([look[key] for look in looks]) for key in looks[0]}


def _look(model: nn.Module, loss: str, pair: networks.Pair) -> Arrays:
    """How large R is beside H, in all of it and along H's largest eigenvectors."""
    problem = hs.Problem(model, LOSSES[loss], pair)
    H, G = (A(problem).to_dense() for A in (hs.Hessian, hs.GaussNewton))
    values, vectors = torch.linalg.eigh((H + H.T) / 2)
    top = hs.decompose(problem, vectors[:, -9:])
    return {
        "loss": scalar(problem.loss()),
        "gradient": problem.gradient().norm(),
        "residual": (H - G).norm() / H.norm(),
        "trace": (H - G).trace() / H.trace(),
        "top": (top.residual.abs() / top.curvature.abs()).max(),
        "lowest": torch.linalg.eigvalsh(G)[0] / values[-1],
        "negative": values[0] / values[-1],
        "bound": (values[0] >= torch.linalg.eigvalsh(H - G)[0] - 1e-12 * values[-1]).double(),
    }


def _same(s: Sizes, seed: int) -> Arrays:
    """Relative differences to G of the Fisher matrix and of the empirical one."""
    digits, two = networks.images(s.examples), blobs(s.examples, 1.0, seed=seed)
    logistic = two[0], two[1].double()[:, None]
    cases = {
        "softmax": (networks.perceptron(49, 4, 10), F.cross_entropy, digits),
        "CNN": (networks.convolutions(10, 1, 2), F.cross_entropy, digits),
        "logistic": (networks.perceptron(2, 4, 1), F.binary_cross_entropy_with_logits, logistic),
        "squared error": (networks.perceptron(2, 4, 1), F.mse_loss, logistic),
    }
    found = {}
    for name, (model, loss, pair) in cases.items():
        problem = hs.Problem(networks.made(lambda model=model: model, seed), loss, pair)
        G = hs.GaussNewton(problem).to_dense()
        for kind in (hs.Fisher, hs.EmpiricalFisher):
            other = kind(problem).to_dense()
            found[f"{name}, {kind.__name__}"] = (other - G).norm() / G.norm()
    return found


def ends(found: dict[str, Arrays], s: Sizes, *, low: bool, key: str = "residual") -> Tensor:
    """A number at the last step, of all settings that reach a low loss, or of those that do not."""
    return torch.cat([found[n][key][:, -1] for n, one in settings(s).items() if one.low is low])


def claims(found: dict[str, Arrays], same: Arrays, s: Sizes) -> Sequence[Claim]:
    """Dominating: ‖R‖ at most LITTLE of ‖H‖ in all runs; in part: at most half of it."""
    rows = [_dominates(found, s, low=True), _dominates(found, s, low=False), _top(found, s)]
    start = torch.cat([f["residual"][:, 0] for f in found.values()])
    end = torch.cat([f["residual"][:, -1] for f in found.values()])
    shrinks = (end < start).double().mean()
    tried = tuple(
        f"{name} {spread(f['residual'][:, 0])} to {spread(f['residual'][:, -1])}"
        for name, f in found.items()
    )
    rows.append(
        Claim(
            "Training shrinks the residual against the whole",
            f"‖R‖/‖H‖ {spread(start)} at the start, {spread(end)} at the end; smaller in "
            f"{shrinks:.0%} of {len(start)} runs",
            verdict(bool(shrinks == 1), bool(shrinks > 0.5)), "landscapes/g-dominates",
            tried if not shrinks > 0.5 else (),
        )
    )  # fmt: skip
    lowest = torch.cat([f["lowest"].flatten() for f in found.values()])
    bound = torch.cat([f["bound"].flatten() for f in found.values()])
    rows.append(
        Claim(
            "H = G + R with G positive semidefinite: what is negative in H comes from R",
            f"smallest eigenvalue of G over λmax at least {number(float(lowest.min()))}; that of H "
            f"no lower than that of R in {bound.mean():.0%} of {len(bound)} points",
            verdict(bool((lowest > -1e-10).all() and bound.all()), False),
            "landscapes/g-dominates",
            ("all settings and steps above",) * 3 if not bound.all() else (),
        )
    )
    return [*rows, *_fisher(same)]


def _dominates(found: dict[str, Arrays], s: Sizes, *, low: bool) -> Claim:
    residual = ends(found, s, low=low)
    loss, gradient = (ends(found, s, low=low, key=k) for k in ("loss", "gradient"))
    names = [n for n, one in settings(s).items() if one.low is low]
    tried = tuple(f"{name} {spread(found[name]['residual'][:, -1])}" for name in names)
    some = bool((residual <= 0.5).all())
    return Claim(
        f"G dominates at the end of training where the loss is {'low' if low else 'high'}",
        f"‖R‖/‖H‖ {spread(residual)} (Frobenius), at a loss of {spread(loss)} and a gradient norm "
        f"of {spread(gradient)}; by setting: {'; '.join(tried)}",
        verdict(bool((residual <= LITTLE).all()), some), "landscapes/g-dominates",
        tried if not some else (),
    )  # fmt: skip


def _top(found: dict[str, Arrays], s: Sizes) -> Claim:
    low, high = (ends(found, s, low=which, key="top") for which in (True, False))
    both = torch.cat([low, high])
    tried = tuple(f"{name} {spread(f['top'][:, -1])}" for name, f in found.items())
    some = bool((both <= 0.5).all())
    return Claim(
        "Along the nine largest eigenvectors G dominates, whatever the loss",
        f"largest |v'Rv| / v'Hv {spread(low)} where the loss is low, {spread(high)} where it is "
        "high",
        verdict(bool((both <= LITTLE).all()), some or bool((low <= LITTLE).all())),
        "landscapes/g-dominates", tried if not (some or bool((low <= LITTLE).all())) else (),
    )  # fmt: skip


def _fisher(same: Arrays) -> Sequence[Claim]:
    true = torch.stack([v for name, v in same.items() if name.endswith(", Fisher")])
    empirical = {
        name.removesuffix(", EmpiricalFisher"): v
        for name, v in same.items() if name.endswith("EmpiricalFisher")
    }  # fmt: skip
    far = torch.cat(list(empirical.values()))
    tried = tuple(f"{name} {spread(v)}" for name, v in empirical.items())
    return (
        Claim(
            "G is the Fisher matrix, for softmax, logistic loss and squared error",
            f"relative difference at most {number(float(true.max()))}",
            verdict(bool((true <= 1e-12).all()), False), "landscapes/g-dominates",
            tried if not (true <= 1e-12).all() else (),
        ),
        Claim(
            "G is the empirical Fisher matrix, the mean outer product of gradients, to a tenth",
            f"relative difference {spread(far)}",
            verdict(bool((far <= 0.1).all()), bool((far <= 0.1).double().mean() > 0.5)),
            "landscapes/g-dominates", tried if not (far <= 0.1).double().mean() > 0.5 else (),
        ),
    )  # fmt: skip


def _text(found: dict[str, Arrays], same: Arrays, s: Sizes) -> str:
    rows = [
        [
            name, "-".join(str(w) for w in settings(s)[name].layers),
            spread(f["loss"][:, -1]), spread(f["gradient"][:, -1]), spread(f["residual"][:, 0]),
            spread(f["residual"].amax(1)), spread(f["residual"][:, -1]), spread(f["top"][:, -1]),
            spread(f["negative"][:, -1]),
        ]
        for name, f in found.items()
    ]  # fmt: skip
    head = ["setting", "network", "loss", "‖gradient‖", "‖R‖/‖H‖ at the start", "at its largest",
            "at the end", "of the nine top", "λmin/λmax at the end"]  # fmt: skip
    return (
        f"Full-batch gradient descent on {s.examples} digits of 7 x 7, {max(s.record):,} steps, "
        f"{s.seeds} seeds. *High loss*: two hidden units and random labels, which they cannot "
        "learn. H and G exact; R = H - G. *Of the nine top*: the largest |v'Rv| / v'Hv over the "
        "nine largest eigenvectors (`hs.decompose`).\n\n" + table(head, rows)
        + "\n\nRelative distance to G at the start: "
        + "; ".join(f"{name} {spread(v)}" for name, v in same.items()) + "."
    )  # fmt: skip


def _draw(found: dict[str, Arrays], s: Sizes) -> Figure:
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    steps = [max(step, 1) for step in s.record]
    for colour, (name, f) in zip(COLOURS, found.items(), strict=True):
        left.plot(steps, f["residual"].median(0).values, "o-", color=colour, label=name)
        right.plot(f["loss"], f["residual"], "o", color=colour, ms=4, alpha=0.6)
    left.set(xscale="log", yscale="log", xlabel="step (the start at 1)", ylabel="‖R‖ / ‖H‖")
    right.set(xscale="log", xlabel="loss")
    for ax in (left, right):
        ax.axhline(LITTLE, color=ZERO, lw=0.8, ls=":")
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
