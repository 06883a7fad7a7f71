"""Hooks on parameters clip or mask gradients of training; what is measured is the loss's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).double()
LABELS = torch.arange(40) % 3
HOOKS = {
    "clamp": lambda g: g.clamp(-0.01, 0.01),
    "mask": lambda g: g * (torch.arange(g.numel()).reshape(g.shape) % 2),
    "scale": lambda g: 3.0 * g,
    "none": lambda g: None,
}


@pytest.mark.parametrize("product", ["reverse", "forward-over-reverse", "finite-difference"])
@pytest.mark.parametrize("hook", HOOKS)
def test_products_and_gradients_are_those_without_hooks(hook, product):
    plain, hooked = network(), network()
    for parameter in hooked.parameters():
        parameter.register_hook(HOOKS[hook])
    before = [parameter._backward_hooks for parameter in hooked.parameters()]
    options = {} if product == "reverse" else {"product": product}
    p, q = (hs.Problem(model, F.cross_entropy, (INPUTS, LABELS)) for model in (plain, hooked))
    v = torch.randn(p.n).double()
    assert torch.equal(p.gradient(), q.gradient())
    expected, found = (hs.Hessian(problem, **options) @ v for problem in (p, q))
    assert (expected - found).norm() <= 1e-14 * expected.norm()
    assert hs.check_problem(q).ok
    assert [parameter._backward_hooks for parameter in hooked.parameters()] == before


def test_hooks_run_again_in_the_users_training():
    model, called = network(), []
    model[0].weight.register_hook(lambda g: called.append(1))
    problem = hs.Problem(model, F.cross_entropy, (INPUTS, LABELS))
    hs.eigsh(hs.Hessian(problem), 1)
    assert called == []
    F.cross_entropy(model(INPUTS), LABELS).backward()
    assert called == [1]


def penalty_on(parameters):
    held = list(parameters)
    return lambda outputs, targets: (
        F.cross_entropy(outputs, targets) + sum(p.square().sum() for p in held)
    )


@pytest.mark.parametrize("share", [slice(None), slice(0, 1), slice(3, 4)])
def test_a_penalty_on_parameters_listed_before_is_found_by_name(share):
    model = network()
    names = [name for name, _ in model.named_parameters()][share]
    loss = penalty_on([dict(model.named_parameters())[name] for name in names])
    check = hs.check_problem(hs.Problem(model, loss, (INPUTS, LABELS)))
    assert [fault.name for fault in check.faults] == ["captured_parameters"]
    assert names[0] in check.faults[0].cause


def test_a_penalty_read_from_the_model_is_no_fault():
    model = network()

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) + sum(p.square().sum() for p in model.parameters())

    assert hs.check_problem(hs.Problem(model, loss, (INPUTS, LABELS))).ok


def test_frozen_parameters_may_be_held():
    model = network()
    model[0].requires_grad_(False)
    loss = penalty_on(model[0].parameters())
    assert hs.check_problem(hs.Problem(model, loss, (INPUTS, LABELS))).ok
