"""The surroundings of a forward pass: differentiable twice, repeatable, and leaving no trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hesscope.problem.absent import Absent
from hesscope.problem.attributes import Attributes
from hesscope.problem.data import preserved_rng
from hesscope.problem.layouts import same
from hesscope.problem.turns import LOCK, Turn
from hesscope.system import interrupts
from hesscope.system.contexts import derivatives_on

ALWAYS_SWITCHED = ("math attention", "MHA fast path off", "autocast off")


@contextmanager
def twice_differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, torch uses only kernels whose gradient can be differentiated again.

    Stock attention kernels, the fast path of multi-head attention, cuDNN's recurrent layers and
    compiled code have no second derivative, and autocast makes products asymmetric by 1 %
    (bfloat16).
    """
    with LOCK, interrupts.deferred(), Turn(model), ExitStack() as stack:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        derivatives_on(stack, device.type)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if _needs_cudnn_off(model, device):
            stack.enter_context(_cudnn_off())
        if _compiler_is_loaded():  # a compiled layer, loss or forward inside the model
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


def switched(model: nn.Module, device: torch.device) -> list[str]:
    """What `twice_differentiable` switches for this model, in words."""
    cudnn = ["cuDNN RNN off"] if _needs_cudnn_off(model, device) else []
    compiler = ["torch.compile off"] if _compiler_is_loaded() else []
    return [*ALWAYS_SWITCHED, *cudnn, *compiler]


def rounded_products(dtype: torch.dtype, device: torch.device) -> dict[str, list[str]]:
    """The fact that torch may round the factors of float32 products to TF32 or bfloat16, if so."""
    if dtype != torch.float32:
        return {}
    places: dict[str, Any] = {"mkldnn.matmul": torch.backends.mkldnn}
    if device.type == "cuda":
        places = {"cuda.matmul": torch.backends.cuda, "cudnn.conv": torch.backends.cudnn}
    found = []
    for name, home in places.items():
        setting = getattr(home, name.rpartition(".")[2], None)
        precision = getattr(setting, "fp32_precision", "none")  # of torch 2.9 and later
        if precision not in ("none", "ieee"):
            found.append(f"{name}: {precision}")
    return {"float32 products": found} if found else {}


def _needs_cudnn_off(model: nn.Module, device: torch.device) -> bool:
    """Whether the model holds a recurrent layer that would run in cuDNN."""
    return device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m in model.modules())


def _compiler_is_loaded() -> bool:
    """Whether torch.compile can have been used: only then is it worth its slow import."""
    return "torch._dynamo" in sys.modules


@contextmanager
def _cudnn_off() -> Iterator[None]:
    """cuDNN off and nothing else changed (`torch.backends.cudnn.flags` would reset four flags)."""
    was = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = was


@contextmanager
def untouched(
    model: nn.Module,
    others: Sequence[nn.Module] = (),
    held: Sequence[Any] = (),
    *,
    training: bool,
    turn: Turn | None = None,
) -> Iterator[Attributes]:
    """Inside, the model is in evaluation (or training) mode; on exit it is what it was.

    Restored bit for bit, also when an exception passes: parameters, buffers, `.grad`, training
    flags, plain attributes and the random number generators. Other modules that the loss runs keep
    their mode inside, and get back buffers, flags and attributes; what else it holds, its content.
    `.grad` is not even read where
    there are other threads: one of them may be in a backward pass, which runs without Python's
    lock, and torch then counts references wrong. Yields the attributes, for whoever runs the model
    several times.
    """
    alone = turn is None or turn.alone
    modules = [*model.modules(), *others]
    attributes = Attributes(modules, held)
    flags = [(module, module.training) for module in modules]
    parameters = [
        (p, p.detach().clone(), p.grad if alone else None, p.requires_grad)
        for p in model.parameters()
        if not isinstance(p, Absent)
    ]
    buffers = [
        (module._buffers, name, buffer, None if buffer is None else buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
    ]
    with preserved_rng():
        try:
            model.train(training)
            for parameter, _, _, _ in parameters:
                if alone and parameter.grad is not None:
                    parameter.grad = None
            yield attributes
        finally:
            attributes.restore()
            for parameter, value, grad, requires_grad in parameters:
                _restore(parameter, value)
                if parameter.requires_grad is not requires_grad:
                    parameter.requires_grad_(requires_grad)
                if alone and parameter.grad is not grad:
                    parameter.grad = grad
            for store, name, buffer, content in buffers:
                store[name] = buffer
                if buffer is not None and content is not None:
                    _restore(buffer, content)
            for module, flag in flags:
                module.training = flag


def _restore(tensor: Tensor, value: Tensor) -> None:
    """Writes `value` back only where something has changed, so that kept graphs stay valid."""
    if not same(tensor, value):
        with torch.no_grad():
            tensor.copy_(value)


@contextmanager
def calls_of(model: nn.Module) -> Iterator[list[str]]:
    """Notes which kinds of modules run inside: during a backward pass, only checkpointing does."""
    calls: list[str] = []

    def note(module: nn.Module, _: object) -> None:
        calls.append(type(module).__name__)

    with interrupts.deferred():
        handles = [
            module.register_forward_pre_hook(note)
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
        ]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()
