"""Eigenpairs that are given: checked against the operator as it is now, not believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.operator import OutOfRangeError, SymmetricOperator, finite_product, norm
from hesscope.operator.parts import columns
from hesscope.results.spectrum import Eigenpairs

MARGIN = 2.0  # residuals of the combination may add up; of products that are noisy they double
ROUNDINGS = 10.0  # of one product: the pairs were made by others, in another order


@dataclass(frozen=True)
class Given:
    """Pairs of an operator, and by how much QᵀAQ differs from their eigenvalues."""

    vectors: Tensor  # (n, k) in the dtype and on the device of the operator
    values: np.ndarray
    residuals: np.ndarray
    misfit: float  # an estimate of ‖QᵀAQ - Θ‖_F where it is more than rounding, else 0
    num_matvecs: int = 1


def checked(A: SymmetricOperator, pairs: Eigenpairs, seed: int, unit: float = 1.0) -> Given:
    """The pairs, after one product of A with the sum of all vectors with random signs.

    Its residual is at most the sum of theirs where the pairs are those of A; pairs from before a
    step of training leave more. What is within their residuals, but no rounding, is the misfit.
    The pairs are those of `unit` A.

    Raises:
        ValueError: if the pairs do not fit, or belong to another operator or other parameters.
        RuntimeError: if the product is not finite.
        OutOfRangeError: if `at_order_one` has to scale A.
    """
    refuse_other_size(A, pairs)
    X = A.own_part(pairs.eigenvectors.to(A.device, A.dtype))
    values, residuals = (
        t.cpu().double().numpy() / unit for t in (pairs.eigenvalues, pairs.residuals)
    )
    size = float(np.abs(values).max())
    if not rounding.squares_are_numbers(A.dtype, size) and math.isfinite(size):
        raise OutOfRangeError(size)
    own = probes.key(seed, "check of given pairs")
    signs = probes.rademacher(len(values), own, device=A.device)
    whole = X.double() if A.plain_inner else X
    w = columns(whole, signs.to(whole)[:, None], A._parts)[:, 0].to(A.dtype)
    scaled = signs * torch.from_numpy(values).to(A.device)
    misfit = finite_product(A, w) - columns(X, scaled.to(A.dtype)[:, None], A._parts)[:, 0]
    inside = A.inner(X, misfit[:, None])[:, 0]
    rounded = ROUNDINGS * A.product_noise(size) * math.sqrt(len(values))
    allowed, left = MARGIN * float(residuals.sum()) + rounded, norm(A, misfit)
    if not left <= allowed:
        msg = (
            f"the eigenpairs are not those of the operator as it is now: along a combination of "
            f"them it is off by {left:.2g} where their residuals allow for {allowed:.2g}. They are "
            "from other parameters, other data or another operator; compute them again "
            "(hs.eigsh(A, k, start=pairs.eigenvectors) starts from them)."
        )
        raise ValueError(msg)
    within = float(inside.norm())
    return Given(X, values, residuals, within if within > rounded else 0.0)


def refuse_other_size(A: SymmetricOperator, pairs: Eigenpairs) -> None:
    """Whether there are pairs, as long as the vectors of A.

    Raises:
        ValueError: if not.
    """
    if len(pairs) == 0:
        msg = "there are no eigenpairs among those given; give the result of hs.eigsh(A, k)."
        raise ValueError(msg)
    if pairs.eigenvectors.shape != (A.n, len(pairs)):
        msg = f"the eigenpairs have {pairs.eigenvectors.shape[0]} entries, A has n={A.n}."
        raise ValueError(msg)
