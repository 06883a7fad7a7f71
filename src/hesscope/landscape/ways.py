"""The ways to get the loss at many points of a plane; one by one is always right.

All the points share the surroundings of an evaluation and what `Shared` computes once for all;
convolutions are folded with what follows them; batches cut small stay in the processor's cache; and
a stack of points goes through the model at once (torch.func.vmap), which pays where the work of one
is too small to fill the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hesscope.landscape.convolutions import Folding, convolutions_in, folded
from hesscope.landscape.perceptrons import losses_of
from hesscope.landscape.shared import WIDE, Shared
from hesscope.landscape.statistics import with_statistics
from hesscope.perceptron.mlp import MLP
from hesscope.problem.contents import tensors_in
from hesscope.problem.data import Batch, Batches
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.parameters import substituted
from hesscope.problem.problem import Problem


@dataclass(frozen=True, eq=False)
class Plane:
    """The points origin + Σ c_i vectors_i of a problem's parameter space."""

    problem: Problem
    origin: Tensor  # (n,)
    vectors: Tensor  # (n, k)

    def point(self, c: Tensor) -> Tensor:
        """Theta (n,) at coordinates c (k,), exactly the origin at zero."""
        return torch.addmv(self.origin, self.vectors, c.to(self.vectors))


@dataclass(frozen=True)
class Fold:
    """How convolutions are folded: with their channels last, or in the order that they have."""

    last: bool


Way = Callable[[Plane, Tensor], Tensor]  # coordinates (m, k) -> losses (m,) float64


def one_by_one(plane: Plane, coordinates: Tensor) -> Tensor:
    """As `problem.loss_at` has it."""
    losses = [plane.problem.loss_at(plane.point(c)) for c in coordinates]
    return torch.tensor(losses, dtype=torch.float64)


def with_own_statistics(gather: Problem, plane: Plane, coordinates: Tensor) -> Tensor:
    """One by one, each with running statistics that `gather`'s data gives there."""
    losses = []
    for c in coordinates:
        theta = plane.point(c)
        losses.append(with_statistics(gather.at(theta)).on(plane.problem).loss_at(theta))
    return torch.tensor(losses, dtype=torch.float64)


def shared(
    plane: Plane, coordinates: Tensor, size: int | None = None, fold: Fold | None = None
) -> Tensor:
    """Each point on all batches that are held, with what they have in common computed once.

    Batches cut to a size are right if examples do not mix.
    """
    plane = plane if size is None else _cut(plane, size)
    problem = plane.problem.at(plane.origin)
    total = torch.zeros(len(coordinates), dtype=torch.float64)
    moved, pieces = coordinates.to(plane.vectors), _pieces(plane)
    with problem.evaluation() as e, _folding(e, fold) as folding, e.values() as value:
        for block in _blocks(e.batches):
            common = Shared([t for batch in block for t in tensors_in(batch.content)])
            weights = torch.tensor([b.count / e.num_items for b in block], dtype=torch.float64)
            for i, numbers in enumerate(coordinates.tolist()):
                torch._foreach_copy_(e.leaves, problem.layout.split(plane.point(moved[i])))
                folding.moves()
                common.stands_at(e.leaves, pieces, numbers)
                found = []
                for batch in block:
                    with common if common.pays else nullcontext():
                        found.append(value(batch).reshape(()))
                    folding.check()
                total[i] += weights @ torch.stack(found).double().cpu()
    return total


@contextmanager
def _folding(e: Evaluation, fold: Fold | None) -> Iterator[Folding]:
    """The model with its convolutions folded, if asked."""
    if fold is None:
        yield Folding()
        return
    batch = e.batches.first
    data = {t.untyped_storage().data_ptr() for t in tensors_in(batch.content)}

    def is_shared(x: Tensor, weight: Tensor) -> bool:
        return weight[0].numel() >= WIDE and x.untyped_storage().data_ptr() in data

    with e.values() as value:
        found = convolutions_in(e.model, partial(value, batch), is_shared)
    with folded(e.model, found, last=fold.last) as folding:
        yield folding


def _blocks(batches: Batches) -> Iterator[list[Batch]]:
    """All batches where they are held in memory, else one after the other."""
    if batches.cached:
        yield list(batches)
    else:
        yield from ([batch] for batch in batches)


def _pieces(plane: Plane) -> list[tuple[Tensor, ...]]:
    """The origin and the vectors of the plane in the shapes of the parameters."""
    split = plane.problem.layout.split
    return list(zip(split(plane.origin), *map(split, plane.vectors.T.contiguous()), strict=True))


def _cut(plane: Plane, size: int) -> Plane:
    """The same plane on batches of so many examples."""
    contents = []
    for batch in plane.problem.batches:
        num = num_examples(batch.content)
        contents += [take(batch.content, slice(i, i + size)) for i in range(0, num, size)]
    return replace(plane, problem=plane.problem.with_batches(contents))


def as_perceptron(mlp: MLP, plane: Plane, coordinates: Tensor) -> Tensor:
    """In matrix products of our own."""
    return losses_of(mlp, plane.origin, plane.vectors, coordinates)


def stacks_of(num: int) -> Way:
    """So many points at once through the model, which is traced once for all (torch.func.vmap)."""

    def stacked(plane: Plane, coordinates: Tensor) -> Tensor:
        problem = plane.problem.at(plane.origin)
        total = torch.zeros(len(coordinates), dtype=torch.float64)
        with problem.evaluation() as e, e.values() as value:
            for batch in e.batches:
                common = Shared(tensors_in(batch.content))
                one = partial(_loss_at, plane, e, common, partial(value, batch))
                parts = [torch.func.vmap(one)(c) for c in coordinates.split(num)]
                total += (batch.count / e.num_items) * torch.cat(parts).double().cpu()
        return total

    return stacked


def _loss_at(
    plane: Plane, e: Evaluation, common: Shared, value: Callable[[], Tensor], c: Tensor
) -> Tensor:
    """The loss of one batch at coordinates c (k,), for a function transform to stack."""
    c = c.to(plane.vectors)
    leaves = e.point.layout.split(plane.origin + plane.vectors @ c)
    named = dict(zip(e.point.layout.names, leaves, strict=True))
    common.stands_at(leaves, _pieces(plane), c.unbind())
    with substituted(e.model, named), common:
        return value().reshape(())
