"""Saddles in random landscapes: the share of downward directions grows with the loss.

In the random-matrix picture the Hessian at a critical point is a semicircle that moves to the right
as the loss falls (Bray and Dean 2007; Dauphin et al. 2014). Below a threshold loss no eigenvalue is
negative: only minima are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hesscope.results.saddles import IndexCurve
from hesscope.rmt.laws import Semicircle
from hesscope.system.contexts import public

UNIT = Semicircle(sigma=0.5)  # on [-1, 1]
MOST = 1 - 1e-9  # how near the ends of the semicircle the straight-line start may look


@public
def negative_share(losses: Tensor | float, threshold: float, slope: float) -> Tensor:
    """F(slope (L - threshold) - 1) with F the semicircle's distribution on [-1, 1].

    Near the threshold it is (4 √2 / 3π) (slope (L - threshold))^{3/2} (Pennington and Bahri 2017).

    >>> negative_share(torch.tensor([0.0, 0.75]), threshold=0.25, slope=2.0)
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    x = torch.as_tensor(losses, dtype=torch.float64)
    return UNIT.cdf(slope * (x - threshold) - 1)


@public
def index_curve(losses: Tensor | Sequence[float], shares: Tensor | Sequence[float]) -> IndexCurve:
    """Fits the random-matrix curve to measured critical points, by least squares on the shares.

    The Hessian at loss L is compared with s(L) I + W, W of semicircle radius r and s linear in L,
    so share(L) = F(-s(L)/r) has two parameters. Errors are those of linearised least squares; the
    fit starts from the straight line through F⁻¹(share), where 0 < share < 1.

    Args:
        losses: (k,) of critical points; others do not belong on this curve.
        shares: (k,) index over n: negative eigenvalues over all. Exact zeros (dead units) are
            best left out of n.

    Raises:
        ValueError: if there are fewer than three points, not two of them with a share strictly
            between 0 and 1 at different losses, a share is outside [0, 1], or shares fall with
            the loss.

    >>> losses = torch.linspace(0.0, 1.0, 9).double()
    >>> fitted = index_curve(losses, negative_share(losses, threshold=0.25, slope=2.0))
    >>> round(fitted.threshold, 6), round(fitted.slope, 6)
    (0.25, 2.0)
    """
    from scipy.optimize import least_squares  # slow to import, and only needed here
    from scipy.stats import spearmanr

    x, y = _checked(losses, shares)

    def residuals(t: np.ndarray) -> np.ndarray:
        return negative_share(torch.from_numpy(x), t[0], t[1]).numpy() - y

    found = least_squares(residuals, _start(x, y), x_scale="jac")
    freedom = max(len(x) - 2, 1)
    variance = 2 * found.cost / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.pinv(found.jac.T @ found.jac)))
    return IndexCurve(
        losses=torch.from_numpy(x),
        shares=torch.from_numpy(y),
        threshold=float(found.x[0]),
        threshold_error=float(errors[0]),
        slope=float(found.x[1]),
        slope_error=float(errors[1]),
        rms_residual=math.sqrt(2 * found.cost / len(x)),
        rank_correlation=float(spearmanr(x, y).statistic),
    )


def _checked(
    losses: Tensor | Sequence[float], shares: Tensor | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays that determine a curve.

    Raises:
        ValueError: if they do not.
    """
    x = torch.as_tensor(losses, dtype=torch.float64).detach().cpu().numpy().copy()
    y = torch.as_tensor(shares, dtype=torch.float64).detach().cpu().numpy().copy()
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        msg = (
            f"losses of shape {x.shape} and shares of shape {y.shape}; give one loss and one share "
            "for each of three or more critical points."
        )
        raise ValueError(msg)
    if not np.isfinite(x).all() or not ((y >= 0) & (y <= 1)).all():
        msg = "losses must be finite and shares in [0, 1]; divide the index by n."
        raise ValueError(msg)
    between = (y > 0) & (y < 1)
    if len(np.unique(x[between])) < 2:
        msg = (
            "fewer than two losses have a share strictly between 0 and 1, so no curve is "
            "determined; add critical points of other losses."
        )
        raise ValueError(msg)
    return x, y


def _start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Threshold and slope of the straight line through the points (L, F⁻¹(share)).

    Raises:
        ValueError: if it falls.
    """
    between = (y > 0) & (y < 1)
    grid = np.linspace(-MOST, MOST, 20_001)
    shares = UNIT.cdf(torch.from_numpy(grid)).numpy()
    slope, offset = np.polyfit(x[between], np.interp(y[between], shares, grid), 1)
    if slope <= 0:
        msg = (
            "the share of negative eigenvalues falls with the loss, and this picture has it rise; "
            "look at the points themselves, or give converged critical points."
        )
        raise ValueError(msg)
    return np.array([-(1 + offset) / slope, slope])
