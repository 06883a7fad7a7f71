"""The surface itself, on planes through a trained network, and what planes do not show."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from common.claims import Claim, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over
from common.study import Section, table
from matplotlib.figure import Figure
from torch.nn import functional as F

import hesscope as hs
from land import networks
from land.networks import Recipe
from land.sizes import Sizes

PLANES = {"random": 4.0, "filter": 1.0, "eigen": 1.5}  # kinds of `hs.directions`, and the span
CLOSE = 0.02  # of the curvature: how near the picture comes to it


def measure(run: Run, s: Sizes) -> Section:
    """Planes of three kinds through a perceptron trained on digits, one after the other seed."""
    train = networks.images(s.examples)
    key = (s.steps, s.points, digest(*train))
    found = {
        kind: over(run, f"surface/{kind}", key, range(s.seeds), partial(_near, kind, train, s))
        for kind in PLANES
    }
    slices = {
        kind: run.result(f"surface/{kind}/picture", (kind, key), partial(_plane, kind, train, s))
        for kind in PLANES
    }
    return Section(_text(found, s), claims(found), _draw(slices), dict(found))


def _problem(train: networks.Pair, s: Sizes, seed: int) -> hs.Problem:
    model = networks.made(partial(networks.perceptron, 49, s.hidden, 10, act=torch.nn.Tanh), seed)
    networks.trained(model, F.cross_entropy, train, Recipe(0.2, s.steps, momentum=0.0), seed)
    return hs.Problem(model, F.cross_entropy, train)


def _plane(kind: str, train: networks.Pair, s: Sizes) -> hs.Slice:
    problem = _problem(train, s, 0)
    return hs.loss_slice(problem, kind, PLANES[kind], s.points, seed=0)


def _near(kind: str, train: networks.Pair, s: Sizes, seed: int) -> Arrays:
    """Second differences of a small picture against v'Hv, and the exact share of its plane."""
    problem = _problem(train, s, seed)
    small = hs.loss_slice(problem, kind, 0.01, 3, max_matvecs=0, seed=seed)
    d = small.directions.vectors
    H = hs.Hessian(problem)
    curvatures = torch.einsum("ni,ni->i", d, H.matmat(d))
    Q = torch.linalg.qr(d).Q
    inside = torch.linalg.eigvalsh(Q.T @ H.matmat(Q))
    values = hs.spectrum(H, check=False).eigenvalues
    return {
        "error": (small.second_differences / curvatures - 1).abs().max(),
        "share": inside.abs().sum() / values.abs().sum(),
        "dimensions": torch.tensor(2 / len(values), dtype=torch.float64),
    }


def claims(found: dict[str, Arrays]) -> Sequence[Claim]:
    """Pictures agree with derivatives to CLOSE; a plane holds half of the curvature, or not."""
    errors = torch.cat([f["error"] for f in found.values()])
    shares = {kind: f["share"] for kind, f in found.items()}
    every = torch.cat(list(shares.values()))
    attempts = tuple(f"{kind} plane {spread(v)}" for kind, v in shares.items())
    return (
        Claim(
            "The surface of the loss can be plotted, on a plane, and the picture is true there",
            f"curvatures read off the picture and those of the Hessian differ by {spread(errors)} "
            "of the latter",
            verdict(bool((errors <= CLOSE).all()), bool((errors <= CLOSE).double().mean() > 0.5)),
            "landscapes/surface",
            tuple(f"{kind} {spread(f['error'])}" for kind, f in found.items())
            if (errors <= CLOSE).double().mean() <= 0.5 else (),
        ),
        Claim(
            "What is plotted is the landscape: at least half of the curvature lies in the plane",
            f"share of Σ|λ| in the plane: {'; '.join(attempts)}; two of all dimensions are "
            f"{spread(found['random']['dimensions'])}",
            verdict(bool((every >= 0.5).all()), bool((shares["eigen"] >= 0.5).all())),
            "landscapes/surface", attempts if not (shares["eigen"] >= 0.5).all() else (),
        ),
    )  # fmt: skip


def _text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [[kind, spread(f["share"]), spread(f["error"])] for kind, f in found.items()]
    head = ["plane", "share of Σ abs λ in it", "error of the curvature in the picture"]
    return (
        f"49-12-10 (tanh) after training on {s.examples} digits. Three planes through the same "
        "point (`hs.loss_slice`): two random directions; two random ones with filters as long as "
        f"the weights' own; the two top eigenvectors. Dashed: the parabolas of slope and "
        f"curvature. {s.seeds} seeds.\n\n" + table(head, rows)
    )


def _draw(slices: dict[str, hs.Slice]) -> Figure:
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    for i, (kind, one) in enumerate(slices.items()):
        ax = figure.add_subplot(1, 3, i + 1, projection="3d")
        hs.plots.surface(one, ax=ax)
        ax.set_title("", loc="left")
        ax.set_title(f"{kind} plane", fontsize=10, y=0.93)
        ax.set_box_aspect(None, zoom=0.88)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_label_text(axis.get_label_text().split(" (")[0])
        ax.locator_params(nbins=5)
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
    return figure
