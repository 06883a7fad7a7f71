"""What the precision of products really leaves, where a loss cancels digits: measured, not bounded.

In float32 the curvature p (1 - p) of a confident prediction is what rounding left of 1 - p. No sum
over roundings of a product sees that: the product is repeatable, linear and symmetric, and wrong.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from hesscope import probes
from hesscope.krylov.lanczos import Lanczos
from hesscope.operator import SymmetricOperator
from hesscope.operator.parts import columns
from hesscope.system import interrupts

MARGIN = 2.0  # for one combination of directions, and for a sample of the data
PROBES = 3  # where products are off by more than rounding
LOUD = 10.0  # times what rounding explains: then digits cancel


def noise_in_span(A: SymmetricOperator, X: Tensor, seed: int) -> float:
    """Twice an estimate of ‖E X‖_F, with E the error of products of A as far as it is measured.

    From E applied to the sum of the columns of X with random signs, whose square has ‖E X‖²_F as
    its mean: one vector whatever the number of columns, and exact for one column.
    """
    if A.precision is torch.float64 or X.shape[1] == 0:
        return 0.0
    own = probes.key(seed, "noise of products")
    signs = probes.rademacher(X.shape[1], own, dtype=X.dtype, device=X.device)
    return MARGIN * _measured(A, columns(X, signs[:, None], A._parts)[:, 0])


def noise_of_run(run: Lanczos, S: np.ndarray, seed: int) -> float:
    """As `noise_in_span`, of the Ritz vectors Q S of a run, and anywhere where that is more."""
    if run.A.precision is torch.float64 or S.shape[1] == 0:
        return 0.0
    signs = probes.rademacher(S.shape[1], probes.key(seed, "noise of products")).numpy()
    noise = MARGIN * _measured(run.A, run.vectors((S @ signs)[:, None])[:, 0])
    return noise_anywhere(run.A, noise, seed) if noise > run.noise else noise


def noise_anywhere(A: SymmetricOperator, noise: float, seed: int) -> float:
    """An error that was found in a span, or ‖E‖_F where that is more.

    Products that have lost all their digits may be zero where the operator is largest. Four times
    the largest of three probes: below ‖E‖ with probability 0.008 where E has rank one.
    """
    keys = (probes.key(seed, "noise anywhere", i) for i in range(PROBES))
    probed = torch.stack([A.probe(key) for key in keys], 1)
    return max(noise, 2 * MARGIN * _measured(A, probed))


def _measured(A: SymmetricOperator, v: Tensor) -> float:
    """The largest of its columns; interrupted, nothing is known, and what was found is of use."""
    try:
        return A.measured_noise(v)
    except KeyboardInterrupt:
        interrupts.note()
        warnings.warn(
            "interrupted: errors of products are taken for what rounding explains, not measured",
            stacklevel=2,
        )
        return 0.0


def told(A: SymmetricOperator, noise: float, size: float) -> tuple[str, ...]:
    """A note where the error of products is more than their rounding explains."""
    if noise <= LOUD * A.product_noise(size):
        return ()
    name = str(A.precision).removeprefix("torch.")
    share = f"{noise / size:.1e} of the largest |λ|" if size > 0 else f"{noise:.1e}"
    return (
        f"products in {name} are off by up to {share}, measured against float64: digits cancel, as "
        "in 1 - p where the loss is small; errors say so, and model.double() with data in float64 "
        "gives more",
    )
