"""How differently the input features are scaled: the commonest cause of ill-conditioning."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hesscope.problem.problem import Problem
from hesscope.system import collectives

RARE = 0.01  # of the examples: a feature that is non-zero in fewer has no scale of its own


def feature_scales(problem: Problem) -> Tensor:
    """(d,) the root-mean-square of each input feature where it is not zero; NaN where it is rare.

    The curvature along a weight of the first layer is proportional to its input squared, so
    features of sizes 1 and 1000 make directions whose curvatures differ by 1e6 (LeCun, Bottou, Orr
    and Müller 1998, section 4.3). Zeros are left out: a word that most texts lack, or a pixel that
    is mostly black, is not small where it counts.

    Looks at what the model is called with: the first argument, if it is a floating tensor (N, d).
    Empty for images, sequences and tokens, whose features share their weights. Costs one forward
    pass.

    Raises:
        RuntimeError: if the loss is not finite.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0, 30.0, 0.0], [-1.0, 40.0, 0.0]])
    >>> model = torch.nn.Linear(3, 1)
    >>> feature_scales(hs.Problem(model, torch.nn.functional.mse_loss, (x, x[:, :1])))
    tensor([ 1.0000, 35.3553,     nan], dtype=torch.float64)
    """
    sums: list[Tensor] = []  # squares, non-zeros, examples: (3, d)
    other: list[bool] = []

    def note(_: Any, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 2:
            other.append(True)
            return
        x = x.detach().double()
        counts = (x != 0).double().sum(0)
        sums.append(torch.stack([x.square().sum(0), counts, torch.full_like(counts, len(x))]))

    with problem.evaluation() as e:
        handle = problem.model.register_forward_pre_hook(note)
        try:
            for batch in e.batches:
                e.finite_loss(batch)
        finally:
            handle.remove()
    if other or not sums or len({s.shape for s in sums}) > 1:
        return torch.zeros(0, dtype=torch.float64)
    squares, counts, num = collectives.sum_over_processes(torch.stack(sums).sum(0))
    return torch.where(counts >= RARE * num, (squares / counts).sqrt(), math.nan).cpu()


def feature_ratio(problem: Problem) -> float:
    """The largest over the smallest of the `feature_scales`; NaN if fewer than two are known.

    Raises:
        RuntimeError: if the loss is not finite.
    """
    scales = feature_scales(problem)
    known = scales[scales > 0]
    return float(known.max() / known.min()) if len(known) > 1 else math.nan
