"""The rules and formulas of papers/edge_of_stability.py on numbers that are known."""

import math

import pytest
import torch
from stability import batches, course, edge, faster, racing, start, training


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("series", "holds"),
    [
        ([0.2, 1.0, 1.0, 1.05, 1.0, 1.0], "yes"),
        ([0.2, 1.0, 1.1, 0.3, 0.2, 0.1], "only when the loss has not become small"),
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.3], "no"),
    ],
)
def test_training_is_at_its_edge_where_it_ends_there(series, holds):
    part = {1.0: {edge.OVER: rows(series, series)}}
    assert edge.at_the_edge("a", part, "2/lr").holds == holds


def test_late_is_the_median_of_the_last_third():
    assert training.late(rows([0, 0, 0, 0, 0, 0, 3, 1, 2])).tolist() == [2.0]


@pytest.mark.parametrize(
    ("sharp", "top", "hovers", "flatter"),
    [
        ((1, 1), (0.5, 1), "yes", "yes"),
        ((1, 3), (0.95, 1), "in part", "in part"),
        ((3, 3), (2, 1), "no", "no"),
        ((1, 1), (0.5, 0.7), "undecided", "undecided"),
    ],
)
def test_batches_hover_where_their_sharpness_is_near_the_edge(sharp, top, hovers, flatter):
    found = {
        batch: {"of_batches": rows([a] * 6, [a] * 6), "lambda_max": rows([b] * 6, [b] * 6)}
        for batch, a, b in zip((2, 100), sharp, top, strict=True)
    }
    assert batches.hovers(found, 2.0).holds == hovers
    assert batches.flatter(found, 2.0).holds == flatter


def test_the_largest_lr_is_that_up_to_which_all_survive():
    alive = torch.tensor([[True, True, False, True], [False, True, True, True]])
    assert start.largest(alive).tolist() == pytest.approx([start.TIMES[1], 0.0])


def test_a_catapult_lands_where_it_is_flatter_and_not_beyond_four_over_lambda():
    rows = start.thrown(256, 3, 400)["rows"]
    times = torch.tensor(start.CATAPULT)
    alive = rows[:, 2] < 1e-6
    assert bool(alive[times < 1].all())
    assert not alive[times > 2.3].any()
    landed = rows[(times > 1.1) & (times < 1.9), 3]
    assert bool((landed[landed.isfinite()] < 1).all())


def test_the_curvature_of_the_catapult_is_that_of_its_formula():
    theta = torch.zeros(2, 3).double()
    theta[0] = rows(1, 2, 2)
    assert start.sharpness(theta) == pytest.approx(9 / 3)


def test_flattening_is_asked_of_both_numbers_and_all_seeds():
    down, up = rows([2, 1], [3, 1]), rows([2, 1], [1, 3])
    part = {"losses": down, "lambda_max": down, "trace": down}
    assert course.flattens({"a": part}).holds == "yes"
    assert course.flattens({"a": part, "b": {**part, "trace": up}}).holds == "only when: a"
    assert course.flattens({"b": {**part, "trace": up}}).holds == "no"


def race(once, often, newton=9.0):
    """Three seeds: the best of the grid needs 10 steps, the others 100 or never."""
    grid = torch.full((len(racing.GRID), 3), math.inf, dtype=torch.float64)
    grid[3], grid[5] = 100.0, 10.0
    part = {"grid": grid, "usual": rows([math.inf] * 3, [40, 50, 60])}
    part |= {"once": rows(once).expand(3), "often": rows(often).expand(3)}
    return part | {"once_price": rows(30).expand(3), "newton": rows(newton).expand(3)}


@pytest.mark.parametrize(("often", "holds"), [(12, "yes"), (16, "no"), (math.inf, "no")])
def test_advice_is_quick_beside_the_best_of_the_grid(often, holds):
    name, other = list(racing.RACES)[:2]
    assert faster.near_the_best({name: race(20, often)}).holds == holds
    both = faster.near_the_best({name: race(20, 12), other: race(20, 20)})
    assert both.holds == f"only when: {name}"


@pytest.mark.parametrize(
    ("once", "usual", "cheaper"), [(20, "yes", "yes"), (45, "no", "yes"), (90, "no", "no")]
)
def test_advice_is_beside_the_usual_lr_and_the_search(once, usual, cheaper):
    found = {f"tanh, {training.SQUARED}": race(once, once)}
    part = next(iter(found.values()))
    assert faster.searched(part).tolist() == [10.0 * len(racing.GRID)] * 3
    assert faster.beats_the_usual(found).holds == usual
    assert faster.cheaper(found).holds == cheaper


def test_newton_is_beside_the_faster_of_descent_and_momentum():
    name = f"tanh, {training.SQUARED}"
    found = {name: race(20, 20)}
    assert faster.by_newton(found).holds == "yes"
    quick = {**race(20, 20), "grid": race(20, 20)["grid"] / 2}
    del quick["newton"]
    assert faster.by_newton({**found, f"{name}, momentum 0.9": quick}).holds == "no"


def test_advice_trains_to_the_goal_and_counts_what_it_asked():
    one = racing.Race("tanh", training.ENTROPY, 2.0, steps=30)
    steps, price, lr = racing.descend(one, 0, None, again=5)
    slower, free, _ = racing.descend(one, 0, lr / 4)
    assert steps < slower < 30
    assert price > free == 0
    assert racing.descend(one, 0, 1e-6)[0] == math.inf
    assert racing.by_newton(one, 0) > 2


def test_a_watched_training_is_the_one_that_is_not_watched():
    one = training.Course(1.0, 4, 2, width=3, examples=20)
    found = training.watched(one, 0, ("lambda_max",), ("lambda_max",))
    X, y = training.examples(20, training.SQUARED)
    model = training.network(one, 0)
    optimizer = training.optimizer(one, model)
    for loss in found["losses"]:
        optimizer.zero_grad()
        now = torch.nn.functional.mse_loss(model(X), y)
        assert float(now.detach()) == float(loss)
        now.backward()
        optimizer.step()
    assert found["step"].tolist() == [0, 2]
