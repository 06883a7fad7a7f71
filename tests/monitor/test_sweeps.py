"""Checkpoints shared out over processes: the bits of one process, and nobody waits in vain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import hesscope as hs
from hesscope.monitor import series
from hesscope.monitor.series_folder import PARTS, SeriesFolder
from hesscope.results.checkpoint_spectrum import spectra_of
from hesscope.system.sweep import shares
from tests.processes import in_processes, outcomes

X = torch.linspace(-1, 1, 66, dtype=torch.float64).mul(40).sin().reshape(11, 6)
Y = torch.arange(11) % 3
NUM, K = 5, 2
FEW = {"trace_matvecs": 0, "density_matvecs": 0, "verify": False}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def problem(data: Any = (X, Y), **options: Any) -> hs.Problem:
    return hs.Problem(network(), nn.functional.cross_entropy, data, shard=True, **options)


def weights() -> dict[int, dict[str, Tensor]]:
    """Of one network on its way to larger weights; at step 20 they are NaN."""
    found = {}
    for i in range(NUM):
        scale = torch.nan if i == 2 else 1 + 0.1 * i
        found[10 * i] = {name: scale * t for name, t in network().state_dict().items()}
    return found


def measured(data: Any = (X, Y), **options: Any) -> hs.History:
    options = {"trace_matvecs": 6, "density_matvecs": 8} | options
    return hs.spectra(problem(data), weights(), K, **options)


def told(history: hs.History) -> tuple[Any, ...]:
    """All of the numbers, bit by bit, and the words."""
    numbers = {
        key: (one.steps.tolist(), [value.hex() for value in one.values.tolist()])
        for key, one in history.series.items()
    }
    densities = [one.to_dict() for _, one in sorted(history.results.get("density", {}).items())]
    words = [
        (step, one.name, one.before, one.digest, one.digest_before)
        for step, one in spectra_of(history).items()
    ]
    facts = [history.facts[key] for key in ("n", "items", "batches", "data_hash", "axis")]
    return numbers, repr(densities), words, list(map(str, history.events)), facts


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return " | ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    return ""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _of_several(folder: Path, rank: int) -> dict[str, Any]:
    num, to = dist.get_world_size(), folder / "kept"
    batches = list(zip(X.split(4), Y.split(4), strict=True))
    found = {
        "arrays": told(measured()),
        "batches": told(measured(batches, **FEW)),
        "kept": told(measured(to=to)),
        "few": sorted(path.name for path in to.iterdir()),
        "again": told(measured(to=to)),
        "together": [_together(folder, steps) for steps in ((0,), (0, 10))],
    }
    shared = problem()
    H = hs.Hessian(shared)
    _ = H @ torch.ones(H.n)
    values = {}
    with shared.alone() as own:
        inside = error_of(lambda: H @ torch.ones(H.n))
        for seed in range(rank, 4, num):
            own.write(nn.utils.parameters_to_vector(network(seed).parameters()).detach())
            values[seed] = hs.eigsh(hs.Hessian(own), 1, seed=0).eigenvalues.tolist()
    found |= {"seeds": values, "inside": inside, "outside": error_of(own.loss)}
    others = weights() | ({10: weights()[0]} if rank == num - 1 else {})
    found["other"] = error_of(lambda: hs.spectra(shared, others, K))
    found["unshared"] = error_of(
        lambda: hs.spectra(
            hs.Problem(network(), nn.MSELoss(), (X, X[:, :3])), weights(), K, share="checkpoints"
        )
    )
    if rank == 1:
        SeriesFolder.add = _full_disk
    found["failed"] = error_of(lambda: measured(to=folder / "full"))
    return found


def _together(folder: Path, steps: tuple[int, ...]) -> list[float]:
    some = {step: weights()[step] for step in steps}
    found = hs.spectra(problem(), some, 1, share="data", to=folder / "together", **FEW)
    return found["lambda_1"].values.tolist()


def _full_disk(*_: Any) -> None:
    msg = "no space is left"
    raise RuntimeError(msg)


@pytest.mark.parametrize("num", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_give_the_bits_of_one(num: int, tmp_path: Path) -> None:
    lives = in_processes(partial(_of_several, tmp_path), num)
    alone, kept = told(measured()), tmp_path / "kept"
    begun = "state dict 30" if num == 2 else "state dict 20"
    largest = measured(**FEW)["lambda_1"].values.tolist()
    batches = list(zip(X.split(4), Y.split(4), strict=True))
    for rank, found in enumerate(lives):
        assert found["arrays"] == found["kept"] == found["again"] == alone
        assert found["batches"] == told(measured(batches, **FEW))
        assert PARTS not in found["few"]
        assert found["together"][1][:1] == found["together"][0]
        assert found["together"][1] == pytest.approx(largest[:2], rel=1e-6)
        expected = "this problem shares its data with {} processes, and is looked at in {}"
        assert expected.format(num, 1) in found["inside"]
        assert expected.format(1, num) in found["outside"]
        assert f"process {num - 1} has another state dict 10 than the others" in found["other"]
        assert "ValueError: the data of each process is its own share" in found["unshared"]
        if rank != 1:
            cause = f"process 1 has failed, so all stop. at {begun}: RuntimeError: no space"
            assert cause in found["failed"]
    assert f"no space is left | (at {begun}, in process 1)" in lives[1]["failed"]
    seeds = {seed: value for found in lives for seed, value in found["seeds"].items()}
    for seed in range(4):
        one = hs.Problem(network(seed), nn.functional.cross_entropy, (X, Y))
        assert seeds[seed] == hs.eigsh(hs.Hessian(one), 1, seed=0).eigenvalues.tolist()
    assert len(hs.load(kept)) == 4
    assert told(measured(to=kept)) == alone


def _one_dies(rank: int, folder: str) -> Any:
    """What two find; then, with a folder, the second dies at its second checkpoint."""
    found, eigsh, looked = told(measured()), series.eigsh, []
    with problem().alone():  # for longer than the time limit, and nothing to be heard of
        time.sleep(6.0 * rank)

    def dying(*arguments: Any, **options: Any) -> Any:
        looked.append(1)
        if rank == 1 and len(looked) == 3:  # the neighbour of its first is one, too
            os._exit(1)
        return eigsh(*arguments, **options)

    series.eigsh = dying
    return found, error_of(lambda: measured(to=folder))


@pytest.mark.slow
def test_one_that_dies_is_named_and_what_it_has_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = timedelta(seconds=4)
    lives = outcomes(_one_dies, (str(tmp_path / "kept"),), 2, patience=patience)
    (found, error), alone = lives[0], told(measured())
    assert found == alone
    assert lives[1] is None
    assert "RuntimeError: process 1 was not heard for 4 s since it began state dict 40" in error
    assert [path.name for path in (tmp_path / "kept" / PARTS).iterdir()] == ["1"]
    calls, eigsh = [], series.eigsh
    monkeypatch.setattr(series, "eigsh", lambda *a, **o: (calls.append(1), eigsh(*a, **o))[1])
    assert told(measured(to=tmp_path / "kept")) == alone
    assert len(calls) == 2  # the last, and the vectors of its neighbour, which died with it
    assert not (tmp_path / "kept" / PARTS).exists()


def test_shares_hold_all_in_order_and_as_much_work_each() -> None:
    for num in (1, 2, 3, 7):
        for work in ([], [True], [False] * 4, [True] * 9, [i % 3 == 0 for i in range(11)]):
            found = shares(work, num)
            assert [i for one in found for i in one] == list(range(len(work)))
            loads = [sum(work[i] for i in one) for one in found]
            assert max(loads) - min(loads) <= 1
