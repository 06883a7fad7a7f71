"""Down from saddles whose curvature and depth are known, and no step where nothing is proven."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, network
from tests.state import state_of

EPS = torch.finfo(torch.float64).eps


def function(f, *theta):
    return hs.Problem.from_function(f, torch.tensor(theta, dtype=torch.float64))


def wells(t):
    """Minima -1/2 at (0, ±1), a strict saddle of curvature -2 at 0."""
    return t[0] ** 2 - t[1] ** 2 + t[1] ** 4 / 2


def monkey(t):
    return t[0] ** 3 - 3 * t[0] * t[1] ** 2


class DeepLinear(nn.Module):
    """W_d ... W_1 x without biases."""

    def __init__(self, depth, width=4):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(depth)])

    def forward(self, x):
        return self.layers(x)


def deep_linear(depth, seed, scale=0.0):
    """A regression on a linear teacher, all weights `scale` times the identity."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    model = DeepLinear(depth).double()
    for layer in model.layers:
        layer.weight.data = scale * torch.eye(4, dtype=torch.float64)
    return hs.Problem(model, F.mse_loss, (x, x @ teacher)), x, teacher


def test_a_double_well_is_left_for_its_bottom():
    e = hs.escape(function(wells, 0.0, 0.0))
    assert e.found
    assert e.curvature == pytest.approx(-2, rel=1e-12)
    assert e.rounding < 1e-12
    assert e.theta.abs().tolist() == pytest.approx([0, 1], abs=1e-9)
    assert (e.loss_before, e.loss_after) == (0, pytest.approx(-0.5, abs=1e-12))
    assert e.measured == e.loss_before - e.loss_after
    assert e.predicted == pytest.approx(e.length**2, rel=1e-9)


@pytest.mark.parametrize("slope", [1e-3, -1e-3, 0.3, -0.3])
def test_the_gradient_chooses_the_side(slope):
    e = hs.escape(function(lambda t: wells(t) + slope * t[1], 0.0, 0.0))
    assert float(e.theta[1]) * slope < 0
    assert e.slope == pytest.approx(-abs(slope), rel=1e-9)
    assert e.predicted == pytest.approx(abs(slope) * e.length + e.length**2, rel=1e-9)


@pytest.mark.parametrize("side", [1, -1])
def test_without_a_slope_the_deeper_side_wins(side):
    e = hs.escape(function(lambda t: wells(t) + side * t[1] ** 3, 0.0, 0.0))
    # -t² + side t³ + t⁴/2 has its minima at side t = 1/2 and -2, where it is -3/32 and -4.
    assert float(e.theta[1]) * side < 0
    assert -4 - 1e-9 <= e.loss_after <= 0.9 * -4


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 0.5, 100.0])
def test_the_step_finds_its_own_length_whatever_the_units(scale, offset):
    e = hs.escape(function(lambda t: wells(t / scale) + offset, 0.0, 0.0))
    within = scale / 2**10 > 1 or scale * 2**10 < 1  # the first step is 1 if the loss is 0
    if offset or not within:
        assert 0.45 <= e.measured <= 0.5 + e.loss_rounding
    else:
        assert e.measured > 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_random_strict_saddles_are_left(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(-0.3, 10, 30, dtype=torch.float64)
    A = ((Q * values) @ Q.T).to(dtype)
    saddle = hs.Problem.from_function(
        lambda t: t @ A @ t / 2 + t.square().sum() ** 2 / 4, torch.zeros(30, dtype=dtype)
    )
    e = hs.escape(saddle, seed=seed)
    # Along a unit v the loss is c t²/2 + t⁴/4, with its minimum -c²/4 at t² = -c.
    assert e.found
    assert -0.3 * (1 + 1e-5) <= e.curvature <= -0.3 + e.residual
    assert e.length == pytest.approx(math.sqrt(-e.curvature), rel=0.3)
    assert 0.8 * e.curvature**2 / 4 <= e.measured <= e.curvature**2 / 4 + e.loss_rounding
    assert saddle.at(e.theta).loss() == e.loss_after


@pytest.mark.parametrize("seed", range(10))
def test_a_linear_net_of_depth_two_leaves_zero(seed):
    problem, x, teacher = deep_linear(2, seed)
    before = state_of(problem.model)
    e = hs.escape(problem, seed=seed)
    # L = |W2 W1 x - y|²/(4 N): ∂²L/∂W2∂W1 = -2/(4 N) Σ y xᵀ, so λmin is minus its largest value.
    cross = 2 / x.numel() * (x @ teacher).T @ x
    assert e.found
    assert e.curvature == pytest.approx(-float(torch.linalg.matrix_norm(cross, 2)), rel=2e-3)
    assert 0.05 < e.measured / e.loss_before < 1
    assert e.certificate.lower <= e.curvature
    assert state_of(problem.model) == before


@pytest.mark.parametrize("seed", range(10))
def test_a_linear_net_of_depth_three_escapes_a_saddle_with_one_layer_on(seed):
    """(0, 0, I) is critical with the negative curvature of depth two: Kawaguchi 2016."""
    problem, *_ = deep_linear(3, seed)
    problem.model.layers[0].weight.data = torch.eye(4, dtype=torch.float64)
    assert float(problem.gradient().norm()) == 0
    e = hs.escape(problem, seed=seed)
    assert e.found
    assert e.measured > 0.05 * e.loss_before


FLAT = {
    "monkey": lambda: function(monkey, 0.0, 0.0),
    "depth 3": lambda: deep_linear(3, 0)[0],
    "depth 4": lambda: deep_linear(4, 0)[0],
}


@pytest.mark.parametrize("name", FLAT)
def test_where_the_hessian_vanishes_nothing_is_proven_and_it_says_so(name):
    problem = FLAT[name]()
    e = hs.escape(problem)
    assert not e.found
    assert torch.equal(e.theta, problem.theta)
    assert (e.length, e.predicted, e.measured) == (0, 0, 0)
    assert str(e).splitlines()[-1] == (
        "  the Hessian vanishes here: higher derivatives decide; try hs.kick"
    )


def test_a_minimum_is_not_left_and_its_bound_is_given():
    e = hs.escape(function(lambda t: (t**2 * torch.tensor([1.0, 2.0, 3.0])).sum(), 0.0, 0.0, 0.0))
    assert not e.found
    assert e.num_evaluations == 1
    assert 0 < e.certificate.lower <= 2
    assert str(e).splitlines() == [
        f"no way down by curvature is proven ({e.num_matvecs} matvecs, 1 gradient, 1 losses)",
        f"  lowest curvature found 2 ± {e.rounding:.1e}; parameters unchanged",
        "  no eigenvalue below 2, with probability 0.999",
    ]


def test_curvature_below_rounding_proves_nothing():
    """1e-9 of the largest: real, but float32 products cannot show it."""
    theta = torch.zeros(40)
    scales = torch.cat([torch.linspace(1, 10, 39), torch.tensor([-1e-9])])
    Q = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0)))[0]
    e = hs.escape(hs.Problem.from_function(lambda t: (scales * (Q @ t) ** 2).sum(), theta))
    assert not e.found
    assert e.certificate.lower < -1e-9


def test_a_small_budget_is_kept_and_leaves_the_matter_open():
    generator = torch.Generator().manual_seed(0)
    scales = torch.cat([torch.rand(499, generator=generator), torch.tensor([-1e-3])]).double()
    problem = hs.Problem.from_function(lambda t: (scales * t**2).sum(), torch.zeros(500).double())
    e = hs.escape(problem, max_matvecs=5)
    assert e.num_matvecs <= 5
    assert not e.found
    assert e.certificate.lower < -2e-3
    assert str(e).splitlines()[-1] == "  undecided below the lowest found: raise max_matvecs"
    assert hs.escape(problem, max_matvecs=400).found


def test_short_steps_decrease_as_the_quadratic_model_predicts():
    """A tenth of the steps that quartic terms allow: they change the decrease by about 1e-2."""
    tight = function(lambda t: wells(t) + 50 * t[1] ** 4, 0.3, 0.0)
    e = hs.escape(tight)
    quartic = 50.5 * float(e.theta[1]) ** 4
    assert e.predicted - e.measured == pytest.approx(quartic, rel=1e-6)


def test_pairs_are_used_and_cost_one_product():
    problem = function(wells, 0.0, 0.0)
    pairs = hs.eigsh(hs.Hessian(problem), 2, which="BE")
    e = hs.escape(problem, pairs)
    assert e.num_matvecs == 1
    assert e.loss_after == pytest.approx(-0.5, abs=1e-9)
    assert e.certificate == pairs.certificate


def test_a_loss_that_is_infinite_far_out_is_searched_nearer():
    e = hs.escape(function(lambda t: wells(t) - (0.01 - t[1] ** 2).log() * 1e-3 + 9, 0.0, 0.0))
    assert e.found
    assert 0 < e.measured < math.inf
    assert abs(float(e.theta[1])) < 0.1


def test_curvature_too_small_to_lower_the_loss_is_found_but_not_followed():
    e = hs.escape(
        function(lambda t: t[0] ** 2 * 1e-7 - 1e-7 * t[1] ** 2 + t[1] ** 4 + 1e6, 0.0, 0.0)
    )
    assert (e.found, e.length, e.measured) == (True, 0, 0)
    assert str(e).splitlines()[1] == (
        f"  but no step along it lowers the loss by more than its rounding {e.loss_rounding:.1e}"
    )


def test_a_loss_without_bottom_ends_after_a_known_number_of_losses():
    e = hs.escape(function(lambda t: t[0] ** 2 - t[1] ** 2, 0.0, 0.0))
    assert e.measured == pytest.approx(4.0**11)
    assert e.num_evaluations <= 1 + 2 * 13


def test_escaping_and_kicking_leave_the_model_bit_for_bit():
    X, Y = data(20, 5, 3)
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    F.cross_entropy(problem.model(X), Y).backward()
    before = state_of(problem.model)
    e = hs.escape(problem)
    hs.kick(problem, 0.1)
    assert state_of(problem.model) == before
    assert e.found
    assert e.measured > 0


def test_the_words_of_the_docstring_write_the_step_into_the_model():
    problem, *_ = deep_linear(2, 0)
    e = hs.escape(problem)
    problem.write(e.theta)
    assert torch.equal(problem.theta, e.theta)
    assert problem.loss() == e.loss_after


def test_it_prints_what_it_did():
    e = hs.escape(function(wells, 0.0, 0.0))
    first, second, third = str(e).splitlines()
    assert first.startswith("negative curvature -2 ± ")
    assert first.endswith(f"({e.num_matvecs} matvecs, 1 gradient, {e.num_evaluations} losses)")
    assert second == "  a step of length 1 lowers the loss from 0 to -0.5"
    assert third == "  decrease 0.5; the quadratic model predicted 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_matvecs": 2}, "max_matvecs=2 is too little to find a direction; the usual is 100."),
        (
            {"pairs": hs.eigsh(hs.as_operator(torch.eye(3)), 1)},
            "pairs hold vectors of shape (3, 1), this Hessian has n=2; give "
            "hs.eigsh(hs.Hessian(problem), 1, which='SA').",
        ),
        (
            {"pairs": hs.eigsh(hs.as_operator(torch.diag(torch.tensor([1.0, -9.0]))), 2)},
            "pairs say -9 where v'Hv is -2: they belong to another operator, or to other "
            "parameters. Leave `pairs` out, or compute them again.",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.escape(function(wells, 0.0, 0.0), **arguments)


# --- kicks


def test_kicks_lie_on_the_sphere_and_depend_on_the_seed_alone():
    theta = torch.arange(50.0)
    f = hs.Problem.from_function(lambda t: t.sum(), theta)
    d = hs.Problem.from_function(lambda t: t.sum(), theta.double())
    kicks = [hs.kick(d, 0.5, seed=seed) - d.theta for seed in range(3)]
    assert [float(k.norm()) for k in kicks] == pytest.approx([0.5] * 3, rel=1e-12)
    assert len({float(k[0]) for k in kicks}) == 3
    assert torch.equal(hs.kick(f, 0.5), hs.kick(d, 0.5).float())


def test_the_directions_are_uniform():
    """Mean u = 0 and mean u uᵀ = I/n over 2,000 kicks, each within five standard errors."""
    n, num = 3, 2000
    problem = hs.Problem.from_function(lambda t: t.sum(), torch.zeros(n).double())
    U = torch.stack([hs.kick(problem, 1.0, seed=seed) for seed in range(num)])
    assert (U.mean(0).abs() <= 5 * math.sqrt(1 / n / num)).all()
    fourth = 3 / (n * (n + 2)) - 1 / n**2  # variance of u_i²; that of u_i u_j is 1/(n (n + 2))
    assert ((U.T @ U / num - torch.eye(n)).abs().fill_diagonal_(0).double()
            <= 5 * math.sqrt(1 / (n * (n + 2)) / num)).all()  # fmt: skip
    assert ((U.square().mean(0) - 1 / n).abs() <= 5 * math.sqrt(fourth / num)).all()


def test_a_kick_frees_descent_from_a_monkey_saddle():
    problem = function(monkey, 0.0, 0.0)
    kicked = problem.at(hs.kick(problem, 0.1))
    assert float(problem.gradient().norm()) == 0
    assert hs.escape(kicked).found


@pytest.mark.parametrize(
    ("radius", "message"),
    [
        (0.0, "radius=0.0; give a positive length, such as 0.01 * problem.theta.norm()."),
        (math.nan, "radius=nan; give a positive length, such as 0.01 * problem.theta.norm()."),
        (
            1e-9,
            "radius=1e-09 is lost in the rounding of torch.float32 parameters of norm 1.73205; "
            "give a larger radius, or use model.double().",
        ),
    ],
)
def test_kicks_that_go_nowhere_are_refused(radius, message):
    problem = hs.Problem.from_function(lambda t: t.prod(), torch.ones(3))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.kick(problem, radius)
