"""Shampoo and SOAP: the threshold is where the recurrence turns, for layouts that users bring."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesscope as hs
from hesscope.curvature.preconditioned import StepHessian
from hesscope.steps.kinds import has_started, is_adaptive
from hesscope.steps.stability import threshold, why_unknown

Options = dict[str, Any]


class Shampoo(torch.optim.Optimizer):
    """The layout of torch_optimizer: inverse roots beside what they are made of."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.0, **options: Any) -> None:
        given = {"weight_decay": 0.0, "epsilon": 1e-4, "update_freq": 1, **options}
        super().__init__(params, {"lr": lr, "momentum": momentum, **given})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                g = p.grad + group["weight_decay"] * p
                for i, size in enumerate(p.shape):
                    if f"precond_{i}" not in state:
                        state[f"precond_{i}"] = group["epsilon"] * torch.eye(size, dtype=p.dtype)
                        state[f"inv_precond_{i}"] = torch.zeros(size, size, dtype=p.dtype)
                    if state.get("step", 0) % group["update_freq"] == 0:
                        flat = g.movedim(i, 0).reshape(size, -1)
                        state[f"precond_{i}"] += flat @ flat.T
                        values, U = torch.linalg.eigh(state[f"precond_{i}"])
                        root = (U * values ** (-1 / p.ndim)) @ U.T
                        state[f"inv_precond_{i}"].copy_(root)
                for i in range(p.ndim):
                    inverse = state[f"inv_precond_{i}"]
                    g = torch.tensordot(inverse, g, dims=([1], [i])).movedim(0, i)
                state["step"] = state.get("step", 0) + 1
                p.add_(g, alpha=-group["lr"])


class SOAP(torch.optim.Optimizer):
    """The layout of its authors: a step counted in the state, the first one skipped."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        usual = {
            "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0, "precondition_frequency": 10,
            "correct_bias": True, "merge_dims": False, "normalize_grads": False,
        }  # fmt: skip
        super().__init__(params, {"lr": lr, **usual, **options})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if "Q" not in state:
                    state["step"] = 0
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                    many = p.ndim > 1
                    flat = [p.grad.movedim(i, 0).reshape(n, -1) for i, n in enumerate(p.shape)]
                    state["Q"] = [torch.linalg.eigh(m @ m.T)[1] if many else [] for m in flat]
                    continue
                state["step"] += 1
                t = state["step"]
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].lerp_(turned(p.grad, state["Q"]).square(), 1 - beta2)
                lr = group["lr"]
                if group["correct_bias"]:
                    lr *= math.sqrt(1 - beta2**t) / (1 - beta1**t)
                inside = turned(state["exp_avg"], state["Q"])
                d = turned(inside / (state["exp_avg_sq"].sqrt() + group["eps"]), state["Q"], back=1)
                p.add_(d, alpha=-lr)
                p.mul_(1 - group["lr"] * group["weight_decay"])


def turned(G: Tensor, bases: list[Any], back: int = 0) -> Tensor:
    for i, Q in enumerate(bases):
        if len(Q):
            G = torch.tensordot(Q, G, dims=([back], [i])).movedim(0, i)
    return G


def _bowl() -> tuple[nn.Module, hs.Problem]:
    """A quadratic of a 3 x 4 matrix and a vector of 2 that no axis of theirs diagonalises."""
    model = nn.Module()
    generator = torch.Generator().manual_seed(0)
    model.W = nn.Parameter(torch.randn(3, 4, generator=generator).double())
    model.b = nn.Parameter(torch.randn(2, generator=generator).double())
    M = torch.randn(14, 14, generator=generator).double()
    H = M @ M.T / 14 + 0.1 * torch.eye(14).double()

    def loss(model: nn.Module, _: Any) -> Tensor:
        x = torch.cat([model.W.flatten(), model.b])
        return x @ H @ x / 2

    return model, hs.Problem.from_closure(model, loss, [torch.zeros(1)])


def _made(kind: str, model: nn.Module, options: Options) -> torch.optim.Optimizer:
    """The optimiser after some steps, with its preconditioner held fixed from now on."""
    package, _, name = kind.rpartition(".")
    home: Any = importlib.import_module(package) if package else None
    make = getattr(home, name) if home else {"Shampoo": Shampoo, "SOAP": SOAP}[name]
    optimizer = make(model.parameters(), lr=1e-3, **options)
    for _ in range(4):
        optimizer.zero_grad()
        x = torch.cat([model.W.flatten(), model.b])
        (x.square().sum() + x.sum() ** 2).backward()
        optimizer.step()
    for group in optimizer.param_groups:  # what would change P
        if name == "SOAP":
            group["betas"] = (group["betas"][0], 1.0)
            group["precondition_frequency"], group["shampoo_beta"] = 10**9, 1.0
        elif "update_freq" in group:
            group["update_freq"] = 10**9
    if hasattr(optimizer, "preconditioning_compute_steps"):
        optimizer.preconditioning_compute_steps = 10**9
    for state in optimizer.state.values():
        state["shampoo_beta"] = 1.0
        if "exp_avg" in state:
            state["exp_avg"].zero_()
    return optimizer


def _grows(kind: str, options: Options, share: float) -> bool:
    """Whether real steps at this share of the threshold grow, over some hundred of them."""
    model, problem = _bowl()
    optimizer = _made(kind, model, options)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    top = float(torch.linalg.eigvalsh(StepHessian(problem, optimizer).to_dense())[-1])
    for _ in range(2):  # the factor of a decoupled decay depends on lr
        lr = share * threshold(optimizer).factor / top
        for group in optimizer.param_groups:
            group["lr"] = lr
        assert lr * top == pytest.approx(
            float(torch.linalg.eigvalsh(StepHessian(problem, optimizer).to_dense())[-1])
        )
    sizes = []
    for _ in range(600):
        _give(model, problem.gradient())
        optimizer.step()
        sizes.append(float(problem.theta.norm()))
    return sizes[-1] > 10 * sizes[300]


def _give(model: nn.Module, gradient: Tensor) -> None:
    model.W.grad, model.b.grad = gradient[:12].view(3, 4).clone(), gradient[12:].clone()


CASES: list[tuple[str, Options]] = [
    ("Shampoo", {}),
    ("Shampoo", {"weight_decay": 0.5}),
    ("SOAP", {"correct_bias": False}),
    ("SOAP", {"correct_bias": False, "betas": (0.5, 0.9), "weight_decay": 0.02}),
    ("torch_optimizer.Shampoo", {}),
    ("pytorch_optimizer.Shampoo", {}),
    ("pytorch_optimizer.Shampoo", {"weight_decay": 0.02, "weight_decouple": True}),
    ("pytorch_optimizer.SOAP", {"correct_bias": False, "weight_decay": 0.0}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_threshold_is_where_the_recurrence_turns(kind: str, options: Options) -> None:
    if "." in kind:
        pytest.importorskip(kind.split(".")[0])
    assert not _grows(kind, options, 0.98)
    assert _grows(kind, options, 1.03)


@pytest.mark.parametrize("kind", ["SOAP", "pytorch_optimizer.SOAP"])
def test_the_step_is_that_of_the_preconditioner_bias_corrections_included(kind: str) -> None:
    if "." in kind:
        pytest.importorskip(kind.split(".")[0])
    model, problem = _bowl()
    optimizer = _made(kind, model, {"betas": (0.8, 0.9), "weight_decay": 0.0})
    for group in optimizer.param_groups:
        group["betas"], group["lr"] = (0.8, 0.9), 0.01
    for _ in range(2):
        before = problem.theta.clone()
        _give(model, problem.gradient())
        optimizer.step()
    A = hs.PreconditionedHessian(problem, optimizer)
    momentum = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in model.parameters()])
    step = -0.01 * A.root(A.root(momentum[:, None]))[:, 0]
    assert torch.allclose(problem.theta - before, step, rtol=1e-6)
    dense = A.to_dense()
    assert torch.allclose(dense, dense.T)


def test_what_is_not_known_says_why() -> None:
    model, problem = _bowl()
    shampoo = Shampoo(model.parameters(), lr=0.1, momentum=0.9)
    assert "preconditioned once more" in why_unknown(shampoo)
    soap = SOAP(model.parameters(), lr=0.1, normalize_grads=True)
    assert "normalises its steps" in why_unknown(soap)
    assert "merges dimensions" in why_unknown(SOAP(model.parameters(), lr=0.1, merge_dims=True))
    fresh = SOAP(model.parameters(), lr=0.1)
    assert why_unknown(fresh) == ""
    assert is_adaptive(fresh)
    assert not has_started(fresh)
    with pytest.raises(ValueError, match="make at least one optimiser step"):
        hs.PreconditionedHessian(problem, fresh)

    class Other(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(model.parameters(), {"lr": 0.1, "momentum": 0.0})

    Other.__name__ = "Shampoo"
    assert "no stability threshold is known for Shampoo" in why_unknown(Other())


def test_a_monitor_and_a_look_judge_them() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    y = (x[:, 0] > 0).long()
    optimizer = SOAP(model.parameters(), lr=1e-2)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (x, y))
    with hs.Monitor(problem, optimizer, every=1) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    history = monitor.history
    assert not history.events
    assert history["sharpness_over_limit"].steps.tolist() == [2, 3]
    dense = torch.linalg.eigvalsh(StepHessian(problem, optimizer).to_dense().double())
    look = hs.diagnose(problem, optimizer, effort="quick", seed=0, batch_size=4)
    assert look.measurements["step"].sharpness == pytest.approx(float(dense[-1]) / 1e-2, rel=0.02)
