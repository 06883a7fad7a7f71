"""The trace of one layer's Gauss-Newton block as a penalty: does it reach that layer alone?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from common.claims import Claim, interval, spread, verdict
from common.data import digest
from common.keeping import Arrays, Run
from common.seeds import over, scalar
from common.study import Section, table
from common.style import NEGATIVE, POSITIVE
from land import networks
from matplotlib.figure import Figure
from torch.nn import functional as F

import hesscope as hs
from split.sizes import Sizes

BLOCKS = {"first layer": "0.*", "last layer": "2.*"}
STRENGTH = 0.05
FEWER = 0.8  # of the plain trace: then the penalty has reached its layer


def measure(run: Run, s: Sizes) -> Section:
    """Without a penalty, and with one on either layer, from the same starts."""
    pair = networks.images(s.examples)
    key = (s.penalised, s.hidden, digest(*pair))
    found = {
        name: over(run, f"penalty/{name.replace(' ', '-')}", key, range(s.seeds),
                   partial(_one, name, pair, s))
        for name in ("none", *BLOCKS)
    }  # fmt: skip
    return Section(_text(found, s), claims(found), _draw(found), dict(found))


def _one(name: str, pair: networks.Pair, s: Sizes, seed: int) -> Arrays:
    X, y = pair
    model = networks.made(
        partial(networks.perceptron, 49, 2 * s.hidden, 10, act=torch.nn.Tanh), seed
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    for step in range(s.penalised):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), y)
        if name in BLOCKS:
            penalty = hs.trace_penalty(
                model, F.cross_entropy, pair, curvature="ggn", params=BLOCKS[name], seed=step
            )
            loss = loss + STRENGTH * penalty
        loss.backward()
        optimizer.step()
    problem = hs.Problem(model, F.cross_entropy, pair)
    traces = {
        block: scalar(float(hs.GaussNewton(problem.block(glob)).to_dense().trace()))
        for block, glob in BLOCKS.items()
    }
    return {**traces, "loss": scalar(problem.loss())}


def claims(found: dict[str, Arrays]) -> Sequence[Claim]:
    """Reached: the penalised block's trace surely below FEWER of the plain one's.

    Targeted: its ratio surely below that of the other block.
    """
    said, reached, targeted = [], [], []
    for block in BLOCKS:
        (other,) = set(BLOCKS) - {block}
        own, others = (found[block][b] / found["none"][b] for b in (block, other))
        mean, half = interval(own)
        gap, gap_half = interval((others / own).log())
        reached.append(mean + half < FEWER)
        targeted.append(gap - gap_half > 0)
        said.append(f"on the {block}: its trace x {spread(own)}, the other's x {spread(others)}")
    tried = (*said, f"strength {STRENGTH} in both")
    return (
        Claim(
            "A penalty on the trace of one layer's Gauss-Newton block flattens that layer",
            "; ".join(said), verdict(all(reached), any(reached)), "landscapes/ggn-regularisation",
            tried if not any(reached) else (),
        ),
        Claim(
            "It is targeted: that layer flattens more than the other",
            "; ".join(said), verdict(all(targeted), any(targeted)),
            "landscapes/ggn-regularisation", tried if not any(targeted) else (),
        ),
    )  # fmt: skip


def _text(found: dict[str, Arrays], s: Sizes) -> str:
    rows = [
        [name, spread(f["loss"]), *(spread(f[block]) for block in BLOCKS)]
        for name, f in found.items()
    ]
    head = ["penalty on", "training loss", *(f"trace of G, {block}" for block in BLOCKS)]
    return (
        f"49-{2 * s.hidden}-10 (tanh) on {s.examples} digits, {s.penalised} full-batch steps with "
        f"momentum, {s.seeds} seeds. The penalty is {STRENGTH} times the trace of the block, one "
        'probe a step (`hs.trace_penalty(curvature="ggn", params=...)`).\n\n' + table(head, rows)
    )


def _draw(found: dict[str, Arrays]) -> Figure:
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    for ax, block in zip(figure.subplots(1, 2), BLOCKS, strict=True):
        for i, (name, f) in enumerate(found.items()):
            colour = NEGATIVE if name == block else POSITIVE
            ax.plot(torch.full_like(f[block], i), f[block], "o", color=colour, alpha=0.6)
        ax.set_xticks(range(len(found)), list(found))
        ax.set(ylim=(0, None), title=f"trace of G, {block}", xlabel="penalty on")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
