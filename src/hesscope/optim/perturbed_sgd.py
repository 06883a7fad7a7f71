"""Gradient descent with noise that leaves saddles (Ge et al. 2015; Jin et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope import probes
from hesscope.optim.arguments import check, check_count
from hesscope.optim.closures import evaluated
from hesscope.optim.noise import norm, normal


class PerturbedSGD(Optimizer):
    """Gradient descent that is kicked: in every step, or where the gradient is small.

    Without a threshold (Ge, Huang, Jin and Yuan 2015, algorithm 1):

        θ ← θ - lr (g + n),  n uniform on the sphere of `radius`

    With one (Jin, Ge, Netrapalli, Kakade and Jordan 2017, algorithm 2), t counting steps:

        if ‖g‖ ≤ threshold and t - t_kick > wait:  t_kick ← t,  θ ← θ + ξ,  ξ uniform in the ball
        θ ← θ - lr g

    Along a direction of curvature -μ a kick grows as (1 + lr μ)^t, so that a strict saddle is left
    in about log(1/radius)/(lr μ) steps, which gradient descent, with momentum or not, that starts
    on the saddle's stable manifold never does. Algorithm 2 ends when a kick has lowered the loss by
    less than it would at a saddle: that is for the caller, who knows the loss. It takes g at the
    point before the kick, as one gradient a step allows, which is the same to order lr · radius.

    The norm is that of all groups together. Noise is drawn from (seed, step): a run that is resumed
    from `state_dict` goes on to the bit.

    Args:
        params: as for any optimiser of torch.
        lr: of every step.
        radius: length of the noise n, in units of the gradient, or of the kick ξ, in those of θ.
        threshold: gradient norm at and below which θ is kicked; None: noise in every step.
        wait: steps without a kick after one.
        seed: of the noise.

    Raises:
        ValueError: if an argument is out of range.

    >>> import torch
    >>> from hesscope.optim import PerturbedSGD
    >>> theta = torch.tensor([1.0, 0.0], requires_grad=True)  # where descent ends in the saddle 0
    >>> kicked = PerturbedSGD([theta], lr=0.1, radius=1e-3, threshold=1e-2)
    >>> for _ in range(200):
    ...     kicked.zero_grad()
    ...     (theta[0] ** 2 + (theta[1] ** 2 - 1) ** 2 / 4).backward()
    ...     kicked.step()
    >>> round(abs(theta[1].item()), 2)  # one of the minima, (0, ±1)
    1.0
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        radius: float = 1e-2,
        threshold: float | None = None,
        wait: int = 50,
        seed: int = 0,
    ) -> None:
        defaults = {"lr": lr, "radius": radius, "threshold": threshold, "wait": wait, "seed": seed}
        super().__init__(params, {**defaults, "num_steps": 0, "last_kick": None})
        for group in self.param_groups:
            check("lr", group["lr"])
        check("radius", radius)
        if threshold is not None:
            check("threshold", threshold)
        check_count("wait", wait, least=0)
        check_count("seed", seed, least=0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the loss of the closure, if there is one."""
        loss = evaluated(closure)
        moved = [
            (group, p, p.grad)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if not moved:
            return loss
        first = self.param_groups[0]
        parameters = [p for _, p, _ in moved]
        if first["threshold"] is None:
            for (group, p, g), n in zip(moved, self._noise(first, parameters), strict=True):
                p.add_(g + n, alpha=-group["lr"])
        else:
            if self._is_due(first, [g for _, _, g in moved]):
                torch._foreach_add_(parameters, self._noise(first, parameters))
            for group, p, g in moved:
                p.add_(g, alpha=-group["lr"])
        for group in self.param_groups:
            group["num_steps"] += 1
        return loss

    def _is_due(self, group: dict[str, Any], gradients: list[Tensor]) -> bool:
        """Whether θ is to be kicked; if so, that is noted."""
        t, last = group["num_steps"], group["last_kick"]
        if last is not None and t - last <= group["wait"]:
            return False
        if norm(gradients) > group["threshold"]:
            return False
        for one in self.param_groups:
            one["last_kick"] = t
        return True

    def _noise(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Uniform on the sphere of the radius, or in the ball where there is a threshold."""
        seed, t = group["seed"], group["num_steps"]
        z = normal(parameters, seed, "perturbed SGD", t)
        length = group["radius"] / norm(z)
        if group["threshold"] is not None:
            generator = torch.Generator().manual_seed(probes.key(seed, "length of a kick", t))
            u = torch.rand((), dtype=torch.float64, generator=generator)
            length *= float(u) ** (1 / sum(p.numel() for p in parameters))
        return [(length * piece).to(p.dtype) for piece, p in zip(z, parameters, strict=True)]
