"""The rules and formulas of papers/debugging.py on numbers that are known."""

import math

import pytest
import torch
from debug import differences, machines, minima, noise, points, starts, steps, stuck

import hesscope as hs


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_weights_have_the_gain_that_they_are_asked_for():
    theta = starts.weights((400, 300, 10), 1.5, 0)
    assert len(theta) == 400 * 300 + 300 + 300 * 10 + 10
    assert float(theta[: 400 * 300].std()) * 20 == pytest.approx(1.5, rel=0.02)
    assert not theta[400 * 300 : 400 * 300 + 300].any()


@pytest.mark.parametrize(
    ("ours", "holds"), [([1, 1, 1], "yes"), ([1, 1, 3], "in part"), ([3, 3, 1], "no")]
)
def test_an_initialisation_is_better_than_both_extremes_or_not(ours, holds):
    losses = rows([2, 2, 2], [1, 1, 1], [1, 1, 1], ours, [2, 2, 2])
    found = starts.better("relu", 4, losses)
    assert found.holds == holds
    assert len(found.tried) == (3 if holds == "no" else 0)


def test_warnings_are_right_where_those_that_are_warned_of_end_higher():
    losses = rows([2, 2], [1, 1], [0, 0], [1, 1], [3, 3])
    kept = torch.tensor([[0, 0], [1, 1], [1, 1], [1, 1], [0, 0]]).bool()
    assert starts.foretold([losses], [kept]).holds == "yes"
    assert starts.foretold([-losses], [kept]).holds == "no"


def test_on_parabolas_the_rule_for_steps_is_exact_and_halving_is_counted():
    limit = rows(1.0, 3.0)
    up = torch.stack([torch.tensor([m > 1, m > 1]) for m in steps.MULTIPLES])
    part = {
        "limit": limit[None],
        "up": up[None],
        "halvings": rows([2, 0]).long(),
        "beside": rows([1, 1]),
    }
    right, _ = steps.agreement(part)
    assert bool((right == 1).all())
    assert steps.rises({"tanh": part}, (0,)).holds == "yes"
    wrong = {**part, "up": ~part["up"]}
    assert steps.rises({"tanh": wrong}, (0,)).holds == "no"
    some = {key: torch.cat([part[key], wrong[key]], -1) for key in part}
    some["beside"] = rows([1, 1, 5, 5])
    assert steps.rises({"tanh": some}, (0,)).holds.startswith("only when the gradient lies")
    assert steps.cured(lambda step: step > limit, 10 * limit).tolist() == [4, 4]
    assert steps.cured(lambda step: step > -1, limit).tolist() == [-1, -1]


def test_networks_count_as_stopped_where_the_loss_is_high_and_still():
    high, time = 0.9 * math.log(4), torch.linspace(1, 0, 41).double()
    part = {
        "loss": torch.stack([high + 0 * time, 0 * time, high * (1 + time)], 1),
        "norm": torch.stack([time + 0.5, time, time], 1),
    }
    assert stuck.stopped(part).tolist() == [True, False, False]
    assert float(stuck.ratio(part)[0]) == pytest.approx(0.55 / 1.425)
    assert stuck.healthy({"a, b": part}).holds == "yes"
    dead = {**part, "norm": part["norm"] * (time[:, None] > 0.5)}
    assert stuck.healthy({"a, b": dead}).holds == "no"
    assert stuck.healthy({"a, b": dead, "c, d": part}).holds == "only when it stops for c"


def test_a_way_out_helps_where_it_frees_more_than_going_on():
    losses = torch.ones(2 + len(stuck.RADII), 4, dtype=torch.float64)
    part = {"losses": losses, "goal": torch.tensor(0.5)}
    assert stuck.helped({"a": part}).holds == "no"
    losses[1, :2] = 0.0
    assert stuck.helped({"a": part}).holds == "yes"
    losses[0, :2] = 0.0
    assert stuck.helped({"a": part}).holds == "no"


@pytest.mark.parametrize(
    ("ranges", "holds"),
    [
        ({2: 0.01, 8: 0.02}, "yes"),
        ({2: 0.04, 8: 0.02}, "in part"),
        ({2: 0.4, 4: 0.05, 8: 0.02}, "only when the network has 4 hidden units or more"),
        ({2: 0.01, 8: 0.2}, "no"),
    ],
)
def test_minima_are_equivalent_by_the_width_of_their_errors(ranges, holds):
    assert minima.by_width(ranges) == holds


def test_ranges_and_rank_correlations_are_those_of_their_definitions():
    x = torch.arange(101).double()
    assert minima.width_of(x) == pytest.approx(90)
    assert minima.rank_correlation(x, x.exp()) == pytest.approx(1)
    assert minima.rank_correlation(x, -(x**3)) == pytest.approx(-1)


@pytest.mark.parametrize("name", machines.PHI)
def test_hessians_of_the_machines_are_those_of_autograd(name):
    X, y = machines.examples(0)
    theta = torch.randn(6, generator=torch.Generator().manual_seed(1)).double()
    H = torch.autograd.functional.hessian(lambda t: machines.loss(name, t, X, y), theta)
    assert torch.allclose(machines.hessian(name, theta, X, y), H, rtol=1e-12, atol=1e-14)


def test_a_hinge_without_a_penalty_of_the_bias_is_flat_along_it():
    X, y = machines.examples(0)
    assert machines.flat(machines.HINGE, X, y) < 1e-15
    assert machines.flat(machines.LOGISTIC, X, y) > 0.01
    assert machines.bent_down(machines.HINGE, X, y, 100, 0) == 0
    assert machines.bent_down(machines.TURNED, X, y, 100, 0) > 50


@pytest.mark.parametrize("power", [1, 2])
def test_the_slope_of_errors_is_the_power_of_h(power):
    h = torch.tensor([10 ** (-k / 2) for k in range(24)], dtype=torch.float64)
    errors = (h**power + 1e-12 / h)[:, None].repeat(1, 3)
    assert differences.slope(h, errors) == pytest.approx(power, rel=0.05)
    best = float(differences.best_step({"h": h, "k": errors}, "k"))
    assert math.log10(best) == pytest.approx(-12 / (power + 1), abs=0.5)


@pytest.mark.parametrize(("depth", "rank", "said"), [(2, 0, "saddle"), (2, 2, "saddle"),
                                                    (3, 0, "left open"), (3, 2, "left open"),
                                                    (2, 4, "left open")])  # fmt: skip
def test_the_linear_networks_stand_at_critical_points(depth, rank, said):
    problem = points.linear(depth, rank, 1)
    assert float(problem.gradient().norm()) < 1e-12
    assert points.signs(hs.spectrum(hs.Hessian(problem)).eigenvalues) == said


def test_claims_of_the_verdict_are_read_by_their_noun():
    assert points.read("a strict saddle: there is no slope") == "saddle"
    assert points.read("a minimum to second order, up to ε: no saddle") == "minimum"
    assert points.read("a local maximum: ...") == "maximum"
    assert points.read("undecided: no") == "left open"


def test_passes_are_counted_to_the_first_look_below_a_target():
    losses = rows(2.0, 0.4, 0.6, 0.05)
    assert noise.reached(torch.arange(4).double(), losses) == [1.0, 3.0]
    assert noise.reached(torch.arange(2).double(), losses[:2]) == [1.0, math.inf]
    assert noise.rises(losses) == pytest.approx(1 / 3)
