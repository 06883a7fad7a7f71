"""Claims about optimisers as rules: numbers in, whether they bear the claim out."""

from __future__ import annotations

import torch
from common.claims import NO, Claim, spread, verdict
from torch import Tensor

FIRST_ORDER = ("SGD, all", "SGD, batches", "Adam, all", "Adam, batches")


def leaves_at_once(plane: Tensor, own: Tensor) -> Claim:
    """Holds if saddle-free Newton needs at most a fifth of the steps of gradient descent, always.

    `plane` (start, method) and `own` (start, method, seed): steps, negative where it never left.
    From the start off the manifold, where descent leaves at all; in part if for one of the two.
    """
    descent, newton = 0, 3
    first = 0 < 5 * int(plane[1, newton]) <= int(plane[1, descent])
    second = bool((5 * own[1, newton] <= own[1, descent]).all() & (own[1, newton] >= 0).all())
    text = (
        f"1e-6 off the manifold: {int(plane[1, newton])} steps (descent {int(plane[1, descent])}) "
        f"in three dimensions; {spread(own[1, newton])} (descent {spread(own[1, descent])}) for a "
        "linear network. A step costs a gradient and at most 20 products"
    )
    claim = "Dividing by absolute eigenvalues leaves saddles quickly"
    holds = verdict(first and second, first or second)
    return Claim(claim, text, holds, "landscapes/saddle-free")


def hessian_free_is_ahead(gradients: dict[str, Tensor], seconds: dict[str, Tensor]) -> Claim:
    """Holds if Hessian-free Newton ends surely lower than all first-order methods at equal cost.

    Surely: its highest loss over seeds is below their lowest; by gradients and by seconds. In part
    if it does better than both that take all examples, as it does for its gradients.
    """
    best, all_examples, texts = [], [], []
    for unit, found in (("gradients", gradients), ("seconds", seconds)):
        own = found["NewtonCG"]
        best.append(all(bool(own.max() < found[name].min()) for name in FIRST_ORDER))
        whole = [name for name in FIRST_ORDER if name.endswith("all")]
        all_examples.append(all(bool(own.max() < found[name].min()) for name in whole))
        ends = "; ".join(f"{name} {spread(values)}" for name, values in found.items())
        texts.append(f"at equal {unit}: {ends}")
    holds = verdict(all(best), any(all_examples))
    tried = (
        "full gradients with curvature of 1/4 and 1/10 of the data",
        "12 and 50 products a step",
        "against full-batch SGD and Adam alone",
    )
    claim = "Hessian-free Newton trains a deep autoencoder faster than first-order methods"
    return Claim(
        claim,
        ". ".join(texts),
        holds,
        "landscapes/hessian-free,sagun/faster",
        tried if holds == NO else (),
    )


def fewer_steps_at_a_price(reached: dict[str, dict[str, list[float]]]) -> Claim:
    """Holds if Newton needs at most half of Adam's steps, and more than twice its seconds, always.

    In part if fewer steps, or at a price. `reached` by method and unit: a number for each seed.
    """
    own, adam = (
        {unit: torch.tensor(values).double() for unit, values in reached[name].items()}
        for name in ("NewtonCG", "Adam")
    )
    faster = bool((own["steps"] <= 0.5 * adam["steps"]).all())
    dearer = bool((own["seconds"] > 2 * adam["seconds"]).all())
    text = "; ".join(
        f"{name}: {spread(torch.tensor(found['steps']).double())} steps, "
        f"{spread(torch.tensor(found['gradients']).double())} gradients, "
        f"{spread(torch.tensor(found['seconds']).double())} s"
        for name, found in reached.items()
    )
    claim = "Newton's method takes fewer steps, at a price too high for large networks"
    return Claim(claim, text, verdict(faster and dearer, faster or dearer), "landscapes/newton")
