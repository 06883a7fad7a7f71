"""Gradient descent of many networks at once, each stopping when it has converged."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hesscope.ensemble.networks import Ensemble
from hesscope.ensemble.objective import Objective, objective
from hesscope.ensemble.passes import backward, dead, forward, gradient, in_chunks
from hesscope.system.contexts import public
from hesscope.system.progress import report


@dataclass(frozen=True)
class Trained:
    """Where gradient descent ended: every number belongs to the final point of its network."""

    ensemble: Ensemble
    losses: Tensor  # (num,), nan or inf where the descent diverged
    gradient_norms: Tensor  # (num,)
    steps: Tensor  # (num,), how many were taken
    dead: Tensor  # (num,), a layer passes nothing on: the output does not depend on the input
    snapshots: dict[int, Ensemble]  # the networks after so many steps

    def __str__(self) -> str:
        return (
            f"{len(self.ensemble)} networks {self.ensemble.layers}, {int(self.dead.sum())} dead: "
            f"median loss {float(self.losses.median()):.4g}, median gradient norm "
            f"{float(self.gradient_norms.median()):.1e} after at most {int(self.steps.max())} steps"
        )


@public
def losses(e: Ensemble, inputs: Tensor, targets: Tensor, *, loss: str = "cross_entropy") -> Tensor:
    """The mean loss over the examples of every network, (num,).

    Args:
        e: the networks.
        inputs: (N, d), or (num, N, d) with examples of their own for each network.
        targets: labels (N,) or (num, N) for cross_entropy; (N, C) or (num, N, C) for mse.
        loss: "cross_entropy" or "mse", each as torch averages it.

    Raises:
        ValueError: if loss, inputs or targets do not fit the networks.

    >>> e = Ensemble((1, 2), "relu", torch.zeros(1, 4))
    >>> losses(e, torch.ones(3, 1), torch.tensor([0, 1, 1]))  # log 2
    tensor([0.6931])
    """
    goal = objective(e, inputs, targets, loss)
    parts = in_chunks(e, goal, 2 * sum(e.layers), None)
    return torch.cat([o.loss.value(forward(part, o.x).z[-1], o.t) for _, part, o in parts])


@public
def gradients(
    e: Ensemble, inputs: Tensor, targets: Tensor, *, loss: str = "cross_entropy"
) -> Tensor:
    """The gradient of the mean loss of every network, (num, n), in the order of theta.

    Arguments are those of `losses`.

    Raises:
        ValueError: if loss, inputs or targets do not fit the networks.

    >>> e = Ensemble((1, 1), "relu", torch.tensor([[1.0, 0.0]]))
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> gradients(e, x, torch.zeros(2, 1), loss="mse")  # 2 mean(x²), 2 mean(x)
    tensor([[10.,  4.]])
    """
    goal = objective(e, inputs, targets, loss)
    out = torch.empty_like(e.theta, requires_grad=False)
    for rows, part, o in in_chunks(e, goal, 2 * sum(e.layers), None):
        f = forward(part, o.x)
        out[rows] = gradient(f, backward(f, o.loss.gradient(f.z[-1], o.t)))
    return out


@public
def train(
    start: Ensemble,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: str = "cross_entropy",
    lr: float,
    steps: int,
    tolerance: float = 0.0,
    record: Collection[int] = (),
    chunk: int | None = None,
) -> Trained:
    """Full-batch gradient descent θ <- θ - lr ∇L(θ) of every network.

    A network stops as soon as |∇L| < tolerance. A step costs 6 N n flops a network and no Python
    call of its own: networks go through all their steps in chunks that stay in the cache.

    Args:
        start: where the networks start; it is not changed.
        inputs: as for `losses`.
        targets: as for `losses`.
        loss: as for `losses`.
        lr: the step size.
        steps: how many steps are taken at most.
        tolerance: the gradient norm below which a network stops.
        record: after which numbers of steps the networks are kept; 0 is the start. A network that
            has stopped stays where it is.
        chunk: how many networks go together; by default as many as fit the cache. The result
            does not depend on it, up to rounding; on one thread not at all.

    Raises:
        ValueError: if an argument does not fit the networks or is out of range.

    >>> e = Ensemble((1, 1), "relu", torch.tensor([[3.0, 1.0]]))
    >>> x = torch.tensor([[1.0], [-1.0]])  # L = w² + b²
    >>> train(e, x, torch.zeros(2, 1), loss="mse", lr=0.25, steps=2).ensemble.theta
    tensor([[0.7500, 0.2500]])
    """
    rule = _Rule(lr, steps, tolerance, frozenset(record))
    goal = objective(start, inputs, targets, loss)
    result = _unfinished(start, rule)
    for rows, part, o in in_chunks(start, goal, 2 * sum(start.layers), chunk):
        own = torch.arange(rows.start, rows.stop, device=start.theta.device)
        _descend(result, own, part, o, rule)
        report("training networks", rows.stop, len(start))
    return result


@dataclass(frozen=True)
class _Rule:
    lr: float
    steps: int
    tolerance: float
    record: frozenset[int]

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("tolerance", self.tolerance)):
            if not 0 <= value < math.inf:
                msg = f"{name}={value}; it must be finite and not negative."
                raise ValueError(msg)
        if self.steps < 0:
            msg = f"steps={self.steps}; it must not be negative."
            raise ValueError(msg)
        outside = sorted(step for step in self.record if not 0 <= step <= self.steps)
        if outside:
            msg = f"record has {outside}; networks can be kept after 0 to steps={self.steps} steps."
            raise ValueError(msg)


def _unfinished(start: Ensemble, rule: _Rule) -> Trained:
    theta, num = start.theta.detach(), len(start)
    copies = {step: replace(start, theta=theta.clone()) for step in sorted(rule.record)}
    return Trained(
        ensemble=replace(start, theta=theta.clone()),
        losses=theta.new_empty(num),
        gradient_norms=theta.new_empty(num),
        steps=theta.new_empty(num, dtype=torch.long),
        dead=theta.new_empty(num, dtype=torch.bool),
        snapshots=copies,
    )


def _descend(result: Trained, rows: Tensor, e: Ensemble, o: Objective, rule: _Rule) -> None:
    """Takes the networks `rows` of the result through all steps; e and o are theirs."""
    e = replace(e, theta=e.theta.detach().clone())
    for step in range(rule.steps + 1):
        if step in result.snapshots:
            result.snapshots[step].theta[rows] = e.theta
        f = forward(e, o.x)
        g = gradient(f, backward(f, o.loss.gradient(f.z[-1], o.t)))
        norms = g.norm(dim=1)
        stop = norms < rule.tolerance if step < rule.steps else torch.ones_like(norms).bool()
        if bool(stop.any()):
            numbers = (o.loss.value(f.z[-1], o.t), norms, dead(f))
            _finish(result, rows[stop], step, e.theta[stop], *(a[stop] for a in numbers))
            if bool(stop.all()):
                return
            go = ~stop
            rows, e, o, g = rows[go], replace(e, theta=e.theta[go]), o.of(go), g[go]
        e.theta.sub_(g, alpha=rule.lr)


def _finish(
    result: Trained,
    rows: Tensor,
    step: int,
    theta: Tensor,
    losses: Tensor,
    gradient_norms: Tensor,
    dead: Tensor,
) -> None:
    """Writes down networks that have stopped; later snapshots show them where they are."""
    result.steps[rows] = step
    result.losses[rows], result.gradient_norms[rows] = losses, gradient_norms
    result.dead[rows] = dead
    for e in (result.ensemble, *(s for k, s in result.snapshots.items() if k > step)):
        e.theta[rows] = theta
