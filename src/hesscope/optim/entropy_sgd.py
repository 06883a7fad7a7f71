"""Entropy-SGD: descent on the local entropy (Chaudhari et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.optim.arguments import check, check_count
from hesscope.optim.closures import evaluated
from hesscope.optim.noise import normal


class EntropySGD(Optimizer):
    """Descends log ∫ exp(-L(θ') - γ/2 ‖θ - θ'‖²) dθ', which is large in wide valleys.

    Its gradient γ (θ - E θ') is estimated by Langevin dynamics (Chaudhari et al. 2017, algorithm 1,
    eq. 7 and 8). A call of `step` is one inner step, from one gradient at θ':

        θ' ← θ' - η' (g(θ') - γ (θ - θ')) + √η' ε N(0, I)
        μ ← (1 - α) μ + α θ'

    and every L-th ends a round:

        θ ← θ - lr (θ - μ),  θ' ← μ ← θ,  γ ← γ (1 + growth)

    The paper writes the outer step as η γ (θ - μ); `lr` is that product, and 1 goes to the mean μ.
    Between rounds the model holds θ', the chain; θ is in `state[p]["theta"]`, and in the model
    after every L steps. There is no closure to be called L times, so AMP, accumulation and
    schedulers of `lr` work as they do with SGD: a batch a step. Noise is drawn from (seed, step).

    Args:
        params: as for any optimiser of torch.
        lr: of the outer step, 1 at most.
        inner_lr: η'.
        num_inner: L.
        gamma: γ, the stiffness with which θ' is held near θ.
        growth: of γ, in every round ("scoping").
        alpha: α, the weight of the newest θ'.
        noise: ε.
        seed: of the noise.

    Raises:
        ValueError: if an argument is out of range.

    >>> import torch
    >>> from hesscope.optim import EntropySGD
    >>> theta = torch.tensor([1.0], requires_grad=True)
    >>> entropy = EntropySGD([theta], num_inner=2, inner_lr=0.5, gamma=1.0, alpha=0.5, noise=1e-9)
    >>> for _ in range(2):
    ...     entropy.zero_grad()
    ...     (theta.square().sum() / 2).backward()
    ...     entropy.step()
    >>> round(theta.item(), 4)  # θ' = 1, 0.5, 0.5; μ = 1, 0.75, 0.625
    0.625
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        inner_lr: float = 0.1,
        num_inner: int = 20,
        gamma: float = 1e-4,
        growth: float = 1e-3,
        alpha: float = 0.75,
        noise: float = 1e-4,
        seed: int = 0,
    ) -> None:
        check_count("seed", seed, least=0)
        defaults = {"lr": lr, "inner_lr": inner_lr, "num_inner": num_inner, "gamma": gamma}
        defaults |= {"growth": growth, "alpha": alpha, "noise": noise, "seed": seed}
        super().__init__(params, {**defaults, "num_steps": 0})
        for group in self.param_groups:
            for name in ("inner_lr", "gamma"):
                check(name, group[name])
            for name in ("lr", "alpha"):
                check(name, group[name], most=1.0)
            for name in ("growth", "noise"):  # zero is none
                check(name, group[name] or 1.0)
            check_count("num_inner", group["num_inner"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One inner step; the loss of the closure, if there is one."""
        loss = evaluated(closure)
        for i, group in enumerate(self.param_groups):
            own = [p for p in group["params"] if p.grad is not None]
            noise = normal(own, group["seed"], f"Langevin steps of group {i}", group["num_steps"])
            for p, z in zip(own, noise, strict=True):
                self._langevin(group, p, z)
            group["num_steps"] += 1
            if group["num_steps"] % group["num_inner"] == 0:
                for p in group["params"]:
                    self._outer(group, p)
                group["gamma"] *= 1 + group["growth"]
        return loss

    def _langevin(self, group: dict[str, Any], p: Tensor, z: Tensor) -> None:
        state, eta = self.state[p], group["inner_lr"]
        if not state:
            state["theta"], state["mu"] = p.clone(), p.clone()
        p.add_(p.grad - group["gamma"] * (state["theta"] - p), alpha=-eta)
        p.add_(z.to(p.dtype), alpha=eta**0.5 * group["noise"])
        state["mu"].lerp_(p, group["alpha"])

    def _outer(self, group: dict[str, Any], p: Tensor) -> None:
        state = self.state[p]
        if state:
            state["theta"].lerp_(state["mu"], group["lr"])
            state["mu"].copy_(state["theta"])
            p.copy_(state["theta"])
