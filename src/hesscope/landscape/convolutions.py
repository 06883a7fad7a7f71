"""Convolutions as a processor likes them: channels side by side, the BatchNorm behind folded in.

In evaluation mode a BatchNorm is s x + t for each channel, with s = γ/√(σ² + ε) and t = β - s μ.
Where nothing else uses what a convolution gives, it can be had by other weights: s (w * x + b) + t
is (s w) * x + (s b + t). Whether nothing else does is seen in one pass of the model as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
QUESTIONS = {  # about a tensor that its values do not answer
    Tensor.dim, Tensor.size, Tensor.numel, Tensor.nelement, Tensor.is_floating_point,
    Tensor.__len__,
    *(
        getattr(Tensor, name).__get__
        for name in (
            "shape", "ndim", "dtype", "device", "requires_grad", "is_cuda", "is_nested", "layout"
        )
    ),
}  # fmt: skip
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class DivergedError(Exception):
    """The model does something else with the output of a convolution than it did at first."""


@dataclass(frozen=True)
class Convolved:
    """A convolution that runs once in a pass, and the BatchNorm that alone uses its output."""

    convolution: Convolution
    norm: _BatchNorm | None


def convolutions_in(
    model: nn.Module, run: Callable[[], Any], is_shared: Callable[[Tensor, Tensor], bool]
) -> list[Convolved]:
    """What may be folded, as seen in one pass; not the convolutions of (input, weight) `is_shared`.

    Left alone are modules with hooks, parametrisations or a forward method of their own, and those
    that run more than once.
    """
    with _Watch() as watch:
        run()
    plain = [m for m in model.modules() if _is_plain(m)]
    by_weight = {id(m.weight): m for m in plain if type(m) in KINDS}
    norms = {id(m.running_mean): m for m in plain if isinstance(m, _BatchNorm) and not m.training}
    calls = [id(output.weight) for output in watch.outputs.values()]
    means = [id(output.norm_mean) for output in watch.outputs.values()]
    found = []
    for output in watch.outputs.values():
        convolution = by_weight.get(id(output.weight))
        shared = is_shared(output.input, output.weight)
        if convolution is None or calls.count(id(output.weight)) > 1 or shared:
            continue
        mean = output.norm_mean
        norm = None if mean is None or output.uses > 1 else norms.get(id(mean))
        once = means.count(id(mean)) == 1 and watch.norms.count(id(mean)) == 1
        assert isinstance(convolution, KINDS)
        assert norm is None or isinstance(norm, _BatchNorm)
        found.append(Convolved(convolution, norm if once else None))
    return found


def _is_plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    known = type(module) in KINDS or type(module).forward is _BatchNorm.forward
    changed = "forward" in vars(module) or parametrize.is_parametrized(module)
    return known and not any(hooks) and not changed


class Folding:
    """Convolutions that stand in a model in the place of its own."""

    def __init__(self, found: list[Convolved] | None = None, *, last: bool = False) -> None:
        self._convolutions: list[_Folded] = []
        self._passed: list[_Passed] = []
        self.instead: dict[nn.Module | None, nn.Module] = {}
        for one in found or ():
            passed = None if one.norm is None else _Passed()
            self._convolutions.append(_Folded(one, passed, last))
            self.instead[one.convolution] = self._convolutions[-1]
            if passed is not None:
                self._passed.append(passed)
                self.instead[one.norm] = passed

    def moves(self) -> None:
        """The parameters have changed."""
        for convolution in self._convolutions:
            convolution.now.moves()

    def check(self) -> None:
        """A pass has come to its end.

        Raises:
            DivergedError: if a BatchNorm did not run that was folded.
        """
        if any(passed.expected for passed in self._passed):
            raise DivergedError


@contextmanager
def folded(model: nn.Module, found: list[Convolved], *, last: bool) -> Iterator[Folding]:
    """Inside, the model runs with these convolutions folded, and channels last if asked.

    The running model raises `DivergedError` where a BatchNorm gets anything else than before.
    """
    folding = Folding(found, last=last)
    places = [
        (module._modules, key, child)
        for module in model.modules()
        for key, child in module._modules.items()
        if child in folding.instead
    ]
    try:
        for store, key, child in places:
            store[key] = folding.instead[child]
        yield folding
    finally:
        for store, key, child in places:
            store[key] = child


class _Now:
    """The weights of a folded convolution at the parameters of now, and what they are made of.

    Of plain attributes: those of a module cost more to write than a small convolution.
    """

    def __init__(self, one: Convolved, *, last: bool) -> None:
        self.given, self.given_bias = one.convolution.weight, one.convolution.bias
        likes = self.given.ndim == 4 and self.given.dtype == torch.float32
        order = torch.contiguous_format
        if last and likes and self.given.device.type == "cpu":
            order = torch.channels_last
        self.weight = torch.empty_like(self.given.detach(), memory_format=order)
        self.bias: Tensor | None = None
        self.norm = one.norm
        self.across = (-1, *[1] * (self.given.ndim - 1))
        if one.norm is not None:
            assert one.norm.running_var is not None
            self.inverse = (one.norm.running_var + one.norm.eps).rsqrt()
            self.mean, self.gain, self.shift = (
                one.norm.running_mean, one.norm.weight, one.norm.bias
            )  # fmt: skip
        self.moves()

    @torch.no_grad()
    def moves(self) -> None:
        """The parameters have changed."""
        if self.norm is None:
            self.weight.copy_(self.given)
            self.bias = self.given_bias
            return
        assert self.mean is not None
        scale = self.inverse if self.gain is None else self.inverse * self.gain
        torch.mul(self.given, scale.view(self.across), out=self.weight)
        mean = self.mean if self.given_bias is None else self.mean - self.given_bias
        zero = self.shift if self.shift is not None else torch.zeros_like(mean)
        self.bias = torch.addcmul(zero, scale, mean, value=-1)


class _Folded(nn.Module):
    """Stands for a convolution."""

    def __init__(self, one: Convolved, passed: _Passed | None, last: bool) -> None:
        super().__init__()
        self.now, self._one = _Now(one, last=last), (one,)  # in a tuple: no child of this module
        self._expected = None if passed is None else passed.expected

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution, and the BatchNorm after it, give."""
        found = self._one[0].convolution._conv_forward(x, self.now.weight, self.now.bias)
        if self._expected is not None:
            self._expected[:] = [found]
        return found


class _Passed(nn.Module):
    """Stands for a BatchNorm whose work is done already."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """The same.

        Raises:
            DivergedError: if it is not what the convolution gave.
        """
        if not self.expected or x is not self.expected.pop():
            raise DivergedError
        return x


@dataclass(eq=False)
class _Output:
    """What a convolution gave, held so that no other tensor gets its id, and what used it."""

    tensor: Tensor
    input: Tensor
    weight: Tensor
    uses: int = 0
    norm_mean: Tensor | None = None


class _Watch(TorchFunctionMode):
    """Sees what becomes of the outputs of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, _Output] = {}
        self.norms: list[int] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Notes the call and lets it pass."""
        kwargs = kwargs or {}
        if func not in QUESTIONS:
            for tensor in _tensors((*args, *kwargs.values())):
                if id(tensor) in self.outputs:
                    self.outputs[id(tensor)].uses += 1
        found = func(*args, **kwargs)
        if func in (F.conv1d, F.conv2d, F.conv3d) and len(args) > 1:
            self.outputs[id(found)] = _Output(found, args[0], args[1])
        elif func is F.batch_norm and len(args) > 1:
            self.norms.append(id(args[1]))
            if id(args[0]) in self.outputs:
                self.outputs[id(args[0])].norm_mean = args[1]
        return found


def _tensors(things: Iterable[Any]) -> Iterator[Tensor]:
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, (list, tuple)):
            yield from _tensors(thing)
