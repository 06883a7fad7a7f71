"""Adaptive sharpness-aware minimisation (Kwon, Kim, Park and Choi 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.optim.arguments import check
from hesscope.optim.neighbour import Neighbour


class ASAM(Neighbour):
    """SAM in a ball that is measured by the weights (Kwon et al. 2021, algorithm 1).

        T = |θ| + η, entry by entry
        ε̂(θ) = ρ T² ∇L(θ) / ‖T ∇L(θ)‖       (eq. 8)
        θ ← base optimiser's step with ∇L(θ + ε̂(θ))

    With η = 0 the neighbourhood does not change when weights are rescaled so that the network stays
    what it is. All else is as for `SAM`, ρ being relative to the weights.

    Args:
        base: makes the steps: any optimiser of one gradient a step.
        rho: radius, relative to the weights: ten times that of SAM in the paper.
        eta: what is added to |θ|, so that weights near zero move too.
        model: whose BatchNorm layers are to gather no statistics at θ + ε̂.

    Raises:
        ValueError: if base is no such optimiser, or rho or eta not above zero.

    >>> import torch
    >>> from hesscope.optim import ASAM
    >>> theta = torch.tensor([2.0, 0.0], requires_grad=True)
    >>> asam = ASAM(torch.optim.SGD([theta], lr=1.0), rho=0.5, eta=1.0)
    >>> theta.sum().backward()
    >>> with asam.perturbed():  # T = (3, 1): ε = 0.5 (9, 1)/√10
    ...     print([f"{x:.4f}" for x in theta.tolist()])
    ['3.4230', '0.1581']
    """

    def __init__(
        self,
        base: Optimizer,
        rho: float = 0.5,
        eta: float = 0.01,
        *,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(base, rho, model)
        self.defaults["eta"] = check("eta", eta)
        for group in self.param_groups:
            group.setdefault("eta", self.defaults["eta"])

    def ascent(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """T = |θ| + η."""
        return [p.detach().abs() + group["eta"] for p in parameters]
