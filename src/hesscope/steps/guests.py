"""Optimisers with a preconditioner that is no diagonal, from packages that nobody has to install.

They are known by the names of their classes and options, and their preconditioners are read from
the tensors of their state:

- Shampoo of `torch_optimizer` and `pytorch_optimizer`: P⁻¹ G = M₀ G M₁, with M_i the inverse roots
  of the accumulated G Gᵀ and Gᵀ G, one for each dimension of the parameter (Gupta, Koren and Singer
  2018).
- SOAP of its authors and of `pytorch_optimizer`: Adam in the eigenbases Q of the same matrices,
  P⁻¹ G = Q₀ ((Q₀ᵀ G Q₁)/(√v + eps)) Q₁ᵀ (Vyas et al. 2024).

Both are symmetric and positive, so that λmax of P^-1/2 H P^-1/2 is what steps see.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from hesscope.steps import gains
from hesscope.steps.gains import Group, State
from hesscope.steps.kind import Kind

SHAMPOO = "the edge of Cohen et al. 2022 for the preconditioner of Gupta, Koren and Singer 2018"
SOAP = "the edge of Cohen et al. 2022 for the preconditioner of Vyas et al. 2024"
SOAP_OPTIONS = {"betas", "eps", "precondition_frequency", "correct_bias", "merge_dims"}
_roots = WeakTensorKeyDictionary()  # of matrices: (version, root)


def guest(optimizer: Optimizer) -> Kind | None:
    """The kind of an optimiser of these packages; None if it is none of them."""
    name, options = type(optimizer).__name__, set(optimizer.defaults)
    if name == "Shampoo" and "momentum" in options and options & {"epsilon", "matrix_eps"}:
        return _shampoo(optimizer)
    if name == "SOAP" and options >= SOAP_OPTIONS:
        return _soap(optimizer)
    return None


def _shampoo(optimizer: Optimizer) -> Kind:
    return Kind(
        type(optimizer),
        gain=gains.descent,
        source=SHAMPOO,
        root=shampoo_root,
        decoupled=False,
        steps=_steps_of_group,
        unknown=_why_not_shampoo(optimizer),
    )


def _why_not_shampoo(optimizer: Optimizer) -> str:
    groups = optimizer.param_groups
    if any(float(group["momentum"]) != 0 for group in groups):
        return (
            "its momentum buffer holds preconditioned steps, which are preconditioned once more at "
            "each step"
        )
    if any(group.get("fixed_decay") and float(group["weight_decay"]) for group in groups):
        return "its weight decay does not scale with lr"
    return ""


def _soap(optimizer: Optimizer) -> Kind:
    return Kind(
        type(optimizer),
        gain=gains.average,
        source=SOAP,
        root=soap_root,
        decoupled=True,
        decays_last=True,
        steps=_soap_steps,
        unknown=_why_not_soap(optimizer),
    )


def _why_not_soap(optimizer: Optimizer) -> str:
    groups = optimizer.param_groups
    if any(group.get("normalize_grads") or group.get("normalize_gradient") for group in groups):
        return "it normalises its steps, so that they do not shrink with the gradient"
    if any(group["merge_dims"] for group in groups):
        return "it merges dimensions, and its state does not tell which"
    return ""


def shampoo_root(group: Group, state: State, V: Tensor) -> Tensor:  # noqa: ARG001  as of others
    """P^-1/2 V for V (*shape, k): the roots of the inverse preconditioners along each dimension.

    Raises:
        ValueError: if the state holds others.
    """
    for i in range(V.ndim - 1):
        names = (f"inv_precond_{i}", f"inv_pre_cond_{i}")
        inverse = next((state[name] for name in names if name in state), None)
        if inverse is None:
            msg = f"this Shampoo is of another make: its state holds none of {', '.join(names)}."
            raise ValueError(msg)
        V = _along(V, i, _root(inverse).to(V))
    return V


def soap_root(group: Group, state: State, V: Tensor) -> Tensor:
    """P^-1/2 V for V (*shape, k): into the eigenbases, over the root of √v + eps, and back."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    t = _soap_steps(group, state)
    bases = [Q if isinstance(Q, Tensor) and len(Q) else None for Q in state["Q"]]
    scale = 1.0
    if group["correct_bias"]:
        scale = math.sqrt(1 - beta2**t) / (1 - beta1**t)
    denominator = (state["exp_avg_sq"].sqrt() + group["eps"]).to(V) / scale
    for i, Q in enumerate(bases):
        V = V if Q is None else _along(V, i, Q.T.to(V))
    V = V / denominator.sqrt()[..., None]
    for i, Q in enumerate(bases):
        V = V if Q is None else _along(V, i, Q.to(V))
    return V


def _along(V: Tensor, i: int, M: Tensor) -> Tensor:
    """M times V along its dimension i."""
    return torch.tensordot(M, V, dims=([1], [i])).movedim(0, i)


def _root(matrix: Tensor) -> Tensor:
    """The root of a positive semidefinite matrix; kept until the matrix changes."""
    version, known = _roots.get(matrix, (-1, None))
    if known is None or version != matrix._version:
        values, vectors = torch.linalg.eigh(((matrix + matrix.T) / 2).double())
        known = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        _roots[matrix] = (matrix._version, known)
    root: Tensor = known
    return root


def _steps_of_group(group: Group, state: State) -> float:
    """Steps made; where the group counts them, a parameter without state has made none."""
    counted: Any = state.get("step", group.get("step", 0))
    return float(counted) if state else 0.0


def _soap_steps(group: Group, state: State) -> float:
    """Steps made: the first call only looks at the gradient, and a group counts it, too."""
    if "Q" not in state or state["Q"] is None:
        return 0.0
    if "step" in state:
        return float(state["step"])
    return float(group.get("step", 1)) - 1
