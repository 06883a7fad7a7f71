"""All eigenvalues of a large matrix on the device: one library call, and two stages in place.

The matrix is Q diag(λ) Q' with Q = I - 2uu', so that its eigenvalues are known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from rows import Row, Setting, at_most, attempted, wait
from torch import Tensor

import hesscope as hs
from hesscope import rounding
from hesscope.dense import banded

ROWS = 16_043  # the Hessian of 784-30-30-10 on MNIST, without the zeros that data explains
WIDTHS = (16, 32)  # of the band
MANY = 33_000  # whose entries are more than 2³⁰


def check(setting: Setting) -> Iterator[Row]:
    n = 300 if setting.tiny else ROWS
    yield from attempted("spectrum", lambda: by_hesscope(n, setting))
    for width in WIDTHS:
        yield from attempted("two stages", lambda w=width: in_two_stages(n, w, setting))
    if setting.device.type == "cuda" and not setting.tiny:
        yield from attempted("one call", lambda: by_one_call(MANY, setting))


def known(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A matrix in float64 and its eigenvalues, ascending: a bulk and some that stand out."""
    values = torch.linspace(-1, 1, n, dtype=torch.float64, device=device) ** 3
    values[-10:] = torch.linspace(2, 40, 10, dtype=torch.float64, device=device)
    u = torch.linspace(1, 2, n, dtype=torch.float64, device=device).sin()
    u /= u.norm()
    w = values * u
    A = -2 * torch.outer(u, w)
    A += A.T.clone()
    A.addr_(u, u, alpha=4 * float(u @ w))
    A.diagonal().add_(values)
    return A, values


def by_hesscope(n: int, setting: Setting) -> Iterator[Row]:
    A, values = known(n, setting.device)
    started = time.perf_counter()
    found = hs.spectrum(A, check=False)
    took = time.perf_counter() - started
    off = float((found.eigenvalues - values.cpu()).abs().max())
    yield at_most(f"spectrum of {n} rows, {took:.1f} s: largest error", off, found.error)


def in_two_stages(n: int, width: int, setting: Setting) -> Iterator[Row]:
    A, values = known(n, setting.device)
    wait(setting.device)
    started = time.perf_counter()
    banded.reduce_to_band(A, width)
    wait(setting.device)
    between = time.perf_counter()
    found = banded.eigenvalues(A, width)
    ended = time.perf_counter()
    bound = rounding.dense_eigenvalue(torch.float64, n, 40.0, in_two_stages=True)
    off = float((found - values.cpu()).abs().max())
    name = f"two stages, {n} rows, band {width}"
    yield Row(name, f"to a band {between - started:.1f} s, the band {ended - between:.1f} s")
    yield at_most(f"{name}: largest error", off, bound)


def by_one_call(n: int, setting: Setting) -> Iterator[Row]:
    """Whether the library call manages so many rows; that it does not is told, and no fault."""
    A, values = known(n, setting.device)
    wait(setting.device)
    started = time.perf_counter()
    try:
        found = torch.linalg.eigvalsh(A)
    except RuntimeError as error:
        yield Row(f"one call, {n} rows", f"{type(error).__name__}: {str(error)[:200]}")
        return
    took = time.perf_counter() - started
    off = float((found - values).abs().max())
    bound = rounding.dense_eigenvalue(torch.float64, n, 40.0, in_two_stages=False)
    yield at_most(f"one call, {n} rows, {took:.1f} s: largest error", off, bound)
