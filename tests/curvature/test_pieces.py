"""Vectors in pieces: what one process finds, with a W-th of the basis on each of W."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope import probes
from hesscope.krylov.basis import Basis
from hesscope.krylov.rows import ROWS
from hesscope.operator import norm
from tests.processes import in_processes

PROCESSES, EXACT = 2, 1e-10
# Of eigenvalues (tol²/gap and rounding), of vectors and of residuals, the latter for float64 only.
NEAR = {torch.float64: (1e-10, 1e-6, 1e-2), torch.float32: (2e-6, 2e-2)}


def hessian(dtype: torch.dtype = torch.float64, width: int = 9) -> hs.Hessian:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).to(dtype)
    x = torch.linspace(-1, 1, 120, dtype=torch.float64).sin().reshape(20, 6).to(dtype)
    return hs.Hessian(hs.Problem(net, F.cross_entropy, (x, torch.arange(20) % 3), shard=True))


def parts_of(pairs: hs.Eigenpairs) -> list[torch.Tensor]:
    upright = pairs.eigenvectors * pairs.eigenvectors.sum(0).sign()
    return [pairs.eigenvalues, upright.flatten(), pairs.residuals.clamp_min(1e-9)]


def of_float32() -> dict[str, list[Any]]:
    pairs = hs.eigsh(hessian(torch.float32), 3, seed=0, tol=1e-4)
    return {"largest": parts_of(pairs)[:2], "products": [torch.tensor([float(pairs.num_matvecs)])]}


def of_float64() -> dict[str, list[Any]]:
    """What algorithms find, by every way in which whole vectors come in or go out."""
    H, tol = hessian(), 1e-9
    top = hs.eigsh(H, 3, seed=0, tol=tol)
    found: dict[str, list[Any]] = {
        "largest": parts_of(top),
        "both ends": parts_of(hs.eigsh(H, 4, "BE", seed=1, tol=tol)),
        "restarted": parts_of(hs.eigsh(H, 2, seed=2, tol=tol, max_basis=20)),
        "from vectors": parts_of(hs.eigsh(H, 2, seed=0, tol=tol, start=top.eigenvectors)),
        "shifted": parts_of(hs.eigsh(2 * H + 0.1 * hs.Identity(H.n), 2, seed=0, tol=tol)),
    }
    d = hs.spectral_density(H, 30, seed=0)
    found["density"] = [d.outliers[:4], torch.stack([d.nodes @ d.weights, d.nodes**2 @ d.weights])]
    # Its other start depends on every bit of the vectors that it is given.
    found["density without"] = [hs.spectral_density(H, 30, seed=0, deflate=top).outliers[:3]]
    found["products"] = [torch.tensor([float(top.num_matvecs)])]
    return found


def _life(_: int) -> tuple[Any, ...]:
    H = hessian()
    A = H.in_pieces()
    Q = Basis(A)
    Q.append(A.probe(0))
    v = torch.linspace(-1, 1, H.n, dtype=torch.float64)
    mine, product = A.own_part(v), A.whole(A @ A.own_part(v))
    told = (norm(A, mine), product, A.whole(A.probe(5)), A.num_local, Q.blocks[0].shape)
    two = hs.Hessian(hs.Problem.from_function(lambda t: (t**3).sum(), torch.ones(2).double()))
    few = hs.eigsh(two, 1, seed=0).eigenvalues.tolist()  # fewer entries than processes
    return told, of_float64(), of_float32(), few


@pytest.fixture(scope="module")
def lives() -> list[tuple[Any, ...]]:
    return in_processes(_life, PROCESSES)


def test_products_norms_and_probes_are_those_of_whole_vectors(lives):
    H = hessian()
    v = torch.linspace(-1, 1, H.n, dtype=torch.float64)
    for length, product, probe, *_ in (life[0] for life in lives):
        assert length == pytest.approx(float(v.norm()), rel=EXACT)
        torch.testing.assert_close(product, H @ v, rtol=EXACT, atol=EXACT)
        assert torch.equal(probe, probes.gaussian(H.n, 5))
    assert H.in_pieces() is H  # one process


def test_every_process_holds_its_share_of_the_basis(lives):
    n = hessian().n
    sizes = [life[0][3] for life in lives]
    assert sum(sizes) == n
    assert max(sizes) == -(-n // PROCESSES)
    assert [life[0][4] for life in lives] == [(ROWS, size) for size in sizes]


@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_algorithms_find_what_one_process_finds(dtype, lives):
    place, make = (1, of_float64) if dtype is torch.float64 else (2, of_float32)
    alone = make()
    for life in lives:
        for name, parts in life[place].items():
            assert all(map(torch.equal, parts, lives[0][place][name])), name  # the same bits
            for found, part, near in zip(parts, alone[name], NEAR[dtype], strict=False):
                assert float((found - part).norm()) <= near * float(part.norm()), name
        assert life[3] == pytest.approx([6.0], abs=EXACT)
