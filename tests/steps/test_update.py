"""The step is the optimiser's own."""

import copy
import re

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from hesscope.steps.update import update
from tests.oracles import data, network
from tests.state import state_of

X, Y = data(40, 5, 3)
O = torch.optim  # noqa: E741
STEPPED = {
    "SGD": lambda p: O.SGD(p, lr=0.1),
    "SGD foreach": lambda p: O.SGD(p, lr=0.1, foreach=True),
    "SGD tensor lr": lambda p: O.SGD(p, lr=torch.tensor(0.1)),
    "decay": lambda p: O.SGD(p, lr=0.1, weight_decay=0.3),
    "momentum": lambda p: O.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
    "Nesterov": lambda p: O.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "ascent": lambda p: O.SGD(p, lr=0.1, momentum=0.9, maximize=True),
    "Adam": lambda p: O.Adam(p, lr=0.01, weight_decay=0.1),
    "Adam fused": lambda p: O.Adam(p, lr=0.01, fused=True),
    "AMSGrad": lambda p: O.Adam(p, lr=0.01, amsgrad=True, betas=(0.8, 0.95)),
    "AdamW": lambda p: O.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: O.RMSprop(p, lr=0.01, weight_decay=0.1),
    "RMSprop centred": lambda p: O.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "Adagrad": lambda p: O.Adagrad(p, lr=0.01, lr_decay=0.1),
    "Adadelta": lambda p: O.Adadelta(p),
    "Adamax": lambda p: O.Adamax(p),
    "NAdam": lambda p: O.NAdam(p),
    "RAdam": lambda p: O.RAdam(p),
    "Rprop": lambda p: O.Rprop(p),
    "ASGD": lambda p: O.ASGD(p),
    "Adafactor": lambda p: O.Adafactor(p),
}


class Lion(O.Optimizer):
    """Sign descent with a constructor and an attribute of its own."""

    def __init__(self, params, scale, *, lr):
        super().__init__(params, {"lr": lr})
        self.scale = {"by": scale}

    @torch.no_grad()
    def step(self, closure=None):
        self.scale["by"] *= 0.5
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 0.1)
                    p.sub_(group["lr"] * self.scale["by"] * m.sign())


STEPPED["own class"] = lambda p: Lion(p, 3.0, lr=0.01)


def trained(make, steps=3, dtype=torch.float64):
    model = network(5, 7, 3).to(dtype)
    optimiser = make(model.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(X.to(dtype)), Y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return hs.Problem(model, F.cross_entropy, (X.to(dtype), Y)), optimiser


def real_step(problem, optimiser, gradient):
    """By stepping copies of model and optimiser, made together, for real."""
    model, stepped = copy.deepcopy((problem.model, optimiser))
    if isinstance(optimiser, Lion):  # torch's optimisers copy no attributes
        stepped.scale = dict(optimiser.scale)
    for p, piece in zip(model.parameters(), problem.layout.split(gradient), strict=True):
        p.grad = piece.clone()
    stepped.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - problem.theta


def optimiser_bytes(optimiser):
    packed = optimiser.state_dict()
    tensors = [t for s in packed["state"].values() for t in s.values()]
    own = repr(getattr(optimiser, "scale", None))
    return (
        own,
        repr(packed["param_groups"]),
        [t.clone().numpy().tobytes() if isinstance(t, torch.Tensor) else t for t in tensors],
    )


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", STEPPED)
def test_the_update_is_what_the_optimiser_does_next_bit_for_bit(name, steps):
    problem, optimiser = trained(STEPPED[name], steps)
    gradient = problem.gradient()
    before, packed = state_of(problem.model), optimiser_bytes(optimiser)
    step = update(problem, optimiser, gradient).step
    assert state_of(problem.model) == before
    assert optimiser_bytes(optimiser) == packed
    assert torch.equal(step, real_step(problem, optimiser, gradient))
    assert float(step.norm()) > 0


def test_in_float32_what_rounding_loses_is_stated():
    problem, optimiser = trained(STEPPED["SGD"], dtype=torch.float32)
    gradient = 1e-3 * problem.gradient()
    found = update(problem, optimiser, gradient)
    error = float((found.step.double() + 0.1 * gradient.double()).norm())
    assert 0 < error <= found.rounding + 1e-6 * float(found.step.norm())


def test_a_scheduler_that_wraps_step_does_not_reach_the_live_optimiser():
    problem, optimiser = trained(STEPPED["momentum"])
    O.lr_scheduler.StepLR(optimiser, 1)
    packed = optimiser_bytes(optimiser)
    gradient = problem.gradient()
    assert torch.equal(
        update(problem, optimiser, gradient).step, real_step(problem, optimiser, gradient)
    )
    assert optimiser_bytes(optimiser) == packed


def test_hooks_on_the_optimiser_do_not_run():
    problem, optimiser = trained(STEPPED["SGD"])
    optimiser.register_step_pre_hook(lambda *_: pytest.fail("the hook ran"))
    optimiser.register_step_post_hook(lambda *_: pytest.fail("the hook ran"))
    gradient = problem.gradient()
    expected = (problem.theta - 0.1 * gradient) - problem.theta
    assert torch.allclose(update(problem, optimiser, gradient).step, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["momentum", "Adam", "own class"])
def test_a_block_moves_as_it_does_in_the_whole_with_each_groups_options(name):
    def grouped(parameters):
        ps = list(parameters)
        return STEPPED[name]([{"params": ps[:2], "lr": 0.5}, {"params": ps[2:]}])

    problem, optimiser = trained(grouped)
    whole = update(problem, optimiser, problem.gradient()).step
    for block in problem.blocks().values():
        inside = torch.cat([whole[problem.layout.slices()[n]] for n in block.layout.names])
        assert torch.equal(update(block, optimiser, block.gradient()).step, inside)


class TwoGradients(O.Optimizer):
    """Needs a closure, and says so when it steps, as sharpness-aware minimisation does."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        assert closure is not None, "give a closure"


def test_what_goes_wrong_in_a_class_of_ones_own_is_told_as_that():
    problem, optimiser = trained(TwoGradients, steps=0)
    message = (
        "one gradient does not tell the next step of TwoGradients: on a copy of it, "
        "TwoGradients.step() raised AssertionError: give a closure"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        update(problem, optimiser, problem.gradient())


@pytest.mark.parametrize("name", ["momentum", "Adam", "AdamW", "Adagrad", "NAdam"])
def test_without_learning_rate_there_is_no_step(name):
    problem, optimiser = trained(STEPPED[name])
    optimiser.param_groups[0]["lr"] = 0.0
    assert not bool(update(problem, optimiser, problem.gradient()).step.any())


def test_frozen_parameters_that_the_optimiser_holds_stay_out():
    problem, optimiser = trained(STEPPED["momentum"])
    problem.model[0].requires_grad_(False)
    part = hs.Problem(problem.model, F.cross_entropy, (X, Y))
    assert update(part, optimiser, part.gradient()).step.shape == (part.n,)


def test_elsewhere_the_step_starts_elsewhere():
    problem, optimiser = trained(STEPPED["decay"])
    elsewhere = problem.at(2 * problem.theta)
    step = update(elsewhere, optimiser, torch.zeros(problem.n)).step
    assert torch.allclose(step, -0.1 * 0.3 * 2 * problem.theta, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "gradient", "message"),
    [
        (lambda p: O.LBFGS(p), None, "LBFGS evaluates the loss during its step (a closure), so one "
         "gradient is too little."),
        (lambda p: O.SparseAdam(p), None, "SparseAdam steps from sparse gradients; use Adam to see "
         "its step."),
        (lambda p: O.SGD(list(p)[:1], lr=0.1), None, "the optimiser does not hold 0.bias, 2.weight,"
         " 2.bias (3 of 4 parameters); give the one that trains them, or look at the others alone "
         "with problem.block(names)."),
        (lambda p: O.SGD(p, lr=0.1), torch.full((66,), torch.nan), "the gradient is NaN or "
         "infinite, and so would be the step; look at problem.loss()."),
        (lambda p: O.SGD(p, lr=0.1), torch.zeros(3), "a vector of shape (3,) does not fit 66 "
         "parameters; give a tensor of shape (66,), such as problem.theta."),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_foreseen_are_refused(make, gradient, message):
    problem, optimiser = trained(make, steps=0)
    gradient = problem.gradient() if gradient is None else gradient
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        update(problem, optimiser, gradient)
