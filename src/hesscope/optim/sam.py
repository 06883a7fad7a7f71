"""Sharpness-aware minimisation (Foret, Kleiner, Mobahi and Neyshabur 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.optim.neighbour import Neighbour


class SAM(Neighbour):
    """Minimises max L(θ + ε) over ‖ε‖ ≤ ρ to first order (Foret et al. 2021, algorithm 1).

        ε̂(θ) = ρ ∇L(θ) / ‖∇L(θ)‖            (eq. 2 with p = 2)
        g = ∇L(θ + ε̂(θ))                    (eq. 3)
        θ ← base optimiser's step with g

    Two gradients a step. The norm is over all groups together, whose ρ may differ. Weight decay is
    the base optimiser's, at θ. The data of one step give both gradients; split into parts of m
    examples they are m-sharpness only if each part takes steps of its own.

    Under `torch.amp.GradScaler` nothing has to be unscaled: ε̂ does not depend on the scale, and a
    step that the scaler leaves out leaves θ where it was. With DistributedDataParallel every
    process has the mean gradient, so that all move alike.

    Args:
        base: makes the steps: any optimiser of one gradient a step.
        rho: radius of the neighbourhood, in parameter space.
        model: whose BatchNorm layers are to gather no statistics at θ + ε̂; without, they do.

    Raises:
        ValueError: if base is no such optimiser or rho not above zero.

    >>> import torch
    >>> from hesscope.optim import SAM
    >>> theta = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> sam = SAM(torch.optim.SGD([theta], lr=1.0), rho=0.5)
    >>> (theta.square().sum() / 2).backward()
    >>> with sam.perturbed():
    ...     print([round(x, 4) for x in theta.tolist()])  # θ + 0.5 θ/5
    ...     (theta.square().sum() / 2).backward()
    [3.3, 4.4]
    >>> sam.step()
    >>> [round(x, 4) for x in theta.tolist()]  # θ - 1.1 θ
    [-0.3, -0.4]
    """

    def __init__(
        self, base: Optimizer, rho: float = 0.05, *, model: nn.Module | None = None
    ) -> None:
        super().__init__(base, rho, model)

    def ascent(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """T = I: the ball is round."""
        return [torch.ones((), dtype=p.dtype, device=p.device) for p in parameters]
