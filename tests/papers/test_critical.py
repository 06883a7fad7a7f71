"""What papers/critical.py rests on: the small matrix, the rounded kinks, the rules."""

import pytest
import torch
from common.claims import NO, PARTLY, YES
from driven import newton, rank, reached
from sagun import networks
from torch import nn
from torch.nn import functional as F

import hesscope as hs


def data(num=30, inputs=12):
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(num, inputs, generator=generator, dtype=torch.float64)
    X[:, 3] = 0
    return X, torch.randint(4, (num,), generator=generator)


@pytest.mark.parametrize("width", [2, 6])
def test_the_small_matrix_has_the_eigenvalues_of_the_hessian(width):
    X, y = data()
    e = networks.starts((12, width, width, 4), 1, 0.5)
    problem = networks.problem(e, 0, X, y)
    exact = torch.linalg.eigvalsh(hs.Hessian(problem).to_dense())
    parts = rank.blocks(problem, X)
    trace, squares = parts.moments
    assert trace == pytest.approx(float(exact.sum()))
    assert squares == pytest.approx(float(exact.square().sum()))
    found = torch.linalg.eigvalsh(rank.small(parts))
    later = problem.n - width * 13
    assert len(found) <= 30 * 3 + 2 * later
    size = max(len(found), len(exact))
    rows = [torch.cat([v, torch.zeros(size - len(v))]).sort().values for v in (found, exact)]
    assert torch.allclose(*rows, rtol=0, atol=1e-13 * float(exact.abs().max()))


@pytest.mark.parametrize("layers", [(12, 3, 4), (12, 3, 2, 4)])
def test_a_field_is_that_of_networks_with_softplus_of_beta(layers):
    X, y = data()
    theta = networks.starts(layers, 2, 0.5).theta
    field = newton.Field(layers, X, y, "cross_entropy", beta=30.0)
    model = hs.ensemble.Ensemble(layers, "relu", theta).member(1)
    model = nn.Sequential(*(m if isinstance(m, nn.Linear) else nn.Softplus(30.0) for m in model))
    problem = hs.Problem(model, F.cross_entropy, (X, y))
    assert torch.allclose(field.losses(theta)[1], F.cross_entropy(model(X), y))
    assert torch.allclose(field.gradients(theta)[1], problem.gradient())
    H = hs.Hessian(problem).to_dense()
    assert torch.allclose(field.hessians(theta)[1], H, atol=1e-7 * float(H.abs().max()))


def test_newton_steps_lower_the_loss_and_end_where_the_gradient_vanishes():
    X, y = data(8, 12)
    field = newton.Field((12, 2, 4), X, y, "cross_entropy")
    start = networks.starts((12, 2, 4), 2, 0.5).theta
    found = newton.driven(field, start, (10.0, 100.0), (40, 20), 1e-6)
    assert bool((found["losses"] < field.losses(start)).all())
    assert float(found["gradient_norms"].min()) < 1e-6


def ends(norms, smooth):
    kept = torch.tensor(norms), torch.tensor(smooth)
    return {"a": {"Newton": {"gradient_norms": kept[0], "smooth_norms": kept[1]}}}


@pytest.mark.parametrize(
    ("norms", "smooth", "below", "kinks"),
    [
        ([1e-5, 1e-6], [1e-5, 1e-6], YES, YES),
        ([1e-5, 1e-6, 1e-2], [1e-5, 1e-6, 1e-6], PARTLY, YES),
        ([1e-5, 1e-2, 1e-2], [1e-5, 1e-2, 1e-6], NO, NO),
    ],
)
def test_what_counts_as_reached_and_as_a_kink(norms, smooth, below, kinks):
    found = ends(norms, smooth)
    assert reached.reaches(found).holds == below
    assert reached.kinks(found).holds == kinks
