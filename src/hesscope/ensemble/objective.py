"""What an ensemble is judged by: the examples and a loss, both with the examples last.

Arrays are (m, features, N): elementwise work and matrix products then run along the examples,
which are many and contiguous. With the features last, a step of gradient descent takes 3 times as
long (74 parameters, N = 200).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope.derivatives.losses import (
    softmax_gradient,
    softmax_hessian,
    squared_error_gradient,
)
from hesscope.ensemble.networks import Ensemble


class Loss(ABC):
    """A mean over N examples as a function of outputs z (m, C, N), with targets t like them."""

    @abstractmethod
    def value(self, z: Tensor, t: Tensor) -> Tensor:
        """The loss of each network, (m,)."""

    @abstractmethod
    def gradient(self, z: Tensor, t: Tensor) -> Tensor:
        """∂L/∂z, (m, C, N)."""

    @abstractmethod
    def hessian(self, z: Tensor) -> Tensor:
        """∂²L/∂z², example by example, (m, C, C, N)."""


class CrossEntropy(Loss):
    """Softmax cross-entropy; t are the unit vectors of the labels."""

    def value(self, z: Tensor, t: Tensor) -> Tensor:
        """Mean of -log p_y."""
        return -(z.log_softmax(1) * t).sum(1).mean(1)

    def gradient(self, z: Tensor, t: Tensor) -> Tensor:
        """(p - t) / N."""
        return softmax_gradient(z, t).div_(z.shape[2])

    def hessian(self, z: Tensor) -> Tensor:
        """(diag p - p p') / N."""
        return softmax_hessian(z.softmax(1)).div_(z.shape[2])


class SquaredError(Loss):
    """Mean squared error over the C outputs, as `nn.MSELoss`."""

    def value(self, z: Tensor, t: Tensor) -> Tensor:
        """Mean of |z - t|²/C."""
        return (z - t).square().mean((1, 2))

    def gradient(self, z: Tensor, t: Tensor) -> Tensor:
        """2 (z - t) / (C N)."""
        return squared_error_gradient(z, t).div_(z.shape[2])

    def hessian(self, z: Tensor) -> Tensor:
        """2 I / (C N)."""
        num, C, N = z.shape
        unit = torch.eye(C, dtype=z.dtype, device=z.device) * (2 / (C * N))
        return unit[None, :, :, None].expand(num, C, C, N)


LOSSES: dict[str, Loss] = {"cross_entropy": CrossEntropy(), "mse": SquaredError()}


@dataclass(frozen=True)
class Objective:
    """A loss on examples that all networks share, or on those of each network."""

    loss: Loss
    x: Tensor  # (1 or num, d, N)
    t: Tensor  # (1 or num, C, N)

    @property
    def num_examples(self) -> int:
        """N."""
        return self.x.shape[2]

    def of(self, networks: slice | Tensor) -> Objective:
        """The same for some of the networks."""
        x, t = (a if len(a) == 1 else a[networks] for a in (self.x, self.t))
        return Objective(self.loss, x, t)


def objective(e: Ensemble, inputs: Tensor, targets: Tensor, loss: str) -> Objective:
    """The objective of an ensemble, with inputs and targets in its dtype and on its device.

    Raises:
        ValueError: if the loss is not known, or inputs or targets do not fit the networks.
    """
    if loss not in LOSSES:
        msg = f"loss={loss!r} is not known; there are {', '.join(LOSSES)}."
        raise ValueError(msg)
    num, d = len(e), e.layers[0]
    if inputs.ndim not in (2, 3) or inputs.shape[-1] != d or inputs.shape[:-2] not in ((), (num,)):
        msg = (
            f"inputs have shape {tuple(inputs.shape)}; {num} networks {e.layers} need (N, {d}), "
            f"or ({num}, N, {d}) for examples of their own."
        )
        raise ValueError(msg)
    N = inputs.shape[-2]
    t = _unit_vectors(e, targets, N) if loss == "cross_entropy" else _values(e, targets, N)
    return Objective(LOSSES[loss], _examples_last(inputs.to(e.theta)), _examples_last(t))


def _unit_vectors(e: Ensemble, labels: Tensor, N: int) -> Tensor:
    num, C = len(e), e.layers[-1]
    integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not integer or labels.shape not in ((N,), (num, N)):
        msg = (
            f"targets of cross_entropy have shape {tuple(labels.shape)} and are {labels.dtype}; "
            f"they must be integer labels of shape ({N},), or ({num}, {N}) for labels of their own."
        )
        raise ValueError(msg)
    if N == 0 or int(labels.min()) < 0 or int(labels.max()) >= C:
        span = f"{int(labels.min())} to {int(labels.max())}" if N else "absent"
        msg = f"labels are {span}; networks {e.layers} with {C} outputs need labels 0 to {C - 1}."
        raise ValueError(msg)
    return torch.nn.functional.one_hot(labels.long(), C).to(e.theta)


def _values(e: Ensemble, targets: Tensor, N: int) -> Tensor:
    num, C = len(e), e.layers[-1]
    if targets.shape not in ((N, C), (num, N, C)) or N == 0:
        msg = (
            f"targets of mse have shape {tuple(targets.shape)}; networks {e.layers} on {N} "
            f"examples need ({N}, {C}), or ({num}, {N}, {C}) for targets of their own."
        )
        raise ValueError(msg)
    return targets.to(e.theta)


def _examples_last(a: Tensor) -> Tensor:
    return (a if a.ndim == 3 else a[None]).detach().mT.contiguous()
