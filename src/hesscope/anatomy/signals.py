"""How large signals are on their way through a network, forwards and backwards, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.anatomy.layer_statistics import layers_of
from hesscope.problem.problem import Problem

FEWEST = 3  # matrix layers: two hidden ones, and the last, in the units of the targets


def signals(problem: Problem) -> dict[str, tuple[float, float, float]] | None:
    """Root-mean-square output, its gradient, and the gain of each matrix layer, in forward order.

    The output z is what the layer's module returns (before an activation), over the first batch;
    the gradient is ∂L/∂z of the mean loss; the gain is ‖W‖_F/√outputs, by which the weights amplify
    white inputs. A layer that runs several times is seen at its first call. Exact for that batch;
    None for networks of less than three such layers, where there is nothing to compare. Costs one
    gradient of the batch.

    Raises:
        ValueError: if the loss cannot be computed.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Sequential(*(torch.nn.Linear(1, 1, bias=False) for _ in range(3)))
    >>> for p in model.parameters(): _ = torch.nn.init.constant_(p, 2.0)
    >>> data = torch.ones(2, 1), torch.zeros(2, 1)
    >>> signals(hs.Problem(model, torch.nn.MSELoss(), data))["0"]  # 2 · 8 · 2² over two examples
    (2.0, 32.0, 2.0)
    """
    modules = {name: m for name, (m, matrix) in layers_of(problem.model).items() if matrix}
    batch = problem.batches.first
    with problem.evaluation() as e, _first_outputs(modules) as seen:
        loss = e.finite_loss(batch)
        outputs = [output for output in seen.values() if output.requires_grad]
        gradients = torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ()
        names = [name for name, output in seen.items() if output.requires_grad]
        found = {
            name: (_rms(output), _rms(gradient), _gain(modules[name]))
            for name, output, gradient in zip(names, outputs, gradients, strict=True)
            if gradient is not None
        }
    return found if len(found) >= FEWEST else None


@contextmanager
def _first_outputs(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, the outputs of the modules' first calls, in the order in which they come."""
    seen: dict[str, Tensor] = {}
    handles = [module.register_forward_hook(_keeping(seen, n)) for n, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keeping(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if name in seen or not isinstance(output, Tensor):
            return output
        seen[name] = output
        return output.clone()  # an activation that works in place must not change what was kept

    return hook


def _gain(module: nn.Module) -> float:
    """The largest ‖W‖_F/√outputs of the module's matrices."""
    weights = [p for name, p in module.named_parameters() if p.ndim >= 2 and "weight" in name]
    return max(float(w.detach().double().norm()) / len(w) ** 0.5 for w in weights)


def _rms(values: Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())
