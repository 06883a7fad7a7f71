"""Threads: those that look take turns, training loses nothing, and the look says what happened."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem import turns
from tests.state import state_of


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3))


def problem(model: nn.Module) -> hs.Problem:
    inputs = torch.linspace(-1, 1, 120).reshape(20, 6).sin()
    return hs.Problem(model, F.cross_entropy, (inputs, torch.arange(20) % 3))


class Counter(nn.Module):
    """Its weight is the number of training steps that it has seen, if none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        return self.weight * x


def train(model: Counter, steps: int, modes: list[bool]) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = -model(torch.ones(3, dtype=torch.float64)).sum()
        modes.append(model.training)
        loss.backward()
        optimiser.step()


def beside_training(look, steps: int) -> tuple[Counter, list[str], list[bool]]:
    """Looks again and again while another thread trains; what the looks raised."""
    model, modes, errors = Counter(), [], []
    data = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    watched = hs.Problem(model, F.mse_loss, data)
    trainer = threading.Thread(target=train, args=(model, steps, modes), name="trainer")
    trainer.start()
    while trainer.is_alive():
        try:
            look(watched)
        except RuntimeError as error:
            errors.append(str(error))
    trainer.join()
    return model, errors, modes


TOLD = (
    "thread 'trainer' used this Counter while hesscope looked at it in another thread, so what was "
    "measured belongs to no point. Look at a copy, made between two steps of the training: "
    "problem.frozen_copy()."
)


@pytest.mark.parametrize("memory", [None, 0])
def test_training_in_another_thread_loses_no_step_and_the_look_says_so(memory):
    steps = 300
    model, errors, _ = beside_training(lambda p: hs.eigsh(hs.Hessian(p, memory=memory), 2), steps)
    assert model.weight.tolist() == [steps] * 3
    assert set(errors) == {TOLD}


def test_a_frozen_copy_is_looked_at_beside_training():
    model = made()
    frozen = problem(model).frozen_copy()
    exact = hs.spectrum(hs.Hessian(frozen)).eigenvalues
    stop = threading.Event()

    def go_on():
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        while not stop.is_set():
            optimiser.zero_grad()
            model(torch.ones(2, 6)).square().sum().backward()
            optimiser.step()

    trainer = threading.Thread(target=go_on)
    trainer.start()
    for _ in range(5):
        assert torch.equal(hs.spectrum(hs.Hessian(frozen)).eigenvalues, exact)
    stop.set()
    trainer.join()
    assert not torch.equal(problem(model).theta, frozen.theta)
    assert model.training


def test_threads_that_look_at_one_model_take_turns():
    model = made()
    expected = hs.spectrum(hs.Hessian(problem(model))).eigenvalues
    before, found = state_of(model), []

    def look():
        found.extend(hs.spectrum(hs.Hessian(problem(model))).eigenvalues for _ in range(5))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15
    assert all(torch.equal(values, expected) for values in found)
    assert state_of(model) == before


def test_a_thread_that_is_waited_for_inside_a_look_is_not_waited_for_in_vain(monkeypatch):
    monkeypatch.setattr(turns, "WAIT", 0.05)
    model = made()
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()

    def look():
        with problem(model).evaluation():
            user = threading.Thread(target=model, args=(torch.ones(1, 6),), name="user")
            user.start()
            user.join(10)
            assert not user.is_alive()

    with pytest.raises(RuntimeError, match="thread 'user' used this Sequential"):
        look()
    stop.set()
    other.join()
    assert model.training


def test_a_copy_of_what_cannot_be_copied_is_refused():
    model = made()
    model.result = model(torch.ones(1, 6))  # a tensor with a graph
    with pytest.raises(ValueError, match="this Sequential cannot be copied: "):
        problem(model).frozen_copy()
