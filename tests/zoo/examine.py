"""One model in every mode: what hesscope says of it, beside the reference, as rows of facts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

import hesscope as hs
from tests.zoo.reference import MeanLoss, Truth, direction, error, truth, truth_of_parts
from tests.zoo.specimen import Specimen, loss_of_output, moved, same
from tests.zoo.verdict import ABSENT, Measured, accurate, verdict


def door(specimen: Specimen, model: nn.Module, batches: list[Any]) -> hs.Problem:
    """How a user would bring this model: the one place that knows hesscope's interface.

    A model that computes its own loss needs no line, and says itself what it counts.
    """
    if specimen.loss is loss_of_output:
        return hs.Problem(model, data=batches, count=1 if specimen.indivisible else None)
    return hs.Problem.from_closure(model, specimen.loss, batches, count=specimen.given())


@dataclass(frozen=True)
class Mode:
    point: str  # fresh weights, or moved away from them
    dtype: torch.dtype
    parts: int  # batches that the same examples come in

    def facts(self) -> dict[str, Any]:
        dtype = str(self.dtype).removeprefix("torch.")
        return {"weights": self.point, "dtype": dtype, "batches": self.parts}


ALL_MODES = [Mode(*c) for c in product(("fresh", "moved"), (torch.float32, torch.float64), (1, 2))]
# half of them, in which every two of weights, precision and batches meet in every combination
MODES = [ALL_MODES[number] for number in (0, 3, 5, 6)]


def examine(specimen: Specimen, modes: list[Mode] = MODES) -> Iterator[dict[str, Any]]:
    """One row a mode; one row in all where the model cannot be made."""
    try:
        specimen.make(False)
    except Exception as missing:  # a package that is not here, whatever it raises
        yield _row(specimen, verdict=ABSENT, said=_words(missing))
        return
    for point in dict.fromkeys(mode.point for mode in modes):
        truths, v = true_products(specimen, point)
        for mode in modes:
            if mode.point == point:
                yield _examined(specimen, mode, truths[mode.parts], v)


def build(specimen: Specimen, point: str, dtype: torch.dtype, *, eager: bool = False) -> nn.Module:
    """The same numbers in either precision: they are chosen in float32."""
    model = specimen.make(eager)
    if dtype is torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    return (moved(model) if point == "moved" else model).to(dtype)


def true_products(specimen: Specimen, point: str) -> tuple[dict[int, Truth], Tensor]:
    """The truth of one batch and of two, and the direction v of the products."""
    form = _form(specimen, point)
    whole, parts = (_reference(specimen, point, count, form) for count in (1, 2))
    v = direction(whole.model)
    of_whole = truth(whole, v)
    return {1: of_whole, 2: truth_of_parts(parts, whole, of_whole, v)}, v


@dataclass(frozen=True)
class Form:
    """How the reference evaluates a model: elementary attention, inner casts lifted to float64."""

    eager: bool
    lifted: bool


def _reference(specimen: Specimen, point: str, parts: int, form: Form) -> MeanLoss:
    model = build(specimen, point, torch.float64, eager=form.eager)
    batches = specimen.batches(parts, torch.float64)
    return MeanLoss(specimen, model, batches, lifted=form.lifted)


def _form(specimen: Specimen, point: str) -> Form:
    """The most elementary form that runs and, beside the model's own, gives the same loss."""
    elementary, stock, own = Form(True, True), Form(False, True), Form(False, False)
    losses = {}
    for form in (elementary, stock, own):
        with suppress(Exception):  # whatever a model raises in a form that it does not know
            losses[form] = _reference(specimen, point, 1, form).value()
    finite = {form: loss for form, loss in losses.items() if isfinite(loss)}
    true = finite.get(stock, finite.get(elementary, 0.0))
    if elementary in finite and abs(finite[elementary] - true) <= 1e-9 * abs(true):
        return elementary
    return stock if stock in finite else own


def _examined(specimen: Specimen, mode: Mode, true: Truth, v: Tensor) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        own = _plain(specimen, mode).mean(torch.detach)
    except Exception as failure:  # the user could not run it either
        return _row(specimen, mode, verdict=ABSENT, said=f"plain torch: {_words(failure)}")
    if not own.isfinite():  # fill values of float32 overflow in some models, for example
        true = replace(true, unsound="the loss is not finite in this precision")
    model = build(specimen, mode.point, mode.dtype)
    batches = specimen.batches(mode.parts, mode.dtype)
    answer = _ask(specimen, model, batches, v.to(mode.dtype))
    measured = _measured(specimen, mode, true, v, answer)
    answer.pop("product")
    return _row(
        specimen,
        mode,
        verdict=verdict(measured),
        **answer,
        error=measured.error,
        rounding=measured.rounding,
        unsound=true.unsound,
        witness=true.witness,
        n=v.numel(),
        loss_dtype=str(own.dtype).removeprefix("torch."),
        left_changed=_left_changed(specimen, mode, model, batches),
        seconds=round(time.perf_counter() - began, 2),
    )


def _measured(
    specimen: Specimen, mode: Mode, true: Truth, v: Tensor, answer: dict[str, Any]
) -> Measured:
    """The answer beside the truth; what rounding explains is measured only where it matters."""
    found = answer["product"]
    distance = float("inf") if found is None or true.product is None else error(found, true.product)
    measured = Measured(mode.dtype, answer["fault"], answer["failure"], distance, 0.0, true.unsound)
    if mode.dtype is torch.float64 or found is None or accurate(measured):
        return measured
    return replace(measured, rounding=_rounding(specimen, mode, true, v))


def _ask(specimen: Specimen, model: nn.Module, batches: list[Any], v: Tensor) -> dict[str, Any]:
    """What hesscope says: the first fault of the check, the product, or what either raised."""
    answer: dict[str, Any] = {"fault": "", "said": "", "failure": "", "product": None}
    try:
        problem = door(specimen, model, batches)
        check = hs.check_problem(problem)
        if check.faults:
            first = check.faults[0]
            answer |= {"fault": first.name, "said": " ".join(f"{first.cause} {first.cure}".split())}
        answer["notes"] = [finding.name for finding in check.findings if not finding.fault]
    except Exception as raised:
        return answer | {"fault": "raised", "said": _words(raised), "failure": _words(raised)}
    try:
        answer["product"] = hs.Hessian(problem) @ v
    except Exception as raised:
        answer["failure"] = _words(raised)
    return answer


def _plain(specimen: Specimen, mode: Mode) -> MeanLoss:
    """The loss as the user has it: stock kernels and the model's own precision."""
    model = build(specimen, mode.point, mode.dtype)
    return MeanLoss(specimen, model, specimen.batches(mode.parts, mode.dtype), lifted=False)


def _rounding(specimen: Specimen, mode: Mode, true: Truth, v: Tensor) -> float:
    """How far plain double backward in the model's own precision is from itself in float64."""
    if true.double_backward is None:
        return 0.0
    return error(_plain(specimen, mode).product(v), true.double_backward)


def _left_changed(
    specimen: Specimen, mode: Mode, model: nn.Module, batches: list[Any]
) -> list[str]:
    """What hesscope left in the user's hands other than it was, beside a twin never shown to it."""
    twin = build(specimen, mode.point, mode.dtype)
    first, mine = _Inside(twin), _Inside(model)
    fresh = specimen.batches(mode.parts, mode.dtype)
    losses = [MeanLoss(specimen, m, fresh, lifted=False).value() for m in (model, twin)]
    unchanged = same(batches, fresh)
    specimen.loss(twin, fresh[0])  # what any call leaves behind is nobody's fault
    used = _Inside(twin)
    changed = {
        "tensors": not (mine.same_tensors(first) or mine.same_tensors(used)),
        "gradients": any(p.grad is not None for p in model.parameters()),
        "mode": any(mine.training.get(name, flag) != flag for name, flag in first.training.items()),
        "batch": not unchanged,
        "loss": not torch.allclose(*torch.tensor(losses), rtol=1e-6, atol=0, equal_nan=True),
    }
    new = {name for _, name in mine.attributes - first.attributes - used.attributes}
    return [*(name for name, is_so in changed.items() if is_so), *sorted(new)]


class _Inside:
    """What a model holds, to be compared with another of its kind."""

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self.tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}
        self.training = {name: module.training for name, module in modules.items()}
        self.attributes = {(name, key) for name, m in modules.items() for key in m.__dict__}

    def same_tensors(self, other: _Inside) -> bool:
        return self.tensors.keys() == other.tensors.keys() and all(
            torch.equal(self.tensors[name].nan_to_num(), tensor.nan_to_num())
            for name, tensor in other.tensors.items()
        )


def _row(specimen: Specimen, mode: Mode | None = None, **facts: Any) -> dict[str, Any]:
    where = mode.facts() if mode else {}
    return {"model": specimen.name, "family": specimen.family, **where, **facts}


def _words(raised: Exception) -> str:
    return " ".join(f"{type(raised).__name__}: {raised}".split())[:500]
