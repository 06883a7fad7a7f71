"""Points split among processes: the same bits for every number of them, and no trace left."""

import io
import multiprocessing
import os
import re
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.landscape.kept import Kept
from hesscope.landscape.ways import Plane
from hesscope.system import progress
from tests.oracles import data, network
from tests.state import state_of

X, Y = data(200, 6, 3)
PARENT = os.getpid()

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no process can be copied here"
)


def problems():
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    normed = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    return {
        "perceptron": hs.Problem(network(6, 8, 3).float(), F.cross_entropy, (X.float(), Y)),
        "convolutions": hs.Problem(conv, F.cross_entropy, (X.float(), Y), batch_size=70),
        "normalised": hs.Problem(normed.double(), lambda out, y: F.cross_entropy(out, y), (X, Y)),
    }


@pytest.mark.parametrize("name", list(problems()))
@pytest.mark.parametrize("statistics", ["fixed", "recomputed"])
def test_every_number_of_processes_gives_the_same_bits(name, statistics):
    problem = problems()[name]
    test = X[:50].to(problem.dtype), Y[:50]
    options = {"num_points": 13, "max_matvecs": 0, "statistics": statistics, "test": test}
    before, threads = state_of(problem.model), torch.get_num_threads()
    found = [hs.loss_slice(problem, workers=k, **options) for k in (1, 2, 3)]
    assert state_of(problem.model) == before
    assert torch.get_num_threads() == threads
    assert multiprocessing.active_children() == []
    for other in found[1:]:
        assert torch.equal(other.losses, found[0].losses)
        assert torch.equal(other.test_losses, found[0].test_losses)
    assert "in 3 processes" in found[2].facts["evaluated"]
    alone = hs.loss_slice(problem, **options)
    assert torch.allclose(alone.losses, found[0].losses, rtol=1e-5)


def test_a_call_that_was_killed_goes_on_with_the_same_bits(tmp_path):
    problem = problems()["perceptron"]
    vectors = hs.directions(problem, "filter", 2)
    options = {"num_points": 11, "max_matvecs": 0}
    whole = hs.loss_slice(problem, vectors, workers=1, **options)
    plane = Plane(problem, problem.theta, vectors.vectors)
    kept = Kept(tmp_path, plane, torch.cartesian_prod(*whole.axes), "loss of a slice none")
    kept.add(torch.arange(32, 64), whole.losses.flatten()[32:64])  # the second group
    kept.save()
    seen = []
    with progress.listening(lambda *event: seen.append(event)):
        resumed = hs.loss_slice(problem, vectors, workers=2, scratch=tmp_path, **options)
    assert torch.equal(resumed.losses, whole.losses)
    assert seen[-1] == ("loss of a slice", 121 - 32, 121 - 32)


class Fails(nn.Module):
    """Runs in the process that it was made in only."""

    def __init__(self, how):
        super().__init__()
        self.linear, self.how = nn.Linear(6, 3), how

    def forward(self, x):
        if os.getpid() != PARENT:
            self.how()
        return self.linear(x.float())


def refuses():
    msg = "not here"
    raise ValueError(msg)


@pytest.mark.parametrize(
    ("how", "kind", "cause"),
    [
        (refuses, ValueError, "the model or the loss fails on batch 0 (.*): ValueError: not here"),
        (
            lambda: os._exit(9),
            RuntimeError,
            "a worker ended with exit code 9 before its points wer",
        ),
    ],
)
def test_what_goes_wrong_in_a_process_is_told_in_this_one(how, kind, cause):
    problem = hs.Problem(Fails(how), F.cross_entropy, (X, Y))
    with pytest.raises(kind, match=cause):
        hs.loss_slice(problem, num_points=9, max_matvecs=0, workers=2)
    assert multiprocessing.active_children() == []


def test_where_processes_are_of_no_use_the_answer_is_the_same_and_says_so():
    problem = problems()["perceptron"]
    stream = hs.Problem(problem.model, F.cross_entropy, [(X.float(), Y)], cache_bytes=1)
    expected = hs.loss_slice(problem, num_points=9, max_matvecs=0, workers=2).losses
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        beside = hs.loss_slice(problem, num_points=9, max_matvecs=0, workers=2)
    finally:
        stop.set()
        other.join()
    assert torch.equal(beside.losses, expected)
    assert "in this process: there are other threads" in beside.facts["evaluated"]
    read = hs.loss_slice(stream, num_points=9, max_matvecs=0, workers=2)
    assert "in this process: the data is read again" in read.facts["evaluated"]
    assert torch.allclose(read.losses, expected, rtol=1e-5)


def test_a_progress_bar_that_was_drawn_is_no_other_thread():
    bars = pytest.importorskip("tqdm")
    for _ in bars.tqdm(range(2), file=io.StringIO()):
        pass
    assert threading.active_count() > 1  # it watches over bars to come
    found = hs.loss_slice(problems()["perceptron"], num_points=9, max_matvecs=0, workers=2)
    assert "in 2 processes" in found.facts["evaluated"]


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_are_a_number_of_processes(workers):
    cause = f"workers={workers}; give a number of processes, 1 or more, or None."
    with pytest.raises(ValueError, match=re.escape(cause)):
        hs.loss_slice(problems()["perceptron"], workers=workers)
