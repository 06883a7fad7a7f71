"""The Hessian as an adaptive optimiser sees it: P^-1/2 H P^-1/2 with P from its live state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.curvature.hessian import Hessian
from hesscope.operator import SymmetricOperator
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.steps.preconditioner import diagonal_of
from hesscope.steps.stability import coupled_decay, long_run_lr, threshold


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
            pieces.append(diagonal_of(self.optimizer, groups[id(leaf)], state, leaf, name))
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


class StepHessian(SymmetricOperator):
    """lr P^-1/2 (H + weight_decay I) P^-1/2: what an optimiser's step multiplies errors with.

    Its eigenvalues are those of lr P^-1 (H + weight_decay I), with the learning rate and the weight
    decay of every parameter's own group and P of `PreconditionedHessian`; steps near a minimum are
    stable when λmax < `threshold(optimizer).factor`. Decoupled decay is not added (it is in the
    factor). Read at every product, so it follows the optimiser. Costs one product of H.

    Raises:
        ValueError: as for `PreconditionedHessian` and `threshold`.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(1).double())
    >>> StepHessian(p, torch.optim.SGD(p.model.parameters(), lr=0.5, weight_decay=1)).to_dense()
    tensor([[1.5000]], dtype=torch.float64)
    """

    def __init__(self, problem: Problem, optimizer: Optimizer) -> None:
        super().__init__(problem.n, dtype=problem.dtype, device=problem.device)
        threshold(optimizer)
        self.hessian = Hessian(problem)
        self.problem, self.optimizer = problem, optimizer
        self.preconditioned = PreconditionedHessian(problem, optimizer)

    def matmat(self, V: Tensor) -> Tensor:
        """lr^1/2 P^-1/2 (H + weight_decay I) P^-1/2 lr^1/2 V."""
        lr, decay = self._per_parameter()
        scale = (lr / self.preconditioned.preconditioner()).sqrt()[:, None]
        W = scale * V
        return scale * (self.hessian @ W + decay[:, None] * W)

    def facts(self) -> dict[str, Any]:
        """The facts of the Hessian, and the optimiser."""
        optimizer = type(self.optimizer).__name__
        return {**self.hessian.facts(), **super().facts(), "optimizer": optimizer}

    def _per_parameter(self) -> tuple[Tensor, Tensor]:
        """The learning rate and the coupled weight decay of each parameter, (n,) both."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        own, kind = dict(self.problem.model.named_parameters()), type(self.optimizer).__name__
        lr = torch.empty(self.n, dtype=self.dtype, device=self.device)
        decay = torch.empty_like(lr)
        for name, place in self.problem.layout.slices().items():
            group = groups[id(own[name])]
            lr[place] = long_run_lr(self.optimizer, group)
            decay[place] = coupled_decay(kind, group)
        return lr, decay
