"""Each family of losses knows its gradient, Hessian, root and distribution in the outputs."""

import functools
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hesscope.problem.losses import Differentiated, output_loss

WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 1, 0])
HOLES = torch.tensor([0, -100, 1, 1, -100])
REAL = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
CASES = {
    "cross-entropy": (F.cross_entropy, LABELS),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), LABELS),
    "ignored labels": (nn.CrossEntropyLoss(), HOLES),
    "another ignored label": (nn.CrossEntropyLoss(ignore_index=1), LABELS),
    "smoothing": (functools.partial(F.cross_entropy, label_smoothing=0.2), LABELS),
    "smoothing and weights": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3), LABELS),
    "smoothing and holes": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3), HOLES),
    "soft labels": (F.cross_entropy, REAL.softmax(1)),
    "soft labels and weights": (nn.CrossEntropyLoss(weight=WEIGHT), REAL.softmax(1)),
    "soft labels of any mass": (F.cross_entropy, REAL.square()),
    "squared error": (nn.MSELoss(), REAL),
    "logistic": (F.binary_cross_entropy_with_logits, (REAL > 0).double()),
    "logistic, weighted": (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), (REAL > 0).double()),
    "huber": (nn.HuberLoss(delta=0.5), REAL),
    "own": (lambda z, t: ((z - t) ** 4).mean(), REAL),
}


def outputs() -> torch.Tensor:
    return torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
def test_weighted_item_gradients_are_the_gradient_of_the_batch_loss(name):
    loss_fn, targets = CASES[name]
    z = outputs().requires_grad_()
    (expected,) = torch.autograd.grad(loss_fn(z, targets), z)
    loss = output_loss(loss_fn)
    rows = loss.weights(z.detach(), targets)[:, None] * loss.gradient(z.detach(), targets)
    assert torch.allclose(loss.outputs(rows, z), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_weighted_item_curvature_is_the_hessian_of_the_batch_loss(name):
    loss_fn, targets = CASES[name]
    z, u = outputs(), torch.randn(5, 3, dtype=torch.float64)
    H = torch.autograd.functional.hessian(lambda q: loss_fn(q, targets), z).reshape(15, 15)
    loss = output_loss(loss_fn)
    rows = loss.curvature(z, targets)(loss.rows(u)) * loss.weights(z, targets)[:, None]
    expected = (H @ u.reshape(-1)).view(5, 3)
    assert torch.allclose(loss.outputs(rows, u), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_the_root_times_its_transpose_is_the_curvature(name):
    loss_fn, targets = CASES[name]
    loss, z = output_loss(loss_fn), outputs()
    R = loss.root(z, targets)
    u = torch.randn_like(loss.rows(z))
    product = (R @ (R.transpose(1, 2) @ u[:, :, None]))[:, :, 0]
    assert torch.allclose(product, loss.curvature(z, targets)(u), rtol=0, atol=1e-13)


def test_the_root_of_cross_entropy_has_one_column_less_than_classes():
    assert output_loss(F.cross_entropy).root(outputs(), LABELS).shape == (5, 3, 2)


@pytest.mark.parametrize("name", ["cross-entropy", "squared error", "logistic"])
def test_sampled_gradients_have_mean_zero_and_the_curvature_as_covariance(name):
    """40,000 draws: entries within five standard errors, which are below 5·max(c²)/200."""
    loss_fn, targets = CASES[name]
    loss, z = output_loss(loss_fn), outputs()
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([loss.sampled_gradient(z, generator) for _ in range(40_000)])
    bound = 5 * float(draws.square().max()) / 200
    assert float(draws.mean(0).abs().max()) < 5 * float(draws.std()) * 2 / 200
    width = draws.shape[2]
    for j in range(width):
        unit = torch.zeros_like(draws[0])
        unit[:, j] = 1.0
        covariance = (draws * draws[:, :, j : j + 1]).mean(0)
        assert float((covariance - loss.curvature(z, targets)(unit)).abs().max()) < bound


def test_dimensions_after_the_classes_are_items():
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    loss = output_loss(F.cross_entropy)
    assert loss.rows(z).shape == (8, 3)
    assert torch.equal(loss.outputs(loss.rows(z), z), z)


@pytest.mark.parametrize(
    "loss_fn", [F.l1_loss, nn.L1Loss(), F.nll_loss, nn.NLLLoss(), nn.MultiMarginLoss()]
)
def test_piecewise_linear_losses_are_refused_with_the_reason(loss_fn):
    with pytest.raises(ValueError, match=r"^this loss is piecewise linear in the outputs"):
        output_loss(loss_fn)


def test_an_own_piecewise_linear_loss_is_refused_when_it_is_differentiated():
    loss = output_loss(lambda z, t: (z - t).abs().mean())
    assert isinstance(loss, Differentiated)
    with pytest.raises(ValueError, match=r"^this loss is piecewise linear in the outputs"):
        loss.curvature(outputs(), REAL)


def test_sums_are_refused():
    message = "cross_entropy has reduction='sum'; a Problem averages: use 'mean'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        output_loss(nn.CrossEntropyLoss(reduction="sum"))
