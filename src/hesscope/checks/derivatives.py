"""The questions about derivatives: is there a second one, and is it the derivative of the first?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.graph import gradient_graph, refuse_broken
from hesscope.checks.differences import (
    beside,
    differences_settle,
    direction,
    first_error,
    gradient_differences_settle,
    is_right_beside,
    rounding_noise,
    second_error,
    worst_tensor,
)
from hesscope.checks.sample import Sample
from hesscope.checks.state import State
from hesscope.checks.suspects import shortened_rows, suspects
from hesscope.results.check import Finding

SCALES = (2.0, 4.0)  # of the parameters, at which derivatives are looked at once more
FEW_DIGITS = 1e-2  # of a product that is in error
NOISE = 0.1  # of a product: above, its largest eigenvalues have no correct digit


def graph_is_differentiable_again(state: State) -> Finding | None:
    """No node of the gradient's graph lacks a trustworthy derivative of its own."""
    try:
        with state.problem.evaluation() as e:
            loss, gradient = gradient_graph(e, state.first_batch())
            refuse_broken(gradient, loss)
    except UntrustworthyError as error:
        node = error.node
        return Finding(node.name, f"{node.cause} (at {node.after or 'the loss'}).", f"{node.cure}.")
    return None


def hessian_is_symmetric(state: State) -> Finding | None:
    """|u'Hv - v'Hu| against its typical size ‖u‖‖Hv‖/√n.

    Raises:
        OutOfMemoryError: if memory runs out, which says nothing about the derivative.
    """
    sample = state.sample
    u, v = (direction(sample.problem, seed) for seed in (0, 1))
    try:
        Hu, Hv = sample.products(torch.stack([u, v], 1)).unbind(1)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return Finding(
            "not_differentiable_twice",
            f"the gradient cannot be differentiated again: {error.__cause__ or error}",
            "replace the operation named there by its elementary form, or use "
            "product='finite-difference'.",
        )
    state.num_matvecs += 2
    state.products = {0: Hu, 1: Hv}
    if state.problem.rounded and (fault := _rounding(state)) is not None:
        return fault
    if not bool(torch.isfinite(Hu).all() and torch.isfinite(Hv).all()):
        return Finding(
            "product_not_finite",
            "the loss and its gradient are finite, but a Hessian-vector product is not: a root, "
            "norm or power at exactly 0 has no second derivative.",
            "add a small epsilon inside the root or norm.",
        )
    typical = float(u.norm() * Hv.norm() + v.norm() * Hu.norm()) / len(u) ** 0.5
    gap = abs(float(u @ Hv - v @ Hu))
    if gap <= sample.allowed.symmetry * typical:
        return None
    if first_error(sample) <= sample.allowed.first:  # its derivative is not symmetric
        return wrong_second_derivative(state, f"u'Hv and v'Hu differ by {gap / typical:.1e} of")
    return Finding(
        "asymmetric",
        f"u'Hv and v'Hu differ by {gap / typical:.1e} of their typical size: a custom backward "
        f"is not the derivative of its forward{_suspects(state)}, or the model computes in low "
        "precision.",
        "run torch.autograd.gradgradcheck on custom Functions; switch autocast off inside forward "
        "(hesscope switches it off around the model only).",
    )


def gradient_matches_the_loss(state: State) -> Finding | None:
    """(L(θ + h d) - L(θ - h d)) / 2h against g'd, for the best of several steps h."""
    return shortened_rows(state) or wrong_gradient(state, state.sample, "")


def hessian_matches_the_gradient(state: State) -> Finding | None:
    """(g(θ + h d) - g(θ - h d)) / 2h against Hd, for the best of several steps h."""
    return wrong_hessian(state, state.sample, "", state.products)


def derivatives_match_at_a_larger_scale(state: State) -> Finding | None:
    """The same two differences with all parameters 2 and 4 times as large, if the loss is finite.

    What is wrong only in large arguments is met there, as it is met in rare examples. Where the
    loss is so rough that its differences do not settle, nothing is known, and nothing is said.
    """
    sample = state.sample
    if not sample.double:
        return None
    for times in SCALES:
        far = sample.larger(times)
        if not _is_defined(far):  # constrained parameters: nothing is said of such places
            return None
        where = f"with all parameters {times:g} times as large, "
        fault = wrong_gradient(state, far, where) or wrong_hessian(state, far, where)
        if fault is not None:
            return fault if differences_settle(far) else None
    return None


def _is_defined(sample: Sample) -> bool:
    try:
        return bool(sample.gradient.isfinite().all()) and sample.loss is not None
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError):
        return False


def wrong_gradient(state: State, sample: Sample, where: str) -> Finding | None:
    """What is wrong with the gradient of a sample, if the loss moves differently."""
    allowed = sample.allowed.first
    error = first_error(sample)
    if error <= allowed:
        return None
    exact = sample.elementary_gradient()
    if exact is not None and first_error(sample, exact) <= allowed:
        return _wrong_third_derivative(exact, sample.gradient)
    if is_right_beside(sample, first_error, allowed):
        _note_kink(state)
        return None
    if first_error(sample.with_floor) <= allowed:
        return _cancellation(state, sample, "its gradient")
    if sample.double and not differences_settle(sample):
        state.note(
            "gradient_not_checked",
            "the loss is so rough that its differences do not settle, however small the step, so "
            "they cannot decide whether the gradient is right.",
            "look for weights that are much too large, and for a depth that amplifies.",
        )
        return None
    worst, largest = worst_tensor(sample)
    known, cures = _known(state)
    return Finding(
        "gradient_is_not_the_derivative",
        f"{where}the loss changes differently than its gradient says (relative error {error:.1e}), "
        f"most for {worst} ({largest:.1e}): something in the path is detached (.detach(), .data, "
        f".item(), torch.no_grad()), or a custom backward is wrong{_suspects(state)}.{known}",
        f"{cures}look for the detached value in forward() and in hooks, or leave out these "
        "parameters with `params`; a straight-through or surrogate gradient has no Hessian.",
    )


def wrong_hessian(
    state: State, sample: Sample, where: str, known: dict[int, Tensor] | None = None
) -> Finding | None:
    """What is wrong with the products of a sample, if the gradient moves differently."""
    error, difference = second_error(sample, known)
    state.num_matvecs += 0 if known else 1
    if error <= sample.allowed.second:
        return None
    if is_right_beside(sample, lambda near: second_error(near)[0], sample.allowed.second):
        _note_kink(state)
        return None
    if second_error(sample.with_floor, known)[0] <= sample.allowed.second:
        return _cancellation(state, sample, "its second derivative")
    if sample.double and not gradient_differences_settle(sample):
        state.note(
            "second_derivative_not_checked",
            "the loss is so rough that differences of its gradient do not settle, however small "
            "the step, so they cannot decide whether the second derivative is right.",
            "look for weights that are much too large, and for a depth that amplifies.",
        )
        return None
    if sample.kinks and not sample.double:
        state.note(
            "second_derivative_not_checked",
            "the model has kinks and does not run in float64, so differences of its gradient "
            "cannot decide whether the second derivative is right.",
            "make the model and the loss run in float64 (model.double()).",
        )
        return None
    pieces = sample.problem.layout.split(difference)
    sizes = [float(piece.norm()) for piece in pieces]
    worst = sample.problem.layout.names[max(range(len(sizes)), key=sizes.__getitem__)]
    return wrong_second_derivative(
        state,
        f"{where}autograd's Hessian-vector product differs from the change of the gradient, most "
        f"for {worst}, by {error:.1e} of",
    )


def _cancellation(state: State, sample: Sample, what: str) -> Finding | None:
    """Small differences of larger numbers; of no matter at other parameters than the problem's."""
    if sample is not state.sample:
        return None
    name = str(sample.dtype).removeprefix("torch.")
    return Finding(
        "cancellation",
        f"the loss is {sample.loss:.2g} on a few examples, a small difference of numbers near "
        f"{sample.with_floor.floor[0]:.2g}, and {name} leaves {what} too few digits.",
        "measure before examples are fitted as perfectly as that, or write the loss so that it "
        "keeps its digits (log1p, logsumexp, float64).",
    )


def wrong_second_derivative(state: State, what: str) -> Finding:
    """The finding that the gradient is right and its derivative is not."""
    known, cures = _known(state)
    return Finding(
        "wrong_second_derivative",
        f"{what} their size: the gradient is right, but its own derivative is not. A custom "
        f"Function saves a detached intermediate{_suspects(state)}, a hook makes the gradient, a "
        "value is detached on which the loss depends in second order only, or a kernel's second "
        f"derivative is zero or wrong.{known}",
        f"{cures}write that backward from differentiable operations on its saved *inputs*; "
        "torch.autograd.gradgradcheck finds it. Differences of the gradient are right: "
        "Hessian(problem, product='finite-difference').",
    )


def _known(state: State) -> tuple[str, str]:
    """What is seen of likely causes, and their cures, as sentences."""
    found = suspects(state)
    causes = "".join(f" Here {one.cause}." for one in found)
    return causes, "".join(f"{one.cure}; " for one in found)


def _suspects(state: State) -> str:
    """The custom Functions that the loss passes through, in brackets."""
    names = state.custom_functions
    more = ", ..." if len(names) > 4 else ""
    return f" (here: {', '.join(names[:4])}{more})" if names else ""


def _rounding(state: State) -> Finding | None:
    """Says how far off products of a model are that runs in half precision only."""
    few = state.sample.own
    assert few is not None
    noise = rounding_noise(few, direction(few, seed=0))
    state.num_matvecs += 3
    cause = (
        f"the model fails in float32 and runs in {state.problem.point.half} alone, whose rounding "
        f"changes a Hessian-vector product by about {100 * noise:.2g} % of its size."
    )
    cure = (
        "let it run in float32, too: cast to the dtype of a weight, x.to(self.weight.dtype), and "
        "not to torch.bfloat16."
    )
    if noise > NOISE:
        return Finding("low_precision", cause, cure)
    state.note("low_precision", cause, cure)
    return None


def products_keep_their_digits(state: State) -> Finding | None:
    """A product of the sample in the problem's own precision, against the one in float64.

    Where the loss or its gradient is a small difference of large numbers (an example that is
    fitted almost perfectly), float32 has few digits left. Costs one product on a few examples.
    """
    sample = state.sample
    if not sample.double or state.weakest == torch.float64 or state.problem.rounded:
        return None
    assert sample.own is not None
    own = replace(sample, problem=sample.own, dtype=state.weakest, lifted=False)
    noise = _roughness(own, sample, state.products[0])
    state.num_matvecs += 1
    if noise > FEW_DIGITS:  # unless a unit is on in one precision and off in the other
        noise = min(noise, _roughness(beside(own), beside(sample)))
    if noise <= FEW_DIGITS:
        return None
    name = str(state.weakest).removeprefix("torch.")
    cause = (
        f"a Hessian-vector product in {name} is {100 * noise:.2g} % off the one in float64, of a "
        f"loss of {sample.loss:.2g} on a few examples: it is a small difference of larger numbers "
        "(cancellation), as where examples are fitted almost perfectly."
    )
    cure = "measure in float64: model.double(), and data and loss in float64."
    if noise > NOISE:
        return Finding("cancellation", cause, cure)
    state.note("cancellation", cause, cure)
    return None


def _roughness(own: Sample, exact: Sample, known: Tensor | None = None) -> float:
    """How far a product in one precision is off that in another, relative to its size."""
    d = direction(exact.problem, seed=0)
    Hd = exact.products(d[:, None])[:, 0] if known is None else known
    rough = own.products(d.to(own.problem.dtype)[:, None])[:, 0].to(Hd.dtype)
    size = float(Hd.norm())
    return float((rough - Hd).norm()) / size if size > 0 else 0.0


def _wrong_third_derivative(exact: Tensor, gradient: Tensor) -> Finding:
    error = float((exact - gradient).norm() / exact.norm())
    return Finding(
        "wrong_third_derivative",
        "the loss holds second derivatives of the network, or forward-mode ones, and torch 2.13 "
        "differentiates these wrongly through LayerNorm, InstanceNorm, BatchNorm in training mode "
        f"and weight_norm: the gradient is off by {error:.1e} of its size, in training, too. "
        "Hessian-vector products take these layers in elementary form and are right.",
        "write the layer in elementary operations: x = x - x.mean(-1, keepdim=True), then "
        "x / (x.square().mean(-1, keepdim=True) + eps).sqrt() for LayerNorm.",
    )


def _note_kink(state: State) -> None:
    if not any(note.name == "on_a_kink" for note in state.notes):
        state.note(
            "on_a_kink",
            "these very parameters lie on a kink of a ReLU, max or absolute value (layers that "
            "start at zero, for example), where autograd's derivative is one of many; at "
            "parameters beside them all is well.",
            "measure after the first training step.",
        )
