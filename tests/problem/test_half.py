"""Models in half precision: what is measured is the float32 network with their weights."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.checks.differences import rounding_noise
from tests.networks import SMOOTH, make, mlp, vectors
from tests.state import state_of

HALVES = [torch.bfloat16, torch.float16]
SINGLE = 3e-5  # relative error of float32 products on these networks
MODELS = [
    "mlp_gelu", "tied", "frozen", "resnet_batchnorm", "layernorm", "embedding", "gpt2",
    "checkpoint", "attention",
]  # fmt: skip


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


def double(content):
    return tuple(t.double() if t.is_floating_point() else t for t in content)


def in_both(name: str, dtype: torch.dtype, **options) -> tuple[hs.Problem, hs.Problem]:
    """A case in half precision, and in float64 with the same weights and data."""
    case = make(SMOOTH[name], dtype)
    exact = copy.deepcopy(case.model).double()
    return case.problem(**options), hs.Problem(exact, case.loss_fn, double(case.data), **options)


def random(n: int, num: int = 2) -> Tensor:
    return torch.randn(n, num, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_float32_network_with_these_weights(name, dtype, memory):
    half, exact = in_both(name, dtype, batch_size=4)
    V = random(half.n)
    H = hs.Hessian(half, memory=memory)
    expected = hs.Hessian(exact) @ V
    assert relative(H @ V.float(), expected) < SINGLE
    assert H.dtype == torch.float32
    assert H.facts()["computed in"] == f"float32 copies of {dtype}".replace("torch.", "")


@pytest.mark.parametrize("engine", ["forward-over-reverse", "finite-difference"])
def test_every_engine_does_so(engine):
    half, exact = in_both("mlp_gelu", torch.bfloat16)
    V = random(half.n)
    tolerance = SINGLE if engine.startswith("forward") else 1e-3
    assert relative(hs.Hessian(half, engine) @ V.float(), hs.Hessian(exact) @ V) < tolerance


@pytest.mark.parametrize(
    "operator", [hs.GaussNewton, hs.Fisher, hs.EmpiricalFisher, hs.GradientCovariance]
)
def test_so_do_the_operators_beside_the_hessian(operator):
    half, exact = in_both("layernorm", torch.bfloat16)
    V = random(half.n)
    assert relative(operator(half) @ V.float(), operator(exact) @ V) < SINGLE


def test_loss_gradient_and_exact_spectrum_do_so_too():
    half, exact = in_both("mlp", torch.bfloat16)
    assert half.loss() == pytest.approx(exact.loss(), rel=1e-6)
    assert relative(half.gradient(), exact.gradient()) < SINGLE
    theta = half.theta + 0.01
    there = exact.at(theta.double()).gradient()
    assert relative(half.at(theta).gradient(), there) < SINGLE  # 0.01 is not rounded away
    spectra = [hs.spectrum(hs.Hessian(p)).eigenvalues for p in (half, exact)]
    assert relative(*spectra) < 1e-5
    assert relative(hs.gram_spectrum(half).eigenvalues, hs.gram_spectrum(exact).eigenvalues) < 1e-5


@pytest.mark.parametrize("dtype", HALVES)
def test_the_model_is_left_in_half_precision_bit_for_bit(dtype):
    half, _ = in_both("resnet_batchnorm", dtype)
    before = state_of(half.model)
    hs.Hessian(half) @ torch.ones(half.n)
    hs.check_problem(half)
    assert state_of(half.model) == before


def test_a_kept_graph_follows_the_weights_of_the_model():
    half, exact = in_both("mlp_gelu", torch.bfloat16)
    H, V = hs.Hessian(half), random(half.n)
    old = H @ V.float()
    for model in (half.model, exact.model):
        model[0].weight.data.mul_(2.0)  # exact in every precision
    expected = hs.Hessian(exact) @ V
    assert relative(H @ V.float(), expected) < SINGLE
    assert relative(old, expected) > 0.01


def test_frozen_weights_in_half_precision_are_raised_under_float32_adapters():
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(4, 3).requires_grad_(False)
            self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x.to(self.base.weight.dtype)).to(x.dtype) + self.up(self.down(x))

    torch.manual_seed(0)
    model, (x, y) = Adapted(), vectors()
    model.base.bfloat16()
    exact = copy.deepcopy(model).double()
    p, q = (hs.Problem(m, F.cross_entropy, (t, y)) for m, t in ((model, x), (exact, x.double())))
    V = random(p.n)
    assert relative(hs.Hessian(p) @ V.float(), hs.Hessian(q) @ V) < SINGLE


def test_half_and_single_precision_make_one_vector():
    """As in models whose output layer is kept in float32."""

    class Mixed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[2](self[1](self[0](x)).to(self[2].weight.dtype))

    torch.manual_seed(0)
    model, (x, y) = Mixed(*mlp()), vectors()
    model[0].bfloat16()
    exact = copy.deepcopy(model).double()
    x = x.bfloat16()
    p, q = (hs.Problem(m, F.cross_entropy, (t, y)) for m, t in ((model, x), (exact, x.double())))
    V = random(p.n)
    assert relative(hs.Hessian(p) @ V.float(), hs.Hessian(q) @ V) < SINGLE
    p.write(p.theta / 2)
    assert {m.dtype for m in model.parameters()} == {torch.bfloat16, torch.float32}


def test_class_weights_in_half_precision_are_raised_with_the_model():
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.bfloat16)
    torch.manual_seed(0)
    model, (x, y) = mlp().bfloat16(), vectors()
    exact = copy.deepcopy(model).double()
    p = hs.Problem(model, nn.CrossEntropyLoss(weight=weight), (x.bfloat16(), y))
    q = hs.Problem(exact, nn.CrossEntropyLoss(weight=weight.double()), (x.bfloat16().double(), y))
    V = random(p.n)
    for operator in (hs.Hessian, hs.GaussNewton):
        assert relative(operator(p) @ V.float(), operator(q) @ V) < SINGLE
    assert p.loss_fn.weight.dtype == torch.float32
    assert weight.dtype == torch.bfloat16


# Models that run in half precision alone


class OnlyHalf(nn.Module):
    """Casts to bfloat16 by name, so that float32 weights fail; float64 may pass."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = [
            layer for _ in range(depth) for layer in (nn.Linear(9, 9), nn.LayerNorm(9), nn.GELU())
        ]
        self.body = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), *blocks, nn.Linear(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        exact = self.body[0].weight.dtype == torch.float64
        return self.body(x if exact else x.to(torch.bfloat16))


@functools.cache
def only_half(depth: int, seed: int = 0) -> tuple[hs.Problem, hs.Problem]:
    torch.manual_seed(seed)
    model, (x, y) = OnlyHalf(depth).bfloat16(), vectors(8)
    exact, x = copy.deepcopy(model).double(), x.bfloat16()
    return tuple(
        hs.Problem(m, F.cross_entropy, (t, y)) for m, t in ((model, x), (exact, x.double()))
    )


def test_a_model_that_fails_in_float32_runs_as_it_is_and_says_so():
    half, exact = only_half(2)
    V = random(half.n)
    H = hs.Hessian(half)
    assert 1e-4 < relative(H @ V.float(), hs.Hessian(exact) @ V) < 0.1
    assert H.facts()["computed in"] == "bfloat16 as it is"
    check = hs.check_problem(half)
    assert check.ok, check
    (note,) = check.findings
    assert note.name == "low_precision"
    assert note.cause.startswith("the model fails in float32 and runs in torch.bfloat16 alone")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_the_noise_of_its_products_is_measured_to_a_factor_of_three(depth, seed):
    half, exact = only_half(depth, seed)
    v = random(half.n, 1)[:, 0]
    true = relative(hs.Hessian(half) @ v.float(), hs.Hessian(exact) @ v)
    assert true / 3 < rounding_noise(half, v.float()) < 3 * true


def test_noise_that_leaves_no_digit_is_a_fault():
    """A second derivative that is the difference of large terms: cos(400 x) in bfloat16."""

    class Shaking(OnlyHalf):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cos(400 * super().forward(x))

    torch.manual_seed(0)
    model, (x, y) = Shaking(1).bfloat16(), vectors(8)
    check = hs.check_problem(hs.Problem(model, F.cross_entropy, (x.bfloat16(), y)))
    assert [fault.name for fault in check.faults] == ["low_precision"]
