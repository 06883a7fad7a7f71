"""What leaves a saddle, and whether degeneracy matters: the claims."""

from __future__ import annotations

import torch
from common.claims import NO, PARTLY, YES, Claim, number, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from matplotlib.figure import Figure
from torch import Tensor

from stationary import finder
from stationary.index import COLOURS
from stationary.leaving import KICKS, MOMENTUM, NOISE, RATE, SMALL, WAYS, left, told
from stationary.settings import Sizes

MOST = 0.95  # of the saddles
FALLS = 1e-9  # of the loss: more than rounding


def measure(run: Run, sizes: Sizes) -> Section:
    """Every setting."""
    found = {name: left(run, sizes, name) for name in sizes.networks}
    kinds = {name: told(run, sizes, name) for name in sizes.networks}
    claims = [
        *degenerate(found),
        momentum(found),
        noise(found),
        down(found),
        saddle_free(found),
        minimum_test(kinds),
    ]
    return Section(_text(found, kinds), claims, draw(found))


def _range(values: Tensor) -> str:
    """The spread, of what there is."""
    return spread(values) if len(values) else "none"


def _joined(found: dict[str, Arrays], key: str) -> Tensor:
    return torch.cat([f[key] for f in found.values()])


def _left(steps: Tensor) -> float:
    return float(steps.isfinite().double().mean()) if len(steps) else float("nan")


def degenerate(found: dict[str, Arrays]) -> list[Claim]:
    """Whether saddles have zeros: yes if all, in part if some; and whether those are left too.

    The second is yes if noise leaves at least 95 % of the saddles with zeros.
    """
    zeros = torch.cat([finder.zeros(f["eigenvalues"]) for f in found.values()])
    n = torch.cat([torch.full((len(f["loss"]),), f["theta"].shape[1]) for f in found.values()])
    share = float((zeros > 0).double().mean())
    singular = YES if share == 1 else PARTLY if share > 0 else NO
    each = tuple(
        f"{name}: {int((finder.zeros(f['eigenvalues']) > 0).sum())} of {len(f['loss'])}"
        for name, f in found.items()
    )
    first = Claim(
        "The Hessians at saddles are degenerate",
        f"{share:.0%} of {len(zeros)} strict saddles have eigenvalues zero ({'; '.join(each)}), "
        f"{_range(zeros / n)} of all",
        singular,
        "sagun/strict-saddles",
        each if singular == NO else (),
    )
    steps = _joined(found, "noise")
    with_zeros, without = _left(steps[zeros > 0]), _left(steps[zeros == 0])
    holds = YES if with_zeros >= MOST else PARTLY if with_zeros >= 0.5 else NO
    others = f" and {without:.0%} of those without" if bool((zeros == 0).any()) else ""
    second = Claim(
        "Escape does not need what the theories ask for: degenerate saddles are left as well",
        f"noise leaves {with_zeros:.0%} of those with zeros{others}; λmin there is "
        f"{_range(_lowest(found)[zeros > 0])} of max|λ|",
        holds,
        "sagun/strict-saddles",
        each if holds == NO else (),
    )
    return [first, second]


def _lowest(found: dict[str, Arrays]) -> Tensor:
    """λmin over the largest |λ|."""
    values = [f["eigenvalues"] for f in found.values()]
    return torch.cat([v[:, 0] / v.abs().amax(1) for v in values])


def momentum(found: dict[str, Arrays]) -> Claim:
    """Yes if momentum takes at most half of descent's steps at nine saddles of ten, both with the
    step size as it was and with lr/(1 - momentum) as it was; only with the same step size if it
    does so with that alone.
    """
    descent = _joined(found, f"kick {SMALL:g}")
    both = [_joined(found, name) for name in ("momentum, kick", "slower momentum, kick")]
    comparable = descent.isfinite()
    ratios = [(steps / descent)[comparable] for steps in both]
    often = [float((ratio <= 0.5).double().mean()) for ratio in ratios]
    exact = {name: _left(_joined(found, name)) for name in ("descent", "momentum")}
    if min(often) >= 0.9:
        holds = YES
    elif often[0] >= 0.9:
        holds = "only when the step size stays as it was"
    else:
        holds = PARTLY if often[0] >= 0.5 else NO
    return Claim(
        "Momentum helps to leave saddles",
        f"momentum {MOMENTUM} needs {_range(ratios[0])} of descent's steps with the same step "
        f"size, {_range(ratios[1])} with the same lr/(1 - momentum); started on the saddle itself, "
        f"where only rounding helps, descent leaves {exact['descent']:.0%} and momentum "
        f"{exact['momentum']:.0%}",
        holds,
        "debugging/momentum-escapes",
        tuple(f"{n}: {_left(f['momentum, kick']):.0%} left" for n, f in found.items())
        if holds == NO
        else (),
    )


def noise(found: dict[str, Arrays]) -> Claim:
    """Yes if noise leaves 95 % of strict saddles in every setting, in part if so in some."""
    often = {name: _left(f["noise"]) for name, f in found.items()}
    holds = YES if min(often.values()) >= MOST else PARTLY if max(often.values()) >= MOST else NO
    each = tuple(f"{name} {share:.0%}" for name, share in often.items())
    near, far = (_joined(found, f"kick {radius:g}") for radius in KICKS[1:])
    growth = torch.log1p(-RATE * _lowest(found))
    law = (far - near) * growth / torch.log(torch.tensor(KICKS[1] / KICKS[2]).double())
    law = law[law.isfinite()]
    steps = _joined(found, "noise")
    stay = ~steps.isfinite()
    flat = int((growth[stay] < growth[~stay].median()).sum())
    return Claim(
        "Noise in every direction leaves strict saddles",
        f"left from the saddle itself, with noise of {NOISE:g} in every gradient: {', '.join(each)}"
        f", in {_range(steps[~stay])} steps; {flat} of the {int(stay.sum())} that are not left in "
        "time have less negative curvature than half of those that are. A kick a hundred times "
        f"as small takes {_range(law)} of log(100)/log(1 + lr |λmin|) steps more",
        holds,
        "debugging/noise-escapes",
        each if holds == NO else (),
    )


def down(found: dict[str, Arrays]) -> Claim:
    """Yes if hs.escape proves negative curvature and lowers the loss at every strict saddle.

    In part from 95 %.
    """
    fall = _joined(found, "fall")
    share = float((fall > 0).double().mean())
    holds = YES if share == 1 else PARTLY if share >= MOST else NO
    return Claim(
        "At a saddle the loss falls along an eigenvector of negative curvature",
        f"hs.escape lowers the loss at {share:.0%} of {len(fall)} strict saddles, by "
        f"{_range(fall)} of it, for {_range(_joined(found, 'products'))} products",
        holds,
        "debugging/saddle-descent",
        tuple(f"{n} {float((f['fall'] > 0).double().mean()):.0%}" for n, f in found.items())
        if holds == NO
        else (),
    )


def saddle_free(found: dict[str, Arrays]) -> Claim:
    """Yes if saddle-free Newton needs a tenth of descent's steps and fewer gradients at nine
    saddles of ten; in part if only the steps are a tenth.
    """
    steps, cost, descent = [], [], []
    for f in found.values():
        steps.append(f["newton steps"])
        cost.append(f["newton cost"])
        descent.append(f[f"kick {SMALL:g}"][: len(f["newton steps"])])
    steps, cost, descent = map(torch.cat, (steps, cost, descent))
    keep = descent.isfinite()
    few, cheap = (steps / descent)[keep], (cost / descent)[keep]
    often = [float((x <= limit).double().mean()) for x, limit in ((few, 0.1), (cheap, 1.0))]
    holds = YES if min(often) >= 0.9 else PARTLY if often[0] >= 0.9 else NO
    each = tuple(
        f"{n}: {_range(f['newton steps'])} steps, descent "
        f"{_range(f[f'kick {SMALL:g}'][: len(f['newton steps'])])}"
        for n, f in found.items()
    )
    return Claim(
        "Dividing by the absolute eigenvalues escapes saddles quickly",
        f"SaddleFreeNewton leaves {_left(steps):.0%} of {len(steps)} in {_range(steps)} steps, "
        f"{_range(few)} of descent's from the same point; in gradients (a product counts as two) "
        f"{_range(cheap)} of descent's",
        holds,
        "landscapes/saddle-free",
        each if holds == NO else (),
    )


def minimum_test(kinds: dict[str, Arrays]) -> Claim:
    """Yes if losses fall near every point with a negative eigenvalue and near no other.

    Only when no eigenvalue is zero, if that fails for points with zeros and no negative one alone.
    """
    kind, falls = _joined(kinds, "kind"), _joined(kinds, "fall") > FALLS
    counts = [(int(falls[kind == k].sum()), int((kind == k).sum())) for k in range(3)]
    definite, strict, semi = counts
    sound = definite[0] == 0 and strict[0] == strict[1]
    told_apart = YES if semi[0] == 0 else "only when no eigenvalue is zero"
    holds = told_apart if sound else PARTLY
    return Claim(
        "At a critical point the Hessian tells a minimum from a saddle",
        f"after small kicks and some descent, or hs.escape, the loss is lower at {strict[0]} of "
        f"{strict[1]} points with a negative eigenvalue, at {definite[0]} of {definite[1]} with "
        f"positive ones only, and at {semi[0]} of {semi[1]} with zeros and no negative one",
        holds,
        "debugging/minimum-test",
    )


def draw(found: dict[str, Arrays]) -> Figure:
    """Steps of each method, a dot for each saddle, and steps against curvature."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left_ax, right_ax = figure.subplots(1, 2)
    names = [
        "descent",
        "momentum",
        "noise",
        f"kick {SMALL:g}",
        "momentum, kick",
        "slower momentum, kick",
    ]
    for j, (setting, f) in enumerate(found.items()):
        for i, name in enumerate(names):
            there = f[name][f[name].isfinite()]
            height = torch.full_like(there, len(names) - i + 0.15 * (1.5 - j))
            left_ax.plot(there.clamp(min=1), height, "o", ms=3.5, alpha=0.7, color=COLOURS[setting],
                         label=setting if i == 0 else None)  # fmt: skip
        sharp = -f["eigenvalues"][:, 0] / f["eigenvalues"].abs().amax(1)
        right_ax.plot(sharp, f[f"kick {SMALL:g}"], "o", ms=4, color=COLOURS[setting], alpha=0.8)
        n = len(f["newton steps"])
        right_ax.plot(sharp[:n], f["newton steps"], "x", ms=5, color=COLOURS[setting])
    left_ax.set_yticks(range(1, len(names) + 1), [_shown(n, found) for n in reversed(names)])
    left_ax.set_xlabel("steps until the saddle is left")
    right_ax.plot([], [], "ko", ms=4, label=f"descent, kick {SMALL:g}")
    right_ax.plot([], [], "kx", label="SaddleFreeNewton, the same kick")
    right_ax.set_xlabel("-λmin / max|λ| at the saddle")
    right_ax.set_ylabel("steps until the saddle is left")
    left_ax.set_xscale("log")
    right_ax.set_xscale("log")
    right_ax.set_yscale("log")
    right_ax.legend(frameon=False, fontsize=8)
    figure.legend(
        *left_ax.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    for ax in (left_ax, right_ax):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _shown(name: str, found: dict[str, Arrays]) -> str:
    return f"{name}\n{_left(_joined(found, name)):.0%} left"


def _text(found: dict[str, Arrays], kinds: dict[str, Arrays]) -> str:
    rows = []
    for name in WAYS:
        cells = []
        for f in found.values():
            there = f[name][f[name].isfinite()]
            cells.append(
                f"{len(there)} of {len(f[name])}" + (f": {_range(there)}" if len(there) else "")
            )
        rows.append([name, *cells])
    rows.append(["SaddleFreeNewton, kick", *(_cell(f["newton steps"]) for f in found.values())])
    total = sum(len(kind["kind"]) for kind in kinds.values())
    return (
        "Strict saddles with a certain index, and how many steps it takes until the loss is 1e-4 "
        f"of it lower. The step size is {number(RATE)}/max|λ|. *kick*: started beside the saddle, "
        f"at this distance in a random direction ({SMALL:g} where none is named); the others start "
        "on it. *slower momentum*: with a tenth of the step size, so that lr/(1 - momentum) is "
        f"that of descent. *noise*: of length {NOISE:g} in every gradient (Ge et al. 2015). At "
        f"{total} critical points, minima among them, kicks of 0.03 and some descent, and "
        "hs.escape, showed whether the loss falls nearby.\n\n" + table(["method", *found], rows)
    )


def _cell(steps: Tensor) -> str:
    there = steps[steps.isfinite()]
    return f"{len(there)} of {len(steps)}" + (f": {_range(there)}" if len(there) else "")
