"""Closed forms, the sampler and the walks of papers/singular.py, on cases with known answers."""

import itertools
import math

import pytest
import torch
from degenerate import aoyagi, bottoms, fisher, halting, learning, sampler, zeros


@pytest.mark.parametrize("widths", list(itertools.product(range(1, 5), repeat=3)))
def test_the_formula_for_deep_networks_is_that_for_two_layers(widths):
    for r in range(min(widths) + 1):
        assert aoyagi.deep(widths, r) == aoyagi.reduced_rank(*widths, r)


@pytest.mark.parametrize(
    ("widths", "rank", "found"),
    [
        ((1, 1, 1), 0, (0.5, 2)),  # (ab)²: two lines that cross
        ((1, 1, 1), 1, (0.5, 1)),
        ((1, 1, 1, 1), 0, (0.5, 3)),  # (abc)²
        ((2, 5, 2), 0, (2.0, 1)),  # wide: as linear regression
        ((3, 3, 3), 3, (4.5, 1)),  # full rank: regular, of 9 dimensions
    ],
)
def test_learning_coefficients_that_are_known_otherwise(widths, rank, found):
    value, multiplicity = aoyagi.deep(widths, rank)
    assert (value, multiplicity) == (pytest.approx(found[0]), found[1])


def test_a_rank_above_a_width_is_refused():
    with pytest.raises(ValueError, match="no map of rank 3"):
        aoyagi.deep((2, 4, 4), 3)


def test_the_sampler_has_the_mean_of_a_gaussian():
    curvature = torch.tensor([1.0, 4.0, 100.0], dtype=torch.float64)
    chains = sampler.sample(
        lambda w: (curvature * w.square()).sum(1) / 2,
        torch.zeros(3, dtype=torch.float64),
        strength=1.0,
        chains=64,
        draws=150,
        leaps=8,
        seed=0,
    )
    exact = float((curvature / (curvature + 1)).sum() / 2)
    means = chains.energies.mean(0)
    assert float(means.mean()) == pytest.approx(exact, abs=4 * float(means.std()) / 8)
    assert sampler.rank_normalised_rhat(chains.energies) < 1.05


def test_rhat_sees_chains_of_another_mean_and_of_another_width():
    z = torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert sampler.rank_normalised_rhat(z) < 1.01
    assert sampler.rank_normalised_rhat(z + torch.tensor([0, 0, 0, 1.0])) > 1.1
    assert sampler.rank_normalised_rhat(z * torch.tensor([1, 1, 1, 4.0])) > 1.1
    assert sampler.rank_normalised_rhat(z.exp().exp()) < 1.01  # heavy tails: ranks do not mind


def test_the_divergence_of_linear_networks_is_zero_at_the_truth():
    energy, centre = learning.distance((3, 2, 3), 1)
    assert float(energy(centre[None])) == 0
    moved = centre.clone()
    moved[0] += 0.5
    assert float(energy(moved[None])) == pytest.approx(0.125)


def test_a_student_has_zeros_for_units_that_weigh_nothing():
    assert fisher.zeros(fisher.student(2, 0))[0] == 0
    assert fisher.zeros(fisher.student(4, 0))[0] == 2 * (fisher.INPUTS + 1)
    assert fisher.zeros(fisher.student(4, 0, at_truth=False))[0] == 0


def test_a_walk_stays_on_the_circle():
    def residuals(theta):
        return (theta.square().sum() - 1)[None]

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    up = torch.tensor([0.0, 1.0], dtype=torch.float64)
    points = bottoms.walk(residuals, start, lambda *_: up, 20, 0.1)
    assert torch.allclose(points.norm(dim=1), torch.ones(21).double(), atol=1e-8)
    assert math.atan2(points[10, 1], points[10, 0]) == pytest.approx(1.0, abs=0.02)


def test_symmetries_of_linear_networks_are_all_that_leaves_the_map():
    assert zeros.symmetric("tanh", 4) == 0
    assert zeros.symmetric("relu", 4) == 4
    assert zeros.symmetric("identity", 1) == 2  # scale of the unit, and its bias


@pytest.mark.parametrize("law", halting.LAWS)
def test_laws_of_the_start_have_mean_zero_and_variance_one(law):
    x = halting.drawn(law, (20_000,), 0)
    assert abs(float(x.mean())) < 0.03
    assert float(x.var()) == pytest.approx(1, abs=0.03)
