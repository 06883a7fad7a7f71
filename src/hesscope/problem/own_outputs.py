"""The outputs behind a model's own loss: which loss of `.logits` and labels it is, if a usual one.

Gauss-Newton and Fisher matrices need a loss as a function of outputs. A form is believed only where
it gives the model's own loss and its gradient, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesscope import rounding
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.own_loss import LABELS, arguments, loss_in, output_of
from hesscope.problem.parameters import flatten

IGNORED = (-100, 255)  # labels that losses leave out: of words, and of pixels


@dataclass(frozen=True)
class Form:
    """A loss of the model's logits and the batch's labels, and what it averages over."""

    words: str
    items: str
    loss_fn: Callable[[Any, Any], Tensor]
    pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]  # None: it does not fit
    ignored: int | None = None

    def predict(self, model: nn.Module, content: Any) -> tuple[Any, Any]:
        """The outputs and targets of `loss_fn` on a batch.

        Raises:
            ValueError: if logits or labels of this batch are of another shape.
        """
        found = self.found_in(output_of(model, content), arguments(model, content))
        if found is None:
            msg = f"the logits or labels of this batch do not fit {self.words}, unlike the first."
            raise ValueError(msg)
        return found

    def found_in(self, output: Any, given: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """The outputs and targets in an output and the arguments that it was made from."""
        logits, labels = _entry(output, "logits"), given.get(LABELS)
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
            return None
        return self.pair(logits, labels)

    def allows(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether all targets are classes of the outputs; a GPU would not survive others."""
        if self.ignored is None:
            return True
        counted = targets[targets != self.ignored]
        return bool(((counted >= 0) & (counted < outputs.shape[1])).all())

    def count(self, model: nn.Module, content: Any) -> float:
        """How many targets the loss averages over; the model is asked for names only."""
        labels = arguments(model, content)[LABELS]
        if self.ignored is None:
            return float(len(labels))
        shifted = labels[:, 1:] if self.pair is _next_word else labels
        return float((shifted != self.ignored).sum())


def _entry(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _classes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    fits = logits.shape[:1] + logits.shape[2:] == labels.shape
    return (logits, labels) if fits and not labels.is_floating_point() else None


def _each_word(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    fits = logits.ndim == 3 and logits.shape[:2] == labels.shape
    return (logits.movedim(-1, 1), labels) if fits and not labels.is_floating_point() else None


def _next_word(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    words = _each_word(logits, labels)
    return words and (words[0][:, :, :-1], words[1][:, 1:])


def _each_pixel(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    if logits.ndim != 4 or labels.ndim != 3 or labels.is_floating_point():
        return None
    pictures = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return _classes(pictures, labels)


def _binary_by_example(outputs: Tensor, targets: Tensor) -> Tensor:
    """The logistic loss, summed over the labels of an example, mean over examples."""
    return F.binary_cross_entropy_with_logits(outputs, targets) * targets.shape[1]


def _values(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    if logits.ndim == labels.ndim + 1 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    return (logits, labels) if logits.shape == labels.shape and labels.ndim else None


FORMS = (
    *(
        Form(f"cross_entropy of logits and labels{at}", items, loss_fn, pair, ignored)
        for ignored in IGNORED
        for loss_fn in (
            F.cross_entropy if ignored == -100 else partial(F.cross_entropy, ignore_index=ignored),
        )
        for at, items, pair in (
            ("", f"labels other than {ignored}", _classes),
            (" of words", f"labels other than {ignored}", _each_word),
            (" of the next words", f"labels other than {ignored}, without each first", _next_word),
            (" of pixels, logits interpolated", f"labels other than {ignored}", _each_pixel),
        )
    ),
    Form("mse_loss of logits and labels", "examples", F.mse_loss, _values),
    Form(
        "binary_cross_entropy_with_logits of logits and labels",
        "examples",
        F.binary_cross_entropy_with_logits,
        _values,
    ),
    Form(
        "binary_cross_entropy_with_logits of logits and labels, summed over labels",
        "examples",
        _binary_by_example,
        _values,
    ),
)


def form_of_loss(e: Evaluation, batches: list[Batch]) -> Form | None:
    """The form that gives the model's own loss on all these batches, and its gradient on the first.

    `e` predicts all that the model gives. Costs a forward pass each and about two gradients.
    """
    fitting = list(FORMS)
    for number, batch in enumerate(batches):
        output, content = e.predict(batch)
        if not isinstance(content, Mapping):
            return None
        given, loss = arguments(e.model, content), loss_in(output, content)
        fitting = [form for form in fitting if _same_value(form, output, given, loss)]
        if number == 0:
            fitting = [form for form in fitting if _same_gradient(e, form, output, given, loss)]
    return fitting[0] if fitting else None


def _same_value(form: Form, output: Any, given: Mapping[str, Any], loss: Tensor) -> bool:
    found = form.found_in(output, given)
    if found is None or not form.allows(*found):
        return False
    try:
        value, own = form.loss_fn(*found).detach(), loss.detach()
    except (RuntimeError, ValueError):  # targets of another dtype than this loss takes
        return False
    weaker = max(own.dtype, value.dtype, key=rounding.eps)
    size = max(abs(float(own)), float(found[0].detach().abs().max()))
    return abs(float(value) - float(own)) <= rounding.loss_noise(weaker, size)


def _same_gradient(
    e: Evaluation, form: Form, output: Any, given: Mapping[str, Any], loss: Tensor
) -> bool:
    found = form.found_in(output, given)
    assert found is not None  # its value was looked at before
    one, other = (_gradient(e, value) for value in (loss, form.loss_fn(*found)))
    weaker = max(loss.dtype, one.dtype, key=rounding.eps)
    return bool((one - other).norm() <= rounding.half_the_digits(weaker) * one.norm())


def _gradient(e: Evaluation, loss: Tensor) -> Tensor:
    return flatten(
        torch.autograd.grad(
            loss, e.leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
