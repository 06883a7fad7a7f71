"""A penalty on the Gauss-Newton trace of one layer: does it flatten that layer?"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from common.claims import Claim, spread, verdict
from common.data import digest
from common.keeping import Run
from common.study import Section, table
from torch import Tensor, nn

import hesscope as hs
from layered import figures
from layered.networks import Kind, kinds

MOST = 0.8  # of seeds
LAYERS = ("0", "2", "4", "6", "8")
TARGETS = {"first": "0", "middle": "4", "last": "8"}


def flattened(kind: Kind, seed: int, target: str | None, sizes: Any) -> dict[str, Tensor]:
    """The Gauss-Newton traces of all layers where the training loss first is `sizes.loss`.

    By Adam, with `sizes.strength` times the trace of the layer `target`'s block in the loss.
    """
    model, loss_fn = kind.make(seed), nn.functional.cross_entropy
    inputs, labels = kind.data
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(sizes.most):
        adam.zero_grad()
        loss = loss_fn(model(inputs), labels)
        if float(loss.detach()) < sizes.loss:
            break
        if target is not None:
            loss = loss + sizes.strength * hs.trace_penalty(
                model, loss_fn, kind.data, curvature="ggn", params=f"{target}.*", seed=step
            )
        loss.backward()
        adam.step()
    problem = kind.problem(model)
    traces = [
        hs.trace(hs.GaussNewton(problem.block(f"{layer}.*")), rtol=0.03, seed=0).value
        for layer in LAYERS
    ]
    return {
        "traces": torch.tensor(traces).double(),
        "loss": torch.tensor(problem.loss()).double(),
        "steps": torch.tensor(step),
    }


def measure(run: Run, sizes: Any) -> Section:
    """Traces by layer with each penalty, over those without, at equal training loss."""
    kind = kinds(sizes)["MLP"]
    key = (sizes.widths, sizes.strength, sizes.loss, sizes.most, digest(*kind.data))
    ways: dict[str, list[dict[str, Tensor]]] = {}
    for name, target in {"none": None, **TARGETS}.items():
        ways[name] = [
            run.arrays(
                f"targeted/{name}/{seed}", key, partial(flattened, kind, seed, target, sizes)
            )
            for seed in range(sizes.seeds)
        ]
    plain = torch.stack([one["traces"] for one in ways["none"]])
    ratios = {
        name: torch.stack([one["traces"] for one in ways[name]]) / plain for name in TARGETS
    }  # (seeds, layers)
    losses = {name: torch.stack([one["loss"] for one in rows]) for name, rows in ways.items()}
    steps = {name: torch.stack([one["steps"] for one in rows]) for name, rows in ways.items()}
    text = _text(ratios, losses, steps, sizes)
    numbers = {"ratios": ratios, "losses": losses, "steps": steps}
    return Section(text, [aimed(ratios)], figures.targeted(ratios), numbers)


def aimed(ratios: dict[str, Tensor]) -> Claim:
    """Does the layer that is penalised lose the largest part of its trace, in 4 of 5 seeds?

    Yes for all three layers, in part for some.
    """
    hits = {}
    for name, target in TARGETS.items():
        hits[name] = int((ratios[name].argmin(1) == LAYERS.index(target)).sum())
    seeds = len(next(iter(ratios.values())))
    enough = [count >= MOST * seeds for count in hits.values()]
    words = [
        f"{name} layer: its trace times {spread(ratios[name][:, LAYERS.index(target)])}, the "
        f"others' times {spread(_others(ratios[name], LAYERS.index(target)))}, most there in "
        f"{hits[name]} of {seeds} seeds" for name, target in TARGETS.items()
    ]  # fmt: skip
    return Claim(
        "A penalty on the Gauss-Newton trace of one layer flattens that layer more than others",
        f"at equal training loss, {'; '.join(words)}",
        verdict(all(enough), any(enough)),
        "landscapes/ggn-regularisation",
        tuple(words) if not any(enough) else (),
    )


def _others(ratios: Tensor, own: int) -> Tensor:
    return torch.cat([ratios[:, :own], ratios[:, own + 1 :]], 1)


def _text(ratios: Any, losses: Any, steps: Any, sizes: Any) -> str:
    rows = [
        [name, *(spread(r) for r in ratios[name].T), spread(losses[name]), spread(steps[name])]
        for name in TARGETS
    ]
    rows.insert(0, ["none", *["1"] * len(LAYERS), spread(losses["none"]), spread(steps["none"])])
    head = ["penalised", *(f"layer {i + 1}" for i in range(len(LAYERS))), "loss", "steps"]
    return f"""\
The perceptron trained by Adam until the training loss is below {sizes.loss:g}, with
{sizes.strength:g} times `hs.trace_penalty(..., curvature="ggn", params="0.*")` in its loss. What
each layer's Gauss-Newton trace is times that without a penalty:

{table(head, rows)}"""
