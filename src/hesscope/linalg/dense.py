"""The exact spectrum of an operator from its dense matrix, refused where memory would not do."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.memory import available_bytes, human
from hesscope.operator import SymmetricOperator
from hesscope.results.spectrum import Spectrum

ROUNDING = 5  # times eps·√n·‖A‖: twice the largest error seen
COPIES = 3  # float64 matrices that are alive at once: A, its symmetric part, LAPACK's work


def spectrum(A: SymmetricOperator) -> Spectrum:
    """All n eigenvalues of A, ascending, in float64, from its dense matrix.

    A is assembled from n matvecs in its own dtype, symmetrised as (A + A')/2 in float64 (the
    asymmetry is reported) and diagonalised by LAPACK, which costs 4/3 n³ flops. By Weyl each
    eigenvalue is off by at most the stated error: rounding, 5·eps·√n·‖A‖, plus half the asymmetry.
    (On integer matrices with known eigenvalues LAPACK's error was at most 2.4 eps·√n·‖A‖.)

    Raises:
        ValueError: if the matrices would not fit in the free memory; the message says how much
            they need.
        RuntimeError: if the matrix is not finite.

    >>> import torch, hesscope as hs
    >>> hs.spectrum(hs.as_operator(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))).eigenvalues
    tensor([1., 3.], dtype=torch.float64)
    """
    _refuse_too_large(A)
    matrix = A.to_dense()
    if not bool(torch.isfinite(matrix).all()):
        msg = "the matrix has entries that are NaN or infinite; hs.check_problem names the cause."
        raise RuntimeError(msg)
    eps = torch.finfo(matrix.dtype).eps
    symmetric, skew_norm = _symmetrised(matrix.double())
    norm = float(symmetric.norm())
    eigenvalues = torch.linalg.eigvalsh(symmetric).cpu()
    size = float(eigenvalues.abs().max())
    return Spectrum(
        eigenvalues=eigenvalues,
        error=ROUNDING * eps * A.n**0.5 * size + skew_norm / 2,
        num_matvecs=A.n,
        asymmetry=skew_norm / norm if norm > 0 else 0.0,
        facts=A.facts(),
    )


def _symmetrised(matrix: Tensor) -> tuple[Tensor, float]:
    """(M + M')/2 and ‖M - M'‖_F."""
    skew_norm = float((matrix - matrix.T).norm())
    return (matrix + matrix.T).div_(2), skew_norm


def _refuse_too_large(A: SymmetricOperator) -> None:
    need, free = COPIES * 8 * A.n**2, available_bytes(A.device)
    if need > free:
        msg = (
            f"the exact spectrum of n={A.n} eigenvalues needs {human(need)} of memory and "
            f"{human(free)} are free. Use hs.eigsh for the extreme eigenvalues, or a block of the "
            "parameters: problem.block('layers.3.*')."
        )
        raise ValueError(msg)
