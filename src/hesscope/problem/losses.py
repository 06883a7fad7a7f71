"""A loss as a function of the network's outputs: its Hessian, the root of it, label sampling.

A batch loss is Σ_n w_n ℓ(z_n, t_n) over items n, each with an output row z_n of C entries and a
weight w_n; the weights of a batch add up to one. A family of losses knows ℓ's gradient and Hessian
with respect to z_n; a loss that is not recognised is differentiated by autograd.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesscope import probes
from hesscope.derivatives.by_autograd import hessian_product
from hesscope.derivatives.losses import (
    softmax_gradient,
    softmax_product,
    softmax_root,
    softmax_root_product,
    squared_error_gradient,
)

if TYPE_CHECKING:
    from hesscope.problem.problem import Problem

LossFunction = Callable[[Any, Any], Tensor]
Product = Callable[[Tensor], Tensor]


class OutputLoss(ABC):
    """The items of a batch and their loss as a function of output rows (items, C)."""

    def rows(self, outputs: Tensor) -> Tensor:
        """Outputs (N, ...) as rows (items, C); by default an item is an example."""
        return outputs.reshape(len(outputs), -1)

    def outputs(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `rows`, in the shape of the outputs."""
        return rows.reshape(like.shape)

    @abstractmethod
    def weights(self, outputs: Tensor, targets: Any) -> Tensor:
        """The weight of each item in the batch mean, (items,); they add up to one."""

    @abstractmethod
    def gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """∂ℓ/∂z for each item, (items, C)."""

    @abstractmethod
    def curvature(self, outputs: Tensor, targets: Any) -> Callable[[Tensor], Tensor]:
        """The function U -> (∂²ℓ/∂z² u_n)_n on rows (items, C)."""

    @abstractmethod
    def sampled_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the score ∂ log p(y|z)/∂z of one target y that the model draws, (items, C)."""

    def mass(self, outputs: Tensor, targets: Any) -> Tensor:
        """How many drawn targets the loss of each item is worth, (items,): ℓ = -m log p(y|z)."""
        rows = self.rows(outputs)
        return rows.new_ones(len(rows))

    def root_product(self, outputs: Tensor, targets: Any) -> Product | None:
        """The function U -> (R_n u_n)_n on rows (items, C), with ∂²ℓ/∂z² = R Rᵀ.

        Differentiable in the outputs; None where no closed form is known.
        """
        return None

    def root(self, outputs: Tensor, targets: Any) -> Tensor:
        """R of shape (items, C, r) with ∂²ℓ/∂z² = R Rᵀ; by eigendecomposition of C x C blocks."""
        rows = self.rows(outputs)
        multiply = self.curvature(outputs, targets)
        unit = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        blocks = torch.stack([multiply(e.expand_as(rows)) for e in unit], 2)
        values, vectors = torch.linalg.eigh((blocks + blocks.transpose(1, 2)) / 2)
        return vectors * values.clamp_min(0).sqrt()[:, None, :]


class CrossEntropy(OutputLoss):
    """Softmax cross-entropy over dimension 1, with class weights, ignored labels and smoothing.

    ℓ = -Σ_c a_c log p_c, where a is the target distribution, smoothed, and times the class weights
    relative to the label's own. With mass m = Σ_c a_c, which is 1 in the plain case, the gradient
    is m p - a and the Hessian m (diag p - p pᵀ). The loss is that of m labels distributed like
    a/m, so the Fisher matrix of an item is that of m labels drawn from p: the Hessian again.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        self.weight, self.ignore_index, self.smoothing = weight, ignore_index, label_smoothing

    def rows(self, outputs: Tensor) -> Tensor:
        """(N, C, d...) as (N d..., C)."""
        return outputs.movedim(1, -1).reshape(-1, outputs.shape[1])

    def outputs(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `rows`."""
        return rows.reshape(like.movedim(1, -1).shape).movedim(-1, 1)

    def weights(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Equal over labels that count; by class weight where there is one."""
        if targets.is_floating_point():
            items = outputs.numel() // outputs.shape[1]
            return outputs.new_full((items,), 1 / items)
        own = self._own_weight(outputs, targets)
        return own / own.sum()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """m p - a."""
        a = self._target(outputs, targets)
        return softmax_gradient(self.rows(outputs), a, a.sum(1, keepdim=True))

    def mass(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """m = Σ_c a_c."""
        return self._target(outputs, targets).sum(1)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """m (p∘u - p (p·u))."""
        p, mass = self.rows(outputs).softmax(1), self.mass(outputs, targets)[:, None]
        return lambda U: mass * softmax_product(p, U)

    def sampled_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """p - e_y with y drawn from p."""
        p = self.rows(outputs).softmax(1)
        labels = torch.multinomial(p.double().cpu(), 1, generator=generator).to(p.device)
        return p.scatter_add(1, labels, p.new_full(labels.shape, -1.0))

    def root_product(self, outputs: Tensor, targets: Any) -> Product:
        """√m (√p∘u - p (√p·u))."""
        logarithms = self.rows(outputs).log_softmax(1)
        mass = self.mass(outputs, targets).clamp_min(0).sqrt()[:, None]
        return lambda U: mass * softmax_root_product(logarithms, U)

    def root(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """C - 1 columns: the root of diag p - p pᵀ, times that of the mass."""
        mass = self.mass(outputs, targets).clamp_min(0)
        return mass.sqrt()[:, None, None] * softmax_root(self.rows(outputs).softmax(1))

    def _own_weight(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The class weight of each label, (items,); zero where the label is ignored."""
        labels = targets.reshape(-1)
        counted = (labels != self.ignore_index).to(outputs.dtype)
        if self.weight is None:
            return counted
        return counted * self.weight.to(outputs)[labels * (labels != self.ignore_index)]

    def _target(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The rows a, (items, C)."""
        rows = self.rows(outputs)
        weight = rows.new_ones(rows.shape[1]) if self.weight is None else self.weight.to(rows)
        if targets.is_floating_point():
            q, own = targets.movedim(1, -1).reshape(rows.shape), rows.new_ones(len(rows), 1)
        else:
            labels = (targets * (targets != self.ignore_index)).reshape(-1, 1)
            q = torch.zeros_like(rows).scatter_(1, labels, 1.0)
            own = weight[labels].where(weight[labels] > 0, 1.0)
        smooth = (1 - self.smoothing) * q + self.smoothing / rows.shape[1]
        return weight * smooth / own


class SquaredError(OutputLoss):
    """Mean squared error over C outputs, ℓ = |z - t|²/C: minus the log-density of N(z, C/2 I)."""

    def weights(self, outputs: Tensor, targets: Any) -> Tensor:
        """Equal."""
        return outputs.new_full((len(outputs),), 1 / len(outputs))

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """2 (z - t) / C.

        Raises:
            ValueError: if torch would broadcast the outputs to the shape of the targets.
        """
        if torch.broadcast_shapes(outputs.shape, targets.shape) != outputs.shape:
            msg = (
                f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} differ in "
                "shape, so mse_loss compares every output with every target; reshape one of them."
            )
            raise ValueError(msg)
        targets = targets.expand_as(outputs)
        return squared_error_gradient(self.rows(outputs), self.rows(targets))

    def curvature(self, outputs: Tensor, targets: Any) -> Callable[[Tensor], Tensor]:
        """2 u / C."""
        return lambda U: 2 * U / U.shape[1]

    def root_product(self, outputs: Tensor, targets: Any) -> Product:
        """√(2/C) u."""
        return lambda U: (2 / U.shape[1]) ** 0.5 * U

    def sampled_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """2 (z - t) / C with t drawn from N(z, C/2 I)."""
        rows = self.rows(outputs)
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        return noise.to(rows) * (2 / rows.shape[1]) ** 0.5


class BinaryCrossEntropy(OutputLoss):
    """Logistic loss, averaged over all labels, with a weight w of the positives.

    An item is one label, C = 1, so that the loss is the mean of the items' log-likelihoods. With
    w, ℓ = -w t log σ - (1 - t) log(1 - σ) is the loss of m = 1 + (w - 1) t labels.
    """

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        self.pos_weight = pos_weight

    def rows(self, outputs: Tensor) -> Tensor:
        """(N, ...) as (labels, 1)."""
        return outputs.reshape(-1, 1)

    def weights(self, outputs: Tensor, targets: Any) -> Tensor:
        """Equal."""
        return outputs.new_full((outputs.numel(),), 1 / outputs.numel())

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """σ (1 + (w - 1) t) - w t, which is σ - t for w = 1."""
        rows, t, w = self.rows(outputs), self.rows(targets.to(outputs)), self._positive(outputs)
        return rows.sigmoid() * (1 + (w - 1) * t) - w * t

    def mass(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """m = 1 + (w - 1) t."""
        t, w = self.rows(targets.to(outputs)), self._positive(outputs)
        return (1 + (w - 1) * t).reshape(-1)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """σ (1 - σ) m u."""
        p = self.rows(outputs).sigmoid()
        diagonal = p * (1 - p) * self.mass(outputs, targets)[:, None]
        return lambda U: diagonal * U

    def root_product(self, outputs: Tensor, targets: Tensor) -> Product:
        """√(σ (1 - σ) m) u."""
        z = self.rows(outputs)
        root = ((F.logsigmoid(z) + F.logsigmoid(-z)) / 2).exp()  # √0 would have no derivative
        root = root * self.mass(outputs, targets).clamp_min(0).sqrt()[:, None]
        return lambda U: root * U

    def sampled_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """σ - t with t drawn from σ."""
        p = self.rows(outputs).sigmoid()
        drawn = torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p) < p
        return p - drawn.to(p)

    def _positive(self, outputs: Tensor) -> Tensor:
        if self.pos_weight is None:
            return outputs.new_ones(1, 1)
        return self.rows(self.pos_weight.to(outputs).expand_as(outputs))


class Differentiated(OutputLoss):
    """Any loss of outputs and targets, by autograd; items are examples, equally weighted.

    The Hessian of the batch loss with respect to the outputs is taken as a whole, so a loss that
    couples examples is treated rightly by Gauss-Newton.
    """

    def __init__(self, loss_fn: LossFunction) -> None:
        self.loss_fn = loss_fn

    def weights(self, outputs: Tensor, targets: Any) -> Tensor:
        """Equal."""
        return outputs.new_full((len(outputs),), 1 / len(outputs))

    def gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """N times the gradient of the batch mean."""
        return self.rows(self._gradient(outputs, targets)[1].detach()) * len(outputs)

    def curvature(self, outputs: Tensor, targets: Any) -> Callable[[Tensor], Tensor]:
        """N times the product of the batch mean's output Hessian.

        Raises:
            ValueError: if the loss is piecewise linear in the outputs, so that G would be zero.
        """
        multiply = self._hessian_at(outputs, targets)
        if self._flat(multiply, outputs) and all(
            self._flat(self._hessian_at(elsewhere, targets), elsewhere)
            for elsewhere in _points_around(outputs)
        ):
            raise ValueError(_PIECEWISE_LINEAR)
        return multiply

    def _hessian_at(self, outputs: Tensor, targets: Any) -> Callable[[Tensor], Tensor]:
        point, gradient = self._gradient(outputs, targets)
        num = len(outputs)
        return lambda U: self.rows(hessian_product(gradient, point, self.outputs(U, point))) * num

    def _flat(self, multiply: Callable[[Tensor], Tensor], outputs: Tensor) -> bool:
        """Whether the output Hessian vanishes at this point, along one random vector."""
        generator = torch.Generator().manual_seed(probes.key(0, "flat loss"))
        U = torch.randn(self.rows(outputs).shape, generator=generator, dtype=torch.float64)
        return not bool(multiply(U.to(outputs)).any())

    def sampled_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Not defined.

        Raises:
            ValueError: always: the distribution of the targets is not known.
        """
        msg = (
            "the Fisher matrix needs the distribution behind the loss, which is known for "
            "cross-entropy, squared error and the logistic loss; use hs.GaussNewton for this one."
        )
        raise ValueError(msg)

    def _gradient(self, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point = outputs.detach().requires_grad_()
            loss = self.loss_fn(point, targets)
            (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
        return point, gradient


def _points_around(outputs: Tensor) -> list[Tensor]:
    """Outputs moved at random by 1 and by 10, to tell a flat place from a piecewise linear loss."""
    generator = torch.Generator().manual_seed(probes.key(0, "points around"))
    noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    return [outputs + noise, outputs + 10 * noise]


_PIECEWISE_LINEAR = (
    "this loss is piecewise linear in the outputs (L1, hinge, nll_loss on log-probabilities), so "
    "its output Hessian, and with it Gauss-Newton, is zero wherever it exists. Use a smooth loss "
    "(huber_loss), or cross_entropy on logits instead of nll_loss on log_softmax."
)


def output_loss(loss_fn: LossFunction) -> OutputLoss:
    """The family of a loss function or module of torch, or `Differentiated` for any other.

    Raises:
        ValueError: if the loss is piecewise linear in the outputs, or reduces by a sum.
    """
    name, options = _name_and_options(loss_fn)
    if name in ("l1_loss", "nll_loss", "hinge_embedding_loss", "multi_margin_loss"):
        raise ValueError(_PIECEWISE_LINEAR)
    if options.get("reduction", "mean") != "mean":
        msg = f"{name} has reduction={options['reduction']!r}; a Problem averages: use 'mean'."
        raise ValueError(msg)
    if name == "cross_entropy" and not _smooths_over_nothing(options):
        return CrossEntropy(
            options.get("weight"),
            options.get("ignore_index", -100),
            options.get("label_smoothing", 0.0),
        )
    if name == "mse_loss" and options.get("weight") is None:
        return SquaredError()
    if name == "binary_cross_entropy_with_logits" and options.get("weight") is None:
        return BinaryCrossEntropy(options.get("pos_weight"))
    return Differentiated(loss_fn)


def _smooths_over_nothing(options: dict[str, Any]) -> bool:
    """Whether a label of class weight zero has a smoothing loss all the same: no weighted mean."""
    weight = options.get("weight")
    return (
        weight is not None and options.get("label_smoothing", 0.0) > 0 and bool((weight == 0).any())
    )


_MODULES = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.MSELoss: "mse_loss",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    nn.L1Loss: "l1_loss",
    nn.NLLLoss: "nll_loss",
    nn.HingeEmbeddingLoss: "hinge_embedding_loss",
    nn.MultiMarginLoss: "multi_margin_loss",
}


def _name_and_options(loss_fn: LossFunction) -> tuple[str, dict[str, Any]]:
    """torch's name of a loss and its options, from a function, a partial of one, or a module."""
    options: dict[str, Any] = {}
    if type(loss_fn) in _MODULES:
        name = _MODULES[type(loss_fn)]
        known = inspect.signature(getattr(F, name)).parameters
        return name, {key: getattr(loss_fn, key) for key in known if hasattr(loss_fn, key)}
    function = loss_fn
    if isinstance(loss_fn, functools.partial) and not loss_fn.args:
        function, options = loss_fn.func, dict(loss_fn.keywords)
    name = getattr(function, "__name__", "")
    return (name, options) if getattr(F, name, None) is function else ("", {})


def options_of(loss_fn: Any) -> dict[str, Any]:
    """The options of a loss: attributes of a module, keywords of a partial.

    >>> options_of(nn.CrossEntropyLoss(ignore_index=255))["ignore_index"]
    255
    """
    if isinstance(loss_fn, functools.partial):
        return dict(loss_fn.keywords)
    names = ("weight", "ignore_index") if isinstance(loss_fn, nn.Module) else ()
    return {name: getattr(loss_fn, name) for name in names if hasattr(loss_fn, name)}


def known_loss(problem: Problem, operator: str) -> OutputLoss:
    """The problem's loss as a function of the outputs.

    Raises:
        ValueError: if the problem has no outputs, or the loss is piecewise linear in them.
    """
    if problem.loss_fn is None:
        msg = (
            f"{operator} needs to know the model's outputs, which this problem does not: "
            f"{problem.why_no_outputs}. Use hs.Problem(model, loss_fn, data) with unpack and "
            "forward."
        )
        raise ValueError(msg)
    return output_loss(problem.loss_fn)
