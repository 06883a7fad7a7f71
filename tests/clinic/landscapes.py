"""Functions whose critical points are known by hand, rotated at random; and deep linear networks.

The kinds of the deep linear networks' critical points are those of Baldi and Hornik 1989 and
Kawaguchi 2016: with two layers every critical point that is no global minimum is a strict saddle,
with three layers the one at zero weights has no curvature at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import hesscope as hs
from tests.clinic.case import Case, Patient

SADDLE = "a strict saddle"
CALLED_A_MINIMUM = ("a strict local minimum", "a minimum")
NO_MINIMUM = {"minimum?": CALLED_A_MINIMUM}
FLAT = ("minimum to second order", "flat directions")


def rotation(n: int, seed: int) -> Tensor:
    """A random orthogonal matrix, uniform up to signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q


def at(f: Callable[[Tensor], Tensor], *theta: float, **options: object) -> Callable[[int], Patient]:
    """The function at a point, turned about it by a random rotation."""

    def make(seed: int) -> Patient:
        point = torch.tensor(theta, dtype=torch.float64)
        Q = rotation(len(point), seed)
        turned = lambda t: f(point + Q @ (t - point))  # noqa: E731
        return hs.Problem.from_function(turned, point.clone()), dict(options)

    return make


def quadratic(eigenvalues: Tensor, theta: float = 0.0) -> Callable[[int], Patient]:
    """½ Σ λ_i (q_i·t)² with random q_i, at or near its critical point."""

    def make(seed: int) -> Patient:
        Q = rotation(len(eigenvalues), seed)
        start = theta * torch.randn(len(eigenvalues), dtype=torch.float64)
        f = lambda t: 0.5 * (eigenvalues * (Q @ t) ** 2).sum()  # noqa: E731
        return hs.Problem.from_function(f, start), {}

    return make


def many(n: int, negative: int, size: float, **options: object) -> Callable[[int], Patient]:
    """A diagonal quadratic in many dimensions, with a few eigenvalues `-size`."""

    def make(seed: int) -> Patient:
        values = torch.rand(n, dtype=torch.float64) + 0.01
        values[:negative] = -size
        f = lambda t: 0.5 * (values * t**2).sum()  # noqa: E731
        return hs.Problem.from_function(f, torch.zeros(n, dtype=torch.float64)), dict(options)

    return make


def monkey(t: Tensor) -> Tensor:
    return t[0] ** 3 - 3 * t[0] * t[1] ** 2


class DeepLinear(nn.Module):
    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(W.clone()) for W in weights])

    def forward(self, x: Tensor) -> Tensor:
        for W in self.weights:
            x = x @ W.T
        return x


def whitened(num: int = 60, inputs: int = 5, outputs: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with X'X/N = I, targets of a linear map with noise, and the least-squares map."""
    X = torch.linalg.qr(torch.randn(num, inputs, dtype=torch.float64)).Q * num**0.5
    true = torch.randn(outputs, inputs, dtype=torch.float64)
    Y = X @ true.T + 0.3 * torch.randn(num, outputs, dtype=torch.float64)
    return X, Y, Y.T @ X / num


def deep_linear(num_layers: int, kept: tuple[int, ...]) -> Callable[[int], Patient]:
    """A linear network at the critical point that holds the singular directions `kept`.

    With white inputs the critical points of two layers are W2 W1 = Σ_{i in kept} s_i u_i v_i'; the
    four largest make the global minimum, none the zero weights.
    """

    def make(seed: int) -> Patient:
        X, Y, least_squares = whitened()
        U, s, Vh = torch.linalg.svd(least_squares, full_matrices=False)
        mask = torch.zeros_like(s)
        mask[list(kept)] = 1
        root = (mask * s) ** (1 / num_layers)
        first, last = root[:, None] * Vh, U * root
        middle = [torch.diag(root)] * (num_layers - 2)
        model = DeepLinear(first, *middle, last)
        return hs.Problem(model, nn.functional.mse_loss, (X, Y)), {}

    return make


def gradient_tolerance(make: Callable[[int], Patient], value: float) -> Callable[[int], Patient]:
    def with_tolerance(seed: int) -> Patient:
        problem, options = make(seed)
        return problem, {**options, "gradient_tolerance": value}

    return with_tolerance


CASES = [
    Case(
        "saddle t0² - t1²",
        at(lambda t: t[0] ** 2 - t[1] ** 2, 0.0, 0.0),
        {"minimum?": (SADDLE,)},
        ("minimum?",),
    ),
    Case(
        "rotated saddle, 3 of 50 down",
        quadratic(
            torch.cat([torch.linspace(0.1, 5, 47), torch.tensor([-0.3, -0.5, -1.0])]).double()
        ),
        {"minimum?": (SADDLE,), "convexity": ("not convex",)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "shallow saddle, λmin = -1e-3 λmax",
        quadratic(torch.cat([torch.linspace(0.1, 5, 29), torch.tensor([-0.005])]).double()),
        {"minimum?": (SADDLE,)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "saddle in 3000 dimensions, 1 down",
        many(3000, 1, 0.5),
        {"minimum?": (SADDLE,)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "saddle in 3000 dimensions, 1 just down",
        many(3000, 1, 0.02),
        {"minimum?": (SADDLE,)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "minimum in 60 dimensions",
        many(60, 0, 0.0, effort="standard"),
        {"minimum?": ("a strict local minimum",)},
        never={"minimum?": ("saddle:",)},
    ),
    Case(
        "minimum in 300 dimensions, few products",
        many(300, 0, 0.0),
        {"minimum?": ("a strict local minimum",)},
        never={"minimum?": ("saddle:",)},
    ),
    Case(
        "strict minimum, κ = 1000",
        quadratic(torch.tensor([100.0, 10, 3, 1, 0.3, 0.1]).double()),
        {"minimum?": ("a strict local minimum",), "convexity": ("no negative curvature",)},
    ),
    Case(
        "local maximum",
        quadratic(-torch.linspace(0.5, 4, 12).double()),
        {"minimum?": ("a local maximum",), "convexity": ("every direction curves downwards",)},
        ("minimum?",),
    ),
    Case(
        "monkey saddle",
        at(monkey, 0.0, 0.0),
        {"minimum?": ("saddle",)},
        tolerated=("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "monkey saddle in a bowl",
        at(lambda t: monkey(t) + (t[2:] ** 2).sum(), 0.0, 0.0, 0.0, 0.0, 0.0),
        {"minimum?": ("saddle",)},
        tolerated=("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "degenerate saddle t1² - t0⁴",
        at(lambda t: t[1] ** 2 - t[0] ** 4, 0.0, 0.0),
        {"minimum?": ("saddle",)},
        tolerated=("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "degenerate minimum t0⁴ + t1²",
        at(lambda t: t[0] ** 4 + t[1] ** 2, 0.0, 0.0),
        {"minimum?": FLAT},
        never={"minimum?": ("saddle", "strict local")},
    ),
    Case(
        "valley of minima t0 t1 = 1",
        at(lambda t: (1 - t[0] * t[1]) ** 2, 2.0, 0.5),
        {"minimum?": FLAT},
        never={"minimum?": ("saddle", "strict local")},
    ),
    Case(
        "linear network, 2 layers at zero",
        deep_linear(2, ()),
        {"minimum?": (SADDLE,), "stuck high": ("stuck high: a saddle",)},
        ("minimum?", "stuck high"),
        never=NO_MINIMUM,
    ),
    Case(
        "linear network, 3 layers at zero",
        deep_linear(3, ()),
        {"minimum?": ("saddle",)},
        ("stuck high",),
        tolerated=("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "linear network, 2 layers, rank 1 of 4",
        deep_linear(2, (0,)),
        {"minimum?": (SADDLE,)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "linear network, 2 layers, without the largest",
        deep_linear(2, (1, 2, 3)),
        {"minimum?": (SADDLE,)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "linear network, 2 layers, global minimum",
        deep_linear(2, (0, 1, 2, 3)),
        {"minimum?": FLAT},
        never={"minimum?": ("saddle:", "strict local")},
    ),
    Case(
        "linear network, 3 layers, global minimum",
        deep_linear(3, (0, 1, 2, 3)),
        {"minimum?": FLAT},
        never={"minimum?": ("saddle:", "strict local")},
    ),
    Case(
        "plateau of 1 + exp(-t)",
        at(lambda t: 1 + torch.exp(-t).sum(), 20.0, 20.0),
        {"minimum?": ("a plateau",)},
        ("minimum?",),
    ),
    Case(
        "plateau outside a Gaussian well",
        at(lambda t: 1 - torch.exp(-(t**2).sum() / 2), 5.0, 4.0, lr=0.1),
        {"minimum?": ("a plateau",)},
        ("minimum?",),
        never=NO_MINIMUM,
    ),
    Case(
        "small gradient within the user's tolerance",
        gradient_tolerance(quadratic(torch.linspace(1, 3, 8).double(), 1e-6), 1e-4),
        {"minimum?": ("a strict local minimum",)},
    ),
]
