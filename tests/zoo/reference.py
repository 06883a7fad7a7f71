"""Second derivatives of a mean loss by plain torch in float64; hesscope has no part in it.

Two witnesses: double backward, and fourth-order central differences of the gradient along v. A
third, the loss at two nearby points, says whether the gradient is a derivative at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from tests.zoo.specimen import Specimen

STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
AGREE = 1e-5  # relative; witnesses in float64 of the same smooth function agree much better
REPEATS = 1e-12  # relative; the same loss once more differs by the order of its sums
CONVERGED = 1e-3  # differences that depend more on their step are no witness: a kink


class InDouble(TorchFunctionMode):
    """What a model casts to float32 inside becomes float64: its loss without that rounding."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        wide = [torch.float64 if value is torch.float32 else value for value in args]
        named = {
            key: torch.float64 if value is torch.float32 else value
            for key, value in (kwargs or {}).items()
        }
        return func(*wide, **named)


@contextmanager
def surroundings(*, lifted: bool) -> Iterator[None]:
    """Kernels that can be differentiated twice, and float64 throughout where `lifted`."""
    fast_path, default = torch.backends.mha.get_fastpath_enabled(), torch.get_default_dtype()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            if not lifted:
                yield
                return
            torch.set_default_dtype(torch.float64)
            with InDouble():
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.set_default_dtype(default)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass caches in its modules is taken out again: each call is the first.

    Dictionaries (buffers, hooks) get back their entries; the tensors themselves are not copied.
    """
    kept = [(module.__dict__, dict(module.__dict__)) for module in model.modules()]
    entries = [
        (value, dict(value))
        for _, own in kept
        for value in own.values()
        if type(value) in (dict, OrderedDict)
    ]
    try:
        yield
    finally:
        for place, content in (*kept, *entries):
            place.clear()
            place.update(content)


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def error(found: Tensor, true: Tensor) -> float:
    """The relative distance; NaN and infinity are infinitely far."""
    distance = float((found.double() - true.double()).norm()) / max(float(true.norm()), 1e-12)
    return distance if distance < float("inf") else float("inf")


def direction(model: nn.Module) -> Tensor:
    """A random unit vector over the trainable parameters, in float64.

    It is zero on the padding rows of embeddings: torch defines the gradient there as zero though
    the loss depends on them, so no function has that gradient.
    """
    parameters = trainable(model)
    generator = torch.Generator().manual_seed(3)
    parts = {
        id(p): torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
    }
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        weight = id(getattr(module, "weight", None))
        if padding is not None and weight in parts:
            parts[weight][padding] = 0
    v = flat(parts[id(p)] for p in parameters)
    return v / v.norm()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


class MeanLoss:
    """The count-weighted mean loss of a model over batches, in evaluation mode."""

    def __init__(
        self, specimen: Specimen, model: nn.Module, batches: list[Any], *, lifted: bool
    ) -> None:
        self.specimen, self.model, self.lifted = specimen, model.eval(), lifted
        self.batches = batches
        self.weights = [specimen.items(batch) for batch in batches]
        self.parameters = trainable(model)

    def mean(self, f: Callable[[Tensor], Tensor], seed: int = 0, calls: int = 1) -> Tensor:
        """The mean of f(loss of a batch); every batch meets the same random state and module.

        Of several calls in a row the last counts.
        """
        total: Any = 0.0
        for batch, weight in zip(self.batches, self.weights, strict=True):
            content = self.specimen.cut(batch, slice(None))  # some models write into their batch
            with surroundings(lifted=self.lifted), attributes_kept(self.model):
                for _ in range(calls):
                    torch.manual_seed(seed)
                    loss = self.specimen.loss(self.model, content)
                total = total + weight / sum(self.weights) * f(loss)
        return total

    def value(self, seed: int = 0, calls: int = 1) -> float:
        return float(self.mean(lambda loss: loss.detach(), seed, calls))

    def gradient(self) -> Tensor:
        return self.mean(lambda loss: flat(self._derivatives(loss)).detach())

    def product(self, v: Tensor) -> Tensor:
        """H v by double backward; raises what torch raises where there is none."""

        def once(loss: Tensor) -> Tensor:
            slope = flat(self._derivatives(loss, create_graph=True)) @ v.to(self.parameters[0])
            if not slope.requires_grad:
                return torch.zeros_like(v)
            return flat(self._derivatives(slope)).detach()

        return self.mean(once)

    def _derivatives(self, value: Tensor, *, create_graph: bool = False) -> Any:
        return torch.autograd.grad(
            value,
            self.parameters,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )

    def along(self, v: Tensor, f: Callable[[], Any], h: float) -> Any:
        """The fourth-order central difference of f along v, with the parameters put back."""
        start = [parameter.detach().clone() for parameter in self.parameters]
        total: Any = 0.0
        for step, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            self._move(start, step * h * v)
            total = total + factor * f() / (12 * h)
        self._move(start, torch.zeros_like(v))
        return total

    @torch.no_grad()
    def _move(self, start: list[Tensor], by: Tensor) -> None:
        steps = by.split([parameter.numel() for parameter in start])
        for parameter, origin, step in zip(self.parameters, start, steps, strict=True):
            parameter.copy_(origin + step.view_as(origin))

    def best_difference(self, v: Tensor, f: Callable[[], Any]) -> tuple[Tensor, float]:
        """The difference whose step matters least, and how much it matters (relative)."""
        found = [torch.as_tensor(self.along(v, f, h)) for h in STEPS]
        pairs = [(error(a, b), b) for a, b in pairwise(found)]
        spread, value = min(pairs, key=lambda pair: pair[0])
        return value, spread


@dataclass(frozen=True)
class Truth:
    """What plain torch says of H v.

    Args:
        product: H v, or None where neither witness has it.
        double_backward: what double backward says, which may be wrong; None where it raises.
        witness: where `product` comes from, and how well the witnesses agree.
        unsound: why nobody should serve this loss, if so.
    """

    product: Tensor | None
    double_backward: Tensor | None
    witness: str
    unsound: str = ""


def truth(loss: MeanLoss, v: Tensor) -> Truth:
    """H v of a mean loss, its witness, and whether the loss has a Hessian at all."""
    if not abs(loss.value()) < float("inf"):
        return Truth(None, None, "none", "the loss is not finite")
    try:
        loss.gradient()
    except Exception as failure:  # models that can be differentiated in training mode alone
        return Truth(None, None, "none", f"torch has no gradient in evaluation mode: {failure}")
    differences, spread = loss.best_difference(v, loss.gradient)
    by_differences = differences if spread <= CONVERGED else None
    witness = f"differences to {spread:.0e}"
    try:
        product = loss.product(v)
    except RuntimeError as failure:
        cause = f"torch has no second derivative: {str(failure).splitlines()[0]}"
        return Truth(by_differences, None, witness, changing(loss) or cause)
    if by_differences is None:
        return Truth(
            product, product, "double backward; a kink, differences diverge", changing(loss)
        )
    unsound = changing(loss) or not_a_derivative(loss, v)
    apart = error(differences, product)
    if apart <= max(AGREE, 10 * spread):
        witness = f"double backward, differences {apart:.0e} away"
        return Truth(product, product, witness, unsound)
    cause = f"double backward is {apart:.1e} from differences of the gradient"
    return Truth(differences, product, witness, unsound or cause)


def truth_of_parts(parts: MeanLoss, whole: MeanLoss, of_whole: Truth, v: Tensor) -> Truth:
    """The truth of a batch cut in two: that of the whole, where the loss is a mean over it."""
    if parts.specimen.indivisible:
        return truth(parts, v)
    if of_whole.unsound or error(parts.gradient(), whole.gradient()) <= AGREE:
        return of_whole
    cause = "the parts of the batch do not average to the whole under this count"
    product = parts.product(v)
    return Truth(product, product, "double backward on the parts", cause)


def changing(loss: MeanLoss) -> str:
    """Why the same parameters have several losses; empty if they have one."""
    first = torch.tensor(loss.value())
    if error(torch.tensor(loss.value(calls=2)), first) > REPEATS:
        return "the loss changes from call to call: the model keeps state"
    if error(torch.tensor(loss.value(seed=1)), first) > REPEATS:
        return "the loss is random in evaluation mode"
    return ""


def not_a_derivative(loss: MeanLoss, v: Tensor) -> str:
    """Whether the loss itself changes along v as its gradient says."""
    slope, spread = loss.best_difference(v, loss.value)
    gradient = loss.gradient()
    missing = abs(float(slope) - float(gradient @ v)) / max(float(gradient.norm()), 1e-12)
    if spread > CONVERGED or missing <= max(AGREE, 10 * spread):
        return ""
    return f"the gradient is {missing:.1e} from differences of the loss"
