"""A point in parameter space: the tensors at which a model is looked at, its own or others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hesscope.problem.parameters import (
    HALF,
    Layout,
    Selection,
    finite_vector,
    flatten,
    select,
    working_dtype,
)
from hesscope.problem.shards import Shards, is_sharded
from hesscope.system import interrupts


@dataclass(frozen=True, eq=False)
class Point:
    """A model, which of its parameters make up theta, and the tensors that stand in for its own.

    The theta of a model in half precision is in float32.
    """

    structure: nn.Module  # the model, or a copy without weights
    layout: Layout
    dtype: torch.dtype  # of theta
    device: torch.device
    substitutes: Mapping[str, Tensor] = field(default_factory=dict)
    is_block: bool = False  # some of theta was chosen: the loss may use nothing of it
    half: torch.dtype | None = None  # in which the model holds some tensor that the loss sees
    gathered: bool = False  # the model is a copy: the user's weights are cut over processes
    shards: Shards | None = None  # the weights, until they are put together

    @classmethod
    def of(cls, model: nn.Module, selection: Selection) -> Point:
        """Where the model stands, theta being its trainable parameters that match.

        Raises:
            ValueError: if nothing matches, or what matches is no vector of one dtype and device; if
                weights are cut by the older FSDP.
        """
        shards = Shards(model) if is_sharded(model) else None
        model = model if shards is None else shards.bare
        chosen = select(dict(model.named_parameters()), selection)
        first = next(iter(chosen.values()))
        own = [*model.parameters(), *model.buffers()]
        half = next((tensor.dtype for tensor in own if tensor.dtype in HALF), None)
        dtype = working_dtype(first.dtype)
        layout = Layout.of(chosen)
        point = cls(model, layout, dtype, first.device, half=half)
        return replace(point, gathered=shards is not None, shards=shards)

    @property
    def model(self) -> nn.Module:
        """The model with its weights, which are put together if they are cut over processes."""
        return self.structure if self.shards is None else self.shards.whole()

    def put_together(self) -> Point:
        """The same point as it is now, with whole weights."""
        return self if self.shards is None else self.of_model(self.model)

    def of_model(self, model: nn.Module) -> Point:
        """The same point of another copy of the model."""
        return replace(self, structure=model, shards=None)

    def without_weights(self) -> Point:
        """The same point, its weights absent and its buffers those that the user's model has."""
        return self if self.shards is None else self.of_model(self.shards.refreshed())

    @property
    def in_pieces(self) -> Shards | None:
        """The weights of this point, if they are cut over processes and no others stand in."""
        return None if self.substitutes or self.half is not None else self.shards

    def leaves(self) -> list[Tensor]:
        """The tensors that make up theta: the model's own, or those of `moved_to`."""
        return self._among(dict(self.model.named_parameters()))

    def entered(self, *, rounded: bool = False) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The leaves that are differentiated, and what the model sees in the place of its tensors.

        Gradients are asked for of the leaves. Parameters outside of theta go on to require them if
        they did: the loss may look there, or differentiate them itself. What the model holds in
        half precision it sees in float32, or, if `rounded`, as it holds it.
        """
        own, inside = dict(self.model.named_parameters()), set(self.layout.names)
        for name in self.layout.names:
            parameter, wanted = own[name], name not in self.substitutes
            if parameter.requires_grad is not wanted:
                parameter.requires_grad_(wanted)
        if self.half is None:
            return self._among(own), dict(self.substitutes)
        seen = dict(self.substitutes)
        for name, tensor in [*own.items(), *self.model.named_buffers()]:
            if tensor.dtype in HALF and name not in seen:
                wanted = name in inside or tensor.requires_grad
                seen[name] = tensor.detach().float().requires_grad_(wanted)
        leaves = [seen.get(name, own[name]) for name in self.layout.names]
        if rounded:  # the derivative passes through the rounding
            tensors = {**own, **dict(self.model.named_buffers())}
            seen = {name: tensor.to(tensors[name].dtype) for name, tensor in seen.items()}
        return leaves, seen

    def without_hooks(self) -> Point:
        """The same point, with tensors of the same memory in place of parameters that have hooks.

        Hooks clip or mask the gradients of training; what is measured is the gradient of the loss.
        """
        own = dict(self.model.named_parameters())
        hooked = [n for n in self.layout.names if own[n]._backward_hooks]
        hooked = [n for n in hooked if n not in self.substitutes and own[n].dtype not in HALF]
        if not hooked:
            return self
        free = {name: own[name].detach().requires_grad_() for name in hooked}
        return replace(self, substitutes={**self.substitutes, **free})

    def _among(self, own: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.substitutes.get(name, own[name]) for name in self.layout.names]

    def watched(self) -> list[Tensor]:
        """Every tensor that the loss depends on: parameters, frozen ones too, then buffers."""
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        return [self.substitutes.get(name, tensor) for name, tensor in own]

    def theta(self) -> Tensor:
        """A copy of the parameter vector (n,)."""
        return flatten([leaf.detach().to(self.dtype) for leaf in self.leaves()]).clone()

    def moved_to(self, theta: Tensor) -> Point:
        """The point theta (n,), in tensors of its own.

        Raises:
            ValueError: if theta does not have length n.
        """
        theta = torch.as_tensor(theta, dtype=self.dtype, device=self.device).detach()
        leaves = [piece.clone().requires_grad_() for piece in self.layout.split(theta)]
        there = dict(zip(self.layout.names, leaves, strict=True))
        return replace(self, substitutes={**self.substitutes, **there})

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Point:
        """The same point, the model's buffers of these names being others."""
        there = {name: tensor.detach().clone() for name, tensor in buffers.items()}
        return replace(self, substitutes={**self.substitutes, **there})

    def buffers(self) -> dict[str, Tensor]:
        """The buffers that the loss sees, by name."""
        return {n: self.substitutes.get(n, t) for n, t in self.model.named_buffers()}

    def block(self, selection: Selection) -> Point:
        """The same point, theta being the part of it that matches.

        Raises:
            ValueError: if nothing matches.
        """
        chosen = select(dict(zip(self.layout.names, self.leaves(), strict=True)), selection)
        return replace(self, layout=Layout.of(chosen), is_block=True)

    def in_double(self) -> Point:
        """The same point in float64: copies of all parameters and buffers."""
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        with torch.inference_mode(mode=False):
            seen = {name: self.substitutes.get(name, tensor) for name, tensor in own}
            inside = set(self.layout.names)
            tensors = {
                name: double(tensor).clone().requires_grad_(name in inside or tensor.requires_grad)
                for name, tensor in seen.items()
            }
        return replace(self, dtype=torch.float64, substitutes=tensors, half=None)

    def facts(self) -> dict[str, str]:
        """Where the weights are, if the user's are cut over processes."""
        cut = self.shards is not None and not self.shards.are_whole
        told = "cut over processes" if cut else "put together from shards"
        return {"weights": told} if self.gathered else {}

    def write(self, theta: Tensor) -> None:
        """Writes theta (n,) into the model's own parameters.

        Raises:
            ValueError: if theta is not finite or not of length n, or this is not where the model
                stands.
        """
        if self.substitutes:
            msg = (
                "this problem stays at parameters of its own, for it was made with "
                "`problem.at(theta)`, and never touches those of its model. Write into the model "
                "through the problem that it was made from: problem.write(theta)."
            )
            raise ValueError(msg)
        if self.gathered:
            msg = (
                "the weights are cut over processes, and this problem looks at a copy of them: "
                "write into the model through its own state dict."
            )
            raise ValueError(msg)
        theta = finite_vector(theta, self.layout.n, self.dtype, self.device, "theta")
        with interrupts.deferred(), torch.no_grad():
            for leaf, piece in zip(self.leaves(), self.layout.split(theta), strict=True):
                leaf.copy_(piece)


def double(tensor: Tensor) -> Tensor:
    """The tensor without its graph, in float64 or complex128 if it is a floating one."""
    if tensor.is_complex():
        return tensor.detach().to(torch.complex128)
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in float32 if it is in half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor
