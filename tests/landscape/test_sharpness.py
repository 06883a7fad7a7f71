"""Measures of sharpness against quadratics, where each has a closed form, and their invariances."""

import itertools
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, network

X, Y = data(64, 5, 3)


def quadratic(n, seed=0, shift=0.0):
    """(A, θ, problem) of θ'Aθ/2 + 1 with A positive definite."""
    generator = torch.Generator().manual_seed(seed)
    B = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A, theta = B @ B.T / n, shift * torch.randn(n, generator=generator, dtype=torch.float64)
    return A, theta, hs.Problem.from_function(lambda t: t @ A @ t / 2 + 1, theta)


@pytest.mark.parametrize("seed", range(4))
def test_at_the_bottom_of_a_quadratic_all_are_known(seed):
    A, _, problem = quadratic(6, seed)
    found = hs.sharpness(problem, radius=0.3, num_pairs=400, seed=seed)
    values = torch.linalg.eigvalsh(A)
    assert found["worst in ball"].value == pytest.approx(0.09 * float(values[-1]) / 2, rel=1e-6)
    assert abs(found["λmax"].value - float(values[-1])) <= found["λmax"].error
    assert found["trace"].value == pytest.approx(float(values.sum()), rel=1e-6)
    average = found["average in ball"]
    assert abs(average.value - 0.09 * float(values.sum()) / 16) <= 5 * average.error
    assert found.loss == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_the_box_of_keskar_is_climbed_to_its_highest_corner(seed):
    A, theta, problem = quadratic(5, seed, shift=1.0)
    found = hs.sharpness(problem, epsilon=0.1, seed=seed)["Keskar box"]
    loss = float(theta @ A @ theta / 2 + 1)
    corners = [
        theta + 0.1 * (theta.abs() + 1) * torch.tensor(signs, dtype=torch.float64)
        for signs in itertools.product((-1, 1), repeat=5)
    ]
    highest = max(float(t @ A @ t / 2 + 1) for t in corners)
    truth = 100 * (highest - loss) / (1 + loss)
    assert found.value <= truth * (1 + 1e-12)
    assert found.value >= 0.95 * truth  # a climb may end in a lower corner
    assert found.kind == "bound"


def test_a_step_of_sam_is_that_of_the_papers():
    model = network(5, 4, 3)
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    found = hs.sharpness(problem, radius=0.1, adaptive_radius=0.2, m=16, num_parts=4)
    for name, radius, adaptive in (("SAM", 0.1, False), ("ASAM", 0.2, True)):
        rises = []
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            part = hs.Problem(model, F.cross_entropy, (x, y))
            theta, g = part.theta, part.gradient()
            T = theta.abs() if adaptive else torch.ones_like(theta)
            delta = radius * T.square() * g / (T * g).norm()
            rises.append(part.at(theta + delta).loss() - part.loss())
        rises = torch.tensor(rises, dtype=torch.float64)
        assert found[name].value == pytest.approx(float(rises.mean()), rel=1e-9)
        assert found[name].error == pytest.approx(float(rises.std() / 2), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_critical_step_of_a_quadratic_is_twice_its_slope_over_its_curvature(seed):
    A, theta, problem = quadratic(5, seed, shift=1.0)
    found = hs.sharpness(problem)["critical"]
    g = A @ theta
    truth = float(g @ A @ g / (g @ g))
    assert abs(found.value - truth) <= found.error * (1 + 1e-6)
    assert found.error < truth / 16
    sgd = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    assert hs.sharpness(problem, optimizer=sgd)["critical"].value == pytest.approx(
        0.1 * truth, rel=1 / 16
    )


def test_what_is_said_to_be_invariant_is():
    """Hidden units scaled by c and 1/c, and permuted: a ReLU network stays what it is."""
    model = network(5, 6, 3, activation=nn.ReLU)
    found = []
    for change in ("none", "permuted", "rescaled"):
        with torch.no_grad():
            order = torch.tensor([3, 1, 5, 0, 2, 4])
            if change == "permuted":
                for tensor in (model[0].weight, model[0].bias):
                    tensor.copy_(tensor[order].clone())
                model[2].weight.copy_(model[2].weight[:, order].clone())
            if change == "rescaled":
                model[0].weight *= 4
                model[0].bias *= 4
                model[2].weight /= 4
        problem = hs.Problem(model, F.cross_entropy, (X, Y))
        found.append(hs.sharpness(problem, m=16))
    start, permuted, rescaled = found
    for name in ("worst in ball", "SAM", "ASAM", "λmax", "critical"):
        assert permuted[name].value == pytest.approx(start[name].value, rel=1e-6), name
    assert permuted["trace"].value == pytest.approx(start["trace"].value, rel=0.05)
    assert rescaled["ASAM"].value == pytest.approx(start["ASAM"].value, rel=1e-9)
    for name in ("SAM", "λmax", "trace", "worst in ball"):
        assert abs(rescaled[name].value / start[name].value - 1) > 0.2, name


def test_networks_are_compared_at_equal_loss_only():
    problems = [hs.Problem(network(5, 6, 3, seed=s), F.cross_entropy, (X, Y)) for s in (1, 2)]
    a, b = (hs.sharpness(problem) for problem in problems)
    compared = a.compare(b, tolerance=10.0)
    assert compared.equal_loss
    assert compared.ratios[compared.names.index("λmax")] == a["λmax"].value / b["λmax"].value
    assert "first over second" in str(compared)
    assert "(of two lower bounds)" in str(compared)
    refused = a.compare(b, tolerance=0.0)
    assert not refused.equal_loss
    assert "not compared: the training losses are " in str(refused)
    assert refused.columns() == {}


def test_a_point_without_slope_or_a_line_without_rise_has_no_critical_step():
    still = hs.sharpness(hs.Problem.from_function(lambda t: t.square().sum(), torch.zeros(2)))
    assert math.isnan(still["critical"].value)
    falling = hs.sharpness(hs.Problem.from_function(lambda t: t.sum(), torch.zeros(2)))
    assert math.isnan(falling["critical"].value)
    assert "separates fall from rise" in falling["critical"].note


@pytest.mark.parametrize("given", [{"radius": 0}, {"epsilon": math.nan}, {"steps": -1}])
def test_what_is_not_positive_is_refused(given):
    (name, value), *_ = given.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value}; give a positive number.")):
        hs.sharpness(quadratic(2)[2], **given)


def test_an_unknown_measure_names_the_known_ones():
    with pytest.raises(KeyError, match="no measure 'flatness'; there are Keskar box, "):
        hs.sharpness(quadratic(2)[2])["flatness"]
