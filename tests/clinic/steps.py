"""Steps at, below and above what the curvature bears, for every kind of optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

import hesscope as hs
from tests.clinic.case import Case, Patient
from tests.clinic.data import digits, linear_targets, mlp, sgd, train
from tests.clinic.landscapes import rotation

EIGENVALUES = torch.tensor([100.0, 10.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
CLIMBS = "too large: this step climbs"
GROWS = "the sharpest direction oscillates and grows"
EDGE = "edge of stability"
FINE = "is safe at this point"
cross_entropy, mse = nn.functional.cross_entropy, nn.functional.mse_loss


def spread_quadratic(seed: int) -> hs.Problem:
    """Where the gradient is alike along all eigenvectors: 2 g·g/g·Hg is 5.2 times 2/λmax."""
    Q = rotation(len(EIGENVALUES), seed)
    signs = torch.randn(len(EIGENVALUES)).sign().double()
    return hs.Problem.from_function(
        lambda t: 0.5 * (EIGENVALUES * (Q @ t) ** 2).sum(), Q.T @ (signs / EIGENVALUES)
    )


def along_the_gradient(factor: float) -> Callable[[int], Patient]:
    """lr relative to 2 g·g/g·Hg = 2/(mean eigenvalue)."""

    def make(seed: int) -> Patient:
        return spread_quadratic(seed), {"lr": factor * 2 / float(EIGENVALUES.mean())}

    return make


def along_the_sharpest(factor: float) -> Callable[[int], Patient]:
    """lr relative to 2/λmax."""

    def make(seed: int) -> Patient:
        return spread_quadratic(seed), {"lr": factor * 2 / float(EIGENVALUES.max())}

    return make


def with_momentum(factor: float, *, nesterov: bool = False) -> Callable[[int], Patient]:
    """The first step of SGD with momentum 0.9; lr relative to its own limit."""
    beta = 0.9
    limit = (2 + 2 * beta) / (1 + 2 * beta) if nesterov else 2 + 2 * beta

    def make(seed: int) -> Patient:
        problem = spread_quadratic(seed)
        lr = factor * limit / float(EIGENVALUES.max())
        options = {"lr": lr, "momentum": beta, "nesterov": nesterov}
        return problem, {"optimizer": torch.optim.SGD(problem.model.parameters(), **options)}

    return make


def digit_problem(activation: type[nn.Module] = nn.Tanh, num: int = 200) -> hs.Problem:
    data = digits(num, pooled=True)
    model = mlp(16, 16, 10, activation=activation)
    train(model, cross_entropy, data, sgd(model, 0.3), 20)
    return hs.Problem(model, cross_entropy, data)


def network_step(factor: float) -> Callable[[int], Patient]:
    """lr relative to the smallest one at which a step along the gradient raises the loss.

    Found by doubling and bisection of the loss itself, without derivatives of second order.
    """

    def make(seed: int) -> Patient:
        problem = digit_problem()
        theta, g, start = problem.theta, problem.gradient(), problem.loss()
        climbs = lambda lr: problem.at(theta - lr * g).loss() > start  # noqa: E731
        high = 0.1
        while not climbs(high):
            high *= 2
        low = high / 2
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if climbs(middle) else (middle, high)
        return problem, {"lr": factor * high}

    return make


def edge_of_stability(seed: int) -> Patient:
    """Full-batch gradient descent until λmax hovers at 2/lr (Cohen et al. 2021): tanh, MSE."""
    inputs, labels = digits(150, pooled=True)
    targets = nn.functional.one_hot(labels, 10).double()
    model, lr = mlp(16, 20, 10, activation=nn.Tanh), 0.4
    loss = lambda out, y: 5 * mse(out, y)  # noqa: E731
    train(model, loss, (inputs, targets), sgd(model, lr), 1500)
    return hs.Problem(model, loss, (inputs, targets)), {"lr": lr}


def adaptive(kind: type[Optimizer], factor: float, **options: object) -> Callable[[int], Patient]:
    """An optimiser after small steps on linear regression, its lr then set to `factor` times its
    limit 2/λmax(P⁻¹H), with P = diag(√v̂ + eps) and H = 2 X'X/N from closed forms.
    """

    def make(seed: int) -> Patient:
        X, Y = linear_targets()
        model = nn.Linear(X.shape[1], 1, bias=False).double()
        nn.init.zeros_(model.weight)
        optimizer = kind(model.parameters(), lr=1e-3, **options)
        train(model, mse, (X, Y), optimizer, 10)
        group, state = optimizer.param_groups[0], optimizer.state[model.weight]
        v, limit = (state["square_avg"] if "square_avg" in state else state["exp_avg_sq"]), 2.0
        if kind in (torch.optim.Adam, torch.optim.AdamW):
            b1, b2 = group["betas"]
            v = v / (1 - b2 ** float(state["step"]))
            limit = (2 + 2 * b1) / (1 - b1)
        P = (v.sqrt() + group["eps"]).flatten()
        H = 2 * X.T @ X / len(X)
        sharpness = torch.linalg.eigvalsh(H / P.sqrt() / P.sqrt()[:, None])[-1]
        group["lr"] = factor * limit / float(sharpness)
        return hs.Problem(model, mse, (X, Y)), {"optimizer": optimizer}

    return make


def adaptive_edge(kind: type[Optimizer], lr: float, **options: object) -> Callable[[int], Patient]:
    """A network trained at full batch until P⁻¹H is as sharp as the optimiser bears."""

    def make(seed: int) -> Patient:
        inputs, labels = digits(150, pooled=True)
        targets = nn.functional.one_hot(labels, 10).double()
        model = mlp(16, 20, 10, activation=nn.Tanh)
        optimizer = kind(model.parameters(), lr=lr, **options)
        train(model, mse, (inputs, targets), optimizer, 1500)
        return hs.Problem(model, mse, (inputs, targets)), {"optimizer": optimizer}

    return make


def stale_momentum(seed: int) -> Patient:
    """Heavy momentum carries the parameters through a minimum and up the other side."""
    Q = rotation(4, seed)
    values = torch.tensor([1.0, 0.8, 0.6, 0.5], dtype=torch.float64)
    start = Q.T @ torch.full((4,), 3.0, dtype=torch.float64)
    problem = hs.Problem.from_function(lambda t: 0.5 * (values * (Q @ t) ** 2).sum(), start)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=1e-3, momentum=0.99)
    theta = next(iter(problem.model.parameters()))
    for _ in range(10_000):
        g = problem.gradient()
        buffer = optimizer.state[theta].get("momentum_buffer") if optimizer.state else None
        if buffer is not None and float(g @ (0.99 * buffer + g)) < -0.5 * float(g.norm()):
            return problem, {"optimizer": optimizer}
        theta.grad = g
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError


def to_infinity(seed: int) -> Patient:
    """exp(t²) from a slope of 1e5, by a step that overflows."""
    problem = hs.Problem.from_function(
        lambda t: torch.exp(t**2).sum(), 2 + torch.rand(3, dtype=torch.float64)
    )
    return problem, {"lr": 1.0}


def exploding_network(seed: int) -> Patient:
    """A quadratic loss of a ReLU network at a learning rate of 100."""
    X, Y = linear_targets()
    return hs.Problem(mlp(6, 32, 1), mse, (X, Y)), {"lr": 100.0}


def step(
    name: str,
    make: Callable[[int], Patient],
    *words: str,
    finding: bool = True,
    never: tuple[str, ...] = (),
    tolerated: tuple[str, ...] = (),
) -> Case:
    findings = ("step size",) if finding else ()
    return Case(name, make, {"step size": words}, findings, tolerated, {"step size": never})


CASES = [
    step("0.9 of 2 g·g/g·Hg", along_the_gradient(0.9), GROWS, never=(CLIMBS,)),
    step("0.99 of 2 g·g/g·Hg", along_the_gradient(0.99), GROWS, never=(CLIMBS,)),
    step("1.01 of 2 g·g/g·Hg", along_the_gradient(1.01), CLIMBS),
    step("1.1 of 2 g·g/g·Hg", along_the_gradient(1.1), CLIMBS),
    step("0.8 of 2/λmax", along_the_sharpest(0.8), FINE, finding=False),
    step("0.9 of 2/λmax", along_the_sharpest(0.9), FINE, EDGE, finding=False),
    step("0.99 of 2/λmax", along_the_sharpest(0.99), EDGE, finding=False),
    step("1.01 of 2/λmax", along_the_sharpest(1.01), EDGE, finding=False),
    step("1.1 of 2/λmax", along_the_sharpest(1.1), EDGE, finding=False),
    step("1.3 of 2/λmax", along_the_sharpest(1.3), GROWS),
    step(
        "network, 0.5 of the climbing lr",
        network_step(0.5),
        "",
        finding=False,
        never=(CLIMBS,),
        tolerated=("step size",),
    ),
    step(
        "network, 0.99 of the climbing lr",
        network_step(0.99),
        "",
        finding=False,
        never=(CLIMBS,),
        tolerated=("step size",),
    ),
    step("network, 1.01 of the climbing lr", network_step(1.01), CLIMBS),
    step("network, 2 times the climbing lr", network_step(2.0), "too large"),
    step("network at the edge of stability", edge_of_stability, EDGE, finding=False),
    step("momentum, 0.8 of its limit", with_momentum(0.8), FINE, finding=False),
    step("momentum, at its limit", with_momentum(1.0), EDGE, finding=False),
    step("momentum, 1.3 times its limit", with_momentum(1.3), GROWS),
    step("Nesterov, 0.8 of its limit", with_momentum(0.8, nesterov=True), FINE, finding=False),
    step("Nesterov, 1.3 times its limit", with_momentum(1.3, nesterov=True), GROWS),
    step("RMSprop, 0.5 of its limit", adaptive(torch.optim.RMSprop, 0.5), FINE, finding=False),
    step("RMSprop, at its limit", adaptive(torch.optim.RMSprop, 0.98), EDGE, finding=False),
    step(
        "RMSprop, 1.5 times its limit",
        adaptive(torch.optim.RMSprop, 1.5),
        "1.5 times",
        CLIMBS,
        finding=False,
        tolerated=("step size",),
    ),
    step("Adam, 0.01 of its limit", adaptive(torch.optim.Adam, 0.01), FINE, finding=False),
    step("Adam, 1.5 times its limit", adaptive(torch.optim.Adam, 1.5), GROWS, CLIMBS),
    step(
        "Adam at its edge after training",
        adaptive_edge(torch.optim.Adam, 3e-3, betas=(0.9, 0.99)),
        EDGE,
        finding=False,
    ),
    step(
        "RMSprop at its edge after training",
        adaptive_edge(torch.optim.RMSprop, 3e-3, alpha=0.99),
        EDGE,
        finding=False,
    ),
    step("stale momentum uphill", stale_momentum, "points uphill"),
    step("step to an infinite loss", to_infinity, "not finite"),
    step("network far beyond its limit", exploding_network, "too large"),
]
