"""The learning rate at which the noise of batches makes steps grow, measured on a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.curvature.preconditioned import StepHessian
from hesscope.problem.problem import Problem
from hesscope.results.batch_stability import BatchStability
from hesscope.sampling.examples import ExampleCurvatures
from hesscope.sampling.space import (
    BLOCK,
    PROBES,
    START,
    Space,
    cost_outside,
    directions,
    extended,
    first_space,
    moments_inside,
    moments_with_outside,
)
from hesscope.steps.kinds import unwrapped
from hesscope.steps.moments import Recurrence, largest_rate, leading_moment, recurrence_of
from hesscope.system import collectives, progress
from hesscope.system.contexts import public


@public
def batch_stability(
    problem: Problem,
    batch_size: int,
    optimizer: Optimizer | None = None,
    *,
    rounds: int = 3,
    seed: int = 0,
) -> BatchStability:
    """The largest lr at which SGD on random batches is stable in mean square, near a minimum.

    With H_B the curvature of a batch, an error x becomes (1 - lr H_B) x, and E x x' stays bounded
    if and only if lr < 2 / max_M (tr M H M H + c mean_i tr M N_i M N_i) / tr M H M, over positive
    semidefinite M, N_i = H_i - H and c = (N - B)/(B (N - 1)) (Ma and Ying 2021; Mulayoff and
    Michaeli 2024). Momentum and preconditioners change the weights of the two terms, not the rest:
    see `hesscope.steps.moments`. The H_i are Gauss-Newton matrices of single examples, which are
    their Hessians where the data is fitted.

    The maximum is sought over M = V S V' + α (1 - V V'): V starts as four eigenvectors at the top,
    and in each round takes in the four vectors along which the gradient of that ratio is largest
    outside of V. Every M gives an upper bound of the critical lr, up to the sampling of the part
    outside, so the limit found errs upwards; `last_change` says what the last round still gave.

    Where ten small networks were really lost, beside this limit: docs/verdicts.md.

    Args:
        problem: made with `Problem(model, loss_fn, data)`; the data is that of the training.
        batch_size: examples in a batch, drawn at random.
        optimizer: whose threshold is known; by default plain SGD. Its lr is not used, its
            parameter groups keep their ratios to the largest one.
        rounds: of four vectors each.
        seed: of the random starts, signs and vectors.

    Costs at most 36 + 6 rounds products of the Gauss-Newton matrix (a start of 24), and as much
    memory as the outputs on all data along the vectors twice.

    Raises:
        ValueError: if batch_size is not between 1 and N, if single examples are not known
            (closures, batch normalisation in training, several processes), if the optimiser has no
            threshold, or if the loss has no curvature in the outputs.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> problem = hs.Problem(model, torch.nn.MSELoss(), (x, x[:, :1]))
    >>> hs.batch_stability(problem, 2).lr_limit  # 2/λmax, H = diag(1, 4)
    0.5
    >>> round(hs.batch_stability(problem, 1).lr_limit, 4)  # one direction for each: 2/8
    0.25
    """
    collectives.refuse_several("batch_stability")
    operator, recurrence, name = _curvatures(problem, optimizer)
    share = _share(operator, batch_size)
    space = first_space(operator, seed)
    full = recurrence.limit() / float(space.eigenvalues.max())
    found = _Found(space, (full,), torch.zeros(len(space.forms), dtype=torch.float64), space.cost)
    if share > 0:
        found = _search(operator, recurrence, space, share, rounds, seed)
    return BatchStability(
        batch_size=batch_size,
        lr_limit=found.limits[-1],
        full_batch_limit=recurrence.limit() / float(found.space.eigenvalues.max()),
        rounds=found.limits,
        optimizer=name,
        num_examples=operator.num_examples,
        largest_share=float(found.shares.max()),
        largest_example=int(found.shares.argmax()),
        num_vectors=found.space.V.shape[1],
        num_matvecs=found.cost,
    )


def cost_of(rounds: int) -> float:
    """Products of the Gauss-Newton matrix that `batch_stability` takes at most.

    >>> cost_of(3)
    54.0
    """
    vectors = BLOCK * (1 + rounds)
    return START + BLOCK / 2 + BLOCK * rounds + (PROBES + vectors) / 2


@dataclass(frozen=True)
class _Found:
    """Where the search ended: the last limit counts."""

    space: Space
    limits: tuple[float, ...]
    shares: Tensor  # (N,) of the examples of this process in the noise
    cost: float


def _search(
    operator: ExampleCurvatures,
    recurrence: Recurrence,
    space: Space,
    share: float,
    rounds: int,
    seed: int,
) -> _Found:
    """Takes in vectors round after round, and in the end what lies outside of them."""
    limits: list[float] = []
    for done in range(rounds + 1):
        moments = moments_inside(space)
        limits.append(largest_rate(recurrence, moments, share))
        S = leading_moment(recurrence, limits[-1], moments, share)
        progress.report("batch stability: vectors", space.V.shape[1])
        if done < rounds:
            fresh = directions(operator, space, S, share, recurrence.limit() / limits[-1])
            if not fresh.shape[1]:
                break
            space = extended(operator, space, fresh, BLOCK)
    shares, cost = _shares(space, S), space.cost
    if space.V.shape[1] < operator.n:
        moments = moments_with_outside(operator, space, share, seed)
        limits.append(min(largest_rate(recurrence, moments, share), limits[-1]))
        cost += cost_outside(space)
    return _Found(space, tuple(limits), shares, cost)


def _curvatures(
    problem: Problem, optimizer: Optimizer | None
) -> tuple[ExampleCurvatures, Recurrence, str]:
    """What the examples' curvatures look like to the optimiser, and how it makes its steps."""
    if optimizer is None:
        return ExampleCurvatures(problem), Recurrence(), "gradient descent"
    scale, shift = StepHessian(problem, optimizer, lr=1.0).scale_and_shift()
    recurrence = recurrence_of(optimizer)
    name = type(unwrapped(optimizer)).__name__
    return ExampleCurvatures(problem, scale, shift), recurrence, name


def _share(operator: ExampleCurvatures, batch_size: int) -> float:
    """(N - B)/(B (N - 1)): the variance of a batch without replacement over that of one example.

    Raises:
        ValueError: if the batch is larger than the data.
    """
    num = operator.num_examples
    if not (isinstance(batch_size, int) and 1 <= batch_size <= num):
        msg = f"batch_size={batch_size}; the data holds {num:g} examples: give 1 to that many."
        raise ValueError(msg)
    return (num - batch_size) / (batch_size * (num - 1)) if num > 1 else 0.0


def _shares(space: Space, S: Tensor) -> Tensor:
    """The share of each example of this process in the noise that throws S back to itself."""
    thrown = S @ space.noise
    each = (thrown @ thrown).diagonal(dim1=1, dim2=2).sum(1).clamp_min(0)
    return each / collectives.sum_of_number(float(each.sum())) if bool(each.any()) else each
