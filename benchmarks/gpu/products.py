"""Products and estimators on the device beside dense float64 matrices made on the CPU.

The Hessian's oracle is `torch.autograd.functional.hessian`, which shares no code with the library.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rows import Row, Setting, at_most, attempted
from tests.networks import SMOOTH, Case, dense_hessian, make, relative_error
from torch import Tensor, nn

import hesscope as hs

EXACT = 1e-10  # float64
SINGLE = 2e-4  # float32: some thousand roundings through the worst conditioned of the small nets
ROUNDED = {"TF32": 5e-2, "bfloat16": 0.5}  # stated, not promised: 10 and 7 bits of each factor
WITHOUT_BFLOAT16 = ("lstm", "gru", "seq2seq", "distances")  # torch has no such kernels
LEVEL = 0.99  # of intervals, in a check that must not fail by chance
CURVATURES = {"GaussNewton": hs.GaussNewton, "EmpiricalFisher": hs.EmpiricalFisher}


def check(setting: Setting) -> Iterator[Row]:
    for name in ["mlp", "lstm"] if setting.tiny else list(SMOOTH):
        case = make(SMOOTH[name])
        H = dense_hessian(case)
        yield from attempted(name, lambda c=case, H=H, name=name: hessians(name, c, H, setting))
        yield from attempted(name, lambda c=case, name=name: others(name, c, setting))
    yield from attempted("estimators", lambda: estimators(setting))


def moved(case: Case, device: torch.device, dtype: torch.dtype) -> Case:
    """A copy of the case on the device, its data too."""
    loss = case.loss_fn
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss).to(device, dtype)
    return Case(
        copy.deepcopy(case.model).to(device, dtype),
        loss,
        tuple(_moved(part, device, dtype) for part in case.data),
        case.options,
    )


def _moved(part: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return part.to(device, dtype if part.is_floating_point() else None)


def hessians(name: str, case: Case, H: Tensor, setting: Setting) -> Iterator[Row]:
    """One product in each precision, by each engine in float64, and what it keeps."""
    v = torch.linspace(-1, 1, len(H), dtype=torch.float64).cos()
    truth = H @ v

    def error(dtype: torch.dtype, **options: Any) -> float:
        problem = moved(case, setting.device, dtype).problem()
        found = hs.Hessian(problem, **options) @ v.to(setting.device, problem.dtype)
        return relative_error(found.double().cpu(), truth)

    yield at_most(f"{name}: Hessian, float64", error(torch.float64), EXACT)
    yield at_most(f"{name}: graphs rebuilt, float64", error(torch.float64, memory=0), EXACT)
    yield at_most(f"{name}: Hessian, float32", error(torch.float32), SINGLE)
    with tf32():
        yield at_most(f"{name}: Hessian, TF32", error(torch.float32), ROUNDED["TF32"])
        if setting.device.type == "cuda":
            facts = hs.Hessian(moved(case, setting.device, torch.float32).problem()).facts()
            told = facts.get("float32 products")
            yield Row(f"{name}: TF32 is told", told, holds=bool(told))
    if name not in WITHOUT_BFLOAT16:
        bound = ROUNDED["bfloat16"]
        yield at_most(f"{name}: bfloat16 weights", error(torch.bfloat16), bound)


def others(name: str, case: Case, setting: Setting) -> Iterator[Row]:
    """The other curvatures, on the device and on the CPU, both in float64."""
    for kind, make_operator in CURVATURES.items():
        here = make_operator(case.problem())
        there = make_operator(moved(case, setting.device, torch.float64).problem())
        V = here.probe(0)
        error = relative_error((there @ V.to(setting.device)).cpu(), here @ V)
        yield at_most(f"{name}: {kind}, float64", error, EXACT)


def estimators(setting: Setting) -> Iterator[Row]:
    """What is stated about a known spectrum, by operators on the device in both precisions."""
    n = 200 if setting.tiny else 4_000
    values = torch.cat([torch.tensor([9.0, 5.0, 5.0, 3.0]), torch.linspace(-1, 1, n - 4)])
    for dtype in (torch.float32, torch.float64):
        D = values.to(setting.device, dtype)
        A = hs.as_operator(lambda V, D=D: D[:, None] * V, n, dtype=dtype, device=setting.device)
        for name, said, holds in claims(A, values):
            yield Row(f"{dtype}: {name}", said, holds)


def claims(A: hs.SymmetricOperator, values: Tensor) -> Iterator[tuple[str, str, bool]]:
    """Name, figure, and whether the truth is where it was said to be."""
    values = values.double()
    pairs = hs.eigsh(A, 3, seed=0)
    off = (pairs.eigenvalues.cpu().double() - values[:3]).abs()
    yield (
        "eigsh",
        f"{pairs.eigenvalues.tolist()}",
        bool((off <= pairs.residuals.cpu() + 1e-12).all()),
    )
    found = hs.trace(A, seed=0)
    yield "trace", f"{found}", float(values.sum()) in found.interval(LEVEL)
    norm = hs.frobenius_norm(A, seed=0)
    truth = float(values.norm())
    yield "frobenius_norm", f"{norm}", truth in norm.interval(LEVEL)
    density = hs.spectral_density(A, 60, seed=0)
    count, truth = density.count(2.0, 10.0, LEVEL), int((values > 2).sum())
    yield "spectral_density", f"{count} of {truth} eigenvalues above 2", truth in count
    diagonal = hs.diagonal(A, 40, seed=0)
    off = float((diagonal.values.cpu() - values).norm())
    yield "diagonal", f"off {off:.2g}, stated {diagonal.error:.2g}", off <= 3 * diagonal.error


@contextmanager
def tf32() -> Iterator[None]:
    """Factors of float32 products rounded to TF32, where there is such a thing."""
    was = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = was
