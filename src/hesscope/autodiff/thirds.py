"""Third derivatives of what has a closed form for its second: by its elementary form.

Only a loss that is made of derivatives needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Some = Tensor | None


def by_elementary_form(
    f: Callable[..., Tensor], inputs: Sequence[Some], g: Tensor, cotangents: Sequence[Some]
) -> list[Some]:
    """For cotangents of the gradients of <g, f(inputs)>, those of g and inputs, with their graphs.

    In aliases: g is usually a function of the inputs, and no derivative is to go that way here.
    """
    g, inputs = g.view_as(g), [None if t is None else t.view_as(t) for t in inputs]
    pairs = [
        (t, c)
        for t, c in zip(inputs, cotangents, strict=True)
        if t is not None and t.requires_grad and c is not None
    ]
    if not pairs:
        return [None] * (1 + len(inputs))
    slopes = torch.autograd.grad(f(*inputs), [t for t, _ in pairs], g, create_graph=True)
    graded = [
        (slope, c) for slope, (_, c) in zip(slopes, pairs, strict=True) if slope.requires_grad
    ]
    wanted = [t for t in (g, *inputs) if t is not None and t.requires_grad]
    results = torch.autograd.grad(
        [slope for slope, _ in graded], wanted, [c for _, c in graded],
        create_graph=True, allow_unused=True,
    )  # fmt: skip
    found = {id(t): result for t, result in zip(wanted, results, strict=True)}
    return [found.get(id(t)) for t in (g, *inputs)]
