"""State in plain attributes: every evaluation meets the same model, and the user gets it back."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem.behind import modules_in, reached_by

INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.arange(12) % 3


class Remembering(nn.Module):
    """A network that remembers something of each call and lets it act on the next."""

    def __init__(self, remember) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3).double()
        self.remember = remember
        self.scale, self.seen, self.cache = 1.0, [], {}
        self.state, self.counter = torch.ones(3).double(), torch.zeros(1)

    def forward(self, x):
        outputs = self.layer(x) * self.scale * (1 + len(self.seen) + len(self.cache)) * self.state
        outputs = outputs * (1 + float(self.counter))
        self.remember(self, outputs)
        return outputs


def number(model, outputs):
    model.scale = 2.0


def new_name(model, outputs):
    model.scale = model.scale + 1.0 if hasattr(model, "later") else model.scale
    model.later = True


def list_(model, outputs):
    model.seen.append(outputs)


def dictionary(model, outputs):
    model.cache["keys"] = outputs


def replaced(model, outputs):
    model.state = outputs.mean(0)


def in_place(model, outputs):
    model.counter.add_(1)


def deleted(model, outputs):
    model.scale = model.scale * (0.5 if not hasattr(model, "cache") else 1.0)
    if hasattr(model, "cache"):
        model.cache = {"gone": 1}


KINDS = [number, new_name, list_, dictionary, replaced, in_place, deleted]


def reference(remember) -> tuple[float, torch.Tensor]:
    """Loss and Hessian of a network that has been called once: as at the first call."""
    model = Remembering(lambda *_: None)
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(t):
        return F.cross_entropy(INPUTS @ t[:12].view(3, 4).T + t[12:], LABELS)

    return float(loss(theta)), torch.autograd.functional.hessian(loss, theta)


@pytest.mark.parametrize("remember", KINDS)
def test_every_evaluation_is_the_first(remember):
    model = Remembering(remember)
    problem = hs.Problem(model, F.cross_entropy, (INPUTS, LABELS))
    loss, H = reference(remember)
    assert [problem.loss() for _ in range(3)] == pytest.approx([loss] * 3, rel=1e-14)
    assert (hs.Hessian(problem).to_dense() - H).abs().max() <= 1e-14
    assert hs.check_problem(problem).ok


@pytest.mark.parametrize("remember", KINDS)
def test_the_users_model_is_left_as_it_was(remember):
    model = Remembering(remember)
    state, names = model.state, set(vars(model))
    hs.diagnose(hs.Problem(model, F.cross_entropy, (INPUTS, LABELS)), effort="quick")
    assert set(vars(model)) == names
    assert (model.scale, model.seen, model.cache) == (1.0, [], {})
    assert model.state is state
    assert torch.equal(state, torch.ones(3).double())
    assert float(model.counter) == 0
    copy.deepcopy(model)  # no graph was left behind


def generator_network():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()


AT_THE_TOP = generator_network()


def uses_a_global(model, batch):
    return model(AT_THE_TOP(batch[0])).square().mean()


HELD = {
    "closure": lambda g: lambda model, batch: model(g(batch[0])).square().mean(),
    "partial": lambda g: partial(
        lambda model, batch, held: model(held(batch[0])).square().mean(), held=g
    ),
    "default": lambda g: lambda model, batch, held=g: model(held(batch[0])).square().mean(),
    "inside a list": lambda g: (
        lambda gs: lambda model, batch: model(gs[0](batch[0])).square().mean()
    )([g]),
}


@pytest.mark.parametrize("how", HELD)
def test_modules_that_a_closure_holds_are_left_as_they_were(how):
    other = generator_network().train()
    before = copy.deepcopy(other.state_dict())
    problem = hs.Problem.from_closure(nn.Linear(4, 1).double(), HELD[how](other), [(INPUTS,)])
    losses = {problem.loss() for _ in range(3)}
    hs.eigsh(hs.Hessian(problem), 2)
    assert len(losses) == 1
    assert other.training
    assert all(torch.equal(now, before[name]) for name, now in other.state_dict().items())


def test_modules_that_a_script_defines_at_its_top_are_left_as_they_were():
    before = copy.deepcopy(AT_THE_TOP.state_dict())
    problem = hs.Problem.from_closure(nn.Linear(4, 1).double(), uses_a_global, [(INPUTS,)])
    assert len({problem.loss() for _ in range(3)}) == 1
    now = AT_THE_TOP.state_dict()
    assert all(torch.equal(now[name], old) for name, old in before.items())


def test_modules_are_found_once_behind_functions_within_functions():
    layer = nn.Linear(1, 1)
    inner = partial(lambda held, x: held(x), layer)
    assert modules_in(reached_by(lambda x: inner(x))) == [layer]
    assert modules_in(reached_by(lambda x: x)) == []


class InstallsHooksOnce(nn.Module):
    """Registers a hook at its first call, and remembers in an attribute that it has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x):
        if not getattr(self, "installed", False):
            self.layer.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
            self.installed = True
        return self.layer(x)


class ReplacesASubmodule(nn.Module):
    """Swaps a layer for another one as soon as an input is short."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale = nn.Linear(4, 3).double(), nn.Identity()

    def forward(self, x):
        outputs = self.scale(self.layer(x))
        self.scale = nn.Tanh()
        return outputs


@pytest.mark.parametrize(("build", "factor"), [(InstallsHooksOnce, 2.0), (ReplacesASubmodule, 1.0)])
def test_hooks_and_submodules_are_those_of_the_first_call(build, factor):
    model = build()
    theta = torch.cat([p.detach().reshape(-1) for p in model.layer.parameters()])

    def loss(t):
        return F.cross_entropy(factor * (INPUTS @ t[:12].view(3, 4).T + t[12:]), LABELS)

    problem = hs.Problem(model, F.cross_entropy, (INPUTS, LABELS))
    assert [problem.loss() for _ in range(3)] == pytest.approx([float(loss(theta))] * 3, rel=1e-14)
    H = torch.autograd.functional.hessian(loss, theta)
    assert (hs.Hessian(problem).to_dense() - H).abs().max() <= 1e-13
    assert not model.layer._forward_hooks
    assert not hasattr(model, "installed")
    assert not isinstance(getattr(model, "scale", None), nn.Tanh)
