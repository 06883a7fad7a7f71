"""The loss on a line, against lines that are known in closed form."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesscope as hs
from tests.oracles import data, network
from tests.state import state_of

EPS = torch.finfo(torch.float64).eps


def function(f, n=1, dtype=torch.float64):
    return hs.Problem.from_function(f, torch.zeros(n, dtype=dtype))


def wells(theta):
    return (theta**2 - 1).square().sum()


def random_quadratic(n, seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return A + A.T, *torch.randn(3, n, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_a_quadratic_is_a_parabola_along_any_line(n, seed):
    A, g, a, b = random_quadratic(n, seed)
    path = hs.interpolate(function(lambda x: x @ A @ x / 2 + g @ x, n), a, b, num_points=21)
    d, t = b - a, path.points
    parabola = (a @ A @ a / 2 + g @ a) + t * (d @ (A @ a + g)) + t**2 * (d @ A @ d) / 2
    size = float(A.norm() * (a.norm() + b.norm()) ** 2 + g.norm() * (a.norm() + b.norm()))
    tolerance = 20 * n * EPS * size
    assert torch.allclose(path.losses, parabola, rtol=0, atol=tolerance)
    # The excess over the chord is -t (1 - t) d'Ad/2: its height at 1/2, which is a point.
    assert abs(path.barrier - max(0.0, float(-d @ A @ d) / 8)) <= tolerance
    assert path.distance == pytest.approx(float(d.norm()))


def test_the_barrier_of_a_double_well_is_one_in_the_middle():
    path = hs.interpolate(function(wells), torch.tensor([-1.0]), torch.tensor([1.0]))
    assert (path.barrier, path.barrier_at, path.distance) == (1.0, 0.5, 2.0)
    assert (len(path), path.num_evaluations) == (51, 51)


def test_the_barrier_counts_from_the_chord_not_from_an_end():
    def tilted(x):
        return wells(x) + x.sum()

    path = hs.interpolate(function(tilted), torch.tensor([-1.0]), torch.tensor([1.0]))
    assert path.barrier == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("num_points", [10, 24, 50])
def test_what_even_grids_miss_of_a_smooth_barrier_is_within_what_they_state(num_points):
    path = hs.interpolate(function(wells), torch.tensor([-1.0]), torch.tensor([1.0]), num_points)
    assert 0 < 1.0 - path.barrier <= path.missed


@settings(max_examples=40, deadline=None)
@given(num_points=st.integers(6, 60), peak=st.floats(0.4, 0.6), ratio=st.floats(0.3, 3.0))
def test_what_any_grid_misses_of_a_kink_is_within_what_it_states(num_points, peak, ratio):
    def tent(x):
        return torch.where(x < peak, x - peak, ratio * (peak - x)).sum()

    path = hs.interpolate(function(tent), torch.zeros(1), torch.ones(1), num_points)
    truth = (1 - peak) * peak + peak * ratio * (1 - peak)
    assert -path.rounding <= truth - path.barrier <= path.missed + path.rounding


def test_a_coarse_grid_still_sees_a_barrier():
    path = hs.interpolate(function(wells), torch.tensor([-1.0]), torch.tensor([1.0]), 3)
    assert (path.barrier, path.missed) == (1.0, 1.0)
    assert "barrier 1 over the chord, at t = 0.5 (about 1.0e+00 more between" in str(path)


def test_both_ends_are_exactly_the_points_given():
    problem = hs.Problem(network(3, 5, 2), torch.nn.functional.cross_entropy, data(20, 3, 2))
    a, b = problem.theta, problem.theta + torch.randn(problem.n).double() * 1e3
    path = hs.interpolate(problem, a, b, num_points=7)
    assert float(path.losses[0]) == problem.at(a).loss()
    assert float(path.losses[-1]) == problem.at(b).loss()


def test_a_convex_loss_has_no_barrier():
    model = torch.nn.Linear(4, 3).double()
    problem = hs.Problem(model, torch.nn.functional.cross_entropy, data(30, 4, 3))
    a, b = torch.randn(2, problem.n).double()
    path = hs.interpolate(problem, a, b)
    assert (path.barrier, path.barrier_at) == (0.0, 0.0)
    assert "no barrier over the chord" in str(path)


def test_from_the_other_side_it_is_the_same_line():
    problem = hs.Problem(network(3, 5, 2), torch.nn.functional.cross_entropy, data(20, 3, 2))
    a, b = 3 * torch.randn(2, problem.n).double()
    there, back = hs.interpolate(problem, a, b), hs.interpolate(problem, b, a)
    assert torch.allclose(there.losses, back.losses.flip(0), rtol=1e-12)
    assert there.barrier == pytest.approx(back.barrier, rel=1e-10)


def test_batches_do_not_change_the_line():
    x, y = data(21, 3, 2)
    whole, parts = (
        hs.Problem(network(3, 5, 2), torch.nn.functional.cross_entropy, (x, y), batch_size=size)
        for size in (None, 8)
    )
    a, b = torch.randn(2, whole.n).double()
    assert torch.allclose(
        hs.interpolate(whole, a, b).losses, hs.interpolate(parts, a, b).losses, rtol=1e-13
    )


def test_the_model_comes_back_as_it_was():
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(), torch.nn.Linear(4, 2)
    ).train()
    x, y = data(20, 3, 2)
    problem = hs.Problem(model, torch.nn.functional.cross_entropy, (x.float(), y), training=True)
    before = state_of(model)
    hs.interpolate(problem, problem.theta, torch.zeros(problem.n), num_points=3)
    assert state_of(model) == before


def test_an_infinite_loss_between_the_ends_is_recorded():
    def wall(x):
        return torch.where(x.abs() < 0.1, torch.inf, x**2).sum()

    path = hs.interpolate(function(wall), torch.tensor([-1.0]), torch.tensor([1.0]), 5)
    assert path.losses.tolist() == [1.0, 0.25, math.inf, 0.25, 1.0]
    assert (path.barrier, path.barrier_at) == (math.inf, 0.5)
    assert "barrier infinite, first at t = 0.5" in str(path)
    assert "1 of the losses are infinite or NaN" in str(path)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_barrier_is_unknown_where_a_loss_is_no_number(value):
    def hole(x):
        return torch.where(x.abs() < 0.1, value, x**2).sum()

    path = hs.interpolate(function(hole), torch.tensor([-1.0]), torch.tensor([1.0]), 5)
    assert torch.equal(path.losses[[0, 1, 3, 4]], torch.tensor([1.0, 0.25, 0.25, 1.0]).double())
    assert str(float(path.losses[2])) == str(value)
    assert math.isnan(path.barrier)
    assert "barrier unknown" in str(path)


def test_an_infinite_end_leaves_no_chord():
    def wall(x):
        return torch.where(x > 0.9, torch.inf, x**2).sum()

    path = hs.interpolate(function(wall), torch.tensor([-1.0]), torch.tensor([1.0]), 5)
    assert float(path.losses[-1]) == math.inf
    assert math.isnan(path.barrier)


def test_rounding_alone_is_no_barrier():
    problem = function(lambda x: 1 + (1e-9 * x).sum(), dtype=torch.float32)
    path = hs.interpolate(problem, torch.tensor([-50.0]), torch.tensor([60.0]))
    assert path.barrier <= path.rounding
    assert "no barrier" in str(path)


def test_progress_is_told_point_by_point():
    seen = []
    with hs.listening(lambda *event: seen.append(event)):
        hs.interpolate(function(wells), torch.zeros(1), torch.ones(1), 3)
    assert seen == [("loss along a line", i, 3) for i in (1, 2, 3)]


@pytest.mark.parametrize("name", ["theta_a", "theta_b"])
def test_a_point_of_another_shape_is_refused(name):
    thetas = {"theta_a": torch.zeros(1), "theta_b": torch.zeros(1), name: torch.zeros(2)}
    message = (
        f"{name} has shape (2,); this problem has n=1 parameters, so give a tensor of shape (1,), "
        "such as problem.theta of a trained model."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.interpolate(function(wells), **thetas)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e60])
def test_a_point_that_is_not_finite_is_refused(value):
    message = (
        "theta_b has 1 entries that are NaN or infinite in torch.float32; that run has diverged: "
        "take an earlier checkpoint."
    )
    problem = function(wells, 2, torch.float32)
    theta_b = torch.tensor([0.0, value], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.interpolate(problem, torch.zeros(2), theta_b)


@pytest.mark.parametrize("num_points", [2, 0, 2.5, True])
def test_too_few_points_are_refused(num_points):
    message = f"num_points={num_points}; a line needs both ends and a point between: 3 or more."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.interpolate(function(wells), torch.zeros(1), torch.ones(1), num_points)


def test_a_model_that_fails_is_an_error_not_an_infinite_loss():
    problem = function(lambda x: x @ torch.zeros(3).double())
    with pytest.raises(ValueError, match="the model or the loss fails on batch 0"):
        hs.interpolate(problem, torch.zeros(1), torch.ones(1))
