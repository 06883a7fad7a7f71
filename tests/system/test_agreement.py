"""Processes that share the data: they agree or say who does not, and nobody waits in vain."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.system.absence import next_number
from hesscope.system.agreement import digest, odd_one, together
from hesscope.system.collectives import first_said, from_first
from tests.processes import in_processes, outcomes

EXACT = 1e-10


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def examples(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, 66, dtype=torch.float64).sin().reshape(11, 6)
    return x.to(dtype), torch.arange(11) % 3


def numbers(problem: hs.Problem) -> list[float]:
    v = torch.linspace(-1, 1, problem.n, dtype=problem.dtype)
    H, G = hs.Hessian(problem), hs.GaussNewton(problem)
    largest = hs.eigsh(H, 2, seed=0).eigenvalues
    parts = [problem.gradient(), H @ v, G @ v, largest, torch.tensor([problem.loss()])]
    return torch.cat([part.double() for part in parts]).tolist()


def shared_out(dtype: torch.dtype) -> list[list[float]]:
    """The numbers of one problem, its data shared out in every way."""
    model, data = network(dtype), examples(dtype)
    x, y = data
    rank = torch.distributed.get_rank()
    cut = [slice(0, 3), slice(3, 11), slice(11, 11)][rank]  # nothing for the last
    own: Any = (x[cut], y[cut]) if rank < 2 else []
    batches = list(zip(x.split(2), y.split(2), strict=True))
    return [
        numbers(hs.Problem(model, F.cross_entropy, data, shard=True)),
        numbers(hs.Problem(model, F.cross_entropy, [data], shard=True)),
        numbers(hs.Problem(model, F.cross_entropy, batches, shard=True)),
        numbers(hs.Problem(model, F.cross_entropy, batches, shard=True, cache_bytes=0)),
        numbers(hs.Problem(model, F.cross_entropy, own, batch_size=2)),
    ]


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _weights(odd: bool) -> None:
    model = network()
    with torch.no_grad():
        model[2].bias[1] += 1e-13 if odd else 0.0
    hs.Problem(model, F.cross_entropy, examples(), shard=True).gradient()


def _weights_that_change(odd: bool) -> None:
    model = network()
    H = hs.Hessian(hs.Problem(model, F.cross_entropy, examples(), shard=True))
    _ = H @ torch.ones(H.n)
    with torch.no_grad():
        model[0].weight[0, 0] += 1.0 if odd else 0.0
    _ = H @ torch.ones(H.n)


def _order(odd: bool) -> None:
    x, y = examples()
    hs.Problem(network(), F.cross_entropy, (x.flip(0) if odd else x, y), batch_size=3, shard=True)


def _length(odd: bool) -> None:
    x, y = examples()
    data = (x[:-1], y[:-1]) if odd else (x, y)
    hs.Problem(network(), F.cross_entropy, data, batch_size=2, shard=True)


def _seed(odd: bool) -> None:
    H = hs.Hessian(hs.Problem(network(), F.cross_entropy, examples(), shard=True))
    hs.eigsh(H, 2, seed=1 if odd else 0)


def _vectors(odd: bool) -> None:
    H = hs.Hessian(hs.Problem(network(), F.cross_entropy, examples(), shard=True))
    _ = H @ torch.full((H.n,), 2.0 if odd else 1.0, dtype=torch.float64)


def _calls(odd: bool) -> None:
    problem = hs.Problem(network(), F.cross_entropy, examples(), shard=True)
    _ = hs.Hessian(problem) @ torch.ones(problem.n) if odd else problem.loss()


def _dtype(odd: bool) -> None:
    dtype = torch.float32 if odd else torch.float64
    hs.Problem(network(dtype), F.cross_entropy, examples(dtype)).gradient()


def _another_network(odd: bool) -> None:
    model = nn.Linear(6, 3).double() if odd else network()
    hs.Problem(model, F.cross_entropy, examples(), shard=True).gradient()


def _nan(odd: bool) -> None:
    x, y = examples()
    x = x * torch.nan if odd else x
    _ = hs.Hessian(hs.Problem(network(), F.cross_entropy, (x, y))) @ torch.ones(53)


def _user_error(odd: bool) -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if odd:
            raise KeyError("no such label")  # noqa: EM101
        return F.cross_entropy(outputs, targets)

    hs.Problem(network(), loss, examples()).gradient()


def _long_error(odd: bool) -> None:
    for _ in range(2):
        said = ["雪" * 2_000] * 3 if odd else None
        assert first_said(said) == (1, ["雪" * 600] * 3)
    with together():
        if odd:
            raise ValueError("雪" * 2_000)
    first_said(None)


def _memory(odd: bool) -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if odd:
            raise torch.OutOfMemoryError("planted")  # noqa: EM101
        return F.cross_entropy(outputs, targets)

    hs.Problem(network(), loss, examples()).gradient()


def _nothing(odd: bool) -> None:
    hs.Problem(network(), F.cross_entropy, [])


PLANTED = {
    "weights": (_weights, "DisagreementError", "process 1 has another 2.bias than"),
    "weights that change": (_weights_that_change, "DisagreementError", "process 1 has another 0.w"),
    "order": (_order, "ValueError", "process 1 has another batch 0 than the others (and 3 more)"),
    "length": (_length, "ValueError", "process 1 has 5 batches, another has 6"),
    "seed": (_seed, "DisagreementError", "process 1 has another seed than the others: 1, 0"),
    "vectors": (_vectors, "DisagreementError", "process 1 has another block of vectors"),
    "calls": (_calls, "DisagreementError", "all have to make the same calls in the same order"),
    "dtype": (_dtype, "DisagreementError", "process 1 has float32 of shape (53,) where others"),
    "network": (_another_network, "DisagreementError", "process 1 has float64 of shape (21,)"),
    "nan": (_nan, "NonFiniteLossError", "process 1 has failed, so all stop. NonFinite"),
    "user's error": (_user_error, "ValueError", "process 1 has failed, so all stop. ValueError: "),
    "long error": (_long_error, "ValueError", "process 1 has failed, so all stop. ValueError: 雪"),
    "memory": (_memory, "MemoryError", "process 1 has failed, so all stop. OutOfMemoryError: pl"),
    "no data": (_nothing, "ValueError", "the data holds no batch"),
}


def _all_in_one_life(rank: int) -> tuple[Any, ...]:
    """Everything that processes survive, one after the other in the same three."""
    planted = {name: error_of(lambda f=f: f(rank == 1)) for name, (f, *_) in PLANTED.items()}
    return planted, shared_out(torch.float64), shared_out(torch.float32), from_first(rank + 5.0)


@pytest.fixture(scope="module")
def lives() -> list[tuple[Any, ...]]:
    return in_processes(_all_in_one_life, 3)


@pytest.mark.parametrize("name", PLANTED)
def test_what_differs_is_named_with_its_process_in_all_of_them(name, lives):
    _, kind, said = PLANTED[name]
    for rank, (planted, *_) in enumerate(lives):
        if rank == 1 and "has failed" in said:  # its own error, as in one process
            assert kind == "MemoryError" or planted[name].startswith(kind)
        else:
            assert planted[name].startswith(f"{kind}: ")
            assert said in planted[name]


@pytest.mark.parametrize(
    ("place", "dtype", "tolerance"), [(1, "float64", EXACT), (2, "float32", 2e-6)]
)
def test_however_data_is_shared_out_the_numbers_are_those_of_one_process(
    place, dtype, tolerance, lives
):
    dtype = getattr(torch, dtype)
    alone = torch.tensor(numbers(hs.Problem(network(dtype), F.cross_entropy, examples(dtype))))
    for life in lives:
        assert life[place] == lives[0][place]  # the same bits in every process
        for found in life[place]:
            assert float((torch.tensor(found) - alone).norm() / alone.norm()) < tolerance
        assert life[3] == 5.0


def _one_that_goes(rank: int, how: str) -> str:
    problem = hs.Problem(network(), F.cross_entropy, examples(), shard=True)
    problem.gradient()
    if rank == 1:
        time.sleep(0.5)
        if how == "dead":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    began = time.monotonic()
    said = error_of(problem.gradient)
    return f"{time.monotonic() - began:.1f} {said}"


@pytest.mark.parametrize(("how", "seconds"), [("dead", 10), ("stuck", 15)])
def test_a_process_that_does_not_come_is_named(how, seconds):
    limit = timedelta(seconds=5)
    found = outcomes(_one_that_goes, (how,), 2, patience=limit)
    took, said = found[0].split(" ", 1)
    assert found[1] is None
    assert said.startswith("RuntimeError: process 1 did not come to where the others wait")
    assert float(took) < seconds


def test_checksums_see_every_bit_wherever_it_is():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.linspace(1, 2, 5_000, dtype=torch.float64).to(dtype)
        codes = {digest(x)}
        for i in (0, 1_023, 1_024, 4_999):
            y = x.clone()
            y[i] = -y[i]
            codes.add(digest(y))
        assert len(codes) == 5
        assert digest(x) == digest(x.clone().view(50, 100).view(-1))
        assert digest(x.view(50, 100)) == digest(x.view(100, 50).T.contiguous().T.reshape(50, 100))


def test_the_odd_one_is_in_the_minority():
    assert [odd_one(v) for v in ([1, 2], [2, 1, 1], [1, 1, 2], [1, 2, 2, 2])] == [1, 0, 2, 0]


def test_a_group_that_is_made_again_counts_from_the_beginning(tmp_path):
    """Or processes of which one has another object where the old group was would wait in vain."""
    for name in ("first", "second"):
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path / name}", rank=0, world_size=1
        )
        try:
            found = [next_number("meeting"), next_number("meeting"), next_number("sweep")]
        finally:
            torch.distributed.destroy_process_group()
        assert found == [1, 2, 1]
