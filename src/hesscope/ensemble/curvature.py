"""Exact Hessians of many networks in closed form, and their spectra.

Layer l computes z_l = W_l h_l + b_l with h_{l+1} = φ(z_l). With e_u = ∂L/∂z_u, and example by
example,

    S_ul = ∂²L/∂z_u ∂z_l with all weights fixed,    P_ul = ∂h_u/∂z_l,

the block of the Hessian between W_u (entry i, j) and W_l (entry a, b), l <= u, is the sum over
examples of

    S_ul[i, a] h_u[j] h_l[b] + e_u[i] P_ul[j, a] h_l[b].

The first term is Gauss-Newton plus the curvature of the activations (they enter S_ll by φ''), the
second the bilinear one of weight with weight. S and P go down a layer by the same rule,
S_ul = S_u,l+1 W_{l+1} diag φ'(z_l). With biases as the weight of an input that is always 1, each
block is two matrix products over the examples; the cost does not grow with the outputs.
(Exact second derivatives layer by layer: Bishop 1992; Botev, Ritter and Barber 2017.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hesscope.ensemble.networks import Ensemble, num_parameters
from hesscope.ensemble.objective import Objective, objective
from hesscope.ensemble.passes import Forward, backward, forward, in_chunks
from hesscope.system.contexts import public
from hesscope.system.memory import available_bytes, human
from hesscope.system.progress import report


@public
def hessians(
    e: Ensemble,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: str = "cross_entropy",
    chunk: int | None = None,
) -> Tensor:
    """The exact Hessian of the mean loss of every network, (num, n, n), in the order of theta.

    Symmetric to the last bit. At a kink of relu the derivative is that of the side below, as in
    autograd. About N n² multiplications a network, whatever the number of outputs.

    Args:
        e: the networks.
        inputs: (N, d), or (num, N, d) with examples of their own for each network.
        targets: labels (N,) or (num, N) for cross_entropy; (N, C) or (num, N, C) for mse.
        loss: "cross_entropy" or "mse", each as torch averages it.
        chunk: how many networks go together; by default as many as fit the cache.

    Raises:
        ValueError: if arguments do not fit the networks, or the Hessians the free memory.

    >>> e = Ensemble((1, 1), "relu", torch.tensor([[1.0, 0.0]]))
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> hessians(e, x, torch.zeros(2, 1), loss="mse")  # 2 mean of (x, 1)(x, 1)'
    tensor([[[10.,  4.],
             [ 4.,  2.]]])
    """
    goal = objective(e, inputs, targets, loss)
    _refuse_too_large(e)
    n, index = e.n, _coordinate_index(e.layers, e.theta.device)
    out = e.theta.new_empty(len(e), n, n)
    for rows, H in _chunks(e, goal, chunk, "Hessians of networks"):
        torch.index_select(H.flatten(1), 1, index, out=out[rows].flatten(1))
    return out


@public
def spectra(
    e: Ensemble,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: str = "cross_entropy",
    chunk: int | None = None,
) -> Tensor:
    """All eigenvalues of the Hessian of every network, (num, n), ascending, in float64.

    Arguments are those of `hessians`, of which only a chunk is kept at a time. Each eigenvalue is
    off by about eps·√n·‖H‖ with the eps of theta's dtype; those of a network whose Hessian is not
    finite are nan. Adds 4/3 n³ flops a network to the cost of the Hessians.

    Raises:
        ValueError: if arguments do not fit the networks.

    >>> e = Ensemble((1, 1), "relu", torch.tensor([[1.0, 0.0]]))
    >>> x = torch.tensor([[2.0], [-2.0]])
    >>> spectra(e, x, torch.zeros(2, 1), loss="mse")  # 2 and 2 mean(x²)
    tensor([[2., 8.]], dtype=torch.float64)
    """
    goal = objective(e, inputs, targets, loss)
    out = torch.empty(len(e), e.n, dtype=torch.float64, device=e.theta.device)
    for rows, H in _chunks(e, goal, chunk, "spectra of networks"):
        finite = H.isfinite().all(2).all(1)
        out[rows] = torch.linalg.eigvalsh(H.double().where(finite[:, None, None], 0.0))
        out[rows][~finite] = torch.nan
    return out


def _chunks(
    e: Ensemble, goal: Objective, chunk: int | None, label: str
) -> Iterator[tuple[slice, Tensor]]:
    """Lower triangles of the Hessians of a chunk after the other."""
    numbers = sum((width + 1) ** 2 + out**2 for width, out in pairwise(e.layers))
    for rows, part, o in in_chunks(e, goal, numbers, chunk):
        yield rows, _lower_triangle(part, o)
        report(label, rows.stop, len(e))


@dataclass(frozen=True)
class _Point:
    """What the blocks are made of. S and P are kept as [a, i] and [a, j], examples last."""

    W: list[Tensor]  # (m, out, in)
    x: list[Tensor]  # h with a last row of ones, (m, in + 1, N)
    e: list[Tensor]  # (m, out, N)
    slope: list[Tensor]  # φ'(z) of the hidden layers, (m, out, N)
    second: list[Tensor]  # ∂L/∂h φ''(z) of the hidden layers; none where φ'' is zero

    def down(self, S: Tensor, low: int) -> Tensor:
        """S_u,low+1, (m, out, rows, N), to S_ul, (m, in, rows, N); P likewise."""
        m, _, rows, N = S.shape
        below = torch.bmm(self.W[low + 1].mT, S.flatten(2)).view(m, -1, rows, N)
        return below.mul_(self.slope[low][:, :, None])

    def row(self, top: Tensor, up: int) -> list[Tensor]:
        """S_ul for low = 0, ..., up from S_uu; P likewise."""
        out = [top]
        for low in reversed(range(up)):
            out.append(self.down(out[-1], low))
        return out[::-1]

    def output_curvatures(self, top: Tensor) -> list[Tensor]:
        """S_ll of every layer, from that of the outputs."""
        out = [top]
        for low in reversed(range(len(self.slope))):
            S = self.down(self.down(out[-1], low).transpose(1, 2), low)
            if self.second:
                S.diagonal(dim1=1, dim2=2).add_(self.second[low].mT)
            out.append(S)
        return out[::-1]


def _point(e: Ensemble, o: Objective) -> tuple[_Point, Tensor]:
    """The point, and S_uu of the outputs."""
    f = forward(e, o.x)
    errors = backward(f, o.loss.gradient(f.z[-1], o.t))
    one = o.x.new_ones(1, 1, 1).expand(len(e), 1, o.num_examples)
    slopes = [f.phi.slope(z) for z in f.z[:-1]]
    second = [] if f.phi.second is None else _second(f, f.phi.second, errors)
    x = [torch.cat([h, one], 1) for h in f.h]
    return _Point(f.W, x, errors, slopes, second), o.loss.hessian(f.z[-1])


def _second(f: Forward, second: Callable[[Tensor], Tensor], errors: list[Tensor]) -> list[Tensor]:
    above = zip(f.W[1:], errors[1:], f.z[:-1], strict=True)
    return [torch.bmm(W.mT, e).mul_(second(z)) for W, e, z in above]


def _lower_triangle(e: Ensemble, o: Objective) -> Tensor:
    """Hessians (m, n, n), zero above their diagonal blocks, each bias behind its row of W."""
    point, top = _point(e, o)
    M = point.output_curvatures(top)
    ends = [num_parameters(e.layers[: up + 1]) for up in range(len(e.layers))]
    H = e.theta.new_zeros(len(e), e.n, e.n)
    for up, x in enumerate(point.x):
        S = point.row(M[up], up)
        P = point.row(_diagonal(point.slope[up - 1]), up - 1) if up else []
        for low in range(up + 1):
            block = H[:, ends[up] : ends[up + 1], ends[low] : ends[low + 1]]
            block = torch.unflatten(block, 1, (-1, x.shape[1]))  # (m, i, j, a b)
            block = torch.unflatten(block, 3, (-1, point.x[low].shape[1]))
            block.copy_(_products(S[low], x, point.x[low]).permute(0, 2, 3, 1, 4))
            if low < up:
                bilinear = _products(P[low], point.e[up], point.x[low]).permute(0, 3, 2, 1, 4)
                block[:, :, :-1].add_(bilinear)
    return H


def _products(A: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Σ_N A[a, i] x[j] y[b] as (m, a, i, j, b)."""
    xy = x[:, :, None] * y[:, None]
    left, right = A.flatten(1, 2), xy.flatten(1, 2)
    # MKL is up to twice as fast with the fewer rows on the left.
    swap = left.shape[1] > right.shape[1]
    out = torch.bmm(right, left.mT).mT if swap else torch.bmm(left, right.mT)
    return torch.unflatten(torch.unflatten(out, 2, xy.shape[1:3]), 1, A.shape[1:3])


def _diagonal(d: Tensor) -> Tensor:
    """diag d, (m, a, a, N), from (m, a, N)."""
    unit = torch.eye(d.shape[1], dtype=d.dtype, device=d.device)
    return unit[None, :, :, None] * d[:, :, None]


def _coordinate_index(layers: tuple[int, ...], device: torch.device) -> Tensor:
    """Where in a flat `_lower_triangle` the entries of the Hessian, in the order of theta, are."""
    places, start = [], 0
    for width, out in pairwise(layers):
        rows = start + torch.arange(out * (width + 1)).view(out, width + 1)
        places += [rows[:, :-1].flatten(), rows[:, -1]]
        start += rows.numel()
    at = torch.cat(places)
    index = torch.maximum(at[:, None], at) * len(at) + torch.minimum(at[:, None], at)
    return index.flatten().to(device)


def _refuse_too_large(e: Ensemble) -> None:
    need = len(e) * e.n**2 * e.theta.element_size()
    free = available_bytes(e.theta.device)
    if need > free:
        msg = (
            f"the Hessians of {len(e)} networks of {e.n} parameters need {human(need)} of memory "
            f"and {human(free)} are free. ensemble.spectra keeps their eigenvalues alone."
        )
        raise ValueError(msg)
