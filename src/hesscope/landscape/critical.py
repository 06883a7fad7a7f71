"""The smallest multiple of an optimiser's own step after which the loss is higher than before."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer

from hesscope import rounding
from hesscope.landscape.height import height
from hesscope.problem.problem import Problem
from hesscope.results.critical import CriticalStep
from hesscope.steps.kinds import unwrapped
from hesscope.steps.update import update
from hesscope.system.contexts import public

EVALUATIONS = 6
GROW = 100.0  # a step that does not climb yet is lengthened by this at most
TIGHT = 0.02  # of the crossing: how far beside it the loss is looked at
WIDEN = 15.0  # times as far after each look that came out on the wrong side


@public
def critical_sharpness(
    problem: Problem,
    optimizer: Optimizer | None = None,
    *,
    lr: float = 1.0,
    gradient: Tensor | None = None,
    guess: float = 1.0,
    max_losses: int = EVALUATIONS,
) -> CriticalStep:
    """How long the optimiser's next step may be before the loss rises, by forward passes alone.

    For the step d that the optimiser would make now, at its own lr and with its momentum and
    preconditioner, the multiple s of d at which L(θ + s d) first exceeds L(θ), in a bracket, and
    2/(s lr), the critical sharpness (Kalra et al. 2026, for gradient descent, where it is
    g·Hg/g·g on a quadratic). It holds for whatever makes steps, also where no
    stability limit is known, and it sees what second derivatives do not: kinks and higher terms.

    (L(θ + s d) - L(θ))/s is a straight line in s on a quadratic, with the value g·d at 0. The next
    s is the root of the line, or parabola, through the last points, moved by 2 % to the side that
    would close the bracket, by 30 % after a miss; where a loss is not finite, the geometric mean of
    the ends. On a quadratic four losses leave a bracket of ± 2 %; where the first step was a
    hundred times too short, six leave one of a factor of 1.05 to 7, rarely more.

    The bracket holds a crossing, which is the first one where the loss crosses once: what happens
    between two losses is not looked at. Longer steps are d times s, which is what the optimiser
    would do at lr·s where its step is proportional to its lr.

    Args:
        problem: whose loss is evaluated, at its current parameters.
        optimizer: any that `update` can follow; by default gradient descent with `lr`.
        lr: of gradient descent, where no optimiser is given.
        gradient: (n,) that the step is made from; by default that of the problem. Give that of a
            training batch, clipped as in training, to judge the step that is really made.
        guess: the multiple to start from, such as that of an earlier look.
        max_losses: evaluations of the loss, L(θ) included; at least 3.

    Costs `max_losses` losses at most, and one gradient.

    Raises:
        ValueError: if there is no step to follow or an argument is out of range.
        RuntimeError: if the loss is not finite at θ.

    >>> import torch, hesscope as hs
    >>> problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    >>> found = hs.critical_sharpness(problem, lr=0.1)  # H = 2: descends up to lr 1
    >>> found.low <= 10 <= found.high, found.high / found.low < 1.05
    (True, True)
    >>> round(found.sharpness, 1)
    2.0
    """
    if max_losses < 3 or not (math.isfinite(guess) and guess > 0):
        msg = f"max_losses={max_losses}, guess={guess}; give 3 or more, and a positive guess."
        raise ValueError(msg)
    d, name, rate, slope = _step(problem, optimizer, lr, gradient)
    return along_step(problem, d, slope, problem.loss(), name, rate, guess, max_losses)


def along_step(
    problem: Problem,
    d: Tensor,
    slope: float,
    before: float,
    name: str,
    rate: float,
    guess: float = 1.0,
    max_losses: int = EVALUATIONS,
) -> CriticalStep:
    """The same along a step d that is known, with g·d and the loss at θ, which counts as one."""
    line = _Line(slope, guess, rounding.loss_noise(problem.dtype, before))
    while len(line.points) < max_losses - 1:
        s = line.next()
        if s is None:
            break
        line.points.append((s, height(problem, problem.theta + s * d) - before))
    low, high = line.bracket()
    return CriticalStep(low, high, rate, slope, name, 1 + len(line.points), tuple(line.points))


def _step(
    problem: Problem, optimizer: Optimizer | None, lr: float, gradient: Tensor | None
) -> tuple[Tensor, str, float, float]:
    """The step d, whose it is, its learning rate, and g·d with the gradient of the problem.

    Raises:
        ValueError: if it is zero.
    """
    g = problem.gradient()
    given = g if gradient is None else gradient
    if optimizer is None:
        d, name, rate = -lr * given, "gradient descent", lr
    else:
        made = update(problem, optimizer, given)
        d, name = made.step, made.optimizer
        rate = max(float(group["lr"]) for group in unwrapped(optimizer).param_groups)
    if not bool(d.any()):
        msg = f"the step of {name} is zero: there is no direction to look along."
        raise ValueError(msg)
    return d, name, rate, float(g.double() @ d.double())


class _Line:
    """What is known of L(θ + s d) - L(θ) at some s, and where to look next."""

    def __init__(self, slope: float, guess: float, noise: float) -> None:
        self.slope, self.guess, self.noise = slope, guess, noise
        self.points: list[tuple[float, float]] = []

    def bracket(self) -> tuple[float, float]:
        """The shortest step seen to climb, and the longest below it that does not."""
        if self.slope >= 0:
            return 0.0, 0.0
        high = min((s for s, change in self.points if change > self.noise), default=math.inf)
        return max((s for s, _ in self.points if s < high), default=0.0), high

    def next(self) -> float | None:
        """The multiple to look at next; None where the bracket is tight."""
        low, high = self.bracket()
        if high <= (1 + 2.5 * TIGHT) * low or self.slope >= 0:
            return None
        if not self.points:
            return self.guess
        aside = TIGHT * WIDEN ** self._missed(high)
        if math.isinf(high):
            return min(self._beyond(low) * (1 + aside), GROW * low)
        root = self._between(low, high)
        found = root / (1 + aside) if self.points[-1][0] >= high else root * (1 + aside)
        if low < found < high:
            return found
        return math.sqrt(low * high) if low > 0 else high / 4

    def _missed(self, high: float) -> int:
        """How many of the last looks came out on the side of the one before."""
        sides = [s >= high for s, _ in reversed(self.points)]
        return next((i for i, side in enumerate(sides) if side != sides[0]), len(sides)) - 1

    def _means(self) -> dict[float, float]:
        """(L(θ + s d) - L(θ))/s by s, ascending; at 0 the slope."""
        return {0.0: self.slope} | {s: change / s for s, change in sorted(self.points)}

    def _beyond(self, at: float) -> float:
        """Where the line through the last two points comes to zero; inf if nowhere."""
        (s, mean), (at, last) = list(self._means().items())[-2:]
        rise = last - mean
        return at - last * (at - s) / rise if rise > 0 else math.inf

    def _between(self, low: float, high: float) -> float:
        """The root of the parabola through both ends and a neighbour; NaN without finite values."""
        means = self._means()
        others = [s for s in means if s not in (low, high)]
        third = min(others, key=lambda s: (s < high, abs(s - high)), default=None)
        low_mean, high_mean = means[low], means[high]
        slope = (high_mean - low_mean) / (high - low)
        bend = 0.0
        if third is not None and math.isfinite(means[third]):
            bend = ((means[third] - low_mean) / (third - low) - slope) / (third - high)
        a, b = low, high
        for _ in range(60):
            s = (a + b) / 2
            value = low_mean + (s - low) * (slope + bend * (s - high))
            a, b = (s, b) if value <= 0 else (a, s)
        return s if math.isfinite(high_mean) else math.nan
