"""Second derivatives of a multilayer perceptron, example by example, in closed form.

Add a perturbation δ_k to every pre-activation: z_k = W_k a_{k-1} + b_k + δ_k, a_k = φ_k(z_k), a_0
the input. With D_k = diag φ_k'(z_k), g_k = ∂ℓ/∂a_k and e_k = ∂ℓ/∂δ_k (backpropagation),

    e_k = D_k g_k,  g_k = W_{k+1}ᵀ e_{k+1},  g_L = ∂ℓ/∂a_L,

the derivative of e_m in δ_k, the Hessian of the loss in the injections, obeys for k = m and k < m

    Γ_mm = D_m W_{m+1}ᵀ Γ_{m+1,m+1} W_{m+1} D_m + diag(g_m ∘ φ_m''(z_m)),   last: D Λ D + diag(...)
    Γ_km = D_k W_{k+1}ᵀ Γ_{k+1,m},

for D_k does not depend on δ_m of a later layer. Activations react to earlier injections by

    T_km = ∂a_{m-1}/∂δ_k:  T_{k,k+1} = D_k,  T_{k,m+1} = D_m W_m T_km.

A change of W_k[i, a] acts like the injection δ_k,i = a_{k-1,a}, a change of b_k like an injection
of one, so that ∂ℓ/∂W_m[j, b] = e_m,j a_{m-1,b} has for k <= m the derivative

    ∂²ℓ / ∂W_k[i,a] ∂W_m[j,b] = a_{k-1,a} ( Γ_km[i,j] a_{m-1,b} + e_m,j T_km[b,i] ),

where the last term is absent for k = m, and for biases a = 1 and T = 0 (Bishop 1992, "Exact
calculation of the Hessian matrix for the multilayer perceptron", in matrix form). All arrays hold
one entry per example; N examples take N U² numbers, U the number of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope.derivatives.by_autograd import slope_and_curvature
from hesscope.perceptron.mlp import MLP, Examples, forward

Pair = tuple[int, int]


@dataclass(frozen=True)
class Level:
    """One layer on N examples; units that end up with neither slope nor curvature are mute."""

    inputs: Tensor  # (a_{k-1}, 1), (N, p)
    moves: Tensor  # whether (a_{k-1}, 1) is non-zero or reacts to an injection, bool (N, p)
    slope: Tensor  # φ', (N, d)
    second: Tensor  # φ'', (N, d)
    live: Tensor  # whether a row or column of this unit can be non-zero, bool (N, d)


@dataclass(frozen=True)
class Injections:
    """e, Γ and T of N examples, for layers k <= m counted from 0, from the first one wanted on."""

    levels: list[Level]
    gradients: dict[int, Tensor]  # e_m, (N, d_m)
    hessians: dict[Pair, Tensor]  # Γ_km, (N, d_k, d_m)
    jacobians: dict[Pair, Tensor]  # T_km for k < m, with a row of zeros for the bias, (N, p_m, d_k)
    live: list[Tensor]  # as in the levels, bool (N, d_k)


def bytes_per_example(widths: Sequence[int], itemsize: int) -> int:
    """What `injections` holds for each example, and as much again on the way."""
    return 3 * itemsize * sum(widths) ** 2


def levels(mlp: MLP, batch: Examples) -> list[Level]:
    """The forward pass with slopes and curvatures of the activations.

    A unit is live on an example if its activation has a slope or a curvature there and some unit of
    the next layer is live; an output is live if the loss has a gradient or a Hessian. Where it is
    not live, e_k and all of Γ and T that belong to it vanish exactly, whatever the weights are.
    """
    _, steps = forward(mlp, batch.inputs)
    slopes = [
        slope_and_curvature(layer.activation, z)
        for layer, (_, z) in zip(mlp.layers, steps, strict=True)
    ]
    counted = (batch.gradients != 0).any(1) | (batch.hessians != 0).any(2).any(1)
    live = []
    for slope, second in reversed(slopes):
        live.append(((slope != 0) | (second != 0)) & counted[:, None])
        counted = live[-1].any(1)
    found, before = [], None
    for (a, _), (slope, second), alive in zip(steps, slopes, reversed(live), strict=True):
        moves = (a != 0) if before is None else (a != 0) | (before != 0)
        found.append(Level(_with_bias(a), _with_bias(moves), slope, second, alive))
        before = slope
    return found


def injections(mlp: MLP, batch: Examples, first: int = 0, mix: Tensor | None = None) -> Injections:
    """e, Γ and T for the layers from `first` on; about 2 N U³ flops.

    `mix` (C, C'), if given, is an orthonormal basis of output directions: the units of the last
    layer are then its columns.
    """
    above = levels(mlp, batch)
    gradients, hessians = _backward(mlp, batch, above, first)
    last, live = len(above) - 1, [level.live for level in above]
    if mix is not None:
        live[last] = live[last].any(1, keepdim=True).expand(-1, mix.shape[1])
        gradients[last] = gradients[last] @ mix
        for k in range(first, last + 1):
            hessians[k, last] = hessians[k, last] @ mix
        hessians[last, last] = mix.T @ hessians[last, last]
    return Injections(above, gradients, hessians, _jacobians(mlp, above, first), live)


def _backward(
    mlp: MLP, batch: Examples, above: list[Level], first: int
) -> tuple[dict[int, Tensor], dict[Pair, Tensor]]:
    """The recurrences for e and Γ, from the last layer down."""
    last = len(above) - 1
    gradients: dict[int, Tensor] = {}
    hessians: dict[Pair, Tensor] = {}
    g, curvature = batch.gradients, batch.hessians
    for k in range(last, first - 1, -1):
        D = above[k].slope
        if k < last:
            W = mlp.layers[k + 1].linear.weight.detach()
            g, curvature = gradients[k + 1] @ W, W.T @ (hessians[k + 1, k + 1] @ W)
        gradients[k] = D * g
        hessians[k, k] = D[:, :, None] * curvature * D[:, None, :]
        hessians[k, k].diagonal(dim1=1, dim2=2).add_(g * above[k].second)
        for m in range(k + 1, last + 1):
            hessians[k, m] = D[:, :, None] * (W.T @ hessians[k + 1, m])
    return gradients, hessians


def _jacobians(mlp: MLP, above: list[Level], first: int) -> dict[Pair, Tensor]:
    """The recurrence for T, from each layer up."""
    jacobians: dict[Pair, Tensor] = {}
    for k in range(first, len(above) - 1):
        T = torch.diag_embed(above[k].slope)
        for m in range(k + 1, len(above)):
            jacobians[k, m] = torch.cat([T, T.new_zeros(len(T), 1, T.shape[2])], 1)
            T = above[m].slope[:, :, None] * (mlp.layers[m].linear.weight.detach() @ T)
    return jacobians


def _with_bias(a: Tensor) -> Tensor:
    return torch.cat([a, a.new_ones(len(a), 1)], 1)
