"""P is what torch's optimisers divide by: read off their own steps."""

import math
import re

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, network

X, Y = data(40, 5, 3)
OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "RMSprop centred": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01),
}


def trained(name: str, steps: int = 3) -> tuple[hs.Problem, torch.optim.Optimizer]:
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    optimiser = OPTIMISERS[name](problem.model.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(problem.model(X), Y).backward()
        optimiser.step()
    return problem, optimiser


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_operator_is_similar_to_the_hessian_divided_by_p(name):
    problem, optimiser = trained(name)
    A = hs.PreconditionedHessian(problem, optimiser)
    root = A.preconditioner().rsqrt()
    H = hs.Hessian(problem).to_dense()
    assert torch.allclose(A.to_dense(), root[:, None] * H * root, rtol=0, atol=1e-12)
    assert hs.check_operator(A).ok


@pytest.mark.parametrize("steps", [2, 9])  # RAdam leaves out v up to its sixth step
@pytest.mark.parametrize(
    "name",
    ["RMSprop", "RMSprop centred", "Adagrad", "Adam", "AMSGrad", "AdamW", "RAdam", "Adamax",
     "Adadelta"],
)  # fmt: skip
def test_p_is_what_the_last_step_divided_by(name, steps):
    """The last step was -lr m / P, with m the gradient or Adam's uncorrected first moment."""
    problem, optimiser = trained(name, steps)
    before = problem.theta
    deltas = [dict(optimiser.state[p]).get("acc_delta") for p in problem.model.parameters()]
    deltas = [delta if delta is None else delta.clone() for delta in deltas]
    optimiser.zero_grad()
    F.cross_entropy(problem.model(X), Y).backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in problem.model.parameters()])
    optimiser.step()
    states = [optimiser.state[p] for p in problem.model.parameters()]
    if "exp_avg" in states[0]:
        gradient = torch.cat([state["exp_avg"].reshape(-1) for state in states])
    for state, delta in zip(states, deltas, strict=True):
        if delta is not None:  # Adadelta's step comes before its average of steps moves on
            state["acc_delta"] = delta
    P = hs.PreconditionedHessian(problem, optimiser).preconditioner()
    step = problem.theta - before
    assert torch.allclose(step, -0.01 * gradient / P, rtol=1e-9, atol=1e-15)


def test_nadam_divides_the_gradient_and_its_average_by_the_same_p():
    """Its third step is -lr (a g + b m) / P with μₜ = β₁ (1 - 0.96^(ψt)/2)."""
    problem, optimiser = trained("NAdam", steps=2)
    before = problem.theta
    optimiser.zero_grad()
    F.cross_entropy(problem.model(X), Y).backward()
    g = torch.cat([p.grad.reshape(-1) for p in problem.model.parameters()])
    optimiser.step()
    states = [optimiser.state[p] for p in problem.model.parameters()]
    m = torch.cat([state["exp_avg"].reshape(-1) for state in states])
    mu = [0.8 * (1 - 0.96 ** (4e-3 * t) / 2) for t in (1, 2, 3, 4)]
    a, b = (1 - mu[2]) / (1 - math.prod(mu[:3])), mu[3] / (1 - math.prod(mu))
    P = hs.PreconditionedHessian(problem, optimiser).preconditioner()
    step = problem.theta - before
    assert torch.allclose(step, -0.01 * (a * g + b * m) / P, rtol=1e-6, atol=1e-12)


def test_p_follows_the_optimiser():
    problem, optimiser = trained("Adam")
    A = hs.PreconditionedHessian(problem, optimiser)
    before = A.preconditioner()
    F.cross_entropy(problem.model(X), Y).backward()
    optimiser.step()
    assert not torch.equal(A.preconditioner(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: torch.optim.Adam(p, lr=0.1),
            "Adam has no state for 0.weight yet; make at least one optimiser step first.",
        ),
        (
            lambda p: torch.optim.SGD(list(p)[:1], lr=0.1),
            "the optimiser does not hold 0.bias, 2.weight, 2.bias (3 of 4 parameters); give the one"
            " that trains them, or look at the others alone with problem.block(names).",
        ),
        (
            lambda p: torch.optim.Rprop(p, lr=0.1),
            "the preconditioner of Rprop is not known; those of SGD, ASGD, RMSprop, Adagrad, "
            "Adadelta, AdamW, Adam, NAdam, RAdam, Adamax, Adafactor are.",
        ),
    ],
)
def test_optimisers_that_cannot_be_read_are_refused(make, message):
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.PreconditionedHessian(problem, make(problem.model.parameters()))
