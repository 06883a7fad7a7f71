"""Steps with the gradient at a point nearby: what SAM and its relatives have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.optim.arguments import check
from hesscope.optim.around import Around
from hesscope.optim.noise import norm
from hesscope.optim.statistics import statistics_at_rest


class Neighbour(Around):
    """A base optimiser's step at θ with the gradient at θ + ε."""

    def __init__(self, base: Optimizer, rho: float, model: nn.Module | None) -> None:
        if model is not None and not isinstance(model, nn.Module):
            msg = f"model is a {type(model).__name__}, not a torch.nn.Module; or leave it out."
            raise ValueError(msg)
        super().__init__(base, {"rho": check("rho", rho)})
        for group in base.param_groups:
            check("rho of a group", group["rho"])
        self.model = model
        self._away = self._taken = False

    @abstractmethod
    def ascent(self, group: dict[str, Any], gradients: list[Tensor]) -> list[Tensor]:
        """Scales T of a group's gradients: the neighbour is θ + ρ T² g / ‖T g‖."""

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Inside, the parameters are θ + ε; on exit they are θ again, to the bit.

        ε comes from the gradients that are there on entry, which are cleared then: those taken
        inside are for the step. Gradients may be scaled (GradScaler) or accumulated; where they
        are not finite, or zero, ε is zero. BatchNorm of the `model` that was given normalises
        inside as it does in training and leaves its running statistics alone, which belong to θ.

        Raises:
            RuntimeError: if it is entered twice, or there is no gradient.
        """
        if self._away:
            msg = "the parameters are at their neighbour already; leave the first perturbed()."
            raise RuntimeError(msg)
        moved = self._displacements()
        kept = [(p, p.detach().clone()) for p, _ in moved]
        self._away = True
        with statistics_at_rest(self.model):
            try:
                with torch.no_grad():
                    for p, displacement in moved:
                        p.add_(displacement)
                self.zero_grad()
                yield
                self._taken = True
            finally:
                with torch.no_grad():
                    for p, value in kept:
                        p.copy_(value)
                self._away = False

    @torch.no_grad()
    def _displacements(self) -> list[tuple[Tensor, Tensor]]:
        """(parameter, ε) of each that has a gradient.

        Raises:
            RuntimeError: if none has.
        """
        rows = []
        for group in self.param_groups:
            own = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in own]
            scales = self.ascent(group, own)
            rows += [
                (group["rho"], p, g, t) for p, g, t in zip(own, gradients, scales, strict=True)
            ]
        if not rows:
            msg = "no parameter has a gradient; call backward() before perturbed()."
            raise RuntimeError(msg)
        size = norm([t * g for _, _, g, t in rows])
        if not math.isfinite(size) or size == 0:
            return []
        return [(p, t.square() * (g * (rho / size))) for rho, p, g, t in rows]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The base optimiser's step with the gradient at θ + ε.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the
                loss: called at θ, then at θ + ε. Without, gradients were taken inside `perturbed`.

        Returns:
            The loss at θ, of the closure.

        Raises:
            RuntimeError: if no gradient was taken at θ + ε since the last step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
                with self.perturbed():
                    closure()
        if self._away or not self._taken:
            msg = (
                "no gradient was taken at the neighbour: loss.backward(), then 'with "
                "optimizer.perturbed(): loss_fn(model(x), y).backward()', then step(); or give "
                "step a closure."
            )
            raise RuntimeError(msg)
        self._taken = False
        self.base.step()
        return loss

    def own(self) -> dict[str, Any]:
        """The model, and whether a gradient was taken."""
        return {"model": self.model, "_away": False, "_taken": self._taken}
