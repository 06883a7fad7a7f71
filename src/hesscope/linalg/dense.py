"""The exact spectrum of an operator from its dense matrix, refused where memory would not do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hesscope import progress
from hesscope.linalg.eigsh import eigsh
from hesscope.memory import available_bytes, human
from hesscope.operator import SpectralForm, SymmetricOperator
from hesscope.results.spectrum import Spectrum

ROUNDING = 5  # times eps·√n·‖A‖: twice the largest error seen
BLOCK = 2_048  # rows that are symmetrised, or multiplied for the third moment, at a time
FLOPS = 9e9  # per second: LAPACK's tridiagonalisation on two cores, for the forecast
LANCZOS = 200  # parameters from which the ends are compared with Lanczos


def spectrum(
    A: SymmetricOperator,
    *,
    scratch: str | Path | None = None,
    check: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Spectrum:
    """All n eigenvalues of A, ascending, in float64, from a dense matrix.

    Multilayer perceptrons are assembled from matrix products, after the zeros that data and model
    explain have been taken out; Gauss-Newton uses its Gram matrix where that is smaller; other
    operators cost n matvecs. The matrix is symmetrised as (A + A')/2 (the asymmetry is reported)
    and diagonalised by LAPACK, 4/3 size³ flops, in place where SciPy is installed. By Weyl each
    eigenvalue is off by at most the stated error: rounding, 5·eps·√n·‖A‖, plus half the asymmetry.
    (On integer matrices with known eigenvalues LAPACK's error was at most 2.4 eps·√n·‖A‖.)

    Args:
        A: the operator.
        scratch: a folder that keeps the assembled matrix until the eigenvalues are there, so that
            a long computation that was killed resumes after the assembly.
        check: compares sums of eigenvalues, of their squares and cubes with the matrix, and the
            two ends with Lanczos on the operator itself; see `identities` of the result.
        announce: is told rows, memory and time before the assembly starts, for example `print`.

    Raises:
        ValueError: if the matrix would not fit in the free memory; the message says how much
            it needs.
        RuntimeError: if the matrix is not finite.

    >>> import torch, hesscope as hs
    >>> hs.spectrum(hs.as_operator(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))).eigenvalues
    tensor([1., 3.], dtype=torch.float64)
    """
    form = A.spectral_form()
    _refuse_too_large(A, form)
    if announce is not None:
        announce(forecast(form))
    keeper = None if scratch is None else _Scratch(Path(scratch), A, form)
    matrix = _assembled(form) if keeper is None else keeper.matrix()
    if not bool(torch.isfinite(matrix).all()):
        msg = "the matrix has entries that are NaN or infinite; hs.check_problem names the cause."
        raise RuntimeError(msg)
    eps = torch.finfo(A.dtype).eps
    matrix = matrix.double()
    skew_norm = _symmetrise(matrix)
    known = _moments(matrix) if check else {}
    norm = float(matrix.norm())
    eigenvalues = _eigenvalues(matrix)
    error = ROUNDING * eps * A.n**0.5 * _largest(eigenvalues) + skew_norm / 2
    identities = _compared(known, eigenvalues, norm)
    zeros = torch.zeros(A.n - form.size, dtype=torch.float64)
    eigenvalues = torch.cat([eigenvalues, zeros]).sort().values
    num_matvecs = form.num_matvecs
    if check and A.n >= LANCZOS:
        num_matvecs += _compare_ends(A, eigenvalues, identities)
    if keeper is not None:
        keeper.finish()
    return Spectrum(
        eigenvalues=eigenvalues,
        error=error,
        num_matvecs=num_matvecs,
        asymmetry=skew_norm / norm if norm > 0 else 0.0,
        zeros=dict(form.zeros),
        identities=identities,
        facts={**A.facts(), "matrix": form.how},
    )


def forecast(form: SpectralForm) -> str:
    """Size, memory and time of a spectrum, before it starts.

    >>> forecast(SpectralForm(3_964, lambda: torch.empty(0), ""))
    'exact spectrum: 3964 rows, 126 MB, about 9 s after assembly'
    """
    seconds = 4 / 3 * form.size**3 / FLOPS
    time = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    size = human(8 * form.size**2)
    return f"exact spectrum: {form.size} rows, {size}, about {time} after assembly"


def _largest(eigenvalues: Tensor) -> float:
    return float(eigenvalues.abs().max()) if len(eigenvalues) else 0.0


def _assembled(form: SpectralForm) -> Tensor:
    return form.assemble() if form.size else torch.zeros(0, 0)


def _symmetrise(matrix: Tensor) -> float:
    """Writes (M + M')/2 over M by blocks; ‖M - M'‖_F of what it was."""
    skew = 0.0
    for i in range(0, len(matrix), BLOCK):
        for j in range(i, len(matrix), BLOCK):
            upper, lower = (
                matrix[i : i + BLOCK, j : j + BLOCK],
                matrix[j : j + BLOCK, i : i + BLOCK],
            )
            difference = upper - lower.T
            skew += (1 if i == j else 2) * float(difference.square().sum())
            mean = upper - difference / 2
            upper.copy_(mean)
            lower.copy_(mean.T)
    return skew**0.5


def _moments(matrix: Tensor) -> dict[str, float]:
    """tr M, tr M² and tr M³, the last by blocks of M², 2 n³ flops."""
    third = 0.0
    for i in range(0, len(matrix), BLOCK):
        rows = matrix[i : i + BLOCK]
        third += float(((rows @ matrix) * rows).sum())
        progress.report("exact spectrum: third moment", min(i + BLOCK, len(matrix)), len(matrix))
    return {
        "trace": float(matrix.trace()),
        "squares": float(matrix.square().sum()),
        "cubes": third,
    }


def _compared(known: dict[str, float], eigenvalues: Tensor, norm: float) -> dict[str, float]:
    """|Σ λ^p - tr M^p|, relative to what its terms amount to."""
    powers = {"trace": 1, "squares": 2, "cubes": 3}
    identities = {}
    for name, truth in known.items():
        terms = eigenvalues ** powers[name]
        scale = max(float(terms.abs().sum()), 1e-300 if norm == 0 else norm ** powers[name] * 1e-16)
        identities[name] = abs(float(terms.sum()) - truth) / scale
    return identities


def _compare_ends(A: SymmetricOperator, eigenvalues: Tensor, identities: dict[str, float]) -> int:
    """Adds the distance of both ends from Lanczos on A, relative to the size; its matvecs."""
    pairs = eigsh(A, k=2, which="BE", tol=1e-3, verify=False, max_matvecs=100)
    size = _largest(eigenvalues)
    ends = float(eigenvalues[-1]), float(eigenvalues[0])
    for name, exact, found, sure in zip(
        ("λmax by Lanczos", "λmin by Lanczos"),
        ends,
        pairs.eigenvalues,
        pairs.converged,
        strict=True,
    ):
        if sure and size > 0:
            identities[name] = abs(exact - float(found)) / size
    return pairs.num_matvecs


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Ascending, on the CPU; the matrix is overwritten where SciPy is there to do so."""
    if len(matrix) == 0:
        return torch.zeros(0, dtype=torch.float64)
    progress.report("exact spectrum: eigenvalues by LAPACK", 0)
    try:
        from scipy.linalg import eigvalsh  # optional: halves the memory
    except ImportError:
        return torch.linalg.eigvalsh(matrix).cpu()
    if matrix.device.type != "cpu":
        return torch.linalg.eigvalsh(matrix).cpu()
    # symmetric, so the transpose is the same matrix in the Fortran order that LAPACK overwrites
    values = eigvalsh(matrix.numpy().T, overwrite_a=True, check_finite=False)
    return torch.from_numpy(values)


def _refuse_too_large(A: SymmetricOperator, form: SpectralForm) -> None:
    """Two float64 matrices at most: the matrix, and a copy for LAPACK or for the conversion.

    Raises:
        ValueError: with what is needed and what is free.
    """
    need, free = 2 * 8 * form.size**2, available_bytes(A.device)
    if _in_place(A):
        need = int(1.1 * 8 * form.size**2)
    if need > free:
        msg = (
            f"the exact spectrum of n={A.n} eigenvalues needs {human(need)} of memory and "
            f"{human(free)} are free. Use hs.eigsh for the extreme eigenvalues, or a block of the "
            "parameters: problem.block('layers.3.*')."
        )
        raise ValueError(msg)


def _in_place(A: SymmetricOperator) -> bool:
    try:
        import scipy.linalg  # noqa: F401  optional: halves the memory
    except ImportError:
        return False
    return A.dtype == torch.float64 and A.device.type == "cpu"


class _Scratch:
    """Keeps an assembled matrix on disk until its eigenvalues are there."""

    def __init__(self, folder: Path, A: SymmetricOperator, form: SpectralForm) -> None:
        self.file, self.form = folder / "matrix.safetensors", form
        probe = A @ A.probe(0)
        facts = f"{sorted(map(str, A.facts().items()))} {form.size}"
        content = facts.encode() + probe.double().cpu().numpy().tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def matrix(self) -> Tensor:
        """The kept matrix if it belongs to this operator, else a new one, which is then kept."""
        if self.file.exists():
            with safe_open(self.file, "pt") as kept:
                if (kept.metadata() or {}).get("fingerprint") == self.fingerprint:
                    progress.report("exact spectrum: assembled matrix read again", 0)
                    return kept.get_tensor("matrix")
        matrix = _assembled(self.form).cpu()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            save_file({"matrix": matrix}, temporary, {"fingerprint": self.fingerprint})
            temporary.replace(self.file)
        finally:
            temporary.unlink(missing_ok=True)
        return matrix

    def finish(self) -> None:
        """The eigenvalues are there: the matrix is no longer needed."""
        self.file.unlink(missing_ok=True)
