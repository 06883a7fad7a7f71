"""Ctrl-C at any moment: model, generators and switches come back as they were."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.state import state_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="timers of POSIX")


@pytest.fixture(autouse=True)
def ctrl_c():
    """SIGINT raises, also where the tests run as a job in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


CALLS = {
    "diagnose": lambda p: hs.diagnose(p, lr=0.1, effort="quick"),
    "with Adam": lambda p: hs.diagnose(
        p, torch.optim.Adam(p.model.parameters()), effort="quick", check=False
    ),
    "check": hs.check_problem,
    "kept graphs": lambda p: hs.eigsh(hs.Hessian(p), 2),
    "rebuilt graphs": lambda p: hs.eigsh(hs.Hessian(p, memory=0), 2, verify=False),
    "forward mode": lambda p: hs.Hessian(p, "for") @ torch.ones(p.n),
    "Gauss-Newton": lambda p: hs.eigsh(hs.GaussNewton(p), 2),
    "Fisher": lambda p: hs.eigsh(hs.Fisher(p), 1),
    "elsewhere": lambda p: p.at(p.theta + 1).loss(),
}


def made() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(), nn.Linear(32, 10)
    )
    model[0].weight.grad = torch.ones(32, 20)
    model[4].bias.requires_grad_(False)
    return model


def problem(model: nn.Module) -> hs.Problem:
    data = torch.linspace(-1, 1, 4_000).reshape(200, 20).sin(), torch.arange(200) % 10
    return hs.Problem(model, F.cross_entropy, data, batch_size=50)


def interrupted(times: int) -> tuple[int, list[str]]:
    """How many calls were cut short, and what differs afterwards."""

    armed: list[bool] = []

    def stop(*_):
        if armed:
            raise KeyboardInterrupt

    model, generator = made(), random.Random(0)
    seconds, differences, cut = {}, [], 0
    for name, call in CALLS.items():
        call(problem(model))
        start = time.process_time()
        call(problem(model))
        seconds[name] = time.process_time() - start
    before, own = state_of(model), signal.signal(signal.SIGPROF, stop)
    try:
        for i in range(times):
            name = list(CALLS)[i % len(CALLS)]
            try:
                armed.append(True)
                signal.setitimer(signal.ITIMER_PROF, 3e-4 + generator.random() * seconds[name])
                CALLS[name](problem(model))
                armed.clear()  # a signal that comes late, when the call is over, is none
            except KeyboardInterrupt:
                cut += 1
            finally:
                armed.clear()
                signal.setitimer(signal.ITIMER_PROF, 0)
            after = state_of(model)
            differences += [f"{name}: {key}" for key in after if after[key] != before[key]]
            if signal.getsignal(signal.SIGPROF) is not stop:
                differences.append(f"{name}: handler")
    finally:
        signal.signal(signal.SIGPROF, own)
    return cut, differences


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in callbacks
@pytest.mark.parametrize("times", [9, pytest.param(300, marks=pytest.mark.slow)])
def test_interrupts_leave_nothing_behind(times):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "interrupted: returning the verdicts on ..."
        cut, differences = interrupted(times)
    assert differences == []
    assert cut > 0


class Interrupting(nn.Module):
    """Presses Ctrl-C in the midst of a forward pass that has left its traces."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(20, 10), []

    def forward(self, x):
        self.calls.append(1)
        torch.rand(1)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("user code is interrupted at once")


def test_a_forward_pass_is_interrupted_at_once_and_undone():
    model = Interrupting()
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        problem(model).loss()
    assert state_of(model) == before
    assert model.calls == []


def test_data_is_interrupted_at_once():
    class Slow:
        def __iter__(self):
            torch.rand(1)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("user code is interrupted at once")
            yield

    model = made()
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        hs.Problem(model, F.cross_entropy, Slow())
    assert state_of(model) == before
