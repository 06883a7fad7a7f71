"""Hessian-vector products of a loss that is cut at its blocks, which are seen from outside only.

The loss runs once. Through each block tangents go forward with dual numbers and without a graph,
and its results are new roots; what lies between the blocks (embeddings, masks, sums, head, loss) is
an ordinary graph, a small one. On the way back each block is run again, alone, and passes back the
adjoints of its results and their changes along the directions. In memory are the results of all
blocks with their tangents, and the graph of one block.

One product costs at most four gradients in operations: three forward passes with a tangent, one
again, two backward and six for their changes, of three a gradient is made of. Of m at once the
second forward pass and the graph are shared, and it is 3 + 1/m.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import get_interpreter_stack
from torch.nn.modules import module as torch_modules

from hesscope.autodiff.blocks import Segment
from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.dual import (
    DERIVATIVES,
    HOOKS_ON_ALL,
    NEVER_CALLED,
    LeanError,
    Misfit,
    refuse_checkpoints,
    restful,
)
from hesscope.autodiff.holes import Call
from hesscope.autodiff.tape import Tape, Variable
from hesscope.autodiff.weights import Weights
from hesscope.autodiff.written_out import called_as_one
from hesscope.problem.attributes import Attributes, Structure
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TOGETHER = 5  # directions at once: more would gain little, 3 + 1/m, and take more memory each


WRITTEN = "leaf Variable that requires grad"  # says torch of what is written to in place


@dataclass
class Manner:
    """How a loss is cut: known from earlier products, or not yet."""

    blocks: Sequence[nn.Module]
    scan: bool = True  # for what torch differentiates wrongly twice
    copied: bool = False  # results are given away as copies, for they are written to in place
    heads: bool = True  # leaves the logits of a very wide last layer pending


class _OtherwiseError(Exception):
    """The loss is to be cut in another manner, which has been noted."""


def lean_products(e: Evaluation, batch: Batch, V: Tensor, manner: Manner) -> Tensor:
    """The Hessian of the mean loss of one batch times V (n, k), without the graph of all of it.

    Args:
        e: where the loss is evaluated.
        batch: the examples.
        V: the directions, five of which are taken through the blocks at once.
        manner: the blocks of the model, none inside another; it learns.

    Raises:
        LeanError: if it cannot be had so, with cause and cure.
        UntrustworthyError: if torch has no right second derivative.
        NonFiniteLossError: if the loss is NaN or infinite.
    """
    directions = V.T.contiguous()
    products = torch.zeros_like(directions)
    parts = zip(directions.split(TOGETHER), products.split(TOGETHER), strict=True)
    for some, found in parts:
        passed(e, batch, manner, Weights.at_hand(e, some, found))
    return products.T


def passed(e: Evaluation, batch: Batch, manner: Manner, weights: Weights) -> None:
    """Adds what one batch gives to the products of weights.

    Raises:
        LeanError: as above, and so on.
    """
    while True:
        try:
            _Pass(e, manner, weights).run(batch)
            return
        except _OtherwiseError:  # at most once for each of two choices
            continue


class _Pass:
    """One evaluation of the loss of a batch, and the way back."""

    def __init__(self, e: Evaluation, manner: Manner, weights: Weights) -> None:
        self.e, self.manner, self.weights = e, manner, weights
        known, scan = weights.inside, manner.scan
        self.tape = Tape(weights.leaves, weights.num, scan=scan, inside=known)
        self.calls: list[Call] = []
        self.mode = restful(heads=manner.heads)
        self.refusal: LeanError | UntrustworthyError | None = None
        self.inside = 0  # of a block that is run
        self.met = False  # any block

    def run(self, batch: Batch) -> None:
        """Adds up the products in their place."""
        attributes = Attributes(self.e.model.modules())
        structure = Structure(self.e.model.modules())
        try:
            with self._holes():
                loss, roots = self._loss(batch), self.tape.roots
                start = (loss, torch.ones_like(loss), None)
                self.tape.pull_back([start], [r.tensor for r in roots], roots, last=False)
                del loss, roots, start
                self._go_back()
        finally:
            structure.restore()
            attributes.restore()

    def _loss(self, batch: Batch) -> Tensor:
        """The loss, with the graph of what lies between blocks.

        Raises:
            LeanError: if it cannot be had so.
            UntrustworthyError: if torch would differentiate it wrongly.
            _OtherwiseError: if copies of results, or whole logits, would help.
            Exception: whatever else the user's code raises.
        """
        try:
            with called_as_one(self.e.model), self.mode:
                loss = self.e.finite_loss(batch)
        except Exception as error:
            if self.mode.pending:
                self.manner.heads = False
                self.refusal = None
                raise _OtherwiseError from error
            if self.refusal is None and self.mode.differentiated:
                raise LeanError(DERIVATIVES) from error
            if self.refusal is None and not self.manner.copied and WRITTEN in str(error):
                self.manner.copied = True
                raise _OtherwiseError from error
            if self.refusal is None:
                raise
        self._raise_refusal()  # outside: what the user's code made of it has it for its cause
        if self.mode.wrong is not None:
            raise UntrustworthyError(self.mode.wrong)
        if self.mode.differentiated:
            raise LeanError(DERIVATIVES)
        if not self.met:
            raise LeanError(NEVER_CALLED)
        return loss

    def _raise_refusal(self) -> None:
        """What a block was refused for, whatever the user's code made of it.

        Raises:
            LeanError: if it was.
            UntrustworthyError: likewise.
        """
        refusal, self.refusal = self.refusal, None
        try:
            if refusal is not None:
                raise refusal from None
        finally:
            del refusal  # its traceback holds this frame

    def _go_back(self) -> None:
        """Block after block, from the last call to the first."""
        first = self._first_calls()
        while self.calls:
            call = self.calls.pop()
            outputs = list(call.outputs.values())
            returned = [output.returned() for output in outputs]
            self.tape.drop_roots(outputs)
            if any(adjoint is not None for adjoint, _ in returned):
                self._through(call, returned)
            del outputs, returned
            for variable in first.pop(call, ()):
                self._through_glue(variable)

    def _first_calls(self) -> dict[Call, list[Variable]]:
        """Of each tensor between blocks, the first call that used it: after that it is complete."""
        found: dict[Call, list[Variable]] = {}
        seen: set[int] = set()
        roots = {id(root) for root in self.tape.roots}
        for call in self.calls:
            for variable in call.variables:
                if id(variable) not in seen and id(variable) not in roots:
                    found.setdefault(call, []).append(variable)
                seen.add(id(variable))
        return found

    def _through(self, call: Call, returned: Sequence[tuple[Any, Any]]) -> None:
        with self.weights.here(call.block, back=True):
            with self._inside():
                outputs, roots = call.again()
            active = [
                (output, torch.zeros_like(output) if adjoint is None else adjoint, changes)
                for output, (adjoint, changes) in zip(outputs, returned, strict=True)
                if output.requires_grad
            ]
            del outputs
            if active:
                self.tape.pull_back(active, roots, call.variables)
            del active, roots

    def _through_glue(self, variable: Variable) -> None:
        """From a tensor that blocks were called with back to the roots that it was made of."""
        adjoint, changes = variable.returned()
        if adjoint is None:
            return
        tensors = [root.tensor for root in self.tape.roots]
        end = (variable.tensor, adjoint, changes)
        self.tape.pull_back([end], tensors, self.tape.roots, last=False)

    @contextmanager
    def _holes(self) -> Iterator[None]:
        """Inside, the blocks run as holes; their own `forward` comes back in any case."""
        try:
            with replaced(self.manner.blocks, self._hole):
                yield
        finally:
            self.calls.clear()  # they know their block's `forward` as it was: this pass

    def _hole(self, block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def hole(*args: Any, **kwargs: Any) -> Any:
            self.met = True
            if self.inside or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            try:
                with self.mode.rest(), self._inside():
                    return self._recorded(block, forward, args, kwargs)
            except (LeanError, UntrustworthyError) as error:
                self.refusal = self.refusal or error
                raise

        return hole

    def _recorded(
        self, block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if get_interpreter_stack() or torch.autograd.forward_ad._current_level >= 0:
            raise LeanError(DERIVATIVES)
        refuse_checkpoints()
        refuse_unfit(block)
        with self.weights.here(block):
            call = Call(block, forward, args, kwargs, self.tape)
            result = call.with_tangents(self.tape, copied=self.manner.copied)
        if call.outputs:
            self.calls.append(call)
        return result

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


@contextmanager
def replaced(
    blocks: Sequence[nn.Module],
    other: Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Inside, other functions stand for `forward` of blocks; of a chain, one segment after another.

    Args:
        blocks: the blocks.
        other: makes the function from a block and its own `forward`.
    """
    found: dict[nn.Module, Callable[..., Any]] = {}
    parts: list[Callable[..., Any]] = []

    def chained(value: Any) -> Any:
        for part in parts:
            value = part(value)
        return value

    for block in blocks:
        if isinstance(block, Segment):
            parts.append(other(block, block.forward))
            found[block.chain] = chained
        else:
            found[block] = other(block, block.forward)
    own = [(module, vars(module).get("forward")) for module in found]
    try:
        for module, forward in found.items():
            module.forward = forward
        yield
    finally:
        for module, attribute in own:
            vars(module).pop("forward", None)
            if attribute is not None:
                module.forward = attribute


def refuse_unfit(block: nn.Module) -> None:
    """Refuses a block that cannot be run again unseen.

    Raises:
        LeanError: if it has hooks, or runs compiled code.
    """
    if any(getattr(torch_modules, f"_global{name}", None) for name in HOOKS):
        raise LeanError(HOOKS_ON_ALL)
    name = type(block).__name__
    for module in block.modules():
        if isinstance(module, torch.jit.ScriptModule) or _is_compiled(module):
            cause = f"{name} is compiled (torch.compile, torch.jit)"
            raise LeanError(Misfit(cause, "measure the model that it was compiled from"))
        own = HOOKS[2:] if module is block else HOOKS
        if any(getattr(module, hooks, None) for hooks in own):
            cause = (
                f"hooks on {type(module).__name__} in {name} would fire more often than in an "
                "ordinary pass"
            )
            raise LeanError(Misfit(cause, "remove them, or measure a copy of the model"))


def _is_compiled(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or "_orig_mod" in module._modules
