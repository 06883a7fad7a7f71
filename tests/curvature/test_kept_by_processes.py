"""Products kept on disk by processes that share an operator: killed, they go on, however many."""

from __future__ import annotations

import os
import random
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.processes import in_processes, outcomes

PATIENCE = timedelta(seconds=60)


def hessian(dies_at: int = -1) -> hs.SymmetricOperator:
    """Six batches; where it is to die, at a forward pass in the midst of a product."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    x = torch.linspace(-1, 1, 120, dtype=torch.float64).sin().reshape(20, 6)
    batches = list(zip(x.split(4), (torch.arange(20) % 3).split(4), strict=True))
    H = hs.Hessian(hs.Problem(net, F.cross_entropy, batches, shard=True))
    product, made = H.matmat, 0

    def dying(V: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += V.shape[1]
        if made > dies_at >= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return product(V)

    H.matmat = dying
    H.num_made = lambda: made
    return H


def found(folder: str, dies_at: int = -1) -> list[Any]:
    return measured(hessian(dies_at), folder)


def measured(H: hs.SymmetricOperator, folder: str | Path) -> list[Any]:
    A = hs.as_operator(H, scratch=folder) if folder else H
    pairs = hs.eigsh(A, 3, seed=0, tol=1e-9)
    density = hs.spectral_density(A, 20, seed=0, deflate=pairs)
    return [pairs.eigenvalues, pairs.eigenvectors, density.nodes]


def _run(rank: int, folder: str, who: int, dies_at: int) -> list[Any]:
    return found(folder, dies_at if rank == who else -1)


def _life(_: int) -> list[Any]:
    return found("")


@pytest.mark.slow  # six processes start
@pytest.mark.parametrize("who", [0, 1])
def test_killed_in_either_process_they_go_on_to_the_same_bits(who, tmp_path):
    dies_at = random.Random(who).randrange(5, 25)
    first = outcomes(_run, (str(tmp_path), who, dies_at), 2, patience=PATIENCE)
    assert first[who] is None
    kept = len(list(tmp_path.glob("product-*")))
    assert kept in (dies_at, dies_at + 1)  # at most the one under way is lost
    again = outcomes(_run, (str(tmp_path), 0, -1), 2, patience=PATIENCE)[0]
    assert all(map(torch.equal, again, in_processes(_life, 2)[0]))
    H = hessian()
    assert all(map(torch.equal, again, measured(H, tmp_path)))  # in one process, from what is kept
    assert H.num_made() == 1  # for the check


@pytest.mark.slow  # five processes start
def test_killed_in_two_processes_they_go_on_in_one_and_are_told_in_three(tmp_path):
    first = outcomes(_run, (str(tmp_path), 1, 20), 2, patience=PATIENCE)
    assert first[1] is None
    kept = len(list(tmp_path.glob("product-*")))
    H = hessian()
    alone = measured(H, tmp_path)
    total = len(list(tmp_path.glob("product-*")))
    assert H.num_made() == total - kept + 1  # those that were not there, and one for the check
    whole = found("")  # of one process; products of two are rounded in another way
    assert alone[0] == pytest.approx(whole[0], rel=1e-10)
    assert alone[1].abs() == pytest.approx(whole[1].abs(), abs=1e-6)
    for told in in_processes(_Counted(str(tmp_path)), 3):
        assert told[0] == 1
        assert all(map(torch.equal, told[1], alone))


class _Counted:
    """The products that a process makes, and what is found."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, _: int) -> tuple[int, list[Any]]:
        H = hessian()
        numbers = measured(H, self.folder)
        return H.num_made(), numbers


def test_the_folder_of_another_problem_is_refused_in_all_processes(tmp_path: Path):
    other = hs.as_operator(torch.eye(3), scratch=tmp_path)
    _ = other @ torch.ones(3)
    said = in_processes(_Refused(str(tmp_path)), 2)
    assert "keeps products of something else" in said[0]
    assert said[1].startswith("process 0 has failed, so all stop. ValueError")


class _Refused:
    """Says why the folder cannot be used."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, _: int) -> str:
        with pytest.raises(ValueError, match="keeps products of something else") as error:
            hs.as_operator(hessian(), scratch=self.folder)
        return str(error.value)
