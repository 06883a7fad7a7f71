"""Which trainer reached the gradient norm that the paper names, and what is there: the rules."""

from __future__ import annotations

from dataclasses import replace

import torch
from common.claims import NO, Claim, spread, verdict
from common.keeping import Arrays
from sagun import claims
from torch import Tensor

from driven.sizes import NAMED, Sizes


def reached(f: Arrays, tolerance: float = NAMED) -> Tensor:
    """Which networks have a gradient norm below (gradient descent ends just below)."""
    return f["gradient_norms"] < tolerance


def reaches(found: dict[str, dict[str, Arrays]]) -> Claim:
    """Holds if Newton on smoothed kinks gets below NAMED in every seed of every setting.

    In part if in more than half of all.
    """
    shares = {name: float(reached(f["Newton"]).double().mean()) for name, f in found.items()}
    every = torch.tensor(list(shares.values()))
    each = tuple(f"{name} {share:.0%}" for name, share in shares.items())
    holds = verdict(bool((every == 1).all()), float(every.mean()) > 0.5)
    norms = torch.cat([f["Newton"]["gradient_norms"] for f in found.values()])
    return Claim(
        "The gradient norm that the paper names can be reached on overlapping blobs, random "
        "points and with mean squares",
        f"Newton steps on smoothed kinks, below {NAMED:g}: {'; '.join(each)}; all norms "
        f"{spread(norms)}",
        holds,
        "sagun/critical",
        each if holds == NO else (),
    )


def kinks(found: dict[str, dict[str, Arrays]]) -> Claim:
    """Holds if all networks that Newton leaves above NAMED are below with their kinks rounded.

    That is a gradient with derivatives between 0 and 1 at kinks: the least of ReLU's own may be
    large. In part if in more than half of them.
    """
    each, held = [], []
    for name, f in found.items():
        left = ~reached(f["Newton"])
        if bool(left.any()):
            held.append(f["Newton"]["smooth_norms"][left] < NAMED)
            each.append(f"{name} {int(held[-1].sum())} of {len(held[-1])}")
    every = torch.cat(held) if held else torch.ones(0, dtype=torch.bool)
    share = float(every.double().mean()) if len(every) else 1.0
    holds = verdict(share == 1, share > 0.5)
    return Claim(
        "Where it was not reached, the point certainly lies on a kink: derivatives between 0 and "
        "1 there make the gradient vanish",
        f"below {NAMED:g} with such derivatives: {int(every.sum())} of {len(every)}",
        holds,
        "sagun/critical",
        tuple(each) if holds == NO else (),
    )


def overlap(found: dict[str, dict[str, Arrays]], s: Sizes) -> Claim:
    """The rule of figure 9, λ1 over the overlap, where the gradient has been driven to."""
    tops = torch.stack([found[f"blobs, std {std:g}"]["Newton"]["tops"] for std in s.stds])
    row = claims.overlap_grows(s.stds, tops, "λ1", 1.0)
    name = "λ1 grows as the classes overlap, beyond its fluctuations, where Newton ended (figure 9)"
    each = tuple(f"std {std:g}: {spread(t)}" for std, t in zip(s.stds, tops, strict=True))
    tried = each if row.holds == NO else ()
    return replace(row, claim=name, statement="sagun/random-inputs", tried=tried)


def others_do_not(found: dict[str, dict[str, Arrays]]) -> Claim:
    """Holds if each of the other two gets there in every seed; in part if in more than half."""
    kinds = ("gradient descent", "L-BFGS")
    shares = {
        kind: torch.stack([reached(f[kind]).double().mean() for f in found.values()])
        for kind in kinds
    }
    every = torch.stack(list(shares.values()))
    named = {
        kind: [f"{n} {float(v):.0%}" for n, v in zip(found, shares[kind], strict=True)]
        for kind in kinds
    }
    each = tuple(f"{kind}: {', '.join(named[kind])}" for kind in kinds)
    holds = verdict(bool((every == 1).all()), float(every.mean()) > 0.5)
    tried = tuple(
        f"{n}: {', '.join(f'{kind} {float(shares[kind][i]):.0%}' for kind in kinds)}"
        for i, n in enumerate(found)
    )
    return Claim(
        "Gradient descent with constant steps, or a line search, is enough for that",
        f"share of seeds below {NAMED:g}: {'; '.join(each)}",
        holds,
        "sagun/critical",
        tried if holds == NO else (),
    )


def stays(found: dict[str, dict[str, Arrays]], rates: dict[str, float]) -> Claim:
    """Holds if a step size of the page is below 2/λmax where Newton ended, in most seeds of each.

    Descent with a larger one leaves such a point; in part if so in some settings.
    """
    shares, text = [], []
    for name, f in found.items():
        tops, lr = f["Newton"]["tops"], rates[name]
        shares.append(float((tops * lr < 2).double().mean()))
        text.append(f"{name}: 2/λmax {spread(2 / tops)}, lr {lr:g}")
    stable = torch.tensor(shares) > 0.5
    holds = verdict(bool(stable.all()), bool(stable.any()))
    return Claim(
        "Gradient descent with the step sizes of the page could stay at the points that Newton "
        "finds (lr < 2/λmax)",
        "; ".join(text),
        holds,
        "",
        tuple(text) if holds == NO else (),
    )


def index(found: dict[str, dict[str, Arrays]]) -> Claim:
    """Holds if λmin is below zero beyond its error wherever Newton ended; in part if in most."""
    below, sizes, each = [], [], []
    eps = torch.finfo(torch.float64).eps
    for name, f in found.items():
        end = f["Newton"]
        error = 5 * eps * end["theta"].shape[1] ** 0.5 * end["tops"]
        below.append(end["lowest"] < -error)
        sizes.append((end["lowest"].abs() / end["tops"])[below[-1]])
        each.append(f"{name} {float(below[-1].double().mean()):.0%}")
    share = float(torch.cat(below).double().mean())
    holds = verdict(share == 1, share > 0.5)
    there = torch.cat(sizes)
    size = f"; |λmin|/λmax there {spread(there)}" if len(there) else ""
    return Claim(
        "Negative eigenvalues remain where the gradient has been driven that far",
        f"λmin certainly negative in {share:.0%} ({'; '.join(each)}){size}",
        holds,
        "sagun/critical",
        tuple(each) if holds == NO else (),
    )
