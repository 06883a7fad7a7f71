"""What check_problem asks first: finite parameters, data that stays the same, a finite gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.graph import broken_nodes
from hesscope.checks.scaled import scaled_loss
from hesscope.checks.state import State
from hesscope.checks.surroundings import what_it_would_need
from hesscope.problem.calls import NonFiniteLossError, explained
from hesscope.problem.contents import fingerprint
from hesscope.problem.data import Batch
from hesscope.problem.examples import num_examples, take
from hesscope.problem.parameters import flatten
from hesscope.results.check import Finding


def parameters_are_finite(state: State) -> Finding | None:
    """No parameter is NaN or infinite."""
    problem = state.problem
    pieces = dict(zip(problem.layout.names, problem.layout.split(problem.theta), strict=True))
    bad = [name for name, piece in pieces.items() if not bool(torch.isfinite(piece).all())]
    if bad:
        return Finding(
            "parameters_not_finite",
            f"{len(bad)} of {len(pieces)} parameter tensors hold NaN or infinity: "
            f"{', '.join(bad[:4])}.",
            "load a checkpoint from before the run diverged.",
        )
    if problem.point.half is not None and not problem.rounded:
        state.note(
            "low_precision",
            f"parameters are {problem.point.half}: loss, gradient and products are computed in "
            "float32 copies of weights and data, and are those of the float32 network with these "
            "weights.",
            "nothing; a step in half precision adds its own rounding to what is found here.",
        )
    return None


def data_is_repeatable(state: State) -> Finding | None:
    """A pass under another seed must bring the batches of the first pass, which was kept."""
    batches = state.problem.batches
    first = batches.fingerprints
    if not any(first):  # the checksum of no tensor
        _without_tensors(state)
        return None
    second = tuple(fingerprint(content) for content in batches.reread(seed=1))
    if not second:
        return Finding(
            "data_read_once",
            f"a second pass over the data brought no batch, the first {len(first)}: the data can "
            "be read only once.",
            "pass list(data), or an object whose __iter__ starts anew.",
        )
    if batches.cached and any(fingerprint(b.content) != batches.as_read(b) for b in batches):
        return Finding(
            "data_overwritten",
            "the kept batches are no longer what they were when they were read: the loader reuses "
            "its buffers, or the tensors were changed in place.",
            "give each batch its own memory, for example [clone(batch) for batch in loader].",
        )
    return None if first == second else _how_the_data_changes(state, first)


def _without_tensors(state: State) -> None:
    """Notes that the data cannot be seen; a function of the parameters alone has none."""
    content = state.first_batch().content
    if isinstance(content, tuple) and not content:
        return
    state.could_not_ask(
        "no_tensor_seen",
        f"no tensor is seen in batches of type {type(content).__name__}, so nobody can say "
        "whether they are the same at every pass, and nothing is moved or cast.",
        "hand over a dict or tuple of tensors, or objects with tensors in their attributes.",
    )


def _how_the_data_changes(state: State, first: tuple[int, ...]) -> Finding | None:
    batches = state.problem.batches
    if not batches.cached and tuple(map(fingerprint, batches.reread(seed=0))) != first:
        return Finding(
            "data_changes",
            "the data is too large to be kept and differs at every pass: the loader shuffles or "
            "augments with a random generator of its own.",
            "use shuffle=False and a fixed transform, or raise cache_bytes.",
        )
    if _same_examples(state):
        state.note(
            "shuffled_data",
            "the loader shuffles: its batches come in another order at every pass (the examples "
            "are the same, and the first order is kept, so the mean does not change).",
            "use shuffle=False to get the same rounding at every run.",
        )
        return None
    return Finding(
        "data_changes",
        "the loader brings other data at every pass: it augments with random transforms, or "
        "shuffles and drops the last batch.",
        "measure with a fixed transform, shuffle=False and drop_last=False, or pass list(loader).",
    )


def _same_examples(state: State) -> bool:
    """Whether two passes hold the same examples in another order."""

    def examples(contents: Iterable[Any]) -> list[int]:
        return sorted(
            fingerprint(take(content, slice(i, i + 1)))
            for content in contents
            for i in range(num_examples(content))
        )

    batches = state.problem.batches
    kept = batches.cached and not batches.skipped
    first = (batch.content for batch in batches) if kept else batches.reread(seed=0)
    try:
        return examples(first) == examples(batches.reread(seed=1))
    except ValueError:  # the examples of a batch cannot be told apart
        return False


def loss_is_finite(state: State) -> Finding | None:
    """The loss and every entry of its gradient are finite, over all data.

    Raises:
        OutOfMemoryError: if memory runs out, which says nothing about the loss.
    """
    problem = state.problem
    try:
        gradient = _gradient(state)
    except NonFiniteLossError as error:
        return Finding("loss_not_finite", str(error), _SAME_ERROR)
    except Exception as error:  # whatever the user's code raises
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        return _why_the_gradient_fails(state, error)
    bad = [
        name
        for name, piece in zip(problem.layout.names, problem.layout.split(gradient), strict=True)
        if not bool(torch.isfinite(piece).all())
    ]
    if bad:
        return Finding(
            "gradient_not_finite",
            f"the loss is finite but the gradient is not, first in {bad[0]}: a square root, norm "
            "or logarithm at 0, or a 0/0 behind torch.where.",
            "add a small epsilon inside the root, norm or logarithm.",
        )
    state.gradient = gradient
    _note_unused(state, gradient)
    return scaled_loss(state)


def _gradient(state: State) -> Tensor:
    """That over all data; what the first batch has at the first call of all is remembered."""

    def of_batch(batch: Batch) -> Tensor:
        loss = e.finite_loss(batch)
        with explained():
            pieces = torch.autograd.grad(loss, e.leaves, allow_unused=True)
        parts = zip(e.leaves, pieces, strict=True)
        gradient = flatten([torch.zeros_like(p) if g is None else g for p, g in parts]).detach()
        if state.first is None:
            names = zip(state.problem.layout.names, pieces, strict=True)
            state.unused = [name for name, piece in names if piece is None]
            state.first = float(loss.detach()), gradient
        return gradient

    with state.problem.evaluation() as e:
        return e.mean(of_batch)


_SAME_ERROR = "see the cause; `problem.gradient()` raises the same error."


def _why_the_gradient_fails(state: State, error: Exception) -> Finding:
    if isinstance(error, RuntimeError) and _checkpoints_reentrantly(state):
        return Finding(
            "reentrant_checkpoint",
            "the model checkpoints activations with use_reentrant=True, which has no second "
            "derivative in torch.",
            "pass use_reentrant=False to torch.utils.checkpoint.checkpoint; for a Hugging Face "
            "model: gradient_checkpointing_kwargs={'use_reentrant': False}.",
        )
    needed = what_it_would_need(state)
    if needed is not None:
        return Finding("loss_fails", str(error), f"{needed}.")
    mode = "training" if state.problem.training else "evaluation"
    return Finding(
        "loss_fails",
        str(error),
        f"{_SAME_ERROR[:-1]} (in {mode} mode and without autocast, whatever the model was in).",
    )


def _checkpoints_reentrantly(state: State) -> bool:
    """Whether the graph of the loss holds a checkpoint that torch differentiates in no such way."""
    with state.problem.evaluation() as e:
        nodes = broken_nodes([e.loss(state.first_batch())])
    return any(node.name == "reentrant_checkpoint" for node in nodes)


def _note_unused(state: State, gradient: Tensor) -> None:
    problem, unused = state.problem, state.unused
    places = problem.layout.slices()
    flat = [n for n in places if n not in unused and not bool(gradient[places[n]].any())]
    if flat and bool(gradient.any()):
        state.note(
            "zero_gradient",
            f"the gradient is exactly zero in {', '.join(flat[:4])}"
            f"{' and others' if len(flat) > 4 else ''}: dead units, a factor that is zero, or a "
            "step such as round() or argmax in the path.",
            "nothing, if a factor starts at zero on purpose.",
        )
    if unused:
        state.note(
            "unused_parameters",
            f"the loss does not use {', '.join(unused[:4])}"
            f"{' and others' if len(unused) > 4 else ''}: zero rows of the Hessian.",
            "leave them out with `params`, or see whether a layer was forgotten in forward().",
        )
    if problem.batches.skipped:
        state.note(
            "skipped_batches",
            f"{len(problem.batches.skipped)} batches count zero items and are left out.",
            "nothing, if their labels are all ignored on purpose.",
        )
