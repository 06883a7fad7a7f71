"""Spectra over checkpoints: right beside dense ones, resumed at any point, and told apart."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import hesscope as hs
from hesscope import store
from hesscope.krylov.overlap import outermost, overlap, space_error
from hesscope.monitor import series as module
from hesscope.monitor.series_folder import NEIGHBOUR
from hesscope.problem.checkpoint_names import natural, steps_of
from hesscope.results import record
from hesscope.results.checkpoint_spectrum import listed, spectra_of
from hesscope.system.absence import ABSENCE
from tests.tolerances import most_misses

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)).double()
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
Weights = dict[int, dict[str, Tensor]]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def _problem() -> hs.Problem:
    return hs.Problem(_model(), nn.CrossEntropyLoss(), (X, Y))


@pytest.fixture(scope="module")
def weights() -> Weights:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = {}
    for step in range(61):
        if step % 20 == 0:
            found[step] = copy.deepcopy(model.state_dict())
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        optimizer.step()
    return found


def _dense(problem: hs.Problem, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Values descending and their vectors."""
    problem.model.load_state_dict(state)
    values, vectors = torch.linalg.eigh(hs.Hessian(problem).to_dense())
    return values.flip(0), vectors.flip(1)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_numbers_agree_with_dense_spectra(which: Any, weights: Weights) -> None:
    k, other = 3, _problem()
    untouched = copy.deepcopy(other.model.state_dict())
    found = hs.spectra(other, weights, k, which=which)
    assert all(torch.equal(a, untouched[key]) for key, a in other.model.state_dict().items())
    assert found["trace"].steps.tolist() == list(weights)
    before, missed = None, 0
    for step, one in spectra_of(found).items():
        values, vectors = _dense(_problem(), weights[step])
        size, n = values.abs(), len(values)
        order = {
            "LA": torch.arange(n),
            "SA": torch.arange(n).flip(0),
            "LM": size.argsort(descending=True),
            "BE": torch.tensor([0, 1, n - 1]),
        }[which]
        assert one.eigenvalues.tolist() == pytest.approx(values[order[:k]].tolist(), rel=1e-3)
        assert one.trace is not None
        assert one.negative is not None
        assert float(values.sum()) in one.trace.interval(0.9999)
        least, most = (int((values < share * size.max()).sum()) for share in (-1e-3, 1e-3))
        missed += not one.negative.low <= most or not least <= one.negative.high
        space = vectors[:, order[:k]]
        if before is not None:
            assert one.overlap is not None
            cosines = torch.linalg.svdvals(before.T @ space).clamp(max=1.0)
            true = float(cosines.square().mean())
            assert one.overlap.error < 0.2
            assert one.overlap.mean_square == pytest.approx(true, abs=one.overlap.error + 1e-12)
            off = (one.overlap.angles - torch.acos(cosines)).abs().max()
            assert float(off) <= one.overlap.angle_error + 1e-6
        before = space
    assert missed <= most_misses(len(weights), 0.05)
    assert listed(found).count("overlap") == len(weights) - 1


def test_the_error_of_an_overlap_holds_for_spaces_that_have_not_converged() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for seed in range(40):
        Q = torch.linalg.qr(torch.randn(30, 30, generator=generator).double()).Q
        turn = torch.randn(30, 30, generator=generator).double()
        P = torch.matrix_exp(0.05 * (turn - turn.T)) @ Q
        values = torch.linspace(1, 2, 30).double().flip(0)
        values[:3] += 1 + torch.rand(3, generator=generator).double()
        spaces, errors = [], []
        for V in (Q, P):
            A = V @ torch.diag(values) @ V.T
            pairs = hs.eigsh(A, 4, tol=0.2, verify=False, max_matvecs=14, seed=seed)
            outer, gap = outermost(pairs, 3, "LA")
            spaces.append(outer.eigenvectors)
            errors.append(space_error(outer, gap))
        found = overlap(hs.as_operator(A), *spaces, (errors[0], errors[1]))
        true = float((Q[:, :3].T @ P[:, :3]).square().sum()) / 3
        assert abs(found.mean_square - true) <= found.error
        held += found.error < 0.5
    assert held > 20  # the bound says something


def test_no_gap_no_overlap() -> None:
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(5).double())
    found = hs.spectra(problem, {i: {"theta": torch.full((5,), 1.0 * i)} for i in range(2)}, 2)
    assert found["overlap_error"].last == 1.0
    assert "overlap not known, for lack of a gap" in listed(found)


# Resuming


def _files(folder: Path, weights: Weights) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for step, state in weights.items():
        torch.save(state, folder / f"step-{step}.pt")
    return sorted(folder.glob("*.pt"))  # 0, 20, 40, 60 as text; natural order is looked at below


class _Counted:
    """Notes for how many checkpoints pairs are looked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Any] = []

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls.append(1)
            return eigsh(*arguments, **options)

        eigsh = module.eigsh
        monkeypatch.setattr(module, "eigsh", counted)


def test_what_is_done_is_not_done_again(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(tmp_path / "ck", weights)
    counted = _Counted(monkeypatch)
    whole = hs.spectra(_problem(), files, 2, to=tmp_path / "whole")
    assert len(counted.calls) == 4
    hs.spectra(_problem(), files[:2], 2, to=tmp_path / "run")
    counted.calls.clear()
    resumed = hs.spectra(_problem(), files, 2, to=tmp_path / "run")
    assert len(counted.calls) == 2
    assert hs.spectra(_problem(), files, 2, to=tmp_path / "run").steps.tolist() == list(weights)
    assert len(counted.calls) == 2
    for key in whole:
        assert torch.equal(whole[key].values, resumed[key].values), key
    assert set(resumed.results["density"]) == set(weights)


def test_what_is_found_at_a_checkpoint_does_not_rest_on_those_before(weights: Weights) -> None:
    whole = hs.spectra(_problem(), weights, 2)
    apart = hs.spectra(_problem(), {step: weights[step] for step in (40, 60)}, 2)
    for step in (40, 60):
        one, other = spectra_of(whole)[step], spectra_of(apart)[step]
        assert torch.equal(one.eigenvalues, other.eigenvalues)
        assert (one.trace, one.negative) == (other.trace, other.negative)
    assert whole["overlap"].last == apart["overlap"].last


def test_a_file_that_changes_and_one_that_comes_between_are_measured(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(tmp_path / "ck", weights)
    few = [files[0], files[1], files[3]]
    hs.spectra(_problem(), few, 2, to=tmp_path / "run")
    counted = _Counted(monkeypatch)
    found = hs.spectra(_problem(), files, 2, to=tmp_path / "run")  # 40 comes between
    assert len(counted.calls) == 3  # 20 for its vectors, 40, and 60, which has a new neighbour
    whole = hs.spectra(_problem(), files, 2)
    assert found["overlap"].values.tolist() == pytest.approx(whole["overlap"].values.tolist())
    torch.save(weights[0], files[3])
    again = hs.spectra(_problem(), files, 2, to=tmp_path / "run")
    assert again["lambda_1"].last == pytest.approx(again["lambda_1"].at(0), rel=1e-6)


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_without_the_vectors_of_the_neighbour_they_are_found_again(
    damage: str, tmp_path: Path, weights: Weights
) -> None:
    files = _files(tmp_path / "ck", weights)
    hs.spectra(_problem(), files[:2], 2, to=tmp_path / "run")
    kept = tmp_path / "run" / NEIGHBOUR
    if damage == "gone":
        (kept / "record.json").unlink()
    else:
        record.save(hs.Estimate(1.0, 0.0), kept)
    found = hs.spectra(_problem(), files, 2, to=tmp_path / "run")
    whole = hs.spectra(_problem(), files, 2)
    assert found["overlap"].values.tolist() == pytest.approx(
        whole["overlap"].values.tolist(), abs=1e-3
    )


def test_killed_between_checkpoints_it_goes_on(tmp_path: Path, weights: Weights) -> None:
    _files(tmp_path / "ck", weights)
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import hesscope as hs
from tests.monitor.test_spectra import _problem
hs.spectra(_problem(), sorted(Path(sys.argv[1], "ck").glob("*.pt")), 2, to=Path(sys.argv[1], "run"))
"""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, str(tmp_path), root]
    with subprocess.Popen(command) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if store.holds_run(tmp_path / "run") and len(store.read(tmp_path / "run")):
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    done = len(store.read(tmp_path / "run"))
    found = hs.spectra(_problem(), sorted((tmp_path / "ck").glob("*.pt")), 2, to=tmp_path / "run")
    assert done >= 1
    assert found["overlap"].steps.tolist() == [20, 40, 60]


def test_an_interrupt_keeps_what_is_done_and_nothing_half(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, estimate = [], module.trace_of

    def interrupted(*arguments: Any, **options: Any) -> Any:
        looked.append(1)
        if len(looked) == 2:
            raise KeyboardInterrupt
        return estimate(*arguments, **options)

    monkeypatch.setattr(module, "trace_of", interrupted)
    found = hs.spectra(_problem(), weights, 2, to=tmp_path / "run")
    assert found.steps.tolist() == [0]
    assert len(hs.spectra(_problem(), weights, 2, to=tmp_path / "run")) == len(weights)
    looked[:] = [1]
    with pytest.raises(KeyboardInterrupt):
        hs.spectra(_problem(), weights, 2)


# What cannot be measured


def test_checkpoints_that_cannot_be_measured_are_events(tmp_path: Path, weights: Weights) -> None:
    broken = {name: torch.full_like(t, torch.nan) for name, t in weights[20].items()}
    files = _files(tmp_path / "ck", {**weights, 20: broken})
    files[2].write_bytes(files[2].read_bytes()[:100])
    found = hs.spectra(_problem(), files, 2, to=tmp_path / "run")
    assert [(event.step, event.kind) for event in found.events] == [
        (20, "not finite"),
        (40, "not measured"),
    ]
    assert spectra_of(found)[60].before.endswith("step-0.pt")
    torch.save(weights[40], files[2])
    mended = hs.spectra(_problem(), files, 2, to=tmp_path / "run")
    assert [event.step for event in mended.events] == [20]
    assert spectra_of(mended)[60].before.endswith("step-40.pt")


def test_a_process_that_is_gone_is_no_fault_of_a_checkpoint(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        msg = "process 1 did not come"
        error = RuntimeError(msg)
        setattr(error, ABSENCE, True)
        raise error

    monkeypatch.setattr(module, "eigsh", absent)
    with pytest.raises(RuntimeError, match="process 1"):
        hs.spectra(_problem(), weights, 2)


def test_what_is_refused(tmp_path: Path, weights: Weights) -> None:
    for checkpoints, words in (
        ({}, "not one each"),
        ([tmp_path / "nothing.pt"], "there is no weights file"),
        ({0: {"other": torch.zeros(1)}}, "does not fit the model"),
        ({0: {k: t * torch.nan for k, t in weights[0].items()}}, "no checkpoint has finite"),
    ):
        with pytest.raises(ValueError, match=words):
            hs.spectra(_problem(), checkpoints, 2)
    with pytest.raises(ValueError, match="k=0 eigenpairs"):
        hs.spectra(_problem(), weights, 0)
    hs.spectra(_problem(), {0: weights[0]}, 2, to=tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run: its k is 2, not 3"):
        hs.spectra(_problem(), weights, 3, to=tmp_path / "run")
    other = hs.Problem(_model(), nn.CrossEntropyLoss(), (X[:32], Y[:32]))
    with pytest.raises(ValueError, match="data_hash"):
        hs.spectra(other, weights, 2, to=tmp_path / "run")
    with hs.Monitor(_problem(), every=1, to=tmp_path / "watched", quantities=["loss"]) as monitor:
        monitor.step()
    with pytest.raises(ValueError, match="holds another run: its k is not known"):
        hs.spectra(_problem(), weights, 2, to=tmp_path / "watched")


def test_a_small_network_has_all_its_eigenvalues() -> None:
    problem = hs.Problem.from_function(lambda t: (t**4).sum(), torch.ones(2).double())
    found = hs.spectra(problem, {0: {"theta": torch.ones(2)}, 1: {"theta": torch.ones(2)}}, 2)
    assert found["overlap"].last == pytest.approx(1.0)
    assert found["overlap_error"].last == pytest.approx(0.0)


# Names


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["s9.pt", "s10.pt", "s100.pt"], [9, 10, 100]),
        (["epoch=1-step=500-v1.ckpt", "epoch=2-step=1000.ckpt"], [500, 1000]),
        (["net_3_0.51.pt", "net_4_0.48.pt"], [3, 4]),
        (["v1.2_lr0.1_300_final.pt", "v1.2_lr0.1_400_final.pt"], [300, 400]),
        (["a-7-b2.pt", "a-8-b2.pt"], [7, 8]),
        (["c-500/model.safetensors", "c-1000/model.safetensors"], [500, 1000]),
        (["i-100/rank_00/m.pt", "i-200/rank_00/m.pt"], [100, 200]),
        (["run7/s1.pt", "run7/last.pt"], [1, None]),
        (["best.pt"], [None]),
    ],
)
def test_steps_in_names(names: list[str], steps: list[int | None]) -> None:
    assert steps_of([Path(name) for name in names]) == steps


def test_files_without_steps_go_by_their_places_in_natural_order(
    tmp_path: Path, weights: Weights
) -> None:
    names = ["b.pt", "a10.pt", "a9.pt"]
    paths = [tmp_path / name for name in names]
    assert [p.name for p in sorted(paths, key=natural)] == ["a9.pt", "a10.pt", "b.pt"]
    for path, state in zip(paths, weights.values(), strict=False):
        torch.save(state, path)
    found = hs.spectra(_problem(), paths, 1, density_matvecs=0, trace_matvecs=0)
    assert [Path(one.name).name for one in spectra_of(found).values()] == [
        "a9.pt", "a10.pt", "b.pt",
    ]  # fmt: skip
    assert found.facts["axis"] == "places in the list"
