"""Vectors elsewhere: the same numbers, hardly any memory, and no file that is left."""

from __future__ import annotations

import errno
import re

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import hesscope as hs
from hesscope.krylov import basis as basis_module
from hesscope.krylov import rows as rows_module
from hesscope.krylov.basis import Basis
from hesscope.krylov.rows import ROWS, Rows
from hesscope.operator.place import Disk, Host
from hesscope.operator.placed import Placed
from hesscope.system import mapped as mapped_module
from tests.tolerances import rounding

N, LARGE = 300, 60_000  # more entries than are read at a time


def diagonal(n: int = N, dtype: torch.dtype = torch.float64) -> hs.SymmetricOperator:
    values = torch.linspace(-1, 1, n, dtype=torch.float64) ** 3
    values[-5:] = torch.arange(2, 7)
    return hs.as_operator(lambda V: values.to(dtype)[:, None] * V, n, dtype=dtype)


def of(found: hs.Eigenpairs) -> list[torch.Tensor]:
    return [found.eigenvalues, found.eigenvectors, found.residuals]


ASKED = [
    {"k": 3},
    {"k": 4, "which": "BE", "tol": 1e-6},
    {"k": 2, "which": "LM", "max_basis": 14, "tol": 1e-6},  # restarts
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pairs_from_a_disk_are_those_from_memory_to_the_bit(asked, dtype, tmp_path):
    A = diagonal(dtype=dtype)
    there = hs.eigsh(A, **asked, seed=0, basis=tmp_path)
    here = hs.eigsh(A, **asked, seed=0, basis="memory")
    assert all(map(torch.equal, of(there), of(here)))
    assert there.num_matvecs == here.num_matvecs
    assert there.facts["basis"] == "disk"
    assert "basis" not in here.facts


@pytest.mark.parametrize("basis", ["disk", "host", "auto"])
def test_a_density_from_elsewhere_is_the_one_from_memory_to_the_bit(basis):
    there = hs.spectral_density(diagonal(), 60, seed=0, basis=basis)
    here = hs.spectral_density(diagonal(), 60, seed=0, basis="memory")
    for name in ("nodes", "weights", "outliers", "errors", "alpha", "beta"):
        assert torch.equal(getattr(there, name), getattr(here, name)), name


def peak(work, other_than: int = 0) -> float:
    """The most bytes that torch had at once, over those before, in vectors of LARGE numbers.

    Mapped files are counted, so blocks of a size may be left out.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(changes):
        now += change if abs(change) != other_than else 0
        most = max(most, now)
    return most / (4 * LARGE)


@pytest.mark.parametrize(
    ("ask", "vectors"),
    [
        (lambda A, basis: hs.eigsh(A, 3, seed=0, basis=basis), 3 * 3 + 12),
        (lambda A, basis: hs.spectral_density(A, 40, seed=0, basis=basis), 12),
    ],
    ids=["eigsh", "density"],
)
def test_memory_holds_a_few_vectors_while_the_others_are_on_a_disk(ask, vectors):
    A, block = diagonal(LARGE, torch.float32), 4 * LARGE * ROWS
    assert peak(lambda: ask(A, "disk"), other_than=block) < vectors
    assert peak(lambda: ask(A, "memory")) > 3 * ROWS


def test_no_file_has_a_name_at_any_time(tmp_path):
    seen = []

    def product(V):
        seen.extend(tmp_path.iterdir())
        return torch.linspace(0, 1, N, dtype=torch.float64)[:, None] ** 4 * V

    hs.eigsh(hs.as_operator(product, N), 2, seed=0, basis=tmp_path)
    assert seen == list(tmp_path.iterdir()) == []


def test_a_file_whose_name_the_system_keeps_goes_with_its_vectors(tmp_path, monkeypatch):
    real = mapped_module._remove
    monkeypatch.setattr(mapped_module, "_remove", lambda name: False)
    block = mapped_module.mapped(tmp_path, (2, 3), torch.float32)
    names = list(tmp_path.iterdir())
    assert len(names) == 1
    assert block.shape == (2, 3)
    real(str(names[0]))
    assert list(tmp_path.iterdir()) == []


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_at_first_is_an_error_with_its_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_module, "_reserve", no_room)
    message = (
        rf"no room for 78 kB of vectors in {re.escape(str(tmp_path))}: No space left on device"
    )
    with pytest.raises(RuntimeError, match=message):
        hs.eigsh(diagonal(), 2, seed=0, basis=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_later_is_an_error_too_and_leaves_no_file(tmp_path, monkeypatch):
    reserve, calls = mapped_module._reserve, []

    def once(*given):
        calls.append(given)
        if len(calls) > 1:
            no_room()
        reserve(*given)

    monkeypatch.setattr(mapped_module, "_reserve", once)
    monkeypatch.setattr(rows_module, "ROWS", 12)
    with pytest.raises(MemoryError, match="No space left on device"):
        hs.spectral_density(diagonal(), 60, seed=0, basis=tmp_path)
    assert list(tmp_path.iterdir()) == []


def short_of(num_bytes, monkeypatch):
    monkeypatch.setattr("hesscope.operator.place.available_bytes", lambda device: num_bytes)


def test_auto_goes_to_the_disk_where_memory_is_short(monkeypatch):
    A = diagonal()
    short_of(8 * N * 40, monkeypatch)
    assert hs.eigsh(A, 2, seed=0).facts["basis"] == "disk"
    assert hs.spectral_density(A, 30, seed=0).facts["basis"] == "disk"
    assert "basis" not in hs.eigsh(A, 2, seed=0, basis="memory").facts


def test_auto_restarts_in_memory_where_the_disk_is_short_too(monkeypatch):
    A = diagonal()
    short_of(8 * N * 60, monkeypatch)
    monkeypatch.setattr("hesscope.operator.place.free_on_disk", lambda folder: 8 * N * 60)
    found = hs.eigsh(A, 2, "SA", seed=0, tol=1e-4)
    assert "basis" not in found.facts
    assert found.converged.all()
    with pytest.raises(ValueError, match="100 products of n=300 keep up to 480 kB of vectors"):
        hs.spectral_density(A, 100, seed=0)


WORDS = "basis='nowhere'; choose one of 'auto', 'memory', 'host', 'disk', or give a Path."


@pytest.mark.parametrize(
    "ask",
    [
        lambda b: hs.eigsh(diagonal(), 2, basis=b),
        lambda b: hs.spectral_density(diagonal(), 20, basis=b),
    ],
)
def test_places_that_are_none_are_refused(ask, tmp_path):
    with pytest.raises(ValueError, match=f"^{re.escape(WORDS)}$"):
        ask("nowhere")
    folder = tmp_path / "new"
    message = f"basis={str(folder)!r} is no folder; make it first, or say basis='disk'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("own", [False, True], ids=["plain", "own inner product"])
def test_vectors_that_have_to_be_brought_give_the_same_to_rounding(dtype, own, monkeypatch):
    """As those in host memory of a GPU, which this test does not need."""

    class Weighted(Placed):
        plain_inner = not own

        def inner(self, V, W):
            scale = torch.linspace(1, 2, N, dtype=torch.float64)[:, None] if own else 1.0
            return V.double().T @ (scale * W.double())

    A = Weighted(diagonal(dtype=dtype), Host())
    rows = {}
    for elsewhere in (False, True):
        monkeypatch.setattr(Rows, "elsewhere", elsewhere)
        monkeypatch.setattr(rows_module, "PIECE", 64)
        monkeypatch.setattr(basis_module, "PIECE", 64)
        Q = Basis(A)
        Q.extend(torch.stack([A.probe(i) for i in range(40)], 1))
        left, coefficients = Q.project_out(A.probe(41))
        rows[elsewhere] = [
            torch.stack(list(Q)),
            left,
            coefficients,
            Q.inner(A.probe(42)),
            Q.products(Q),
        ]
        rows[elsewhere].append(Q.combine(torch.eye(39, 5, dtype=torch.float64)))
    close = rounding(dtype, 10 * N, 2.0)
    for one, other in zip(rows[False], rows[True], strict=True):
        assert float((one - other).abs().max()) <= close
    assert float((rows[True][4] - torch.eye(40)).abs().max()) <= close


def test_blocks_of_long_vectors_hold_few_of_them(monkeypatch, tmp_path):
    monkeypatch.setattr(rows_module, "BLOCK", 5 * N)
    Q = Basis(Placed(diagonal(), Disk(tmp_path)))
    for i in range(7):
        Q.append(torch.eye(7, N, dtype=torch.float64)[i])
    assert [len(block) for block in Q.blocks] == [5, 5]
    assert torch.equal(Q.inner(torch.arange(N).double()), torch.arange(7).double())
    assert torch.equal(torch.stack(list(Q.copy())), torch.eye(7, N, dtype=torch.float64))
