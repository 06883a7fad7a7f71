"""Runs that are known: a network at the edge, a product of two vectors, bowls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import hesscope as hs

Steps = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def sgd(lr: float, momentum: float = 0.0) -> Steps:
    return lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum)


def adam(lr: float) -> Steps:
    return lambda p: torch.optim.Adam(p, lr=lr)


def keys(history: hs.History) -> set[str]:
    return {verdict.key for verdict in hs.verdicts(history) if verdict.confidence == "measured"}


def alarms(history: hs.History) -> list[tuple[int, str]]:
    """The findings at every other check of the run, and when."""
    steps = history["check_seconds"].steps.tolist()[::-2]
    return [
        (step, verdict.claim)
        for step in reversed(steps)
        for verdict in hs.verdicts(history[: step + 1])
        if verdict.finding
    ]


def network(make: Steps, steps: int, every: int) -> hs.History:
    """Full-batch training with MSE of a tanh network of 484 parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)]
    model = nn.Sequential(*layers)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 8, generator=g), torch.eye(4)[torch.randint(0, 4, (64,), generator=g)]
    loss_fn, optimizer = nn.MSELoss(), make(list(model.parameters()))
    usual = ["loss", "lr", "gradient_norm", "lambda_max", "stability", "gradient_curvature"]
    problem = hs.Problem(model, loss_fn, (x, y))
    with hs.Monitor(problem, optimizer, every=every, quantities=usual) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    return monitor.history


def function(
    f: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    make: Steps,
    steps: int,
    every: int,
    *,
    warm_up: int = 0,
    batch: int = 0,
    examples: Tensor | None = None,
) -> hs.History:
    """Training of f(θ, examples), of batches of them or of all."""
    examples = torch.zeros(1).double() if examples is None else examples
    problem = hs.Problem.from_function(lambda t: f(t, examples), start.double())
    optimizer = make(list(problem.model.parameters()))
    lr = optimizer.param_groups[0]["lr"]
    g = torch.Generator().manual_seed(5)
    with hs.Monitor(problem, optimizer, every=every) as monitor:
        for step in range(steps):
            if warm_up:
                optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warm_up)
            index = torch.randint(0, len(examples), (batch,), generator=g) if batch else ...
            optimizer.zero_grad()
            loss = f(problem.model.theta, examples[index])
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    return monitor.history


def product(t: Tensor, _: Tensor) -> Tensor:
    """(u·v/√n - 1)²/2, the smallest deep network."""
    u, v = t.chunk(2)
    return (u @ v / len(u) ** 0.5 - 1).square() / 2


def of_size(n: int, sharpness: float) -> Tensor:
    """u and v of product with λmax near the sharpness: (|u|² + |v|²)/n where u·v is small."""
    t = torch.randn(2 * n, generator=torch.Generator().manual_seed(0)).double()
    return t * (sharpness * n / t.square().sum()).sqrt()


def test_a_network_at_the_edge_is_named_so():
    history = network(sgd(0.8), 480, 12)
    found = {verdict.key: verdict for verdict in hs.verdicts(history)}
    settled = history["lambda_max"].between(300, 480).values
    assert float(0.8 * settled.mean()) == pytest.approx(2, abs=0.1)
    assert "at the edge of stability since" in found["edge_of_stability"].claim
    assert found["edge_of_stability"].evidence["sharpness_over_limit"] == pytest.approx(1, abs=0.1)
    assert "progressive_sharpening" in found
    assert alarms(history) == []


def test_a_network_below_the_edge_sharpens():
    history = network(sgd(0.3), 400, 20)
    assert keys(history) == {"progressive_sharpening"}
    assert alarms(history) == []


@pytest.mark.slow
def test_adam_at_its_edge_is_named_so_and_its_jumps_at_a_small_loss_are_no_finding():
    history = network(adam(0.05), 400, 5)
    verdict = next(v for v in hs.verdicts(history) if v.key == "edge_of_stability")
    assert "at the adaptive edge of stability since" in verdict.claim
    assert verdict.evidence["sharpness_over_limit"] == pytest.approx(1, abs=0.1)
    assert alarms(history) == []


def test_a_product_of_vectors_is_catapulted():
    """lr·λ between 2 and 4: the loss rises, and the sharpness falls (Lewkowycz et al. 2020)."""
    history = function(product, of_size(50, 3.0), sgd(1.0), 60, 2)
    assert history["sharpness_over_limit"].values[0] > 1.2
    found = {verdict.key: verdict for verdict in hs.verdicts(history)}
    assert found["catapult"].evidence["lambda_max_last"] < 2
    assert "divergence" not in found


def test_a_slow_start_needs_no_catapult():
    history = function(product, of_size(50, 1.0), sgd(1.0), 60, 2)
    assert keys(history) & {"catapult", "divergence", "warm_up"} == set()


def test_a_product_of_vectors_leaves_the_saddle_at_zero():
    history = function(product, of_size(50, 1e-4), sgd(0.5), 160, 5)
    found = {verdict.key: verdict for verdict in hs.verdicts(history)}
    assert found["saddle_passage"].evidence["gradient_norm_last"] > 0.1
    assert [v.key for v in hs.verdicts(history) if v.finding] == []


def test_a_warm_up_that_is_too_short_is_named_and_a_long_one_is_not():
    short = function(product, of_size(50, 3.0), sgd(1.1), 60, 2, warm_up=4)
    assert "warm_up" in keys(short)
    long = function(product, of_size(50, 3.0), sgd(0.5), 60, 2, warm_up=20)
    assert "warm_up" not in keys(long)


def bowl(condition: float, n: int = 20) -> Callable[[Tensor, Tensor], Tensor]:
    scales = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), n).double()
    return lambda t, _: (scales * t.square()).sum() / 2


def test_steps_above_the_limit_of_a_bowl_diverge_and_are_seen_before():
    history = function(bowl(100.0), torch.ones(20), sgd(3.2), 30, 1)
    first = next(step for step, claim in alarms(history) if "divergence ahead" in claim)
    assert first <= 4
    history = function(bowl(100.0), torch.ones(20), sgd(4.0), 800, 20)
    verdict = next(v for v in hs.verdicts(history) if v.key == "divergence")
    assert verdict.claim.startswith("diverged: the loss is not finite")
    assert "the learning rate was too large since step 0" in verdict.claim


def test_steps_below_it_have_no_finding():
    history = function(bowl(10.0), torch.ones(20), sgd(1.5), 60, 3)
    assert alarms(history) == []
    assert keys(history) == set()


@pytest.mark.parametrize(("make", "adaptive"), [(sgd(0.1), False), (adam(0.1), True)])
def test_a_monitor_and_its_folder_tell_the_same_verdicts(make, adaptive, tmp_path):
    problem = hs.Problem.from_function(lambda t: product(t, t), of_size(10, 1.0))
    optimizer = make(list(problem.model.parameters()))
    with hs.Monitor(problem, optimizer, every=1, to=tmp_path) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            product(problem.model.theta, problem.model.theta).backward()
            optimizer.step()
    loaded = hs.load(tmp_path)
    assert loaded.facts["adaptive"] is adaptive
    assert [v.claim for v in hs.verdicts(loaded)] == [v.claim for v in monitor.verdicts()]
    assert {v.key for v in monitor.verdicts()} >= {"plateau"}  # undecided: 12 of 16 checks


X = torch.randn(200, 6, generator=torch.Generator().manual_seed(2)).double()
LABELS = (X[:, 0] + torch.randn(200, generator=torch.Generator().manual_seed(3)) > 0).double()
EXAMPLES = torch.cat([X, LABELS[:, None]], 1)


def logistic(t: Tensor, examples: Tensor) -> Tensor:
    x, y = examples[:, :-1], examples[:, -1]
    return binary_cross_entropy_with_logits(x @ t, y) + 1e-3 * t.square().sum()


def linear(t: Tensor, examples: Tensor) -> Tensor:
    return (examples[:, :-1] @ t - examples[:, -1]).square().mean() / 2


BOWLS = [
    (bowl(kappa), make, 0)
    for kappa in (3.0, 100.0)
    for make in (sgd(0.2), sgd(1.9), sgd(0.3, 0.9), adam(0.02), adam(0.2))
]
REGRESSIONS = [
    (f, make, batch)
    for f in (logistic, linear)
    for make in (sgd(0.5), sgd(0.1, 0.9), adam(0.05))
    for batch in (0, 8)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(BOWLS + REGRESSIONS)))
def test_healthy_runs_are_never_called_ill(case):
    """22 convex runs, judged at every other of their 40 checks: never a finding."""
    f, make, batch = (BOWLS + REGRESSIONS)[case]
    data = EXAMPLES if case >= len(BOWLS) else None
    start = torch.zeros(6) if case >= len(BOWLS) else torch.ones(20)
    history = function(f, start, make, 200, 5, batch=batch, examples=data)
    assert alarms(history) == []
    assert keys(history) <= {"noise_floor", "flattening", "edge_of_stability"}
