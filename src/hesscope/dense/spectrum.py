"""The exact spectrum of an operator from its dense matrix, refused where memory would not do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.dense import banded
from hesscope.dense.scratch import Scratch, Work, keeping
from hesscope.krylov.eigsh import eigsh
from hesscope.krylov.lanczos import ASYMMETRIC
from hesscope.krylov.noise import noise_anywhere
from hesscope.operator import (
    OperatorLike,
    SpectralForm,
    SymmetricOperator,
    divided,
    in_units,
    symmetric_operator,
)
from hesscope.results.spectrum import Spectrum
from hesscope.system import progress
from hesscope.system.contexts import public
from hesscope.system.memory import available_bytes, human

BLOCK = 2_048  # rows that are symmetrised, or multiplied for the third moment, at a time
SLOWER = 2  # than matrix products, at equal flops, are eigenvalues; for the forecast
LARGE = 20_000  # rows from which eigenvalues show progress and can be interrupted
LARGE_ON_DEVICE = 46_341  # whose entries are more than 32 bits count; 33,000 went in 20 s
ROWS_A_MATVEC = 50  # of n, that Lanczos may spend on the ends: little beside n³
DECADES = 280  # sums of powers further from 1 may leave the range of float64
LANCZOS = 200  # parameters from which the ends are compared with Lanczos


@public
def spectrum(
    A: OperatorLike,
    *,
    scratch: str | Path | None = None,
    check: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Spectrum:
    """All n eigenvalues of A, ascending, in float64, from a dense matrix.

    Multilayer perceptrons are assembled from matrix products, after the zeros that data and model
    explain have been taken out; Gauss-Newton uses its Gram matrix where that is smaller; for
    c A + d I it is the matrix of A, with eigenvalues c λ + d; other operators cost n matvecs. The
    matrix is symmetrised as (A + A')/2 (the asymmetry is reported) and its eigenvalues computed,
    4/3 size³ flops: by one library call where the matrix is, or in place and in two stages
    (`dense/banded.py`) from 20,000 rows (46,341 on a GPU) or where a copy does not fit. By Weyl
    each eigenvalue is off by at most the stated error: rounding, 5·eps·√n·‖A‖ or in two stages 10,
    plus half the asymmetry, plus what single precision loses at small losses, as measured. (On
    integer matrices with known eigenvalues it was at most 2.4 and 4.6 eps·√n·‖A‖.)

    Args:
        A: the operator, or a matrix as for `as_operator`.
        scratch: a folder that keeps the matrix until the eigenvalues are there, so that a long
            computation that was killed goes on after the assembly, or in the midst of two stages.
            What is damaged there is computed again, with a warning. One run at a time uses it.
        check: compares sums of eigenvalues, of their squares and cubes with the matrix, and the
            two ends with Lanczos on the operator itself; see `identities` of the result.
        announce: is told rows, memory and time before the assembly starts, for example `print`.

    Raises:
        ValueError: if the matrix would not fit in the free memory; the message says how much
            it needs.
        RuntimeError: if the matrix is not finite or not symmetric, or if the scratch folder is in
            use, cannot be written or has no room; the message says which.

    >>> import torch, hesscope as hs
    >>> hs.spectrum(hs.as_operator(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))).eigenvalues
    tensor([1., 3.], dtype=torch.float64)
    """
    A = symmetric_operator(A)
    form = A.spectral_form()
    _refuse_too_large(A, form)
    if announce is not None:
        announce(forecast(form, _products_per_second()))
    if scratch is None:
        return _of_dense(A, form, None, check=check)
    with keeping(Path(scratch), A, form) as keeper:
        return _of_dense(A, form, keeper, check=check)


def _of_dense(
    A: SymmetricOperator, form: SpectralForm, keeper: Scratch | None, *, check: bool
) -> Spectrum:
    """The spectrum by the dense matrix, or by what is kept of it."""
    work = _begin(form, keeper, check=check)
    eigenvalues, in_two_stages = _eigenvalues(work, keeper)
    norm, skew_norm = work.facts["norm"], work.facts["skew"]
    _refuse_asymmetric(skew_norm, norm)
    size = _largest(eigenvalues)
    error = rounding.dense_eigenvalue(A.precision, A.n, size, in_two_stages=in_two_stages)
    error += skew_norm / 2 + _measured(A, error) / work.facts["unit"]
    identities = _compared(work.facts, eigenvalues) if check else {}
    zeros = torch.zeros(A.n - form.size, dtype=torch.float64)
    unit = work.facts["unit"]
    values, error = torch.cat([eigenvalues, zeros]) * unit, in_units(error, unit)
    eigenvalues, error = _mapped(form, values, error)
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
        shift=form.shift,
        identities=identities,
        facts={**A.facts(), "matrix": form.how},
    )


def forecast(form: SpectralForm, flops: float) -> str:
    """Size, memory and time of a spectrum, before it starts, from the speed of matrix products.

    >>> forecast(SpectralForm(3_964, lambda: torch.empty(0), ""), flops=60e9)
    'exact spectrum: 3964 rows, 126 MB, about 4 s after assembly'
    """
    seconds = (SLOWER * 4 / 3 + 1) * form.size**3 / flops
    time = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    size = human(8 * form.size**2)
    return f"exact spectrum: {form.size} rows, {size}, about {time} after assembly"


def _mapped(form: SpectralForm, values: Tensor, error: float) -> tuple[Tensor, float]:
    """c λ + d ascending, and the error of each: |c| times that of λ, and two roundings."""
    c, d = form.factor, form.shift
    if (c, d) == (1.0, 0.0):
        return values.sort().values, error
    rounded = rounding.shifted_eigenvalue(c, _largest(values), d)
    return (c * values + d).sort().values, abs(c) * error + rounded


def _products_per_second() -> float:
    """Flops per second of a product of two matrices that takes some milliseconds."""
    M = torch.ones(1_000, 1_000, dtype=torch.float64)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        M @ M
        seconds.append(time.perf_counter() - start)
    return 2 * len(M) ** 3 / min(seconds)


def _largest(eigenvalues: Tensor) -> float:
    return float(eigenvalues.abs().max()) if len(eigenvalues) else 0.0


def _begin(form: SpectralForm, keeper: Scratch | None, *, check: bool) -> Work:
    """The symmetrised matrix and what is known of it, or what is kept of both.

    Raises:
        RuntimeError: if the matrix is not finite.
    """
    work = None if keeper is None else keeper.load()
    if work is not None and check and work.column and "cubes" not in work.facts:
        work = None  # a reduction once begun has no moments to measure
    if work is None:
        work = _assembled(form)
        if keeper is not None:
            keeper.save(work)
    if check and "cubes" not in work.facts:
        work.facts["cubes"] = _third_moment(work.matrix)
        if keeper is not None:
            keeper.save_now_and_then(work)
    return work


def _assembled(form: SpectralForm) -> Work:
    """The symmetrised matrix, and what is measured of it before anything is written or reduced.

    Raises:
        RuntimeError: if the matrix is not finite.
    """
    matrix = form.assemble().contiguous() if form.size else torch.zeros(0, 0, dtype=torch.float64)
    if not all(bool(rows.isfinite().all()) for rows in matrix.split(BLOCK)):
        msg = "the matrix has entries that are NaN or infinite; hs.check_problem names the cause."
        raise RuntimeError(msg)
    matrix = matrix.double()
    unit = _to_order_one(matrix)
    skew = _symmetrise(matrix)
    return Work(
        matrix,
        {
            "unit": unit,
            "skew": skew,
            "norm": float(matrix.norm()),
            "trace": float(matrix.trace()),
            "squares": _second_moment(matrix),
        },
        width=banded.width_on(matrix.device),
    )


def _measured(A: SymmetricOperator, error: float) -> float:
    """An estimate of ‖E‖_F of products that are not in float64, where it is above the error."""
    if A.precision is torch.float64:
        return 0.0
    noise = noise_anywhere(A, 0.0, seed=0)
    return noise if noise > error else 0.0


def _refuse_asymmetric(skew_norm: float, norm: float) -> None:
    """Whether (A + A')/2 stands for A, as far as Lanczos would go along with it.

    Raises:
        RuntimeError: if A and A' differ by more than a twentieth of A.
    """
    if skew_norm > ASYMMETRIC * norm:
        msg = (
            f"the operator is not symmetric: A and its transpose differ by {skew_norm / norm:.0%} "
            "of its size. hs.check_problem(problem), or hs.check_operator(A) for an operator of "
            "your own, names the cause."
        )
        raise RuntimeError(msg)


def _to_order_one(matrix: Tensor) -> float:
    """Divides by a power of two, where squares and cubes of entries would leave float64; which."""
    size = max(map(abs, map(float, matrix.aminmax()))) if matrix.numel() else 0.0  # in place
    if rounding.squares_are_numbers(matrix.dtype, size):
        return 1.0
    exponent = min(math.frexp(size)[1], 1_023)
    matrix.copy_(divided(matrix, exponent))
    return math.ldexp(1.0, exponent)


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


def _second_moment(matrix: Tensor) -> float:
    """tr M², by blocks of rows on one side of the diagonal."""
    second = 0.0
    for i in range(0, len(matrix), BLOCK):
        rows = matrix[i : i + BLOCK, : i + BLOCK]
        second += 2 * float(rows[:, :i].square().sum()) + float(rows[:, i:].square().sum())
    return second


def _third_moment(matrix: Tensor) -> float:
    """tr M³ by blocks of M² on one side of the diagonal, n³ flops."""
    third = 0.0
    for i in range(0, len(matrix), BLOCK):
        end = min(i + BLOCK, len(matrix))
        terms = (matrix[i:end] @ matrix[:, :end]).mul_(matrix[i:end, :end])
        third += 2 * float(terms[:, :i].sum()) + float(terms[:, i:].sum())
        progress.report("exact spectrum: third moment", end, len(matrix))
    return third


def _compared(known: dict[str, float], eigenvalues: Tensor) -> dict[str, float]:
    """|Σ λ^p - tr M^p|, relative to what its terms amount to; none where powers leave float64."""
    identities, size = {}, _largest(eigenvalues) or 1.0
    for name, power in (("trace", 1), ("squares", 2), ("cubes", 3)):
        if power > 1 and abs(power * math.log10(size)) > DECADES:
            continue
        terms = eigenvalues**power
        scale = float(terms.abs().sum()) or rounding.POSITIVE
        identities[name] = abs(float(terms.sum()) - known[name]) / scale
    return identities


def _compare_ends(A: SymmetricOperator, eigenvalues: Tensor, identities: dict[str, float]) -> int:
    """Adds the distance of both ends from Lanczos on A, relative to the size; its matvecs."""
    most = max(100, A.n // ROWS_A_MATVEC)
    pairs = eigsh(A, k=2, which="BE", tol=1e-3, verify=False, max_matvecs=most, seed=0)
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


def _eigenvalues(work: Work, keeper: Scratch | None) -> tuple[Tensor, bool]:
    """Ascending, on the CPU, and whether in two stages; the matrix may be overwritten.

    Either way reads the lower triangle alone, so that what two stages began LAPACK may finish.
    """
    matrix = work.matrix
    on_device = matrix.device.type != "cpu"
    if len(matrix) < (LARGE_ON_DEVICE if on_device else LARGE) and _fits_twice(matrix):
        progress.report("exact spectrum: eigenvalues by one call", 0)
        return torch.linalg.eigvalsh(matrix).cpu(), False

    def pause(column: int) -> None:
        work.column = column
        if keeper is not None:
            keeper.save_now_and_then(work)

    banded.reduce_to_band(matrix, work.width, start=work.column, pause=pause)
    return banded.eigenvalues(matrix, work.width), True


def _fits_twice(matrix: Tensor) -> bool:
    """Whether there is room for the copy that LAPACK works on."""
    return 1.1 * matrix.nbytes < available_bytes(matrix.device)


def _refuse_too_large(A: SymmetricOperator, form: SpectralForm) -> None:
    """The matrix, in float64, and where it has to be converted a second one.

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
    return A.dtype == torch.float64
