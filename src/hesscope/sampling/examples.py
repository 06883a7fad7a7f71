"""The curvature of each example along a few vectors, from the outputs of whole batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from hesscope.curvature.gauss_newton import GaussNewton
from hesscope.operator import SymmetricOperator
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem
from hesscope.sampling.parts import Unit, examples_in, unit_of
from hesscope.system import collectives
from hesscope.system.memory import available_bytes, human

MEMORY_SHARE = 0.3  # of what is free that outputs along vectors may take


@dataclass(frozen=True)
class Images:
    """Z = J V and W = M J V of one batch, (examples, outputs, k) both: H_i = Z_i'W_i in V."""

    weight: float  # of the batch in the mean over all data
    Z: Tensor
    W: Tensor


class ExampleCurvatures(SymmetricOperator):
    """D G D + diag(shift), G the Gauss-Newton matrix as a mean of those G_i of single examples.

    Each G_i is positive semidefinite where the loss is convex in the outputs, and the Hessian of
    its example where that is fitted. D and the shift are what an optimiser makes of a curvature
    (`StepHessian`). Costs as `GaussNewton`.

    Args:
        problem: made with `Problem(model, loss_fn, data)`.
        scale: the diagonal of D, (n,); one where it is not given.
        shift: (n,), the same for all examples; zero where it is not given.

    Raises:
        ValueError: as for `GaussNewton`, or where a batch couples its examples.
    """

    positive_semidefinite = True

    def __init__(
        self, problem: Problem, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> None:
        super().__init__(problem.n, dtype=problem.dtype, device=problem.device)
        _refuse_coupled(problem)
        self.mean = GaussNewton(problem)
        self.problem = problem
        one = torch.ones(problem.n, dtype=problem.dtype, device=problem.device)
        self.scale = one if scale is None else scale
        self.shift = 0 * one if shift is None else shift
        counts = (examples_in(batch) for batch in problem.batches)
        self.num_examples = collectives.sum_of_number(sum(counts))

    @cached_property
    def unit(self) -> Unit:
        """What the data is made of; three forward passes, once."""
        return unit_of(self.problem)

    def matmat(self, V: Tensor) -> Tensor:
        """(D G D + diag(shift)) V."""
        scale = self.scale[:, None]
        return scale * self.mean.matmat(scale * V) + self.shift[:, None] * V

    def images(self, V: Tensor) -> list[Images]:
        """Of the batches of this process, without the shift; half a product a column.

        Raises:
            ValueError: if they do not fit into memory, or the outputs do not tell the examples.
        """
        return list(self._images(V))

    def _images(self, V: Tensor) -> Iterator[Images]:
        columns = (self.scale[:, None] * V).unbind(1)
        for batch, (J, metric) in self.mean.graphs.each():
            loss = self.mean.loss
            _refuse_unknown_examples(batch, J.outputs)
            _refuse_other_units(self.unit)
            self._refuse_too_large(J.outputs, len(columns))
            Z, W = [], []
            for v in columns:
                Jv = J.forward(self.problem.layout.split(v.contiguous()))
                Z.append(Jv.flatten(1) if Jv.ndim > 1 else Jv[:, None])
                bent = loss.outputs(metric(loss.rows(Jv)), Jv)
                W.append(bent.flatten(1) if bent.ndim > 1 else bent[:, None])
            weight = batch.count / self.problem.num_items
            yield Images(weight, torch.stack(Z, 2), torch.stack(W, 2))

    def curvatures(self, images: list[Images]) -> Tensor:
        """V'G_iV of each example of this process, (N, k, k) float64; their mean is V'DGDV."""
        forms = [
            self.num_examples * one.weight * one.Z.double().transpose(1, 2) @ one.W.double()
            for one in images
        ]
        return torch.cat(forms)

    def pulled_back(self, images: list[Images], mixing: Tensor) -> Tensor:
        """Mean over all examples of D G_i D V T_i for mixing T_i, (N, k, j) -> (n, j).

        Half a product a column.
        """
        total = torch.zeros(self.n, mixing.shape[2], dtype=self.dtype, device=self.device)
        parts = mixing.to(self.dtype).split([len(one.Z) for one in images])
        graphs = self.mean.graphs.each()
        for (_, (J, _)), one, part in zip(graphs, images, parts, strict=True):
            bent = (one.W @ part).unbind(2)
            total += one.weight * torch.stack(
                [J.transposed(w.reshape(J.outputs.shape)) for w in bent], 1
            )
        return self.scale[:, None] * collectives.sum_over_processes(total)

    def _refuse_too_large(self, outputs: Tensor, columns: int) -> None:
        share = outputs.shape[0] / max(self.num_examples, 1)
        need = 2 * columns * outputs.numel() * outputs.element_size() / max(share, 1e-12)
        if need > MEMORY_SHARE * available_bytes(self.device):
            msg = (
                f"the outputs along {columns} vectors take {human(need)}; give fewer examples: "
                "problem.subsample(num)."
            )
            raise ValueError(msg)


def _refuse_unknown_examples(batch: Batch, outputs: Tensor) -> None:
    """Refuses outputs whose first axis is not that of the examples.

    Raises:
        ValueError: with the two numbers.
    """
    rows = outputs.shape[0] if outputs.ndim else 0
    if rows != examples_in(batch):
        msg = (
            f"batch {batch.index} has {examples_in(batch):g} examples and its outputs {rows} rows: "
            "which outputs belong to which example is not known; bring the examples to the first "
            "axis of the outputs."
        )
        raise ValueError(msg)


def _refuse_other_units(unit: Unit) -> None:
    """Refuses data whose loss is not the mean of those of its examples.

    Raises:
        ValueError: with what it is made of.
    """
    if unit != "examples":
        msg = (
            f"the data is made of {unit}: the loss of a batch is not the mean of those of its "
            "examples, so that there is no curvature of a single one. Sequences with time first "
            "want the examples on the first axis (batch_first=True)."
        )
        raise ValueError(msg)


def _refuse_coupled(problem: Problem) -> None:
    """Refuses a model whose batches couple their examples.

    Raises:
        ValueError: naming the layer.
    """
    for name, module in problem.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            problem.training or module.running_mean is None
        ):
            msg = (
                f"{name} ({type(module).__name__}) couples the examples of a batch, so that there "
                "is no curvature of a single one; look at the model in evaluation mode."
            )
            raise ValueError(msg)
