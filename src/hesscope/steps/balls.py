"""The set of steps of optimisers whose steps do not shrink with the gradient.

Muon steps by lr times the member of a norm ball that has the largest product with its momentum:
steepest descent in that norm, with the length left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.steps.gains import Group


def spectral(group: Group, piece: Tensor) -> Tensor:
    """Muon's: the matrix U V' of the singular vectors, times torch's factor for its shape.

    The Newton-Schulz iteration comes to singular values between 0.7 and 1.2 (Jordan et al. 2024),
    which are taken as 1.

    >>> spectral({"adjust_lr_fn": None}, torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
    tensor([[ 1.,  0.],
            [ 0., -1.]])
    """
    U, values, Vh = torch.linalg.svd(piece, full_matrices=False)
    rows, columns = piece.shape[:2]
    kept = (values > rounding.eps(piece.dtype) * values[:1]).to(piece.dtype)
    factor = max(1.0, rows / columns) ** 0.5
    if group["adjust_lr_fn"] == "match_rms_adamw":
        factor = 0.2 * max(rows, columns) ** 0.5
    return factor * (U * kept) @ Vh
