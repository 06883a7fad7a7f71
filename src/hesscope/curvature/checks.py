"""check_problem: are the loss, its gradient and its Hessian what they claim to be?

Eight questions in the order of cause and effect; the first that fails is reported with its cause
and its cure, and the rest, which would only echo it, is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hesscope import probes
from hesscope.curvature.graph import broken_nodes, node_names
from hesscope.curvature.products import ReverseOverReverse
from hesscope.problem.data import Batch, fingerprint, num_examples, take, tensors_in
from hesscope.problem.problem import Problem
from hesscope.results.check import Check, Finding

EXAMPLES = 8  # for finite differences: few, so that a small step crosses no kink of a ReLU
_KINKS = ("Relu", "Threshold", "MaxPool", "Abs", "Clamp", "Hardtanh", "Hardswish", "Topk")


def check_problem(problem: Problem) -> Check:
    """Says whether second derivatives of this problem can be trusted; never raises for the model.

    In order: finite parameters; data that is the same at every pass; a finite loss; a repeatable
    loss; a count-weighted mean (a batch against its parts); a gradient graph that can be
    differentiated again; u'Hv = v'Hu; differences of the loss and of the gradient along random
    directions against autograd, in float64 where the model allows it. Kinks (ReLU, max-pooling)
    raise no alarm: the differences use few examples and steps down to 1e-7.

    Costs about 20 gradients on 8 examples, 6 on one batch, and one pass over the data.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> data = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    >>> hs.check_problem(hs.Problem(model, torch.nn.functional.cross_entropy, data)).ok
    True
    """
    state = _State(problem)
    for test in _TESTS:
        fault = test(state)
        if fault is not None:
            return Check((fault, *state.notes), state.num_matvecs, tuple(state.passed))
        state.passed.append(test.__name__.removeprefix("_").replace("_", " "))
    return Check(tuple(state.notes), state.num_matvecs, tuple(state.passed))


@dataclass
class _State:
    """What the tests share: the problem, its first batch, and what has been noted so far."""

    problem: Problem
    notes: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    num_matvecs: int = 0

    def first_batch(self) -> Batch:
        return next(iter(self.problem.batches))

    def note(self, name: str, cause: str, cure: str) -> None:
        self.notes.append(Finding(name, cause, cure, fault=False))


def _parameters_are_finite(state: _State) -> Finding | None:
    problem = state.problem
    leaves = dict(zip(problem.layout.names, problem.leaves(), strict=True))
    bad = [name for name, leaf in leaves.items() if not bool(torch.isfinite(leaf).all())]
    if bad:
        return Finding(
            "parameters_not_finite",
            f"{len(bad)} of {len(leaves)} parameter tensors hold NaN or infinity: "
            f"{', '.join(bad[:4])}.",
            "load a checkpoint from before the run diverged.",
        )
    if problem.dtype in (torch.float16, torch.bfloat16):
        state.note(
            "low_precision",
            f"the parameters are {problem.dtype}; products carry a noise of about 1 %.",
            "measure a float32 copy: model.float().",
        )
    return None


def _data_is_repeatable(state: _State) -> Finding | None:
    """Two passes under different seeds must bring the same batches."""
    batches = state.problem.batches
    first = [fingerprint(content) for content in batches.reread(seed=0)]
    second = [fingerprint(content) for content in batches.reread(seed=1)]
    if first == second:
        return None
    if not first or not second:
        return Finding(
            "data_read_once",
            f"a second pass over the data brought {len(second)} batches, the first {len(first)}: "
            "the data can be read only once.",
            "pass list(data), or an object whose __iter__ starts anew.",
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


def _same_examples(state: _State) -> bool:
    """Whether two passes under different seeds hold the same examples in another order."""

    def examples(seed: int) -> list[int]:
        return sorted(
            fingerprint(take(content, slice(i, i + 1)))
            for content in state.problem.batches.reread(seed)
            for i in range(num_examples(content))
        )

    try:
        return examples(0) == examples(1)
    except ValueError:  # the examples of a batch cannot be told apart
        return False


def _loss_is_finite(state: _State) -> Finding | None:
    problem = state.problem
    try:
        gradient = problem.gradient()
    except (ValueError, RuntimeError) as error:
        name = "loss_not_finite" if "needs a finite loss" in str(error) else "loss_fails"
        return Finding(name, str(error), "see the cause; `problem.loss()` raises the same error.")
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
    _note_unused(state)
    return None


def _note_unused(state: _State) -> None:
    problem = state.problem
    with problem.evaluating() as leaves:
        gradient = torch.autograd.grad(
            problem.batch_loss(state.first_batch()), leaves, allow_unused=True
        )
    unused = [n for n, g in zip(problem.layout.names, gradient, strict=True) if g is None]
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


def _loss_is_repeatable(state: _State) -> Finding | None:
    problem, batch = state.problem, state.first_batch()
    with problem.evaluating():
        once, again, other = (float(problem.batch_loss(batch, seed=s).detach()) for s in (1, 1, 2))
    if once != again and not _close(once, again, _rounding(problem)):
        return Finding(
            "stateful_loss",
            f"two evaluations of one batch under one random seed differ ({once:.8g}, {again:.8g}): "
            "the model or the loss keeps state between calls, in something that is no buffer.",
            "reset that state in forward(), or register it with register_buffer.",
        )
    if once == other or _close(once, other, _rounding(problem)):
        return None
    active = _named(problem.model, lambda m: m.training and "Dropout" in type(m).__name__)
    if active:
        return Finding(
            "dropout",
            f"dropout is active in {', '.join(active[:3])}: every evaluation is another network.",
            "measure in evaluation mode: leave out training=True.",
        )
    return Finding(
        "random_loss",
        f"two evaluations of one batch differ ({once:.8g}, {other:.8g}): the model or the loss "
        "draws random numbers, such as F.dropout without training=self.training or added noise.",
        "pass training=self.training to F.dropout, or switch the noise off while measuring.",
    )


def _loss_is_a_mean(state: _State) -> Finding | None:
    """c ℓ = c₁ ℓ₁ + c₂ ℓ₂ for batches and several ways to cut each into two parts."""
    problem = state.problem
    if not tensors_in(state.first_batch().content):
        return None
    checked = 0
    for batch in islice(problem.batches, 3):
        for parts in _two_parts(problem, batch):
            checked += 1
            with problem.evaluating():
                whole, one, two = (_value(problem, b) for b in (batch, *parts))
            expected = (parts[0].count * one + parts[1].count * two) / batch.count
            if not _close(whole, expected, _rounding(problem)):
                return _why_not_a_mean(state, batch, whole, expected, one + two)
    if not checked:
        state.note(
            "mean_not_checked",
            "the first batches cannot be cut into two parts that both count, so it is not known "
            "whether the loss is a mean over `count` items.",
            "make sure that it is.",
        )
    return None


def _value(problem: Problem, batch: Batch) -> float:
    """The loss of a batch or part; NaN where it averages over nothing or refuses one example."""
    try:
        return float(problem.batch_loss(batch).detach())
    except (RuntimeError, ValueError):
        return float("nan")


def _why_not_a_mean(
    state: _State, batch: Batch, whole: float, expected: float, total: float
) -> Finding | None:
    problem = state.problem
    numbers = f"a batch has loss {whole:.6g}, its two parts average to {expected:.6g}"
    normalised = _named(problem.model, _uses_batch_statistics)
    if normalised:
        return Finding(
            "batch_statistics",
            f"{numbers}: {', '.join(normalised[:3])} normalises with the statistics of the batch, "
            "so the loss of an example depends on its neighbours.",
            "measure in evaluation mode with running statistics: leave out training=True.",
        )
    if _close(whole, total, _rounding(problem)):
        return Finding(
            "sum_reduction",
            f"{numbers} and add up to {total:.6g}: the loss is a sum over the batch.",
            "use reduction='mean'; hesscope weighs batches by their count itself.",
        )
    if any(not t.is_floating_point() and bool((t == -100).any()) for t in tensors_in(batch.content)):
        return Finding(
            "ignored_targets",
            f"{numbers}: targets of -100 are ignored by the loss but counted as items.",
            "count what the loss averages over: count=lambda targets: (targets != -100).sum().",
        )
    cause = (
        f"{numbers}: the loss does not average over what `count` counts. Either it divides by "
        "something else (masked tokens, class weights), or it couples the examples of a batch."
    )
    cure = (
        "pass `count` with what the loss divides by, for class weights "
        "count=lambda y: weight[y].sum(); a loss that couples examples needs one single batch."
    )
    if len(problem.batches) > 1:
        return Finding("not_a_mean", cause, cure)
    state.note("not_a_mean", cause, cure)
    return None


def _graph_is_differentiable_again(state: _State) -> Finding | None:
    problem = state.problem
    with problem.evaluating() as leaves:
        gradient = _gradient_graph(problem, state.first_batch(), leaves)
        nodes = broken_nodes(gradient)
    if not nodes:
        return None
    node = nodes[0]
    return Finding(node.name, f"{node.cause} (at {node.after or 'the loss'}).", f"{node.cure}.")


def _hessian_is_symmetric(state: _State) -> Finding | None:
    """|u'Hv - v'Hu| against its typical size ‖u‖‖Hv‖/√n."""
    sample = _small_problem(state)
    engine = ReverseOverReverse(sample.problem)
    u, v = (_direction(sample.problem, seed) for seed in (0, 1))
    try:
        Hu, Hv = engine.products(torch.stack([u, v], 1)).unbind(1)
    except RuntimeError as error:
        return Finding(
            "not_differentiable_twice",
            f"the gradient cannot be differentiated again: {error}",
            "replace the operation named there by its elementary form, or use "
            "product='finite-difference'.",
        )
    state.num_matvecs += 2
    if not bool(torch.isfinite(Hu).all() and torch.isfinite(Hv).all()):
        return Finding(
            "product_not_finite",
            "the loss and its gradient are finite, but a Hessian-vector product is not: a root, "
            "norm or power at exactly 0 has no second derivative.",
            "add a small epsilon inside the root or norm.",
        )
    typical = float(u.norm() * Hv.norm() + v.norm() * Hu.norm()) / len(u) ** 0.5
    error = abs(float(u @ Hv - v @ Hu))
    if error <= sample.symmetry * typical:
        return None
    return Finding(
        "asymmetric",
        f"u'Hv and v'Hu differ by {error / typical:.1e} of their typical size: a custom backward "
        "is not the derivative of its forward, or the model computes in low precision.",
        "run torch.autograd.gradgradcheck on custom Functions; switch autocast off inside forward.",
    )


def _gradient_matches_the_loss(state: _State) -> Finding | None:
    """(L(θ + h d) - L(θ - h d)) / 2h against g'd, for the best of several steps h."""
    sample = _small_problem(state)
    gradient = sample.problem.gradient()
    errors = [
        _loss_error(sample, _direction(sample.problem, seed), gradient) for seed in range(2, 5)
    ]
    if min(errors) <= sample.first:
        return None
    worst, error = _worst_tensor(sample, gradient)
    return Finding(
        "gradient_is_not_the_derivative",
        f"the loss changes differently than its gradient says (relative error {min(errors):.1e}), "
        f"most for {worst} ({error:.1e}): something in the path is detached (.detach(), .data, "
        ".item(), torch.no_grad()), or a custom backward is wrong.",
        "look for the detached value in forward(), or leave out these parameters with `params`; "
        "a straight-through or surrogate gradient has no Hessian.",
    )


def _hessian_matches_the_gradient(state: _State) -> Finding | None:
    """(g(θ + h d) - g(θ - h d)) / 2h against Hd, for the best of several steps h."""
    sample = _small_problem(state)
    errors, differences = [], []
    for seed in (5, 6):
        d = _direction(sample.problem, seed)
        product = ReverseOverReverse(sample.problem).products(d[:, None])[:, 0]
        state.num_matvecs += 1
        error, difference = _best_difference(sample, d, product)
        errors.append(error)
        differences.append(difference)
    if min(errors) <= sample.second:
        return None
    if sample.kinks and not sample.double:
        state.note(
            "second_derivative_not_checked",
            "the model has kinks and does not run in float64, so differences of its gradient "
            "cannot decide whether the second derivative is right.",
            "make the model and the loss run in float64 (model.double()).",
        )
        return None
    pieces = sample.problem.layout.split(differences[0])
    sizes = [float(piece.norm()) for piece in pieces]
    worst = sample.problem.layout.names[max(range(len(sizes)), key=sizes.__getitem__)]
    return Finding(
        "wrong_second_derivative",
        f"autograd's Hessian-vector product differs from the change of the gradient by "
        f"{min(errors):.1e} of its size, most for {worst}: the gradient is right, but its own "
        "derivative is not. A custom Function saves a detached intermediate, or a kernel's second "
        "derivative is zero or wrong.",
        "write that backward from differentiable operations on its saved *inputs*; "
        "torch.autograd.gradgradcheck finds it.",
    )


_TESTS: tuple[Callable[[_State], Finding | None], ...] = (
    _parameters_are_finite,
    _data_is_repeatable,
    _loss_is_finite,
    _loss_is_repeatable,
    _loss_is_a_mean,
    _graph_is_differentiable_again,
    _hessian_is_symmetric,
    _gradient_matches_the_loss,
    _hessian_matches_the_gradient,
)


@dataclass(frozen=True)
class _Sample:
    """The problem on a few examples, and the errors that rounding explains in its precision."""

    problem: Problem
    double: bool
    kinks: bool
    steps_first: tuple[float, ...]
    steps_second: tuple[float, ...]
    first: float  # allowed relative error of loss differences
    second: float  # allowed relative error of gradient differences
    symmetry: float


def _small_problem(state: _State) -> _Sample:
    """The problem on a few examples of the first batch, in float64 if model and loss allow it."""
    problem, content = state.problem, state.first_batch().content
    small = _few(content)
    if float(problem.batches.count_of(small)) <= 0:
        small = content
    try:
        sample = problem.in_double([small])
        double = _loss_dtype(sample) == torch.float64
    except (ValueError, RuntimeError):
        sample, double = problem.with_batches([small]), False
    if problem.dtype == torch.float64:
        double = _loss_dtype(sample) == torch.float64
    with sample.evaluating() as leaves:
        batch = next(iter(sample.batches))
        kinks = any(k in n for n in node_names(_gradient_graph(sample, batch, leaves)) for k in _KINKS)
    if double:
        steps = (1e-3, 1e-4, 1e-5, 1e-6)
        return _Sample(sample, True, kinks, steps, (*steps[1:], 1e-7), 1e-4, 1e-3, 1e-4)
    steps = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
    return _Sample(sample, False, kinks, steps, steps, 2e-2, 5e-2, 1e-1)


def _few(content: Any) -> Any:
    try:
        return take(content, slice(0, EXAMPLES)) if num_examples(content) > EXAMPLES else content
    except ValueError:  # the examples of a batch cannot be told apart: take all of it
        return content


def _loss_dtype(problem: Problem) -> torch.dtype:
    with problem.evaluating():
        return problem.batch_loss(next(iter(problem.batches))).dtype


def _direction(problem: Problem, seed: int) -> Tensor:
    """A random direction in which every parameter tensor moves in proportion to its own norm."""
    z = probes.gaussian(problem.n, seed, dtype=problem.dtype, device=problem.device)
    pieces = [
        d * (leaf.detach().norm() + 1e-2 * leaf.numel() ** 0.5) / d.norm().clamp_min(1e-30)
        for d, leaf in zip(problem.layout.split(z), problem.leaves(), strict=True)
    ]
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _loss_error(sample: _Sample, d: Tensor, gradient: Tensor) -> float:
    """The smallest relative error over the steps; 0 where both sides vanish in rounding."""
    theta, slope = sample.problem.theta, float(gradient @ d)
    size = abs(sample.problem.loss()) * torch.finfo(_loss_dtype(sample.problem)).eps
    best = float("inf")
    for h in sample.steps_first:
        ahead, behind = (sample.problem.at(theta + s * h * d).loss() for s in (1, -1))
        measured = (ahead - behind) / (2 * h)
        noise = 10 * size / h
        scale = max(abs(measured), abs(slope))
        excess = max(0.0, abs(measured - slope) - noise)
        best = min(best, excess / scale if scale > 0 else 0.0)
    return best


def _worst_tensor(sample: _Sample, gradient: Tensor) -> tuple[str, float]:
    """The parameter tensor along which loss and gradient disagree most."""
    d = _direction(sample.problem, seed=2)
    worst = ("the parameters", 0.0)
    for name, place in sample.problem.layout.slices().items():
        alone = torch.zeros_like(d)
        alone[place] = d[place]
        error = _loss_error(sample, alone, gradient)
        worst = max(worst, (name, error), key=lambda pair: pair[1])
    return worst


def _best_difference(sample: _Sample, d: Tensor, product: Tensor) -> tuple[float, Tensor]:
    """The smallest relative error of gradient differences over the steps, and that difference."""
    theta = sample.problem.theta
    noise = 100 * torch.finfo(_loss_dtype(sample.problem)).eps * float(sample.problem.gradient().norm())
    best, difference = float("inf"), torch.zeros_like(d)
    for h in sample.steps_second:
        ahead, behind = (sample.problem.at(theta + s * h * d).gradient() for s in (1, -1))
        measured = (ahead - behind) / (2 * h)
        scale = max(float(measured.norm()), float(product.norm()))
        excess = max(0.0, float((measured - product).norm()) - noise / h)
        error = excess / scale if scale > 0 else 0.0
        if error < best:
            best, difference = error, measured - product
    return best, difference


def _gradient_graph(problem: Problem, batch: Batch, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        problem.batch_loss(batch),
        leaves,
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


def _two_parts(problem: Problem, batch: Batch) -> Iterator[tuple[Batch, Batch]]:
    """A few uneven cuts of a batch into two parts that both count something."""
    try:
        size = num_examples(batch.content)
    except ValueError:  # the examples of a batch cannot be told apart
        return
    for cut in sorted({1, size // 3, size // 2 + 1, size - 1} & set(range(1, size))):
        contents = take(batch.content, slice(0, cut)), take(batch.content, slice(cut, size))
        counts = [float(problem.batches.count_of(content)) for content in contents]
        if min(counts) > 0:
            one, two = (
                Batch(batch.index, content, count)
                for content, count in zip(contents, counts, strict=True)
            )
            yield one, two


def _named(model: nn.Module, test: Callable[[nn.Module], bool]) -> list[str]:
    return [name or type(model).__name__ for name, module in model.named_modules() if test(module)]


def _uses_batch_statistics(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    return module.training or module.running_mean is None


def _rounding(problem: Problem) -> float:
    return 1e-9 if problem.dtype == torch.float64 else 1e-4


def _close(a: float, b: float, tolerance: float) -> bool:
    """Whether two losses agree up to rounding; NaN agrees with nothing."""
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-30)
