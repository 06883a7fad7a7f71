"""How the loss of a batch bends along a direction, as a number that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.autodiff.broken import HIDDEN_NORMALISATION, UntrustworthyError
from hesscope.autodiff.graph import normalises_derivatives, refuse_broken
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.optim.statistics import statistics_at_rest
from hesscope.problem.adapters import call_model, inputs_and_targets, refuse_no_module, unwrap
from hesscope.problem.calls import check_loss, check_outputs, explained
from hesscope.problem.losses import LossFunction, output_loss
from hesscope.problem.parameters import HALF, Layout, Selection, flatten, select
from hesscope.problem.surroundings import twice_differentiable
from hesscope.system.contexts import as_users

Forward = Callable[[nn.Module, Any], Any]


@dataclass
class Bending:
    """The loss of one batch with its graph, and d·Ad for A its Hessian or Gauss-Newton matrix."""

    layout: Layout
    parameters: list[Tensor]
    loss_fn: LossFunction
    loss: Tensor
    outputs: Any
    targets: Any
    gauss_newton: bool
    _seen: bool = False  # whether the graph of Jᵀu was looked through

    def along(self, direction: Sequence[Tensor]) -> Tensor:
        """d·Ad with its graph, for d in the shapes of the parameters."""
        if self.gauss_newton:
            (Jd,) = _derivative(self._pulled_back, [self._cotangent], direction)
            (bent,) = _derivative([self._slope], [self.outputs], [Jd])
            return self.attached((Jd * bent).sum())
        product = _derivative(self._gradient, self.parameters, direction)
        parts = [(d * Ad).sum() for d, Ad in zip(direction, product, strict=True)]
        return self.attached(torch.stack(parts).sum())

    def product(self, v: Tensor) -> Tensor:
        """A v, (n,), without its graph."""
        direction = self.layout.split(v.contiguous())
        if not self.gauss_newton:
            return flatten(_derivative(self._gradient, self.parameters, direction, graph=False))
        (Jv,) = _derivative(self._pulled_back, [self._cotangent], direction, graph=False)
        (bent,) = _derivative([self._slope], [self.outputs], [Jv], graph=False)
        return flatten(_derivative([self.outputs], self.parameters, [bent], graph=False))

    def pulled_back(self, u: Tensor) -> Sequence[Tensor]:
        """Jᵀu in the shapes of the parameters with its graph, for u in the shape of the outputs.

        Raises:
            UntrustworthyError: if it cannot be differentiated, or only wrongly.
        """
        with explained():
            found = _derivative([self.outputs], self.parameters, [u])
        if not self._seen:
            refuse_broken(found, self.loss)
            self._seen = True
        return found

    def attached(self, value: Tensor) -> Tensor:
        """The value, which has a gradient also where it does not depend on the parameters."""
        return value if value.requires_grad else value + 0 * self.parameters[0].sum()

    @cached_property
    def _gradient(self) -> tuple[Tensor, ...]:
        """Of the loss.

        Raises:
            UntrustworthyError: if it cannot be differentiated twice more, or only wrongly.
        """
        with explained():
            found = _derivative([self.loss], self.parameters, [torch.ones_like(self.loss)])
        refuse_broken(found, self.loss)
        _refuse_normalisations(found)
        return tuple(g.to_dense() if g.is_sparse else g for g in found)

    @cached_property
    def _cotangent(self) -> Tensor:
        check_outputs(self.outputs)
        return torch.zeros_like(self.outputs, requires_grad=True)

    @cached_property
    def _pulled_back(self) -> Sequence[Tensor]:
        """Jᵀu of a u that is to be differentiated by.

        Raises:
            UntrustworthyError: if it cannot be differentiated twice more, or only wrongly.
        """
        found = self.pulled_back(self._cotangent)
        _refuse_normalisations(found)
        return found

    @cached_property
    def _slope(self) -> Tensor:
        """The gradient of the loss in the outputs.

        Raises:
            ValueError: if the loss is piecewise linear in them.
        """
        output_loss(self.loss_fn).curvature(self.outputs.detach(), self.targets)  # looks
        (slope,) = torch.autograd.grad(self.loss, self.outputs, create_graph=True)
        return slope


@contextmanager
def bending(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    curvature: str,
    params: Selection,
    forward: Forward | None,
) -> Iterator[Bending]:
    """Runs model and loss on a batch, in the mode that the model is in, and differentiably.

    Running statistics are left alone. Attention runs in its math kernel, normalisations in
    elementary form, for torch has no third derivative of the fused ones, or a wrong one.

    Raises:
        ValueError: if an argument is out of range, or the loss is no scalar with a graph.
        UntrustworthyError: if the loss takes derivatives that torch has wrong.
    """
    refuse_no_module(model)
    if curvature not in ("hessian", "ggn"):
        msg = f"curvature={curvature!r}; choose 'hessian', or 'ggn' for Gauss-Newton."
        raise ValueError(msg)
    model = unwrap(model)[0]
    chosen = select(dict(model.named_parameters()), params)
    _refuse_half(chosen)
    parameters = list(chosen.values())
    inputs, targets = inputs_and_targets(batch)
    with twice_differentiable(model, parameters[0].device), statistics_at_rest(model):
        with fast_second_derivatives(normalisations=True) as mode:
            outputs = as_users(forward or call_model, model, inputs)
            loss = as_users(loss_fn, outputs, targets)
        check_loss(loss, 0)
        if mode.wrong is not None:
            raise UntrustworthyError(mode.wrong)
        layout, ggn = Layout.of(chosen), curvature == "ggn"
        yield Bending(layout, parameters, loss_fn, loss, outputs, targets, gauss_newton=ggn)


def _refuse_half(chosen: dict[str, Tensor]) -> None:
    """Third derivatives need the digits of float32.

    Raises:
        ValueError: if a parameter is in half precision.
    """
    for name, tensor in chosen.items():
        if tensor.dtype in HALF:
            msg = (
                f"parameter {name} is in {tensor.dtype}, whose rounding drowns a third derivative. "
                "Keep the parameters in float32 and train under torch.autocast, which this call "
                "switches off for itself."
            )
            raise ValueError(msg)


def _refuse_normalisations(gradient: Sequence[Tensor]) -> None:
    """Whether a normalisation was reached by no replacement: inside checkpoints, by raw calls.

    Raises:
        UntrustworthyError: if so.
    """
    if normalises_derivatives(gradient):
        raise UntrustworthyError(HIDDEN_NORMALISATION)


def _derivative(
    of: Sequence[Tensor], by: Sequence[Tensor], weights: Sequence[Tensor], *, graph: bool = True
) -> Sequence[Tensor]:
    """Σ_i weight_i ∂of_i/∂by, with its graph if asked for; what is constant adds zero.

    By the cotangent u of a Jᵀu, that is J d, for J d is the gradient of d·Jᵀu in u.
    """
    active = [i for i, one in enumerate(of) if one.requires_grad]
    if not active:
        return [torch.zeros_like(one) for one in by]
    return torch.autograd.grad(
        [of[i] for i in active],
        list(by),
        [weights[i] for i in active],
        create_graph=graph,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
