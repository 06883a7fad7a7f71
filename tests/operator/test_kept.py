"""Products kept on disk: a run that is killed at any moment ends at the same bits."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.operator.kept import ABOUT, KeptProducts
from hesscope.system import files
from tests.full_disk import full

N = 300
torch.manual_seed(0)
DENSE = torch.randn(N, N, dtype=torch.float64)
SYMMETRIC = DENSE + DENSE.T + torch.diag(torch.arange(N, dtype=torch.float64))


def measured(A: hs.SymmetricOperator, seed: int | None = 5) -> bytes:
    """Three measurements, which have their products in common or not, to the last bit."""
    pairs = hs.eigsh(A, 4, seed=seed, max_matvecs=60)
    density = hs.spectral_density(A, 30, deflate=pairs, seed=seed)
    trace = hs.trace(A, pairs=pairs, rtol=None, max_matvecs=20, seed=seed)
    numbers = (pairs.eigenvalues, pairs.residuals, pairs.eigenvectors, density.nodes, density.alpha)
    tail = torch.tensor([trace.value, trace.stderr], dtype=torch.float64)
    return b"".join(t.double().numpy().tobytes() for t in (*numbers, tail))


class Counted(hs.SymmetricOperator):
    """The matrix; dies at a product, before it or after it, if asked to."""

    def __init__(self, dies_at: int = -1) -> None:
        super().__init__(N, dtype=torch.float64)
        self.made, self.dies_at = 0, dies_at

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        if self.made == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.made += 1
        return SYMMETRIC @ V


def problem(seed: int = 0, smoothing: float = 0.0, shift: float = 0.0) -> hs.Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    inputs = torch.linspace(-1, 1, 36).reshape(12, 3).sin() + shift
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    return hs.Problem(model, loss, (inputs, torch.arange(12) % 3))


def in_a_child(folder: Path, dies_at: int, out: Path, dies_after: float | None = None) -> int:
    """The exit status of a process that measures and writes what it found, if it comes so far."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        A = Counted(dies_at)
        if dies_after is not None:
            timer = threading.Timer(dies_after, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        found = measured(KeptProducts(A, folder), seed=None)
        out.write_bytes(found + A.made.to_bytes(4))
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child of its own")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_product_or_moment_it_ends_at_the_same_bits(tmp_path):
    draw, threads = random.Random(0), torch.get_num_threads()
    torch.set_num_threads(1)
    whole, kept = tmp_path / "whole", tmp_path / "kept"
    assert in_a_child(whole, -1, tmp_path / "expected") == 0
    kept.mkdir()
    (kept / ABOUT).write_bytes((whole / ABOUT).read_bytes())  # its seeds, and nothing else
    expected = (tmp_path / "expected").read_bytes()
    kills, known = 0, 0
    for i in range(40):
        dies = {"dies_at": draw.randint(1, 9)} if i % 2 else {"dies_at": -1, "dies_after": 0.02}
        status = in_a_child(kept, out=tmp_path / "found", **dies)
        num = len(list(kept.glob("product-*")))
        assert num >= known
        if i % 2 and status:  # one that was made for the check, and one that was under way
            assert num >= known + dies["dies_at"] - 1 or known == 0
        known, kills = num, kills + (status == signal.SIGKILL)
        if status == 0:
            break
    assert in_a_child(kept, -1, tmp_path / "found") == 0
    torch.set_num_threads(threads)
    assert kills >= 10
    assert (tmp_path / "found").read_bytes()[:-4] == expected[:-4]
    assert not [path for path in kept.iterdir() if path.suffix == ".tmp"]


def test_a_run_that_keeps_its_products_finds_what_one_finds_that_does_not(tmp_path):
    assert measured(KeptProducts(Counted(), tmp_path)) == measured(Counted())
    again = Counted()
    assert measured(KeptProducts(again, tmp_path)) == measured(Counted())
    assert again.made == 1


def test_everything_else_is_that_of_the_operator(tmp_path):
    A = hs.GaussNewton(problem())
    K = hs.as_operator(A, scratch=tmp_path)
    for name in ("lower_bound", "positive_semidefinite", "precision", "shared", "plain_inner"):
        assert getattr(K, name) == getattr(A, name)
    assert (K.facts(), repr(K), K.identity_part) == (A.facts(), repr(A), A.identity_part)
    assert K.product_noise(2.0) == A.product_noise(2.0)
    v = A.probe(1)
    assert torch.equal(K.probe(1), v)
    assert K.measured_noise(v) == A.measured_noise(v)
    assert torch.equal(hs.spectrum(K).eigenvalues, hs.spectrum(A).eigenvalues)
    shifted = hs.as_operator(A + 2.0 * hs.Identity(A.n), scratch=tmp_path / "shifted")
    assert shifted.identity_part == 2.0
    assert torch.equal(shifted @ v, A @ v + 2.0 * v)


def test_seeds_and_free_memory_are_those_of_the_first_run(tmp_path, monkeypatch):
    drawn = itertools.count(7)
    monkeypatch.setattr("hesscope.probes.fresh_seed", lambda: next(drawn))
    first = hs.as_operator(SYMMETRIC, scratch=tmp_path)
    seeds, free = [first.fresh_seed(), first.fresh_seed()], first.free_bytes()
    again = hs.as_operator(SYMMETRIC, scratch=tmp_path)
    assert [again.fresh_seed(), again.fresh_seed()] == seeds
    assert again.fresh_seed() not in seeds
    assert again.free_bytes() == free


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "the weights differ"),
        ({"shift": 0.5}, "the data differ"),
        ({"seed": 1, "shift": 0.5}, "the weights differ; the data differ"),
    ],
)
def test_another_problem_is_refused_by_name(changed, message, tmp_path):
    hs.as_operator(hs.Hessian(problem()), scratch=tmp_path) @ torch.ones(31)
    with pytest.raises(ValueError, match=f"keeps products of something else: {message}. Go on as"):
        hs.as_operator(hs.Hessian(problem(**changed)), scratch=tmp_path)


def test_another_kind_operator_dtype_or_matrix_is_refused_by_name(tmp_path):
    hs.as_operator(hs.Hessian(problem()), scratch=tmp_path)
    with pytest.raises(ValueError, match="operator was Hessian, and is GaussNewton now"):
        hs.as_operator(hs.GaussNewton(problem()), scratch=tmp_path)
    hs.as_operator(SYMMETRIC, scratch=tmp_path / "matrix")
    with pytest.raises(ValueError, match="something else: the entries differ"):
        hs.as_operator(SYMMETRIC + 1, scratch=tmp_path / "matrix")
    with pytest.raises(ValueError, match=r"dtype was torch.float64, and is torch.float32 now"):
        hs.as_operator(SYMMETRIC.float(), scratch=tmp_path / "matrix")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=f"threads was {threads}, and is {threads + 1} now"):
            hs.as_operator(SYMMETRIC, scratch=tmp_path / "matrix")
    finally:
        torch.set_num_threads(threads)


def test_a_loss_that_has_changed_is_seen_at_the_first_product(tmp_path):
    hs.as_operator(hs.Hessian(problem()), scratch=tmp_path) @ torch.ones(31)
    other = hs.as_operator(hs.Hessian(problem(smoothing=0.3)), scratch=tmp_path)
    with pytest.raises(RuntimeError, match=r"weights and data are the same, but a product differs"):
        other @ torch.ones(31)


def test_a_full_disk_costs_what_is_kept_and_nothing_else(tmp_path):
    expected = measured(Counted())
    for at in (1, 2, 9, 40):
        folder = tmp_path / str(at)
        A = KeptProducts(Counted(), folder)
        with full(at, once=False), pytest.warns(UserWarning, match="cannot keep products in"):
            assert measured(A) == expected
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        assert measured(KeptProducts(Counted(), folder)) == expected


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"cannot write to .*: .* Choose another folder"):
        hs.as_operator(SYMMETRIC, scratch=tmp_path / "file")

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "replace", no_room)
    with pytest.raises(RuntimeError, match=r"No space left on device\. Choose another folder"):
        hs.as_operator(SYMMETRIC, scratch=tmp_path / "new")


def test_no_flipped_bit_is_believed(tmp_path):
    expected, draw = measured(Counted()), random.Random(1)
    measured(KeptProducts(Counted(), tmp_path))
    for path in draw.sample(sorted(tmp_path.glob("product-*")), 10):
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    sorted(tmp_path.glob("product-*"))[-1].write_bytes(b"")
    with pytest.warns(UserWarning, match=r"is damaged \(.*\): that product is made again"):
        assert measured(KeptProducts(Counted(), tmp_path)) == expected
    about = tmp_path / ABOUT
    for damage in (b"", b"{}", b"[1]", about.read_bytes().replace(b'"300"', b'"301"')):
        about.write_bytes(damage)
        with pytest.raises(RuntimeError, match=r"products.json is damaged \(.*\). Remove "):
            hs.as_operator(SYMMETRIC, scratch=tmp_path)


def test_what_is_kept_is_json_and_safetensors_and_goes_when_it_is_forgotten(tmp_path):
    folder = tmp_path / "new" / "state"
    K = hs.as_operator(SYMMETRIC, scratch=folder)
    K @ torch.ones(N, 2, dtype=torch.float64)
    names = sorted(path.name for path in folder.iterdir())
    assert [name.split("-")[0] for name in names] == ["product", ABOUT]
    assert json.loads((folder / ABOUT).read_text())["made_of"]["n"] == str(N)
    K.forget()
    assert not folder.exists()


def test_rows_and_columns_in_memory_stay_as_they_were(tmp_path):
    for layout in (torch.clone, lambda W: W.T.contiguous().T, lambda W: W[:, :1].expand(-1, 2)):
        A = hs.as_operator(lambda V, f=layout: f(V.double() * 2.0), 5)
        V = torch.ones(5, 2, dtype=torch.float64)
        K = KeptProducts(A, tmp_path / str(layout).split()[-1].strip(">"))
        first, again = K @ V, K @ V
        assert torch.equal(first, A @ V)
        assert torch.equal(first, again)
        assert first.stride() == again.stride()


def test_a_product_that_is_no_number_is_not_kept(tmp_path):
    K = KeptProducts(hs.as_operator(lambda V: V * float("nan"), 5), tmp_path)
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        hs.eigsh(K, 1)
    assert K.num_kept == 0


@pytest.mark.slow
def test_what_it_costs(tmp_path):
    """A product of a million numbers is kept in less than a second."""
    K = KeptProducts(hs.as_operator(lambda V: V * 2, 1_000_000), tmp_path)
    v, before = torch.ones(1_000_000, dtype=torch.float64), time.process_time()
    K @ v
    assert time.process_time() - before < 1.0
