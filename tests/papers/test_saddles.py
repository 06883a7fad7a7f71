"""The search for critical points, what it certifies, and the rules of papers/saddles.py."""

import math

import pytest
import torch
from stationary import escapes, finder, half, index, leaving, near, networks, plateaus, quasi, spins


def polynomial():
    """x⁴/4 - x²/2 + y²: minima at (±1, 0), a saddle at 0."""

    def losses(t):
        return t[:, 0] ** 4 / 4 - t[:, 0] ** 2 / 2 + t[:, 1] ** 2

    def gradients(t):
        return torch.stack([t[:, 0] ** 3 - t[:, 0], 2 * t[:, 1]], 1)

    def hessians(t):
        return torch.diag_embed(torch.stack([3 * t[:, 0] ** 2 - 1, torch.full_like(t[:, 1], 2)], 1))

    return finder.Field(losses, gradients, hessians)


def test_the_search_goes_to_the_saddle_and_the_descent_to_a_minimum():
    starts = torch.tensor([[0.2, 0.5], [0.9, -1.0]], dtype=torch.float64)
    points = finder.search(polynomial(), starts, 100)
    assert torch.allclose(points, torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), atol=1e-9)
    found = finder.described(polynomial(), starts, points)
    assert found["certain"].tolist() == [True, True]
    assert finder.index(found["eigenvalues"]).tolist() == [1, 0]
    ends = finder.descend(polynomial(), starts, 50)
    assert torch.allclose(ends, torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double(), atol=1e-6)


def test_eigenvalues_between_zero_and_clear_leave_the_index_uncertain():
    values = torch.tensor([[-1.0, 0, 2], [-1e-8, 1, 2], [-1e-12, 1, 2]], dtype=torch.float64)
    assert finder.certain(values).tolist() == [True, False, True]
    assert finder.index(values).tolist() == [1, 0, 0]
    assert finder.zeros(values).tolist() == [1, 0, 1]
    assert finder.share(values)[0] == 0.5


def test_points_count_once_when_loss_index_and_zeros_are_the_same():
    values = torch.tensor([[-1.0, 2], [-2.0, 1], [1, 1]], dtype=torch.float64)
    assert finder.distinct(torch.tensor([0.5, 0.5, 0.5]).double(), values).tolist() == [0, 2]


def test_gradient_and_hessian_of_the_spins_are_those_of_the_sphere():
    N = 6
    field, x = spins.field(N), spins.starts(N, 1)
    d = torch.linspace(-1, 1, N, dtype=torch.float64)[None]
    d = d - x * (x * d).sum() / N
    d = d / d.norm()

    def loss(angle):  # along the great circle
        step = torch.tensor(angle, dtype=torch.float64)
        return N * float(field.losses(x * step.cos() + N**0.5 * d * step.sin()))

    h, away = 1e-4, N**0.5
    slope = (loss(h) - loss(-h)) / (2 * h * away)
    bend = (loss(h) - 2 * loss(0.0) + loss(-h)) / (h * away) ** 2
    assert slope == pytest.approx(float((field.gradients(x) * d).sum()), rel=1e-5)
    assert bend == pytest.approx(float(d @ field.hessians(x)[0] @ d.mT), rel=1e-4)


def test_a_semicircle_is_near_itself_and_outliers_are_not():
    N = 400
    z = torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert index.from_semicircle(torch.linalg.eigvalsh(z + z.T)) < 0.02
    spiked = torch.cat([torch.linspace(-1, 1, 50), torch.tensor([30.0])]).double()
    assert index.from_semicircle(spiked) > 0.3


def test_rank_correlation_shares_ranks():
    x = torch.tensor([1.0, 2, 2, 4]).double()
    assert index.spearman(x, x) == pytest.approx(1)
    assert index.spearman(x, -x) == pytest.approx(-1)
    assert math.isnan(index.spearman(x[:2], x[:2]))


def counts(**settings):
    keys = "n", "points", "minima", "above", "minima above"
    return {name: dict(zip(keys, row, strict=True)) for name, row in settings.items()}


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (index.rises({"a": 0.8, "spins": 0.1}), "yes"),
        (index.rises({"a": 0.8, "b": 0.4}), "in part"),
        (index.rises({"a": 0.8, "b": 0.2}), "no"),
        (half.half_to_n(counts(a=(2, 100, 25, 99, 0))), "yes"),
        (half.half_to_n(counts(a=(30, 10, 3, 9, 0), b=(2, 100, 25, 99, 0))), "in part"),
        (half.half_to_n(counts(**{k: (30, 10, 3, 9, 0) for k in "abc"})), "no"),
        (half.high_ones(counts(a=(30, 10, 1, 9, 0), b=(5, 9, 8, 7, 6))), "yes"),
        (half.high_ones(counts(a=(30, 10, 1, 9, 1))), "in part"),
        (half.high_ones(counts(a=(30, 10, 8, 9, 7))), "no"),
        (near.near_path({"a": torch.tensor([0.05, 0.05, 0.05, 1])}), "yes"),
        (near.near_path({"a": torch.full((4,), 0.05), "b": torch.ones(4)}), "in part"),
        (near.near_path({"a": torch.ones(4)}), "no"),
    ],
)
def test_each_rule_decides_as_its_docstring_says(found, holds):
    assert found.holds == holds


def test_luck_is_the_two_sided_binomial_tail():
    assert half.luck(0, 1, 0.5) == 1.0
    assert half.luck(10, 10, 0.5) == pytest.approx(2 / 1024)


def test_time_on_plateaus_is_counted_where_the_loss_is_high():
    time = torch.tensor([0.0, 1, 11, 12, 20]).double()
    losses = torch.tensor([1.0, 0.9, 0.9, 0.0, 0.0])[:, None].double()
    norms = torch.tensor([1.0, 0.01, 0.01, 1.0, 0.0])[:, None].double()
    quiet = plateaus.on_plateau(losses, norms)
    assert quiet.flatten().tolist() == [False, True, True, False, False]
    assert float(plateaus.share_of_time(time, losses, quiet)) == pytest.approx(11 / 11.5)


def test_a_passage_ends_where_the_loss_is_below():
    on = networks.setting("linear")
    theta = on.starts(2)
    lr = torch.full((2,), 0.05, dtype=torch.float64)
    losses = on.losses(theta)
    steps = leaving.passage(on, theta, lr, losses * torch.tensor([2, 1e-9]), 5, leaving.Way())
    assert steps.tolist() == [0.0, math.inf]


def test_the_gradient_by_numpy_is_that_of_the_ensemble_and_alike_units_stay_alike():
    on = networks.setting("digits")
    theta = quasi.alike(on, on.starts(1))
    loss, gradient = quasi.with_gradient(on)(theta[0].numpy())
    assert loss == pytest.approx(float(on.losses(theta)), abs=1e-14)
    assert torch.allclose(torch.from_numpy(gradient), on.gradients(theta)[0], atol=1e-14)
    assert torch.allclose(quasi.alike(on, on.gradients(theta)), on.gradients(theta), atol=1e-14)


def test_the_second_derivative_test_is_held_to_what_was_measured():
    def kinds(*rows):
        kind, fall = zip(*rows, strict=True)
        return {"a": {"kind": torch.tensor(kind), "fall": torch.tensor(fall).double()}}

    sound = [(0, 0.0), (1, 0.1), (2, 0.0)]
    assert escapes.minimum_test(kinds(*sound)).holds == "yes"
    assert escapes.minimum_test(kinds(*sound, (2, 0.1))).holds == "only when no eigenvalue is zero"
    assert escapes.minimum_test(kinds(*sound, (0, 0.1))).holds == "in part"
