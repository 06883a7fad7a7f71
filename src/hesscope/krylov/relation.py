"""The products of a run's own vectors, as its projections found them: residuals for no product.

Each step of Lanczos with full reorthogonalisation takes out of A q_j all that lies along the locked
vectors L and the basis Q, and knows by which coefficients: A Q = L C + Q H + w e', in exact
arithmetic with H = T and afterwards with what rounding has made of it. So A x - θ x of x = Q s has
the coefficients C s, (H - θ) s and the last of s, and is known to the rounding of the products
(Arnoldi 1951; Paige 1971 for what the recurrence alone, β |s_m|, no longer sees).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hesscope.krylov.basis import Basis


class Relation:
    """C and H of a run, a column for each vector; of a restart, the part that still has vectors."""

    def __init__(self) -> None:
        self._inside: list[np.ndarray] = []  # of H, down to the vector that follows
        self._outside: list[np.ndarray] = []  # of C
        self._lost: list[np.ndarray] = []  # of each restart, F with ‖F s‖ what Q s has lost in it

    def add(self, inside: np.ndarray, residual: float, outside: np.ndarray) -> None:
        """The coefficients of one more product: along Q, the vector that follows, and L."""
        self._inside.append(np.append(inside, residual))
        self._outside.append(outside)
        self._lost = [np.pad(F, ((0, 0), (0, 1))) for F in self._lost]

    def off(self, S: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of A x - θ x for the columns of Q S: its parts along L and along Q, and what is lost.

        Shapes (locked, k), (m + 1, k) and (k,); the last is an upper bound of a norm.
        """
        H = np.zeros((len(S) + 1, len(S)))
        for j, column in enumerate(self._inside):
            H[: len(column), j] = column
        inside = H @ S
        inside[:-1] -= S * theta
        outside = np.stack(self._outside, 1) @ S
        lost = np.zeros(S.shape[1])
        for F in self._lost:
            lost += np.linalg.norm(F @ S, axis=0)
        return outside, inside, lost

    def restart(self, S: np.ndarray, theta: np.ndarray) -> None:
        """Goes over to the vectors Q S and the one that follows."""
        outside, inside, _ = self.off(S, theta)
        kept = S.T @ inside[:-1]
        left = np.linalg.qr(inside[:-1] - S @ kept)[1]
        columns = np.concatenate([np.diag(theta) + kept, inside[-1:]])
        self._inside, self._outside = list(columns.T), list(outside.T)
        self._lost = [*(F @ S for F in self._lost), left]


def combined(locked: Basis, Q: Basis, outside: np.ndarray, inside: np.ndarray) -> Tensor:
    """L C + Q H for coefficients along the first vectors of either, (n, k)."""
    found = Q.combine(torch.from_numpy(np.ascontiguousarray(inside)))
    if len(outside):
        found += locked.combine(torch.from_numpy(np.ascontiguousarray(outside)))
    return found
