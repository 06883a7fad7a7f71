"""The engine room of a problem: batches meet the user's model and loss here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem.attributes import Attributes, Structure
from hesscope.problem.calls import (
    call,
    check_finite,
    check_loss,
    check_outputs,
    check_scalar,
    explained,
    refuse_written,
    versions_of,
    wants_gradients,
)
from hesscope.problem.contents import map_tensors
from hesscope.problem.data import Batch, Batches, seed_generators
from hesscope.problem.handing import Handing
from hesscope.problem.parameters import flatten, substituted
from hesscope.problem.point import Point, at_least_single
from hesscope.problem.surroundings import twice_differentiable, untouched
from hesscope.problem.turns import LOCK, Turn
from hesscope.system import collectives, interrupts
from hesscope.system.agreement import Same, together
from hesscope.system.contexts import as_users

Closure = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> mean loss
Predict = Callable[[nn.Module, Any], tuple[Any, Any]]  # (model, batch) -> (outputs, targets)


@dataclass
class _Stay:
    """Whether the surroundings of an evaluation still hold."""

    over: bool = False


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `with problem.evaluation() as e` gives; of use inside of it only.

    Losses, outputs and gradients of single batches at one point, and their mean over all of them.
    This is the one place that averages. A batch counts by the items that its loss averages over,
    the sum is divided once, over all processes, so any split of the same data gives the same
    numbers.
    """

    point: Point
    leaves: list[Tensor]  # what theta is made of: the tensors that are differentiated
    batches: Batches
    num_items: float  # of all processes together
    _closure: Closure
    _predict: Predict | None
    _handing: Handing
    _attributes: Attributes
    _change: Callable[[Tensor], Tensor] | None = None  # of the tensors of a batch
    _stay: _Stay = field(default_factory=_Stay)

    @property
    def model(self) -> nn.Module:
        """The user's model, in its mode for this evaluation."""
        return self.point.model

    def loss(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """The mean loss of one batch with its graph, be it finite or not.

        Random layers draw from a seed per batch. The forward pass works on copies of the buffers:
        every batch sees them as they were, in whatever order, and running statistics written to
        cannot spoil a kept graph.

        Raises:
            ValueError: if the loss cannot be computed, is no scalar tensor or has no graph.
        """
        loss: Tensor = self._run(self._closure, batch, seed)
        if self.point.is_block and isinstance(loss, Tensor) and not loss.requires_grad:
            own = dict(self.model.named_parameters())
            loss = loss + 0 * own[self.point.layout.names[0]].sum()  # unused: the gradient is zero
        check_loss(loss, batch.index)
        return loss

    def finite_loss(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """The mean loss of one batch with its graph, where it has derivatives.

        Raises:
            ValueError: as for `loss`.
            NonFiniteLossError: if it is NaN or infinite.
        """
        loss = self.loss(batch, seed=seed)
        check_finite(loss, batch.index)
        return loss

    @contextmanager
    def values(self) -> Iterator[Callable[[Batch], Tensor]]:
        """A function that gives the mean loss of a batch without its graph, time and again.

        For many points: the leaves may be written in place, or others substituted, between two
        calls. Each call meets the model, the batch, the buffers and the random seed as they are
        now. A loss that takes derivatives itself fails here.
        """
        buffers = {name: tensor.clone() for name, tensor in self.model.named_buffers()}
        kept = [(tensor, tensor._version, tensor.clone()) for tensor in buffers.values()]
        structure = Structure(self._attributes.modules)

        def value(batch: Batch) -> Tensor:
            seed_generators(batch.index)
            try:
                with self._handing.content(batch) as content:
                    found = as_users(
                        call, self._closure, self.point, replace(batch, content=content)
                    )
            finally:
                structure.restore()
                self._attributes.restore()
                for tensor, version, content in kept:
                    if tensor._version != version:
                        tensor.copy_(content)
            check_scalar(found, batch.index)
            return found

        with torch.no_grad(), substituted(self.model, buffers):
            yield value

    def predict(self, batch: Batch) -> tuple[Any, Any]:
        """What the model makes of one batch, with its graph, and the targets, whatever they are.

        Raises:
            ValueError: if they are not known (a closure), or cannot be computed.
        """
        if self._predict is None:
            msg = (
                "this problem was made from a closure, or of a model that computes its own loss, "
                "which does not tell outputs from the loss."
            )
            raise ValueError(msg)
        outputs, targets = self._run(self._predict, batch)
        return outputs, targets

    def outputs(self, batch: Batch) -> tuple[Tensor, Any]:
        """The model's outputs on one batch, with their graph, and the targets.

        Raises:
            ValueError: as for `predict`, or if the outputs are no floating tensor.
        """
        outputs, targets = self.predict(batch)
        check_outputs(outputs)
        return outputs, targets

    def derivatives(self, loss: Tensor, *, create_graph: bool = False) -> tuple[Tensor, ...]:
        """∂loss/∂leaf for each leaf; zeros for parameters that are not used.

        Raises:
            RuntimeError: if torch cannot differentiate the loss.
        """
        with explained():
            found = torch.autograd.grad(
                loss,
                self.leaves,
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        return tuple(g.to_dense() if g.is_sparse else g for g in found)

    def gradient(self, batch: Batch) -> Tensor:
        """The gradient of the mean loss of one batch, (n,).

        Raises:
            ValueError: as for `loss`.
            NonFiniteLossError: if the loss is NaN or infinite.
        """
        return flatten(self.derivatives(self.finite_loss(batch)))

    def mean(self, f: Callable[[Batch], Tensor], *same: Same) -> Tensor:
        """The mean of f(batch) over all batches and processes, each weighted by its count.

        Raises:
            RuntimeError: if the processes differ in their parameters or in what else has to be the
                same, or one does not come.
        """
        total: Tensor | None = None
        with together():
            for batch in self.batches:
                part = (batch.count / self.num_items) * f(batch)
                total = part if total is None else total + part
        return collectives.sum_over_processes(
            total, same=(*same, self.parameters()), device=self.point.device
        )

    def parameters(self) -> Same:
        """What is differentiated, which all processes have to share."""
        return Same("parameters", self.point.layout.names, lambda: self.leaves)

    def _run(
        self, function: Callable[[nn.Module, Any], Any], batch: Batch, seed: int | None = None
    ) -> Any:
        """The user's code on one batch, with copies of the buffers and its own random seed.

        Afterwards the modules' plain attributes are what they were, so that every evaluation meets
        the same model. A loss that fails for it takes derivatives by its inputs, which training
        loops ask for beforehand, gets inputs that require them, from then on.

        Raises:
            RuntimeError: if the evaluation is over.
            ValueError: if the user's code fails, or writes into the parameters.
        """
        if self._stay.over:
            msg = (
                "this evaluation is over, and the model is no longer as it needs it; enter another "
                "one: with problem.evaluation() as e."
            )
            raise RuntimeError(msg)
        seed_generators(batch.index if seed is None else seed)
        if self._change is not None:
            batch = replace(batch, content=map_tensors(batch.content, self._change))
        try:
            return self._called(function, batch)
        except ValueError as error:
            if self._handing.differentiates or not wants_gradients(error):
                raise
        self._handing.differentiates = True
        return self._run(function, batch, seed)

    def _called(self, function: Callable[[nn.Module, Any], Any], batch: Batch) -> Any:
        buffers = {name: tensor.clone() for name, tensor in self.model.named_buffers()}
        structure, versions = Structure(self._attributes.modules), versions_of(self.leaves)
        try:
            with substituted(self.model, buffers), self._handing.content(batch) as content:
                batch = replace(batch, content=content)
                result = as_users(call, function, self.point, batch)
            refuse_written(self.point, self.leaves, versions)
            return result
        finally:
            structure.restore()
            self._attributes.restore()


@contextmanager
def evaluating(
    point: Point,
    closure: Closure,
    predict: Predict | None,
    batches: Batches,
    num_items: float,
    handing: Handing,
    others: Sequence[nn.Module],
    held: Sequence[Any],
    *,
    training: bool,
    rounded: bool = False,
) -> Iterator[Evaluation]:
    """Enters the surroundings in which a model can be run at a point, and leaves no trace.

    A model in half precision is run in float32, on data in float32, unless `rounded`.
    """
    point = point.put_together()
    with (
        LOCK,
        interrupts.deferred(),
        Turn(point.model) as turn,
        untouched(point.model, others, held, training=training, turn=turn) as attributes,
        twice_differentiable(point.model, point.device),
    ):
        point = point.without_hooks()
        leaves, seen = point.entered(rounded=rounded)
        change = None if point.half is None or rounded else at_least_single
        with substituted(point.model, seen):
            e = Evaluation(
                point, leaves, batches, num_items, closure, predict, handing, attributes, change
            )
            try:
                yield e
            finally:
                e._stay.over = True
