"""The Hessian as an adaptive optimiser sees it: P^-1/2 H P^-1/2 with P from its live state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.curvature.double import error_of_product
from hesscope.curvature.hessian import Hessian
from hesscope.curvature.shared import SharedOperator
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.steps.held import Held, held
from hesscope.steps.kind import Kind
from hesscope.steps.kinds import (
    furthest_state,
    has_started,
    kind_of,
    unwrapped,
    with_thresholds,
)
from hesscope.steps.stability import threshold


class PreconditionedHessian(SharedOperator):
    """P^-1/2 H P^-1/2, similar to P^-1 H, for the optimiser's step θ ← θ - lr P^-1 (momentum of g).

    P is diagonal, per parameter: 1 for SGD, with or without momentum, and ASGD; √v + eps for
    RMSprop and Adagrad; (√(v/(1 - β₂ᵗ)) + eps) (1 - β₁ᵗ) for Adam and AdamW, which apply the bias
    correction of the first moment to the step (Cohen et al. 2022, "Adaptive gradient methods at
    the edge of stability", section 3); that of the last step likewise for Adadelta, Adamax, NAdam
    and RAdam (`hesscope.steps.preconditioner`). For Shampoo and SOAP it is a matrix for each
    parameter (`hesscope.steps.guests`). The learning rate is not part of P: multiply eigenvalues
    with it. P is read at every product, so it follows the optimiser; parameter groups may differ in
    eps and betas. Costs one product of H.

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
        super().__init__(problem)
        self.optimizer = unwrapped(optimizer)
        self.hessian = Hessian(problem)
        self.kind = _readable(self.optimizer)
        if self.kind.root is None:
            self.preconditioner()
        else:
            self._refuse_unstarted()

    def preconditioner(self) -> Tensor:
        """The diagonal of P, (n,), as the optimiser's state is now.

        Raises:
            ValueError: as for the class, and for a P that is no diagonal.
        """
        if self.kind.root is not None:
            msg = f"the preconditioner of {self.kind.name} is no diagonal; its root is applied."
            raise ValueError(msg)
        started = has_started(self.optimizer)
        pieces = [self._diagonal(p, started) for p in held(self.problem, self.optimizer)]
        return flatten(pieces).to(self.dtype)

    def matmat(self, V: Tensor) -> Tensor:
        """P^-1/2 H P^-1/2 V."""
        if self.kind.root is not None:
            return self.root(self.hessian @ self.root(V))
        scale = self.preconditioner().rsqrt()[:, None]
        return scale * (self.hessian @ (scale * V))

    def root(self, V: Tensor) -> Tensor:
        """P^-1/2 V, (n, k), for a P that is no diagonal."""
        assert self.kind.root is not None
        rows = []
        for p in held(self.problem, self.optimizer):
            piece = V[self.problem.layout.slices()[p.name]]
            if self.kind.steps(p.group, p.state) > 0:  # torch skips what the loss does not use
                shaped = piece.reshape(*p.parameter.shape, V.shape[1])
                piece = self.kind.root(p.group, p.state, shaped).reshape(piece.shape)
            rows.append(piece)
        return torch.cat(rows)

    def measured_noise(self, v: Tensor) -> float:
        """‖P^-1/2 (H - H₆₄) P^-1/2 v‖ on at most 128 examples, where P may be small."""
        return error_of_product(self.problem, Hessian, v, self._around)

    def _around(self, v: Tensor) -> Tensor:
        """P^-1/2 v."""
        if self.kind.root is not None:
            return self.root(v.to(self.dtype)[:, None])[:, 0]
        return self.preconditioner().rsqrt() * v

    def facts(self) -> dict[str, Any]:
        """The facts of the Hessian, and the optimiser."""
        optimizer = type(self.optimizer).__name__
        return {**self.hessian.facts(), **super().facts(), "optimizer": optimizer}

    def _diagonal(self, p: Held, started: bool) -> Tensor:
        """P on one parameter; 1 where the optimiser has made steps, but not of this one.

        torch skips what the loss does not use.

        Raises:
            ValueError: if the optimiser has made no step.
        """
        stepped = self.kind.steps(p.group, p.state) > 0
        if self.kind.preconditioner is None or (started and not stepped):
            return torch.ones_like(p.parameter)
        if not started:
            self._refuse_unstarted()
        P = self.kind.preconditioner(p.group, p.state)
        return P if self.kind.size is None else P / self.kind.size(p.group, p.parameter)

    def _refuse_unstarted(self) -> None:
        """P is known from the first step on.

        Raises:
            ValueError: before.
        """
        if not has_started(self.optimizer):
            first = held(self.problem, self.optimizer)[0].name
            msg = (
                f"{self.kind.name} has no state for {first} yet; make at least one optimiser step "
                "first."
            )
            raise ValueError(msg)


class StepHessian(SharedOperator):
    """lr P^-1/2 (H + weight_decay I) P^-1/2: what an optimiser's step multiplies errors with.

    Its eigenvalues are those of lr P^-1 (H + weight_decay I), with the learning rate and the weight
    decay of every parameter's own group and P of `PreconditionedHessian`; steps near a minimum are
    stable when λmax < `threshold(optimizer).factor`. Decoupled decay is not added (it is in the
    factor). Read at every product, so it follows the optimiser. Costs one product of H.

    Args:
        problem: whose parameters the optimiser moves.
        optimizer: one whose threshold is known; a learning rate of zero makes zeros.
        lr: in place of the largest of the groups' learning rates; the others keep their ratio to
            it. Where all are zero (the first step of a warm-up), their ratio is that of the
            `initial_lr` which schedulers write down, or else one.

    Raises:
        ValueError: as for `PreconditionedHessian` and `threshold`.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(1).double())
    >>> StepHessian(p, torch.optim.SGD(p.model.parameters(), lr=0.5, weight_decay=1)).to_dense()
    tensor([[1.5000]], dtype=torch.float64)
    """

    def __init__(self, problem: Problem, optimizer: Optimizer, *, lr: float | None = None) -> None:
        super().__init__(problem)
        threshold(optimizer)
        self.preconditioned = PreconditionedHessian(problem, optimizer)
        self.optimizer = self.preconditioned.optimizer
        self.hessian, self.lr = self.preconditioned.hessian, lr

    def matmat(self, V: Tensor) -> Tensor:
        """lr^1/2 P^-1/2 (H + weight_decay I) P^-1/2 lr^1/2 V."""
        if self.preconditioned.kind.root is not None:
            lr, decay = self._per_parameter()
            root = lr.sqrt()[:, None]  # the same all over a parameter, so that it commutes with P
            U = root * self.preconditioned.root(V)
            return root * self.preconditioned.root(self.hessian @ U + decay[:, None] * U)
        scale, shift = self.scale_and_shift()
        return scale[:, None] * (self.hessian @ (scale[:, None] * V)) + shift[:, None] * V

    def measured_noise(self, v: Tensor) -> float:
        """What H - H₆₄ leaves in a product, on at most 128 examples."""
        return error_of_product(self.problem, Hessian, v, self._around)

    def _around(self, v: Tensor) -> Tensor:
        """lr^1/2 P^-1/2 v."""
        lr, _ = self._per_parameter()
        return lr.sqrt() * self.preconditioned._around(v)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The diagonals of D and E, (n,) both, in D H D + E, which this operator is.

        Raises:
            ValueError: if P is no diagonal.
        """
        lr, decay = self._per_parameter()
        squared = lr / self.preconditioned.preconditioner()
        return squared.sqrt(), squared * decay

    def facts(self) -> dict[str, Any]:
        """The facts of the Hessian, and the optimiser."""
        return {**self.preconditioned.facts(), **super().facts()}

    def _per_parameter(self) -> tuple[Tensor, Tensor]:
        """The learning rate and the coupled weight decay of each parameter, (n,) both."""
        kind = self.preconditioned.kind
        rates = self._rates(kind)
        lr = torch.empty(self.n, dtype=self.dtype, device=self.device)
        decay = torch.empty_like(lr)
        places = self.problem.layout.slices()
        for p in held(self.problem, self.optimizer):
            lr[places[p.name]] = rates[id(p.group)]
            decay[places[p.name]] = kind.coupled_decay(p.group)
        return lr, decay

    def _rates(self, kind: Kind) -> dict[int, float]:
        """The learning rate of each group, by its id."""
        groups = self.optimizer.param_groups
        rates = [kind.rate(group, furthest_state(self.optimizer, group)) for group in groups]
        if self.lr is not None:
            if max(rates) == 0:
                rates = [float(group.get("initial_lr", 1.0)) for group in groups]
            largest = max(rates) or 1.0
            rates = [self.lr * rate / largest for rate in rates]
        return {id(group): rate for group, rate in zip(groups, rates, strict=True)}


def _readable(optimizer: Optimizer) -> Kind:
    """The kind of an optimiser whose P is known.

    Raises:
        ValueError: if it is of none.
    """
    kind = kind_of(optimizer)
    if kind is None or kind.gain is None or kind.unknown:
        msg = (
            f"the preconditioner of {type(optimizer).__name__} is not known; those of "
            f"{with_thresholds()} are."
        )
        raise ValueError(msg)
    return kind
