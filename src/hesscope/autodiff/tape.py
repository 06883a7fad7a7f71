"""Derivatives along directions beside autograd graphs that are cut at some tensors.

A graph that begins at the roots r, with tangents ṙ along some directions, has at a tensor x the
tangent ẋ = (∂x/∂r) ṙ. With adjoints x̄ = ∂L/∂x come their changes x̄˙ along the directions, and
through a graph both go back at once:

    r̄ = (∂x/∂r)ᵀ x̄,    r̄˙ = ∂/∂r (<r̄, ṙ> + <x, x̄˙>), the second term with x̄˙ held fixed,

which is reverse mode over reverse mode. Put together over all pieces of a cut graph, r̄˙ at the
parameters is the Hessian-vector product (Pearlmutter 1994, in pieces).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope.autodiff.graph import refuse_broken
from hesscope.problem.calls import explained

Some = Tensor | None
Changes = list[Tensor] | None  # one for each direction; None for zeros
Output = tuple[Tensor, Tensor, Changes]  # with its adjoint and the changes of that


@dataclass(eq=False)
class Variable:
    """A tensor at which the graph is cut: its tangents, and the adjoints that have come back."""

    tensor: Tensor
    tangents: list[Tensor]  # one for each direction
    adjoint: Some = None
    changes: Changes = None

    @property
    def value(self) -> Tensor:
        """Its numbers, without a graph."""
        return self.tensor.detach()

    def receive(self, adjoint: Some, changes: Changes) -> None:
        """Adds what comes back along one way; None are zeros."""
        if adjoint is not None:
            self.adjoint = adjoint if self.adjoint is None else self.adjoint + adjoint
        if changes is not None:
            old = self.changes
            both = zip(old or (), changes, strict=old is not None)
            self.changes = changes if old is None else [a + b for a, b in both]

    def returned(self) -> tuple[Some, Changes]:
        """What has come back, which is then forgotten."""
        adjoint, changes = self.adjoint, self.changes
        self.adjoint = self.changes = None
        return adjoint, changes


class Leaf(Variable):
    """A parameter of theta, whose changes are added up in place: they are the product."""

    factor = 1.0  # of what is added: the loss itself is not scaled, for it may round its steps

    def __init__(self, tensor: Tensor, tangents: list[Tensor], products: list[Tensor]) -> None:
        super().__init__(tensor, tangents)
        self.products = products

    def receive(self, adjoint: Some, changes: Changes) -> None:  # noqa: ARG002  the gradient
        """Adds the changes to the products."""
        for j, change in enumerate(changes or ()):
            self.products[j].add_(change, alpha=self.factor)


class Tape:
    """The roots of the graph that is being built, and the tensors whose tangents are known.

    Args:
        leaves: the parameters, with directions and products.
        inside: parameters of blocks, which the graph between them does not begin at.
        scan: whether graphs are searched for what torch differentiates wrongly.
    """

    def __init__(
        self, leaves: Sequence[Leaf], num: int, *, scan: bool, inside: Sequence[Leaf] = ()
    ) -> None:
        self.roots: list[Variable] = list(leaves)
        self.num, self.scan = num, scan
        self._known: dict[int, tuple[Tensor, Variable | None]] = {}
        for leaf in (*leaves, *inside):
            self._know(leaf.tensor, leaf)

    def add_root(self, tensor: Tensor, tangents: list[Tensor]) -> Variable:
        """A new tensor without history, at which the graph goes on."""
        self.roots.append(Variable(tensor, tangents))
        return self._know(tensor, self.roots[-1])

    def drop_roots(self, roots: Sequence[Variable]) -> None:
        """Forgets the latest roots, which these are."""
        for root in reversed(roots):
            last = self.roots.pop()
            assert last is root
            del self._known[id(root.tensor)]

    def is_root(self, variable: Variable) -> bool:
        """Whether the graph begins there, and nothing has to go back further."""
        return any(variable is root for root in self.roots)

    def variable_of(self, tensor: Tensor) -> Variable | None:
        """The tensor with its tangents; None if it does not depend on the parameters."""
        if not tensor.requires_grad:
            return None
        if id(tensor) not in self._known:
            tangents = self._tangents(tensor)
            self._know(tensor, None if tangents is None else Variable(tensor, tangents))
        return self._known[id(tensor)][1]

    def _know(self, tensor: Tensor, variable: Variable | None) -> Variable:
        self._known[id(tensor)] = tensor, variable  # held, or another might get its identity
        return variable  # type: ignore[return-value]

    def _tangents(self, x: Tensor) -> list[Tensor] | None:
        """(∂x/∂r) ṙ: uᵀ(∂x/∂r), linear in u, differentiated by u along ṙ."""
        u = torch.zeros_like(x, requires_grad=True)
        roots = [root.tensor for root in self.roots]
        with explained():
            back = torch.autograd.grad(x, roots, u, create_graph=True, allow_unused=True)
            active = [i for i, g in enumerate(back) if g is not None and g.requires_grad]
            if not active:
                return None
            along = [[self.roots[i].tangents[j] for i in active] for j in range(self.num)]
            mine = [back[i] for i in active]
            return [torch.autograd.grad(mine, u, v, retain_graph=True)[0] for v in along]

    def pull_back(
        self,
        outputs: Sequence[Output],
        roots: Sequence[Tensor],
        receivers: Sequence[Variable],
        *,
        last: bool = True,
    ) -> None:
        """Gives each receiver what comes back to its root from the outputs.

        Args:
            outputs: tensors with a graph, each with its adjoint and the changes of that.
            roots: where the graph begins.
            receivers: one for each root; their tangents are those of the roots.
            last: whether the graph is needed no longer.
        """
        tensors, adjoints, changes = zip(*outputs, strict=True)
        with explained():
            first = torch.autograd.grad(
                tensors, roots, adjoints, create_graph=True, allow_unused=True
            )
        if self.scan:
            for tensor in tensors:
                refuse_broken([g for g in first if g is not None], tensor.sum())
        active = [i for i, g in enumerate(first) if g is not None and g.requires_grad]
        moved = [i for i, change in enumerate(changes) if change is not None]
        targets = [first[i] for i in active] + [tensors[i] for i in moved]
        second: list[tuple[Some, ...]] = []
        for j in range(self.num if targets else 0):
            along = [receivers[i].tangents[j] for i in active] + [changes[i][j] for i in moved]
            keep = not last or j < self.num - 1
            with explained():
                second.append(
                    torch.autograd.grad(targets, roots, along, retain_graph=keep, allow_unused=True)
                )
        for i, (receiver, g) in enumerate(zip(receivers, first, strict=True)):
            mine = [h for row in second if (h := row[i]) is not None]
            receiver.receive(None if g is None else g.detach(), mine or None)
