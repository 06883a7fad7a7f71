"""A matrix projected onto a space that grows by any vector, whose product may be known already."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hesscope.krylov.basis import Basis
from hesscope.operator import SymmetricOperator, finite_product, norm, refuse_out_of_range

NEW = 0.1  # of a vector, that has to lie outside of the space: less would be mostly rounding


class Subspace:
    """Q'AQ and AQ for an orthonormal basis Q (Rayleigh and Ritz); proves bounds from inside only.

    >>> import hesscope as hs
    >>> space = Subspace(hs.as_operator(torch.diag(torch.tensor([3.0, 2.0, 1.0]).double())))
    >>> e = torch.eye(3).double()
    >>> space.add(e[0], 3 * e[0]), space.add(e[1]), space.num_matvecs
    (True, True, 1)
    >>> space.ritz()[0]
    array([2., 3.])
    """

    def __init__(self, A: SymmetricOperator) -> None:
        self.A, self.Q, self.AQ = A, Basis(A), Basis(A)
        self.T = np.zeros((0, 0))
        self.num_matvecs = 0
        self._amplified = 1.0  # of the rounding of known products, by taking the space out of them

    def __len__(self) -> int:
        return len(self.Q)

    @property
    def scale(self) -> float:
        """The size of A from below."""
        return float(np.abs(self.T).max(initial=0.0))

    @property
    def noise(self) -> float:
        """What rounding leaves in a Ritz value."""
        return self.A.product_noise(self.scale) * self._amplified

    def add(self, v: Tensor, product: Tensor | None = None) -> bool:
        """Takes in a vector, with its product if that is known; False where it brings nothing new.

        Raises:
            RuntimeError: if the product is not finite, or so large or small that `at_order_one` has
                to scale A.
        """
        whole = norm(self.A, v)
        w, inside = self.Q.project_out(v)
        left = norm(self.A, w)
        if not left > (0.0 if product is None else NEW * whole):
            return False
        w = w / left
        if product is None:
            Aw = finite_product(self.A, w)
            self.num_matvecs += 1
            if len(self) == 0:
                refuse_out_of_range(self.A, w, Aw)
        else:
            part = self.AQ.combine(inside[:, None])[:, 0] if len(self) else 0.0
            Aw = (product - part) / left
            self._amplified = max(self._amplified, whole / left)
        self._extend(w, Aw)
        return True

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values ascending, and their vectors in the basis Q."""
        theta, S = np.linalg.eigh(self.T)
        return theta, S

    def top(self) -> tuple[Tensor, Tensor]:
        """The uppermost Ritz vector v and its residual Av - θv."""
        theta, S = self.ritz()
        s = torch.from_numpy(np.ascontiguousarray(S[:, -1:]))
        v = self.Q.combine(s)[:, 0]
        return v, self.AQ.combine(s)[:, 0] - float(theta[-1]) * v

    def _extend(self, w: Tensor, Aw: Tensor) -> None:
        self.Q.append(w)
        self.AQ.append(Aw)
        self.T = np.pad(self.T, (0, 1))
        self.T[-1, :] = self.T[:, -1] = self.Q.inner(Aw).cpu().numpy()


def settled(theta: np.ndarray, residual: float, second: float) -> float:
    """About how far the uppermost Ritz value is off: residual²/gap (Parlett 1998, 11.7).

    Args:
        theta: Ritz values, ascending.
        residual: of the uppermost.
        second: where the second eigenvalue is taken to be, if not higher than the second of these.
    """
    below = max(second, float(theta[-2])) if len(theta) > 1 else second
    gap = float(theta[-1]) - below
    return residual**2 / gap if gap > 0 else math.inf if residual > 0 else 0.0
