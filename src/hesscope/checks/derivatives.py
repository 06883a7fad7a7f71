"""The questions about derivatives: is there a second one, and is it the derivative of the first?"""

from __future__ import annotations

import torch

from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.graph import elementary_gradient, gradient_graph, refuse_broken
from hesscope.autodiff.products import ReverseOverReverse
from hesscope.checks.differences import (
    beside,
    direction,
    few_examples,
    first_error,
    rounding_noise,
    second_error,
    small_problem,
    worst_tensor,
)
from hesscope.checks.state import State
from hesscope.results.check import Finding

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
    sample = small_problem(state.problem)
    engine = ReverseOverReverse(sample.problem)
    u, v = (direction(sample.problem, seed) for seed in (0, 1))
    try:
        Hu, Hv = engine.products(torch.stack([u, v], 1)).unbind(1)
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
    if gap <= sample.symmetry * typical:
        return None
    if first_error(sample) <= sample.first:  # a gradient whose derivative is not symmetric
        return _wrong_second_derivative(f"u'Hv and v'Hu differ by {gap / typical:.1e} of")
    return Finding(
        "asymmetric",
        f"u'Hv and v'Hu differ by {gap / typical:.1e} of their typical size: a custom backward "
        "is not the derivative of its forward, or the model computes in low precision.",
        "run torch.autograd.gradgradcheck on custom Functions; switch autocast off inside forward.",
    )


def gradient_matches_the_loss(state: State) -> Finding | None:
    """(L(θ + h d) - L(θ - h d)) / 2h against g'd, for the best of several steps h."""
    sample = small_problem(state.problem)
    error = first_error(sample)
    if error <= sample.first:
        return None
    exact = elementary_gradient(sample.problem)
    if exact is not None and first_error(sample, exact) <= sample.first:
        return _wrong_third_derivative(exact, sample.problem.gradient())
    if first_error(beside(sample)) <= sample.first:
        _note_kink(state)
        return None
    worst, largest = worst_tensor(sample)
    return Finding(
        "gradient_is_not_the_derivative",
        f"the loss changes differently than its gradient says (relative error {error:.1e}), "
        f"most for {worst} ({largest:.1e}): something in the path is detached (.detach(), .data, "
        ".item(), torch.no_grad()), or a custom backward is wrong.",
        "look for the detached value in forward(), or leave out these parameters with `params`; "
        "a straight-through or surrogate gradient has no Hessian.",
    )


def hessian_matches_the_gradient(state: State) -> Finding | None:
    """(g(θ + h d) - g(θ - h d)) / 2h against Hd, for the best of several steps h."""
    sample = small_problem(state.problem)
    error, difference = second_error(sample)
    state.num_matvecs += 2
    if error <= sample.second:
        return None
    if second_error(beside(sample))[0] <= sample.second:
        _note_kink(state)
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
    return _wrong_second_derivative(
        "autograd's Hessian-vector product differs from the change of the gradient, most for "
        f"{worst}, by {error:.1e} of"
    )


def _rounding(state: State) -> Finding | None:
    """Says how far off products of a model are that runs in half precision only."""
    few = few_examples(state.problem)
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


def _wrong_third_derivative(exact: torch.Tensor, gradient: torch.Tensor) -> Finding:
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


def _wrong_second_derivative(what: str) -> Finding:
    return Finding(
        "wrong_second_derivative",
        f"{what} their size: the gradient is right, but its own derivative is not. A custom "
        "Function saves a detached intermediate, or a kernel's second derivative is zero or wrong.",
        "write that backward from differentiable operations on its saved *inputs*; "
        "torch.autograd.gradgradcheck finds it.",
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
