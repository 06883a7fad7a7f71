"""Papyan's levels add up, and class means explain the top of a trained classifier."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests import oracles
from tests.oracles import data, network

X, Y = data(24, 5, 3)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_traces_add_up_to_the_trace_of_gauss_newton(batch_size):
    problem = hs.Problem(network(5, 9, 3), F.cross_entropy, (X, Y), batch_size=batch_size)
    parts = hs.class_decomposition(problem)
    truth = float(oracles.gauss_newton(problem, X, Y).trace())
    assert parts.trace == pytest.approx(truth, rel=1e-12)
    total = parts.trace_class + parts.trace_cross + parts.trace_within
    assert total == pytest.approx(truth, rel=1e-12)
    assert len(parts.class_eigenvalues) == 3
    assert float(parts.class_eigenvalues.sum()) == pytest.approx(parts.trace_class, rel=1e-10)
    assert float(parts.cross_eigenvalues.sum()) == pytest.approx(parts.trace_cross, rel=1e-10)


def test_with_one_example_per_class_nothing_is_left_within():
    problem = hs.Problem(network(5, 9, 3), F.cross_entropy, (X[:3], torch.tensor([0, 1, 2])))
    parts = hs.class_decomposition(problem)
    assert abs(parts.trace_within) < 1e-14 * parts.trace


def test_class_means_span_the_top_eigenvectors_of_a_trained_classifier():
    torch.manual_seed(0)
    centres = 2 * torch.randn(3, 6, dtype=torch.float64)
    labels = torch.arange(150) % 3
    inputs = centres[labels] + 0.8 * torch.randn(150, 6, dtype=torch.float64)
    model = network(6, 10, 3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    problem = hs.Problem(model, F.cross_entropy, (inputs, labels))
    pairs = hs.eigsh(hs.GaussNewton(problem), k=6)
    overlap = hs.class_decomposition(problem, pairs).overlap
    assert float(overlap[:2].min()) > 0.9  # C - 1 of them
    assert int((overlap > 0.5).sum()) <= 3  # the span has dimension C


@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [(F.mse_loss, torch.zeros(24, 3).double()), (F.cross_entropy, torch.rand(24, 3).double())],
)
def test_other_losses_and_soft_labels_are_refused(loss_fn, targets):
    problem = hs.Problem(network(5, 3), loss_fn, (X, targets))
    with pytest.raises(ValueError, match=r"^class_decomposition needs .*integer labels"):
        hs.class_decomposition(problem)


def test_ignored_labels_do_not_count():
    labels = torch.where(torch.arange(24) % 5 == 0, -100, Y)
    model = network(5, 9, 3)
    kept = labels != -100
    whole = hs.Problem(model, nn.CrossEntropyLoss(), (X, labels), count=lambda y: (y != -100).sum())
    part = hs.Problem(model, nn.CrossEntropyLoss(), (X[kept], labels[kept]))
    a, b = hs.class_decomposition(whole), hs.class_decomposition(part)
    assert a.trace_cross == pytest.approx(b.trace_cross, rel=1e-12)
