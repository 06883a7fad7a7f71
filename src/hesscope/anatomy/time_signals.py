"""How gradients fare through time: what reaches the first steps of a recurrent layer's input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem.problem import Problem
from hesscope.results.sanity import TimeSignal


def time_signals(problem: Problem) -> tuple[TimeSignal, ...] | None:
    """∂L/∂x_t for the input x of each recurrent layer (RNN, LSTM, GRU), over the first batch.

    A layer that runs several times is seen at its first call. Exact for that batch; None for models
    without such layers, and where their inputs are packed. Costs one gradient of the batch.

    Raises:
        ValueError: if the loss cannot be computed.

    >>> import torch, hesscope as hs
    >>> rnn = torch.nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True)
    >>> for p in rnn.parameters(): _ = torch.nn.init.constant_(p, 2.0)
    >>> data = torch.ones(1, 3, 1), torch.zeros(1)
    >>> end = lambda output, target: output[0][:, -1].mean()  # noqa: E731
    >>> p = hs.Problem.from_closure(rnn, lambda m, b: end(m(b[0]), b[1]), [data])
    >>> found, = time_signals(p)  # 2³ at the first step, 2 at the last
    >>> found.length, found.first, found.last
    (3, 8.0, 2.0)
    """
    modules = {n: m for n, m in problem.model.named_modules() if isinstance(m, nn.RNNBase)}
    if not modules:
        return None
    seen: dict[str, tuple[Tensor, int]] = {}
    handles = [m.register_forward_pre_hook(_keeping(seen, n)) for n, m in modules.items()]
    try:
        with problem.evaluation() as e, torch.enable_grad():
            loss = e.finite_loss(problem.batches.first)
            inputs = [x for x, _ in seen.values()]
            found = torch.autograd.grad(loss, inputs, allow_unused=True) if inputs else ()
    finally:
        for handle in handles:
            handle.remove()
    signals = [
        _signal(name, g.movedim(axis, 0))
        for (name, (_, axis)), g in zip(seen.items(), found, strict=True)
        if g is not None
    ]
    return tuple(signals) or None


def _keeping(seen: dict[str, tuple[Tensor, int]], name: str) -> Any:
    def hook(module: nn.RNNBase, args: tuple[Any, ...]) -> Any:
        x = args[0] if args else None
        if name in seen or not isinstance(x, Tensor) or x.ndim < 2:
            return None
        x = x if x.requires_grad else x.detach().clone().requires_grad_()
        seen[name] = x, 1 if module.batch_first and x.ndim == 3 else 0
        return x, *args[1:]

    return hook


def _signal(name: str, gradient: Tensor) -> TimeSignal:
    rms = gradient.detach().double().flatten(1).square().mean(1).sqrt()
    return TimeSignal(name, len(rms), float(rms[0]), float(rms[-1]), float(rms.max()))
