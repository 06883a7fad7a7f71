"""A monitor tells the truth and touches nothing."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import hesscope as hs
from hesscope import store
from hesscope.monitor.rows import ROWS

X = torch.randn(96, 8, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3)
    )


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
}


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 20,
    told: Callable[[Tensor], object] = lambda _: None,
) -> list[Tensor]:
    """Training with accumulation, clipping and a scheduler; all that it leaves behind."""
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(2):
            index = torch.randint(0, 96, (16,))
            loss = cross_entropy(model(X[index]), Y[index])
            (loss / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        told(loss)
        losses.append(loss.detach())
    state = [t for t in model.state_dict().values()]
    moments = [
        t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)
    ]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*losses, *state, *moments, *gradients, torch.get_rng_state()]


@pytest.mark.parametrize(
    ("kind", "everything"), [("momentum", True), ("adamw", False), ("foreach", False)]
)
def test_training_is_the_same_to_the_bit(kind: str, everything: bool, tmp_path: Path) -> None:
    ends = []
    for watched in (False, True):
        model = _network()
        optimizer = OPTIMISERS[kind](model.parameters())
        torch.manual_seed(7)
        if not watched:
            ends.append(_train(model, optimizer))
            continue
        problem = hs.Problem(model, nn.CrossEntropyLoss(), (X[:32], Y[:32]))
        keys = [row.key for row in ROWS] if everything else None
        with hs.Monitor(problem, optimizer, every=10, quantities=keys, to=tmp_path) as monitor:
            ends.append(_train(model, optimizer, told=monitor.step))
        assert monitor.history["lambda_max"].steps.tolist() == [0, 10]
        assert len(monitor.history["train_loss"]) == 20
    assert len(ends[0]) == len(ends[1])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def _exact(problem: hs.Problem) -> Tensor:
    return hs.Hessian(problem).to_dense().double()


def test_numbers_agree_with_the_dense_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    targets = torch.randn(96, 2, generator=torch.Generator().manual_seed(2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5, weight_decay=1e-3)
    problem = hs.Problem(model, nn.MSELoss(), (X.double(), targets))
    truth: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        truth.setdefault(key, []).append(float(value))

    velocity = torch.zeros(problem.n).double()
    keys = [row.key for row in ROWS]
    with hs.Monitor(problem, optimizer, every=1, quantities=keys, held_out=problem) as monitor:
        for _ in range(3):
            index = torch.randint(0, 96, (8,))
            optimizer.zero_grad()
            mse_loss(model(X[index].double()), targets[index]).backward()
            H, g, before = _exact(problem), problem.gradient(), problem.loss()
            values, vectors = torch.linalg.eigh(H)
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            velocity = 0.5 * velocity + gradient + 1e-3 * problem.theta
            d = -0.2 * velocity
            note("loss", before)
            note("held_out_loss", before)
            note("gradient_norm", g.norm())
            note("training_gradient_norm", gradient.norm())
            note("lambda_max", values[-1])
            note("lambda_min", values[0])
            note("condition", values[-1] / values[0])
            note("step_sharpness", 0.2 * (values[-1] + 1e-3))
            note("sharpness_over_limit", 0.2 * (values[-1] + 1e-3) / 3)
            note("gradient_curvature", g @ H @ g / (g @ g))
            note("update_norm", d.norm())
            note("update_curvature", d @ H @ d / (d @ d))
            note("gradient_in_top", (vectors[:, -1] @ g) ** 2 / (g @ g))
            note("update_in_top", (vectors[:, -1] @ d) ** 2 / (d @ d))
            note("predicted_change", g @ d + d @ H @ d / 2)
            optimizer.step()
            note("measured_change", problem.loss() - before)
            note("layer/0/trace", H.diagonal()[:54].sum())
            note("layer/2/lambda_max", torch.linalg.eigvalsh(H[54:, 54:])[-1])
            note("trace", H.trace())
    history = monitor.history
    assert not history.events
    for key, expected in truth.items():
        found = history[key].values.tolist()
        if key.endswith("_in_top"):  # a value right to .003 has a vector right to an angle of .055
            assert found == pytest.approx(expected, abs=2 * 0.055), key
        elif not key.endswith("trace"):
            rel = 0.05 if key == "condition" else 0.02
            assert found == pytest.approx(expected, rel=rel), key
    for exact in ("loss", "gradient_norm", "update_norm", "predicted_change", "measured_change"):
        assert history[exact].values.tolist() == pytest.approx(truth[exact], rel=1e-9), exact
    spread = history["trace_stderr"].values
    assert bool((spread < 0.2 * history["trace"].values).all())
    off = history["trace"].values - torch.tensor(truth["trace"])
    assert bool((off.abs() <= 5 * spread).all())


def test_adaptive_steps_have_a_sharpness_of_their_own() -> None:
    model = _network().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X[:32].double(), Y[:32]))
    expected = []
    with hs.Monitor(problem, optimizer, every=1, quantities=["stability"]) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            cross_entropy(model(X.double()), Y).backward()
            if step:
                P = hs.PreconditionedHessian(problem, optimizer).preconditioner()
                scaled = _exact(problem) / P.sqrt() / P.sqrt()[:, None]
                expected.append(1e-2 * float(torch.linalg.eigvalsh(scaled)[-1]))
            optimizer.step()
    history = monitor.history
    assert history["step_sharpness"].steps.tolist() == [1, 2]  # before the first step there is no P
    assert history["step_sharpness"].values.tolist() == pytest.approx(expected, rel=0.02)
    limit = history["step_sharpness"].values / history["sharpness_over_limit"].values
    assert limit.tolist() == pytest.approx([38.0, 38.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_near_1e_30_is_watched_like_any_other(dtype: torch.dtype) -> None:
    found = []
    for size in (1.0, 2.0**-100):
        model = _network().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / size)
        problem = hs.Problem.from_closure(
            model.eval(),
            lambda m, b, size=size: size * cross_entropy(m(b[0]), b[1]),
            [(X.to(dtype), Y)],
        )
        with hs.Monitor(problem, optimizer, every=1) as monitor:
            for _ in range(3):
                optimizer.zero_grad()
                (size * cross_entropy(model(X.to(dtype)), Y)).backward()
                optimizer.step()
        assert not monitor.history.events
        found.append(monitor.history)
    for key in (
        "lambda_max",
        "gradient_norm",
        "predicted_change",
        "update_curvature",
        "gradient_curvature",
    ):
        small = found[1][key].values / 2.0**-100
        assert small.tolist() == pytest.approx(found[0][key].values.tolist(), rel=0.02), key
    ratios = [history["sharpness_over_limit"].values.tolist() for history in found]
    assert ratios[1] == pytest.approx(ratios[0], rel=0.02)


def test_a_row_that_fails_goes_off_and_training_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def broken(problem: hs.Problem) -> float:
        calls.append(problem.n)
        return float({}["no such thing"])

    def mine(problem: hs.Problem) -> float:
        return float(problem.n)

    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X[:32], Y[:32]))
    with caplog.at_level(logging.WARNING):
        monitor = hs.Monitor(problem, optimizer, every=2, quantities=[broken, mine, "loss"])
        _train(model, optimizer, 6)
    assert len(calls) == 1
    assert monitor.history["mine"].values.tolist() == [problem.n] * 3
    assert len(monitor.history["loss"]) == 3
    assert [(e.step, e.kind) for e in monitor.history.events] == [(0, "switched off")]
    assert len([r for r in caplog.records if "broken (KeyError" in r.getMessage()]) == 1


def test_a_loss_that_is_not_finite_is_an_event_and_no_end() -> None:
    problem = hs.Problem.from_function(lambda t: t.square().sum() ** 8, torch.ones(2).double())
    theta = problem.model.theta
    optimizer = torch.optim.SGD([theta], lr=0.1)
    monitor = hs.Monitor(problem, optimizer, every=1)
    for value in (1.0, 1e200, 0.5):
        with torch.no_grad():
            theta.fill_(value)
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
    assert monitor.history["loss"].steps.tolist() == [0, 2]
    assert [(e.step, e.kind) for e in monitor.history.events] == [(1, "not finite")]


def test_without_an_optimiser_step_is_called() -> None:
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    with hs.Monitor(problem, every=2) as monitor:
        for _ in range(5):
            monitor.step(0.25)
    assert monitor.history["lambda_max"].steps.tolist() == [0, 2, 4]
    assert monitor.history["train_loss"].steps.tolist() == [0, 1, 2, 3, 4]
    assert "lr" not in monitor.history
    assert not monitor.history.events


def test_a_folder_is_continued_where_training_is(tmp_path: Path) -> None:
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X[:32], Y[:32]))
    for first in (None, None, 12):
        with hs.Monitor(
            problem,
            optimizer,
            every=4,
            to=tmp_path,
            first_step=first,
            quantities=["loss", "density"],
        ):
            _train(model, optimizer, 8)
    history = hs.load(tmp_path)
    assert history["loss"].steps.tolist() == [0, 4, 8, 12, 16]
    assert isinstance(history.results["density"][16], hs.SpectralDensity)
    assert history.facts["optimizer"] == "SGD"
    assert len(history.facts["data_hash"]) == 16


class _Logger:
    """Notes what it is told, in the way that a kind of logger is told things."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def told(self, numbers: dict[str, float], step: int) -> None:
        self.seen.append((step, numbers))


class _WandB(_Logger):
    def log(self, numbers: dict[str, float], step: int) -> None:
        self.told(numbers, step)


class _Board(_Logger):
    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told({name: value}, step)


class _MLflow(_Logger):
    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        self.told(numbers, step)


def test_loggers_are_told() -> None:
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    loggers = [_WandB(), _Board(), _MLflow()]
    hs.Monitor(problem, every=1, log=loggers).step()
    for logger in loggers:
        numbers = {key: x for step, part in logger.seen for key, x in part.items() if step == 0}
        assert numbers["hesscope/loss"] == 2.0
        assert numbers["hesscope/lambda_max"] == pytest.approx(2.0)
    with pytest.raises(ValueError, match="log: a int has none of"):
        hs.Monitor(problem, log=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "no number of steps"),
        ({"overhead": 0.0}, "no share of the time"),
        ({"every": 1, "overhead": 0.1}, "not both"),
        ({"quantities": ["sharpness"]}, "'sharpness' is not known. Choose from loss"),
        ({"optimizer": "adam"}, "no optimiser of torch"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2))
    with pytest.raises(ValueError, match=words):
        hs.Monitor(problem, **arguments)


def test_a_check_that_could_not_be_written_is_an_event_once_writing_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    write, full = store.RunFolder.add, [False]

    def add(*arguments: Any, **parts: Any) -> None:
        if full[0]:
            msg = "the disk is full"
            raise RuntimeError(msg)
        write(*arguments, **parts)

    monkeypatch.setattr(store.RunFolder, "add", add)
    monitor = hs.Monitor(problem, every=1, to=tmp_path, quantities=["loss"])
    for full[0] in (False, True, False):
        monitor.step(0.5)
    written = hs.load(tmp_path)
    assert written["loss"].steps.tolist() == [0, 2]
    assert [(event.step, event.kind) for event in written.events] == [(1, "failed")]
    assert "the disk is full" in written.events[0].text
    monitor.step(0.5)
    monitor.step(0.25)
    full[0] = True
    monitor._losses.append((9, 0.125))
    with caplog.at_level(logging.WARNING):
        monitor.close()
    assert "the end was not written (RuntimeError: the disk is full)" in caplog.text
    assert monitor.history["train_loss"].last == 0.125


def test_closing_lets_the_optimiser_alone(tmp_path: Path) -> None:
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X[:32], Y[:32]))
    hooks = copy.copy(optimizer._optimizer_step_pre_hooks)
    monitor = hs.Monitor(problem, optimizer, every=1, to=tmp_path)
    monitor.close()
    monitor.close()
    assert optimizer._optimizer_step_pre_hooks == hooks
    _train(model, optimizer, 2)
    assert len(monitor.history) == 0
    assert math.isnan(monitor.history.get("loss").last)
