"""Which layers of a network training moves, and whether the last one is among them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.anatomy.layer_statistics import layers_of
from hesscope.problem.problem import Problem
from hesscope.results.sanity import Trained


def trained(problem: Problem, optimizer: Optimizer | None = None) -> Trained:
    """The layers that are frozen, those that the optimiser leaves alone, and the last of all.

    Frozen is what does not require gradients; parameters that a block of a problem leaves out are
    not. Costs the forward pass of one batch.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> _ = model[2].requires_grad_(False)
    >>> data = torch.ones(3, 1), torch.zeros(3, 1)
    >>> found = trained(hs.Problem(model, torch.nn.MSELoss(), data))
    >>> found.head, found.frozen
    ('2', ('2',))
    """
    modules = layers_of(problem.model)
    own = {name: _weights(module) for name, (module, _) in modules.items()}
    own = {name: parameters for name, parameters in own.items() if parameters}
    moved = None if optimizer is None else _moved(optimizer)
    asked = {name: [p for p in parameters if p.requires_grad] for name, parameters in own.items()}
    return Trained(
        head=_last(problem, {name: m for name, (m, matrix) in modules.items() if matrix}),
        frozen=tuple(name for name in own if not asked[name]),
        unmoved=()
        if moved is None
        else tuple(n for n, ps in asked.items() if ps and not any(id(p) in moved for p in ps)),
        num_layers=len(own),
        steps=math.nan if optimizer is None else _steps(optimizer),
    )


def _weights(module: nn.Module) -> list[Tensor]:
    """Its own matrices, or all of its parameters where it has none: a bias is no layer."""
    parameters: list[Tensor] = list(module.parameters(recurse=False))
    return [p for p in parameters if p.ndim >= 2] or parameters


def _last(problem: Problem, modules: dict[str, Any]) -> str:
    """The matrix layer that is called last; empty where none is."""
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: called.append(name)

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        with problem.evaluation() as e:
            e.finite_loss(problem.batches.first)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else ""


def _moved(optimizer: Optimizer) -> set[int]:
    """Of the parameters that the optimiser holds with a learning rate other than zero."""
    groups = [g for g in optimizer.param_groups if float(g.get("lr", 1.0)) != 0]
    return {id(p) for group in groups or optimizer.param_groups for p in group["params"]}


def _steps(optimizer: Optimizer) -> float:
    counts = [float(s["step"]) for s in optimizer.state.values() if _counts(s)]
    return max(counts, default=math.nan)


def _counts(state: Any) -> bool:
    step = state.get("step") if isinstance(state, dict) else None
    return isinstance(step, (int, float)) or (isinstance(step, Tensor) and step.numel() == 1)
