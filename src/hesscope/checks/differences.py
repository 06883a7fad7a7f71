"""Differences of a loss and of its gradient against what autograd says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from hesscope import probes, rounding
from hesscope.autodiff.reverse import ReverseOverReverse
from hesscope.checks.sample import Sample
from hesscope.problem.problem import Problem

NEARBY = 3  # places at which a kink may be left behind


def direction(problem: Problem, seed: int) -> Tensor:
    """A random direction in which every parameter tensor moves in proportion to its own norm."""
    own = probes.key(seed, "direction of a check")
    z = probes.gaussian(problem.n, own, dtype=problem.dtype, device=problem.device)
    directions = problem.layout.split(z)
    for name, row in _padding_rows(problem.model).items():
        if name in problem.layout.names:
            directions[problem.layout.names.index(name)][row] = 0
    pieces = [
        d * (own.norm() + 1e-2 * own.numel() ** 0.5) / d.norm().clamp_min(1e-30)
        for d, own in zip(directions, problem.layout.split(problem.theta), strict=True)
    ]
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _padding_rows(model: nn.Module) -> dict[str, int]:
    """The row of each embedding that torch keeps fixed: its gradient is zero by definition."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(m.weight)]: m.padding_idx
        for m in model.modules()
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.padding_idx is not None
        if id(m.weight) in names
    }


def rounding_noise(problem: Problem, v: Tensor) -> float:
    """The error of Hv by the rounding of a model in half precision, relative to its size.

    Parameters moved within their own rounding, to both sides, make the network round anew
    everywhere: in (H₊v + H₋v)/2 - Hv the change of H itself cancels to first order, and 2/3 of the
    square is that of one rounding error. Costs three matvecs.
    """
    assert problem.point.half is not None
    own = probes.key(0, "rounding of a check")
    z = probes.gaussian(problem.n, own, dtype=problem.dtype, device=problem.device)
    nudge = rounding.eps(problem.point.half) / 2 * z * problem.theta
    behind, here, ahead = (
        ReverseOverReverse(problem.at(problem.theta + sign * nudge)).products(v[:, None])[:, 0]
        for sign in (-1, 0, 1)
    )
    size, change = float(here.norm()), (ahead + behind) / 2 - here
    return (2 / 3) ** 0.5 * float(change.norm()) / size if size > 0 else 0.0


def beside(sample: Sample, attempt: int = 0) -> Sample:
    """The sample at parameters close by: a kink is left behind, a fault comes along."""
    nudge = sample.allowed.steps_first[0] * direction(sample.problem, seed=9 + attempt)
    return sample.at(sample.problem.theta + nudge)


def is_right_beside(sample: Sample, error: Callable[[Sample], float], allowed: float) -> bool:
    """Whether an error is within what is allowed at some parameters close by.

    A few are tried, because where there is one kink the next may be near; a fault is at all.
    """
    return any(error(beside(sample, attempt)) <= allowed for attempt in range(NEARBY))


def first_error(sample: Sample, gradient: Tensor | None = None) -> float:
    """The smallest relative error of the loss's differences along three random directions."""
    gradient = sample.gradient if gradient is None else gradient.to(sample.problem.dtype)
    directions = (direction(sample.problem, seed) for seed in range(2, 5))
    return _smallest((loss_error(sample, d, gradient) for d in directions), sample.allowed.first)


def second_error(sample: Sample, known: Mapping[int, Tensor] | None = None) -> tuple[float, Tensor]:
    """The smallest relative error of the gradient's differences along two random directions.

    The difference comes along. Products that are known, by the seeds of the directions, are taken
    as they are; others cost up to two matvecs.
    """
    best = float("inf"), torch.zeros(0, dtype=torch.float64)
    for seed in (0, 1):
        d = direction(sample.problem, seed)
        product = known[seed] if known else sample.products(d[:, None])[:, 0]
        best = min(best, _best_difference(sample, d, product), key=lambda pair: pair[0])
        if best[0] <= sample.allowed.second:
            break
    return best


def _smallest(errors: Iterable[float], enough: float) -> float:
    """The smallest of the errors, or the first that is small enough."""
    best = float("inf")
    for error in errors:
        best = min(best, error)
        if best <= enough:
            break
    return best


def loss_error(sample: Sample, d: Tensor, gradient: Tensor) -> float:
    """The smallest error over the steps, relative to how much the loss moves; 0 in rounding.

    At a minimum the slope vanishes and the loss moves by its curvature alone, so the error is
    compared with the mean of |L(θ ± h d) - L(θ)| / h and not with the slope.
    """
    theta, slope, center = sample.problem.theta, float(gradient @ d), sample.loss
    rough = rounding.gradient_change_noise(sample.dtype, sample.floor[1] * float(d.norm()))

    def error_at(h: float) -> float:
        ahead, behind = (sample.at(theta + s * h * d).loss for s in (1, -1))
        measured = (ahead - behind) / (2 * h)
        moved = (abs(ahead - center) + abs(behind - center)) / (2 * h)
        largest = max(abs(ahead), abs(behind), abs(center), sample.floor[0])
        noise = rounding.loss_noise(sample.dtype, largest) / h + rough
        scale = max(moved, abs(slope))
        return max(0.0, abs(measured - slope) - noise) / scale if scale > 0 else 0.0

    return _smallest(map(error_at, sample.allowed.steps_first), sample.allowed.first)


def differences_settle(sample: Sample) -> bool:
    """Whether the loss's differences by the two smallest steps agree, along one direction at least.

    They do where a derivative is wrong, too: it is wrong at every step. Four losses a direction.
    """
    return any(_settles(sample, direction(sample.problem, seed)) for seed in range(2, 5))


def gradient_differences_settle(sample: Sample) -> bool:
    """The same of the gradient's differences, by the two smallest steps but one. Four gradients."""
    theta, d = sample.problem.theta, direction(sample.problem, 0)
    steps = sorted(sample.allowed.steps_second)
    one, other = (
        (sample.at(theta + h * d).gradient - sample.at(theta - h * d).gradient) / (2 * h)
        for h in (steps[1:3] if len(steps) > 2 else steps)
    )
    size = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) <= sample.allowed.second * size


def _settles(sample: Sample, d: Tensor) -> bool:
    theta = sample.problem.theta
    one, other = (
        (sample.at(theta + h * d).loss - sample.at(theta - h * d).loss) / (2 * h)
        for h in sample.allowed.steps_first[-2:]
    )
    return abs(one - other) <= sample.allowed.first * max(abs(one), abs(other))


def worst_tensor(sample: Sample) -> tuple[str, float]:
    """The parameter tensor along which loss and gradient disagree most."""
    d = direction(sample.problem, seed=2)
    worst = ("the parameters", 0.0)
    for name, place in sample.problem.layout.slices().items():
        alone = torch.zeros_like(d)
        alone[place] = d[place]
        error = loss_error(sample, alone, sample.gradient)
        worst = max(worst, (name, error), key=lambda pair: pair[1])
    return worst


def _best_difference(sample: Sample, d: Tensor, product: Tensor) -> tuple[float, Tensor]:
    """The smallest relative error of gradient differences over the steps, and that difference."""
    theta = sample.problem.theta
    best, difference = float("inf"), torch.zeros_like(d)
    seen: list[Tensor] = []
    for h in sample.allowed.steps_second:
        ahead, behind = (sample.at(theta + s * h * d).gradient for s in (1, -1))
        measured = (ahead - behind) / (2 * h)
        scale = max(float(measured.norm()), float(product.norm()))
        gap = float((measured - product).norm())
        if gap > sample.allowed.second * scale:  # only then does its noise matter
            gap = max(0.0, gap - _change_noise(sample) / h)
        error = gap / scale if scale > 0 else 0.0
        seen.append(measured)
        if error < best:
            best, difference = error, measured - product
        if best <= sample.allowed.second:
            return best, difference
    return best if sample.double else max(0.0, best - _spread(seen)), difference


def _change_noise(sample: Sample) -> float:
    size = max(float(sample.gradient.norm()), sample.floor[1])
    return rounding.gradient_change_noise(sample.dtype, size)


def _spread(differences: list[Tensor]) -> float:
    """How far the two differences that agree best are apart, relative to their size.

    Steps that float32 needs may cross switches of a model (which expert is asked, which unit is
    on): a derivative that is wrong leaves the differences of several steps the same, these do not.
    """
    gaps = [
        float((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp_min(rounding.POSITIVE))
        for i, a in enumerate(differences)
        for b in differences[:i]
    ]
    return min(gaps, default=0.0)
