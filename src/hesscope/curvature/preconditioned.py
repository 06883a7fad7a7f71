"""The Hessian as an adaptive optimiser sees it: P^-1/2 H P^-1/2 with P from its live state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.curvature.hessian import Hessian
from hesscope.operator import SymmetricOperator
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem


class PreconditionedHessian(SymmetricOperator):
    """P^-1/2 H P^-1/2, similar to P^-1 H, for the optimiser's step θ ← θ - lr P^-1 (momentum of g).

    P is diagonal, per parameter: 1 for SGD with or without momentum, √v + eps for RMSProp and
    Adagrad, and (√(v/(1 - β₂ᵗ)) + eps) (1 - β₁ᵗ) for Adam and AdamW, which apply the bias
    correction of the first moment to the step (Cohen et al. 2022, "Adaptive gradient methods at
    the edge of stability", section 3). The learning rate is not part of P: multiply eigenvalues
    with it. P is read at every product, so it follows the optimiser; parameter groups may differ
    in eps and betas. Costs one product of H.

    Raises:
        ValueError: if the optimiser is of another kind, has made no step yet, or does not hold
            every parameter of the problem.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(),
    ...                (torch.ones(1, 1), torch.zeros(1, 1)))
    >>> sgd = torch.optim.SGD(p.model.parameters(), lr=0.1)
    >>> hs.PreconditionedHessian(p, sgd).to_dense()  # the Hessian itself
    tensor([[2.]])
    """

    def __init__(self, problem: Problem, optimizer: Optimizer) -> None:
        super().__init__(problem.n, dtype=problem.dtype, device=problem.device)
        self.problem, self.optimizer, self.hessian = problem, optimizer, Hessian(problem)
        self.preconditioner()

    def preconditioner(self) -> Tensor:
        """The diagonal of P, (n,), as the optimiser's state is now.

        Raises:
            ValueError: as for the class.
        """
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        pieces = []
        for name, leaf in zip(self.problem.layout.names, self._own_parameters(), strict=True):
            if id(leaf) not in groups:
                msg = f"the optimiser does not hold parameter {name}; give the one that trains it."
                raise ValueError(msg)
            state = self.optimizer.state.get(leaf, {})
            if not state and any(self.optimizer.state.values()):
                pieces.append(torch.ones_like(leaf))  # torch skips what the loss does not use
                continue
            pieces.append(_diagonal(self.optimizer, groups[id(leaf)], state, leaf, name))
        return flatten(pieces).to(self.dtype)

    def matmat(self, V: Tensor) -> Tensor:
        """P^-1/2 H P^-1/2 V."""
        scale = self.preconditioner().rsqrt()[:, None]
        return scale * (self.hessian @ (scale * V))

    def facts(self) -> dict[str, Any]:
        """The facts of the Hessian, and the optimiser."""
        optimizer = type(self.optimizer).__name__
        return {**self.hessian.facts(), **super().facts(), "optimizer": optimizer}

    def _own_parameters(self) -> list[Tensor]:
        own = dict(self.problem.model.named_parameters())
        return [own[name] for name in self.problem.layout.names]


def _diagonal(
    optimizer: Optimizer, group: dict[str, Any], state: dict[str, Any], leaf: Tensor, name: str
) -> Tensor:
    """P on one parameter tensor, exactly as torch's optimisers apply it.

    Raises:
        ValueError: if the optimiser is of another kind, or has no state yet.
    """
    kind = type(optimizer).__name__
    if kind == "SGD":
        return torch.ones_like(leaf)
    if kind not in ("RMSprop", "Adagrad", "Adam", "AdamW"):
        msg = f"{kind} is not supported; SGD, RMSprop, Adagrad and Adam(W) are."
        raise ValueError(msg)
    if not state:
        msg = f"{kind} has no state for {name} yet; make at least one optimiser step first."
        raise ValueError(msg)
    if kind == "Adagrad":
        return state["sum"].sqrt() + group["eps"]
    if kind == "RMSprop":
        return _rmsprop_variance(group, state).sqrt() + group["eps"]
    return _adam(group, state)


def _rmsprop_variance(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """E[g²], or the variance E[g²] - E[g]² of the centred version."""
    if not group["centered"]:
        return _tensor(state["square_avg"])
    return _tensor(state["square_avg"]) - _tensor(state["grad_avg"]).square()


def _adam(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """The step is lr m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps), with the largest v for AMSGrad."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    t = float(state["step"])
    v = _tensor(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    return (v.sqrt() / math.sqrt(1 - beta2**t) + group["eps"]) * (1 - beta1**t)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
