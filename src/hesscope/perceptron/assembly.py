"""The dense Hessian of a multilayer perceptron by matrix products, in place of n matvecs.

With F_u the inputs of a unit u = (k, i) on all examples, (N, r), and Γ, e, T of `injections.py`
(the weight of each example inside), the block of two units u = (k, i), v = (m, j), k <= m, is

    H_uv = F_uᵀ M_uv,   M_uv = Γ_km[i,j] F_v + e_m[j] T_km[:,i],

one product of an (r, N) with an (N, r') matrix, over the examples on which both units are live.
Inputs may be the coordinates themselves or any orthonormal combinations of them: `Unit` says which,
and where in the matrix their rows lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hesscope.perceptron.injections import Injections, bytes_per_example, injections
from hesscope.perceptron.mlp import MLP, examples
from hesscope.problem.contents import tensors_in
from hesscope.system import progress

WORKSPACE = 1 << 30  # bytes of per-example arrays at a time
WIDE = 256  # columns of a matrix product: narrow units are taken together up to here


@dataclass(frozen=True)
class Unit:
    """A unit of a layer, and the combinations of its incoming weights that are wanted."""

    layer: int
    index: int
    columns: Tensor  # of (a, 1), the last being the bias
    rotation: Tensor | None  # (len(columns), r), orthonormal; None: the columns themselves
    place: slice | Tensor  # r rows of the matrix

    @property
    def size(self) -> int:
        """r."""
        return len(self.columns) if self.rotation is None else self.rotation.shape[1]


@dataclass
class _Chunk:
    """Examples with their derivatives; inputs of a unit are made once for all that share them."""

    of: Injections
    _inputs: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def inputs(self, unit: Unit) -> Tensor:
        key = (unit.layer, id(unit.columns), id(unit.rotation))
        if key not in self._inputs:
            columns = self.of.levels[unit.layer].inputs[:, unit.columns]
            self._inputs[key] = columns if unit.rotation is None else columns @ unit.rotation
        return self._inputs[key]


def dense_hessian(mlp: MLP) -> Tensor:
    """H, (n, n), in the order of `problem.layout` and the problem's dtype: exact to rounding.

    Costs about Σ_{u<=v} 2 N_uv r_u r_v flops (N_uv examples on which both units are live), a
    fraction of n matvecs, and `assembly_bytes(mlp)` of memory. Symmetric to the last bit.

    >>> import torch, hesscope as hs
    >>> from hesscope.perceptron.mlp import recognise
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> dense_hessian(recognise(hs.Problem(model, torch.nn.functional.mse_loss, (x, x))))
    tensor([[10.]])
    """
    return assemble(mlp, coordinates(mlp), mlp.problem.n)


def assembly_bytes(mlp: MLP, size: int | None = None) -> int:
    """Peak memory of assembling a matrix of `size` rows (all n by default), that matrix included.

    An upper bound, known before the start; without the data and what the process holds already.
    """
    size = mlp.problem.n if size is None else size
    widest = max(layer.linear.in_features + 1 for layer in mlp.layers)
    tensors = [t for batch in mlp.problem.batches for t in tensors_in(batch.content)]
    num_examples = max((len(t) for t in tensors if t.ndim), default=1)
    workspace = min(WORKSPACE, num_examples * _bytes_per_example(mlp, size))
    return mlp.problem.dtype.itemsize * (size**2 + 2 * widest * size) + 2 * workspace


def coordinates(mlp: MLP) -> list[Unit]:
    """Every unit with its own weights in theta, those of inputs that are never zero at least."""
    moving = _moving_inputs(mlp)
    return [
        Unit(k, i, columns, None, parameter_places(mlp, k, i, columns))
        for k, width in enumerate(mlp.widths)
        if len(columns := columns_in_theta(mlp, k, moving if k == 0 else None))
        for i in range(width)
    ]


def assemble(mlp: MLP, units: Sequence[Unit], size: int, mix: Tensor | None = None) -> Tensor:
    """The matrix of `size` rows that the units fill; rows that none of them names are zero.

    `mix` (C, C') makes the last layer's units the combinations of outputs in its columns.
    """
    problem = mlp.problem
    H = torch.zeros(size, size, dtype=problem.dtype, device=problem.device)
    first = min((unit.layer for unit in units), default=0)
    total = len(units) * len(problem.batches)
    for start, share, chunk in _chunks(mlp, units, first, mix):
        for p, unit in enumerate(units):
            for group in _groups(units[p:]):
                _add_blocks(H, chunk, unit, group)
            done = start * len(units) + share * (p + 1)
            progress.report("dense matrix: units", round(done), total)
    _mirror(H, units)
    return H


def columns_in_theta(mlp: MLP, layer: int, moving: Tensor | None = None) -> Tensor:
    """Which entries of (a, 1) have weights in theta, (r,); of the `moving` ones if given."""
    inside, (name, linear) = mlp.problem.layout.names, _named(mlp, layer)
    wanted = torch.zeros(linear.in_features + 1, dtype=torch.bool, device=mlp.problem.device)
    wanted[:-1] = f"{name}weight" in inside
    wanted[-1] = f"{name}bias" in inside
    return (wanted if moving is None else wanted & moving).nonzero()[:, 0]


def parameter_places(mlp: MLP, layer: int, unit: int, columns: Tensor) -> Tensor:
    """Where the weights of a unit lie in theta, (r,), for columns of (a, 1)."""
    slices, (name, linear) = mlp.problem.layout.slices(), _named(mlp, layer)
    weight, bias = slices.get(f"{name}weight", slice(0)), slices.get(f"{name}bias", slice(0))
    weights = (weight.start or 0) + unit * linear.in_features + columns
    return torch.where(columns < linear.in_features, weights, (bias.start or 0) + unit)


def _named(mlp: MLP, layer: int) -> tuple[str, torch.nn.Linear]:
    name = mlp.layers[layer].name
    return f"{name}." if name else "", mlp.layers[layer].linear


def _moving_inputs(mlp: MLP) -> Tensor:
    """Which entries of (x, 1) are not zero in every example, bool (d + 1,)."""
    seen = [(batch.inputs != 0).any(0) for batch in examples(mlp)]
    any_batch = torch.stack(seen).any(0)
    return torch.cat([any_batch, any_batch.new_ones(1)])


def _chunks(
    mlp: MLP, units: Sequence[Unit], first: int, mix: Tensor | None
) -> Iterator[tuple[float, float, _Chunk]]:
    """(batches before, share of this batch, examples), as many as the workspace takes."""
    shared = {(u.layer, id(u.columns), id(u.rotation)): u.size for u in units}
    each = _bytes_per_example(mlp, sum(shared.values()))
    for index, batch in enumerate(examples(mlp)):
        num, start = len(batch.inputs), 0
        for part in batch.split(max(1, WORKSPACE // each)):
            size = len(part.inputs)
            yield index + start / num, size / num, _Chunk(injections(mlp, part, first, mix))
            start += size


def _bytes_per_example(mlp: MLP, num_inputs: int) -> int:
    """Derivatives of one example, and inputs of all units in the combinations that are wanted."""
    itemsize = mlp.problem.dtype.itemsize
    return bytes_per_example(mlp.widths, itemsize) + itemsize * num_inputs


def _groups(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Consecutive units of one layer, together at least `WIDE` columns wide where they can be."""
    group: list[Unit] = []
    for unit in units:
        wide = sum(other.size for other in group) >= WIDE
        if group and (wide or unit.layer != group[0].layer):
            yield group
            group = []
        group.append(unit)
    if group:
        yield group


def _add_blocks(H: Tensor, chunk: _Chunk, unit: Unit, group: list[Unit]) -> None:
    """H[unit, v] += F_uᵀ M_uv for the units v of a group in the same or a later layer."""
    of, (k, i), m = chunk.of, (unit.layer, unit.index), group[0].layer
    indices = [other.index for other in group]
    rows = _both_live(of, unit, group)
    if len(rows) == 0 or unit.size == 0:
        return
    gamma, e = of.hessians[k, m][rows, i], of.gradients[m][rows] if k < m else None
    reaction = of.jacobians[k, m][rows, :, i] if k < m else None
    parts = []
    for j, other in zip(indices, group, strict=True):
        part = chunk.inputs(other)[rows] * gamma[:, j, None]
        if reaction is not None and e is not None:
            assert other.rotation is None  # only the lowest layer has rotations
            part.addcmul_(reaction[:, other.columns], e[:, j, None])
        parts.append(part)
    M = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    _add_product(H, unit.place, _together(group), chunk.inputs(unit)[rows], M)


def _both_live(of: Injections, unit: Unit, group: list[Unit]) -> Tensor:
    """The examples on which the unit and some unit of the group are live."""
    theirs = of.live[group[0].layer][:, [other.index for other in group]].any(1)
    return (of.live[unit.layer][:, unit.index] & theirs).nonzero()[:, 0]


def _together(group: list[Unit]) -> slice | Tensor:
    """Where the columns of a group lie."""
    first, last = group[0].place, group[-1].place
    if isinstance(first, slice) and isinstance(last, slice):
        return slice(first.start, last.stop)  # reduced units lie one after the other
    return torch.cat([unit.place for unit in group if isinstance(unit.place, Tensor)])


def _add_product(
    H: Tensor, rows: slice | Tensor, columns: slice | Tensor, F: Tensor, M: Tensor
) -> None:
    """H[rows, columns] += FᵀM, in place where the rows and columns lie together."""
    if isinstance(rows, Tensor):
        H[rows[:, None], columns] += F.T @ M
    else:
        H[rows, columns].addmm_(F.T, M)


def _mirror(H: Tensor, units: Sequence[Unit]) -> None:
    """Copies the blocks of later columns to the rows below, and makes the blocks of units exact."""
    for p, unit in enumerate(units):
        rows, later = unit.place, list(units[p + 1 :])
        own = (rows[:, None] if isinstance(rows, Tensor) else rows, rows)
        H[own] = (H[own] + H[own].T) / 2
        if later:
            columns = _together(later)
            if isinstance(rows, Tensor) and isinstance(columns, Tensor):
                H[columns[:, None], rows] = H[rows[:, None], columns].T
            else:
                H[columns, rows] = H[rows, columns].T
