"""Directions that a multilayer perceptron's Hessian maps to zero exactly, and what is left.

From the blocks in `assembly.py`, H v = 0 for every v that lives on the incoming weights of one
unit (k, i) and is orthogonal, on each example on which the unit is live, to

    the unit's inputs (a_{k-1}, 1), and their reactions T_jk to the injections of earlier layers k.

In the lowest layer that theta reaches there are no reactions: what counts is the span of the
inputs. In a later layer the reactions to the layer below are the coordinate vectors of its units
that have a slope; the span is that of the coordinates (deficient rank of the *activations* alone
would not do: two hidden units that are copies of each other still have a Hessian in their
difference). In the last layer, H v = 0 also for v = q ⊗ u with any u, if no ∂ℓ_n/∂out and no
∂²ℓ_n/∂out² has a component along q: softmax losses do not change along q = (1, ..., 1).

All of it holds for every activation; with ReLU units are live on about half of the examples, and
the span is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hesscope import rounding
from hesscope.perceptron.assembly import Unit, assemble, columns_in_theta, parameter_places
from hesscope.perceptron.injections import levels
from hesscope.perceptron.mlp import MLP, examples
from hesscope.problem.losses import CrossEntropy, output_loss
from hesscope.system import progress

DEAD_INPUTS = "dead inputs"
DEAD_UNITS = "dead units"
SUBSPACE = "inputs confined to a subspace"
APART = "units never active together"
SHIFT = "softmax shift"
IGNORED = "outputs that the loss ignores"


@dataclass(frozen=True)
class Reduction:
    """An orthonormal basis P, (n, size), with H = P (PᵀHP) Pᵀ, in blocks of one unit each.

    The spectrum of H is that of PᵀHP and n - size zeros. Ranks are numerical: a direction counts as
    orthogonal to inputs of largest singular value s where its own is at most `tolerance` times s.
    Directions below that would change H, and so each eigenvalue, by at most about `tolerance`
    relative to the norm of the blocks concerned, which is rounding; all other causes are exact.
    """

    mlp: MLP
    units: tuple[Unit, ...]
    mix: Tensor | None  # (C, C'), orthonormal: output directions that the loss sees
    size: int
    zeros: dict[str, int]  # cause -> how many exact zeros it alone explains, in order of naming
    dead_inputs: tuple[int, ...]  # zero in all examples
    dead_units: tuple[str, ...]  # "name[index]", never live
    tolerance: float

    @property
    def n(self) -> int:
        """The number of parameters."""
        return self.mlp.problem.n

    def lift(self, V: Tensor) -> Tensor:
        """P V, (size, k) -> (n, k)."""
        out = V.new_zeros(self.n, V.shape[1])
        for unit in self.units:
            W = V[unit.place] if unit.rotation is None else unit.rotation @ V[unit.place]
            for output, factor in self._outputs(unit):
                out[parameter_places(self.mlp, unit.layer, output, unit.columns)] += factor * W
        return out

    def project(self, V: Tensor) -> Tensor:
        """PᵀV, (n, k) -> (size, k)."""
        out = V.new_zeros(self.size, V.shape[1])
        for unit in self.units:
            W = V.new_zeros(len(unit.columns), V.shape[1])
            for output, factor in self._outputs(unit):
                W += factor * V[parameter_places(self.mlp, unit.layer, output, unit.columns)]
            out[unit.place] = W if unit.rotation is None else unit.rotation.T @ W
        return out

    def _outputs(self, unit: Unit) -> Iterator[tuple[int, float]]:
        """The units of the model, with coefficients, that a unit of the basis combines."""
        if self.mix is None or unit.layer < len(self.mlp.layers) - 1:
            yield unit.index, 1.0
        else:
            yield from enumerate(self.mix[:, unit.index].tolist())


def reduced_hessian(reduction: Reduction) -> Tensor:
    """PᵀHP, (size, size), assembled without H; symmetric to the last bit.

    Peak memory: `assembly_bytes(mlp, size)`. Its lower and upper triangle are equal, so that
    `.numpy().T` is a Fortran-ordered matrix that LAPACK can overwrite.
    """
    return assemble(reduction.mlp, reduction.units, reduction.size, reduction.mix)


def reduce(mlp: MLP) -> Reduction:
    """The exact reductions of a multilayer perceptron on its data.

    Costs a singular value decomposition for each unit of the lowest layer in theta, of its inputs
    where it is live, and the memory of these inputs for all examples.

    Numerical ranks count singular values above the larger side of the matrix times eps, relative to
    the largest one, as in LAPACK-based libraries.

    >>> import torch, hesscope as hs
    >>> from hesscope.perceptron.mlp import recognise
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> data = (torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([0]))
    >>> found = reduce(recognise(hs.Problem(model, torch.nn.functional.cross_entropy, data)))
    >>> found.size, found.zeros
    (1, {'dead inputs': 2, 'inputs confined to a subspace': 2, 'softmax shift': 1})
    """
    seen = _survey(mlp)
    tolerance = rounding.rank_threshold(seen.inputs.dtype, max(seen.inputs.shape), 1.0)
    units, zeros, mix = [], Counter[str](), None
    for k in range(seen.first, len(mlp.layers)):
        _count_removed(mlp, seen, k, zeros)
        found = _in_span(mlp, seen, tolerance, zeros) if k == seen.first else _apart(mlp, seen, k)
        if k == len(mlp.layers) - 1:
            mix = _visible_outputs(mlp, seen, tolerance)
            found = _mixed(found, mix, zeros)
        units += found
    return Reduction(
        mlp=mlp,
        units=_placed(units),
        mix=mix,
        size=sum(unit.size for unit in units),
        zeros=dict(zeros),
        dead_inputs=seen.dead_inputs,
        dead_units=seen.dead_units(mlp),
        tolerance=tolerance,
    )


@dataclass(frozen=True)
class _Survey:
    """What all examples say about each layer, and those of the lowest layer that theta reaches."""

    first: int
    inputs: Tensor  # (a, 1) of layer `first`, (N, p)
    live: Tensor  # of layer `first`, bool (N, d)
    moving: list[Tensor]  # of each layer: whether an input ever moves, bool (p,)
    together: list[Tensor]  # whether it ever does where a unit is live, bool (d, p)
    loss: Tensor  # gradients and rows of the Hessians in the outputs, as a triangle (<= C, C)

    @property
    def dead_inputs(self) -> tuple[int, ...]:
        """Entries of x that are zero in all examples."""
        return tuple((~self.moving[0]).nonzero()[:, 0].tolist())

    def dead_units(self, mlp: MLP) -> tuple[str, ...]:
        """Units that are never live, as name[index]."""
        return tuple(
            f"{layer.name}[{i}]"
            for layer, together in zip(mlp.layers, self.together, strict=True)
            for i in (~together[:, -1]).nonzero()[:, 0].tolist()
        )


def _survey(mlp: MLP) -> _Survey:
    """One pass over the data; keeps the inputs of layer `first`."""
    first = min(k for k in range(len(mlp.layers)) if len(columns_in_theta(mlp, k)))
    kept: list[tuple[Tensor, Tensor]] = []
    moving: list[Tensor] = []
    together: list[Tensor] = []
    loss: Tensor | None = None
    for batch in examples(mlp):
        above = levels(mlp, batch)
        kept.append((above[first].inputs, above[first].live))
        now = [level.moves.any(0) for level in above]
        moving = [a | b for a, b in zip(moving, now, strict=True)] if moving else now
        now = [level.live.float().T @ level.moves.float() > 0 for level in above]
        together = [a | b for a, b in zip(together, now, strict=True)] if together else now
        rows = torch.cat([batch.gradients, batch.hessians.flatten(0, 1)])
        loss = torch.linalg.qr(rows if loss is None else torch.cat([loss, rows]), mode="r").R
    assert loss is not None  # data is never empty
    inputs, live = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return _Survey(first, inputs, live, moving, together, loss)


def _count_removed(mlp: MLP, seen: _Survey, k: int, zeros: Counter[str]) -> None:
    """Weights that are zeros of H one by one: each is counted under the first cause that holds."""
    columns = columns_in_theta(mlp, k)
    moving, together = seen.moving[k][columns], seen.together[k][:, columns]
    live = seen.together[k][:, -1:]
    num_still = int((~moving).sum())
    if k == 0:
        _count(zeros, DEAD_INPUTS, num_still * len(live))
        _count(zeros, DEAD_UNITS, int((~live).sum()) * int(moving.sum()))
    else:
        _count(zeros, DEAD_UNITS, num_still * int(live.sum()) + int((~live).sum()) * len(columns))
    if k > seen.first:
        _count(zeros, APART, int((live & moving & ~together).sum()))


def _in_span(mlp: MLP, seen: _Survey, tolerance: float, zeros: Counter[str]) -> list[Unit]:
    """The units of the lowest layer, with the span of the inputs on which they are live."""
    columns = columns_in_theta(mlp, seen.first, seen.moving[seen.first])
    inputs, spans, units = seen.inputs[:, columns], dict[bytes, Tensor | None](), []
    for i, live in enumerate(seen.live.unbind(1)):
        progress.report("reductions: units", i, seen.live.shape[1])
        if not bool(live.any()):
            continue
        key = live.cpu().numpy().tobytes()
        if key not in spans:  # units that are live together share one basis
            basis = row_space(inputs[live], tolerance)
            spans[key] = basis if basis.shape[1] < len(columns) else None
        units.append(Unit(seen.first, i, columns, spans[key], slice(0)))
        _count(zeros, SUBSPACE, len(columns) - units[-1].size)
    return units


def _apart(mlp: MLP, seen: _Survey, k: int) -> list[Unit]:
    """The units of a later layer, with the inputs that ever move while they are live."""
    columns, together = columns_in_theta(mlp, k), seen.together[k]
    kept: dict[bytes, Tensor] = {}
    units = []
    for i, moves in enumerate(together):
        mine = columns[moves[columns]]
        mine = kept.setdefault(mine.cpu().numpy().tobytes(), mine)
        if len(mine):
            units.append(Unit(k, i, mine, None, slice(0)))
    return units


def _visible_outputs(mlp: MLP, seen: _Survey, tolerance: float) -> Tensor | None:
    """An orthonormal basis (C, C') of the outputs that the loss sees; None if those are all.

    That of cross-entropy sees no shift whatever the numbers, which saturate, say.
    """
    if not isinstance(mlp.layers[-1].activation, nn.Identity):
        return None
    visible = torch.eye(seen.loss.shape[1], dtype=seen.loss.dtype, device=seen.loss.device)
    if _is_cross_entropy(mlp):
        visible = torch.linalg.qr(visible - visible.mean(0)).Q[:, :-1]
    visible = visible @ row_space(seen.loss @ visible, tolerance)
    return visible if visible.shape[1] < len(visible) else None


def _is_cross_entropy(mlp: MLP) -> bool:
    try:
        return isinstance(output_loss(mlp.problem.loss_fn), CrossEntropy)  # type: ignore[arg-type]
    except ValueError:  # it is piecewise linear
        return False


def _mixed(units: list[Unit], mix: Tensor | None, zeros: Counter[str]) -> list[Unit]:
    """The units of the last layer as combinations of its outputs; all share their columns."""
    if mix is None or not units:
        return units
    num_outputs, num_seen = mix.shape
    shifts = int(float(mix.sum(0).norm()) <= 1e-6)  # 0 where the loss changes along (1, ..., 1)
    _count(zeros, SHIFT, shifts * units[0].size)
    _count(zeros, IGNORED, (num_outputs - num_seen - shifts) * units[0].size)
    return [replace(units[0], index=c) for c in range(num_seen)]


def _placed(units: list[Unit]) -> tuple[Unit, ...]:
    """The units one after the other in the rows of the reduced matrix."""
    placed, start = [], 0
    for unit in units:
        placed.append(replace(unit, place=slice(start, start + unit.size)))
        start += unit.size
    return tuple(placed)


def row_space(M: Tensor, tolerance: float) -> Tensor:
    """An orthonormal basis (p, r) of the rows of M (N, p), by singular values > tolerance · s_1."""
    if M.shape[0] > M.shape[1]:  # the same right singular vectors, from a triangle
        M = torch.linalg.qr(M, mode="r").R
    _, s, V = torch.linalg.svd(M, full_matrices=False)
    basis: Tensor = V[: int((s > tolerance * s[:1]).sum())].T
    return basis


def _count(zeros: Counter[str], cause: str, num: int) -> None:
    if num:
        zeros[cause] += num
