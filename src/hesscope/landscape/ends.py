"""The ends of a line or a path: parameters, and the buffers that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hesscope.problem.adapters import unwrap
from hesscope.problem.checkpoints import read_weights
from hesscope.problem.parameters import finite_vector, flatten
from hesscope.problem.problem import Problem

EndLike = Tensor | Problem | nn.Module | Mapping[str, Tensor] | str | Path
MASK, MASKED = "_mask", "_orig"  # of torch.nn.utils.prune: a buffer, and the parameter under it


@dataclass(frozen=True, eq=False)
class End:
    """Parameters (n,) and, where they are known, the buffers of the network that has them."""

    theta: Tensor
    buffers: dict[str, Tensor] | None

    def blended(self, other: End, t: float) -> dict[str, Tensor]:
        """The buffers at t of the way to another end: exact at both, integers from the nearer."""
        if self.buffers is None or other.buffers is None:
            return dict((self.buffers or other.buffers) or {})
        return {
            name: torch.lerp(tensor, other.buffers[name].to(tensor), t)
            if tensor.is_floating_point()
            else (tensor if t <= 0.5 else other.buffers[name])
            for name, tensor in self.buffers.items()
        }


def end_of(problem: Problem, given: EndLike, name: str) -> End:
    """What was given as an end of a line: a vector, problem, network, state dict or file of it.

    The vector `problem.theta` has the buffers of the problem; those of other vectors are unknown.

    Raises:
        ValueError: if it does not fit the problem, or is not finite.
    """
    if isinstance(given, (str, Path)):
        given = read_weights(problem.model, given)
    if isinstance(given, Tensor) or not isinstance(given, (Problem, nn.Module, Mapping)):
        theta = finite_vector(given, problem.n, problem.dtype, problem.device, name)
        own = bool(torch.equal(theta, problem.theta))
        return End(theta, problem.point.buffers() if own else None)
    tensors = _tensors(given)
    missing = [n for n in problem.layout.names if n not in tensors]
    wrong = [
        f"{n} {tuple(tensors[n].shape)} in place of {tuple(shape)}"
        for n, shape in zip(problem.layout.names, problem.layout.shapes, strict=True)
        if n not in missing and tensors[n].shape != shape
    ]
    if missing or wrong:
        said = [*(f"{n} is missing" for n in missing), *wrong]
        msg = f"{name} does not fit the problem's model: {', '.join(said[:3])}."
        raise ValueError(msg)
    vector = flatten([tensors[n].detach() for n in problem.layout.names])
    theta = finite_vector(vector, problem.n, problem.dtype, problem.device, name)
    there = problem.point.buffers()
    return End(theta, {n: tensors.get(n, t).detach().to(t) for n, t in there.items()})


def without_masks(problem: Problem, a: End, b: End) -> tuple[End, End]:
    """Both ends in the weights that act, where they were pruned by different masks.

    Halfway between two masks and two vectors lies another network than halfway between the weights.
    """
    if a.buffers is None or b.buffers is None:
        return a, b
    masks = {n: n.removesuffix(MASKED) + MASK for n in problem.layout.names if n.endswith(MASKED)}
    differ = {
        n: mask
        for n, mask in masks.items()
        if mask in a.buffers and not torch.equal(a.buffers[mask], b.buffers[mask])
    }
    return _acting(problem, a, differ), _acting(problem, b, differ)


def _acting(problem: Problem, end: End, masks: Mapping[str, str]) -> End:
    """The end with its weights multiplied by these masks, which are all ones afterwards."""
    if not masks or end.buffers is None:
        return end
    theta, buffers, places = end.theta.clone(), dict(end.buffers), problem.layout.slices()
    for name, mask in masks.items():
        theta[places[name]] *= buffers[mask].reshape(-1).to(theta)
        buffers[mask] = torch.ones_like(buffers[mask])
    return replace(end, theta=theta, buffers=buffers)


def _tensors(given: Problem | nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    if isinstance(given, Problem):
        own = zip(given.layout.names, given.point.leaves(), strict=True)
        return {**dict(given.model.named_parameters()), **dict(own), **given.point.buffers()}
    if isinstance(given, nn.Module):
        inner, _ = unwrap(given)
        return {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
    return {n: t for n, t in given.items() if isinstance(t, Tensor)}
