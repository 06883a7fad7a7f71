"""One call of a block that is looked at from outside only: what it was given, found and gave.

Its results are new roots of the graph. Nothing inside is kept: tangents go through it forward with
dual numbers, and for the way back it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_unflatten

from hesscope import rounding
from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.dual import LeanError, Misfit, dual_numbers, explained_forward
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.autodiff.padding import padding_held
from hesscope.autodiff.tape import Tape, Variable
from hesscope.problem.absent import Absent
from hesscope.problem.attributes import Attributes, Structure
from hesscope.problem.calls import versions_of
from hesscope.problem.data import rng_state, set_rng_state
from hesscope.problem.parameters import substituted

CONSTANTS = (
    bool, int, float, complex, str, slice, type, type(None), FunctionType, BuiltinFunctionType,
    torch.Size, torch.dtype, torch.device, Enum, Tensor,
)  # fmt: skip
TENSORS = (Tensor, nn.Parameter, nn.Buffer)  # those of other classes may be more than numbers
CACHE = "switch caches of keys and states off (use_cache=False in the batch or in model.config)"


class Call:
    """A recorded call of a block, and how to repeat it.

    Args:
        block: the module, with its own `forward`.
        args: what it was called with, kwargs likewise.
        tape: knows the tangents of the tensors inside.

    Raises:
        LeanError: if it is given what a repetition could find changed.
    """

    def __init__(
        self,
        block: nn.Module,
        forward: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        tape: Tape,
    ) -> None:
        self.block, self.forward, self.name = block, forward, type(block).__name__
        self.given, self.form = tree_flatten((tuple(args), kwargs))
        self._refuse_objects(self.given, "is called with", CACHE)
        found = {i: tape.variable_of(t) for i, t in enumerate(self.given) if isinstance(t, Tensor)}
        self.inputs = {i: v for i, v in found.items() if v is not None}
        tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
        wanted = {name: tape.variable_of(t) for name, t in tensors.items() if t.requires_grad}
        self.own = {name: v for name, v in wanted.items() if v is not None}
        self.held = {name: tensors[name].detach() for name in wanted if name not in self.own}
        self.outputs: dict[int, Variable] = {}  # by their place in the result
        self._before = _Before(block)

    @property
    def variables(self) -> list[Variable]:
        """All that the results depend on: inputs, then parameters of the block."""
        return [*self.inputs.values(), *self.own.values()]

    def with_tangents(self, tape: Tape, *, copied: bool) -> Any:
        """The result, its tensors new roots of the tape with tangents by dual numbers.

        Args:
            tape: where they are told.
            copied: whether copies are given away, which may be written to in place.

        Raises:
            LeanError: if repetitions differ, or would not see what this call sees.
        """
        tensors = [t for t in self.given if isinstance(t, Tensor)]
        versions = versions_of(tensors)
        values, form, first = self._with_tangent(0)
        self._before.settle()
        if versions_of(tensors) != versions:
            cause = f"{self.name} writes in place into what it is called with"
            cure = "replace operations in place on its input (x += y, inplace=True) by x = x + y"
            raise LeanError(Misfit(cause, cure))
        tangents = {place: [tangent] for place, tangent in first.items()}
        for j in range(1, tape.num):
            again, _, more = self._with_tangent(j)
            for place, known in tangents.items():
                self._refuse_another(again[place], values[place])
                known.append(more.get(place, torch.zeros_like(values[place])))
        for place, known in tangents.items():
            values[place] = self._of_its_own(values[place]).requires_grad_()
            self.outputs[place] = tape.add_root(values[place], [self._of_its_own(t) for t in known])
            values[place] = values[place].clone() if copied else values[place]
        return tree_unflatten(values, form)

    def again(self) -> tuple[list[Tensor], list[Tensor]]:
        """The results with a graph, and its roots, which are those of `variables` in their order.

        Raises:
            LeanError: if they are not what they were.
            UntrustworthyError: if torch would differentiate them wrongly.
        """
        roots = [v.value.requires_grad_() for v in self.variables]
        with fast_second_derivatives() as mode:
            flat, _ = tree_flatten(self._run(roots, self._before.restored()))
        if mode.wrong is not None:
            raise UntrustworthyError(mode.wrong)
        for place, variable in self.outputs.items():
            self._refuse_another(flat[place], variable.tensor)
        return [flat[place] for place in self.outputs], roots

    def _run(self, tensors: Sequence[Tensor], buffers: dict[str, Tensor]) -> Any:
        """The block on these in the place of its variables."""
        leaves = [t.detach() if isinstance(t, Tensor) else t for t in self.given]
        for place, tensor in zip(self.inputs, tensors, strict=False):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.form)
        own = dict(zip(self.own, tensors[len(self.inputs) :], strict=True))
        with substituted(self.block, {**self.held, **buffers, **own}):
            return self.forward(*args, **kwargs)

    def _with_tangent(self, j: int) -> tuple[list[Any], Any, dict[int, Tensor]]:
        """The results in a list, their form, and by place the tangents along direction j."""
        buffers = self._before.restored() if j else {}
        with forward_ad.dual_level(), explained_forward(self.name):
            duals = [forward_ad.make_dual(v.value, v.tangents[j]) for v in self.variables]
            with padding_held(), dual_numbers():
                flat, form = tree_flatten(self._run(duals, buffers))
            self._refuse_objects(flat, "returns", "return tensors, lists and dicts of them")
            self._refuse_tangents_in_attributes()
            given = {id(dual): place for dual, place in zip(duals, self.inputs, strict=False)}
            tangents = {}
            for place, value in enumerate(flat):
                if id(value) in given:  # passed through
                    flat[place] = self.given[given[id(value)]]
                elif isinstance(value, Tensor):
                    flat[place], tangent = forward_ad.unpack_dual(value)
                    self._refuse_foreign(value)
                    if tangent is not None:
                        tangents[place] = tangent
                        flat[place] = flat[place].detach()
        return flat, form, tangents

    def _of_its_own(self, tensor: Tensor) -> Tensor:
        """The tensor in memory that holds nothing else."""
        storage = tensor.untyped_storage()
        others = (t for t in self.given if isinstance(t, Tensor) and t.layout == torch.strided)
        places = {t.untyped_storage().data_ptr() for t in others}
        alone = storage.nbytes() <= tensor.numel() * tensor.element_size()
        return tensor if alone and storage.data_ptr() not in places else tensor.clone()

    def _refuse_objects(self, values: Iterable[Any], does: str, cure: str) -> None:
        for value in values:
            plain = type(value) in TENSORS if isinstance(value, Tensor) else True
            if not (plain and isinstance(value, CONSTANTS)):
                cause = (
                    f"{self.name} {does} a {type(value).__name__}, which may remember what was "
                    "computed, and blocks are run again"
                )
                raise LeanError(Misfit(cause, cure))

    def _refuse_tangents_in_attributes(self) -> None:
        """A tensor that leaves by another way than the result would lose its derivative.

        Raises:
            LeanError: if one does.
        """
        for module in self.block.modules():
            for name, value in vars(module).items():
                if any(map(_has_tangent, _held(value))):
                    cause = (
                        f"{self.name} leaves a tensor in {type(module).__name__}.{name}, and its "
                        "derivative would be lost"
                    )
                    cure = "return it from forward, or keep it without derivative (.detach())"
                    raise LeanError(Misfit(cause, cure))

    def _refuse_foreign(self, value: Tensor) -> None:
        if value.requires_grad:
            cause = (
                f"{self.name} uses tensors that it is neither called with nor owns, such as "
                "parameters of other modules"
            )
            cure = "hand them over as arguments of forward, or register them in the block"
            raise LeanError(Misfit(cause, cure))
        if value.is_complex():
            cause = f"{self.name} returns complex numbers"
            raise LeanError(Misfit(cause, "return them as real ones (torch.view_as_real)"))

    def _refuse_another(self, now: Any, before: Tensor) -> None:
        """Whether a repetition gives the same to rounding.

        Raises:
            LeanError: if not.
        """
        if isinstance(now, Tensor) and now.shape == before.shape:
            difference = (now.detach() - before.detach()).nan_to_num(nan=0.0).norm()
            size = before.detach().nan_to_num(0.0, 0.0, 0.0).norm()
            allowed = rounding.half_the_digits(before.dtype) * size
            if difference <= allowed + rounding.tiny(before.dtype):
                return
        cause = (
            f"{self.name} is not repeatable: run again on the same arguments, it gives another "
            "result (a cache, a counter, random numbers of its own?)"
        )
        raise LeanError(Misfit(cause, "make its result a function of arguments and parameters"))


def _held(value: Any) -> Iterable[Any]:
    """What an attribute holds."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else (value,)


def _has_tangent(value: Any) -> bool:
    if not isinstance(value, Tensor) or isinstance(value, Absent):
        return False
    if value.layout != torch.strided:
        return False
    return forward_ad.unpack_dual(value).tangent is not None


class _Before:
    """What a call of a block may change besides: generators, attributes, buffers; as it was."""

    def __init__(self, block: nn.Module) -> None:
        self.rng, self.attributes = rng_state(), Attributes(block.modules())
        self.structure = Structure(block.modules())
        self.buffers = dict(block.named_buffers())
        self.versions = versions_of(list(self.buffers.values()))
        self.copies = {name: buffer.clone() for name, buffer in self.buffers.items()}

    def settle(self) -> None:
        """After the call: forgets the copies of buffers that it has not written to."""
        now = versions_of(list(self.buffers.values()))
        for name, before, after in zip(list(self.buffers), self.versions, now, strict=True):
            if before == after:
                del self.copies[name]

    def restored(self) -> dict[str, Tensor]:
        """Puts generators and attributes back, and gives the buffers to be put in place."""
        set_rng_state(self.rng)
        self.structure.restore()
        self.attributes.restore()
        return {**self.buffers, **{name: copy.clone() for name, copy in self.copies.items()}}
