"""LayerNorm, RMSNorm and GroupNorm in closed form have torch's loss, gradient and products."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hesscope.autodiff.graph import node_names
from hesscope.autodiff.kernels import fast_second_derivatives
from tests.autodiff.operations import randn
from tests.autodiff.stock import (
    EXACT,
    assert_same_as_stock,
    derivatives,
    flat,
    gradient_graph,
    relative,
)

MARK = "_NormBackwardBackward"
X, W, B = randn(5, 6), randn(6, seed=1), randn(6, seed=2)
CONSTANT = X * (torch.arange(5) != 2)[:, None]  # a row without variance


def layer(*shape: int, eps: float = 1e-5):
    return lambda x, w=None, b=None: F.layer_norm(x, shape, w, b, eps)


def rms(*shape: int, eps: float | None = None):
    return lambda x, w=None: F.rms_norm(x, shape, w, eps)


def group(groups: int, eps: float = 1e-5):
    return lambda x, w=None, b=None: F.group_norm(x, groups, w, b, eps)


IMAGES, BLANK = randn(4, 6, 3, 2), torch.arange(4)[:, None, None, None] != 2

# a function and the tensors to differentiate in
CASES = {
    "weight and bias": (layer(6), [X, W, B]),
    "a weight alone": (layer(6), [X, W]),
    "without weights": (layer(6), [X]),
    "several dimensions": (layer(3, 2), [randn(4, 5, 3, 2), W.view(3, 2), B.view(3, 2)]),
    "one example": (layer(6), [X[0], W, B]),
    "one feature": (layer(1), [X[:, :1], W[:1], B[:1]]),
    "no example": (layer(6), [X[:0], W, B]),
    "a large eps": (layer(6, eps=10.0), [X, W, B]),
    "a constant row": (layer(6), [CONSTANT, W, B]),
    "columns": (lambda x, w, b: F.layer_norm(x.T, (5,), w, b), [X, W[:5], B[:5]]),
    "expanded": (lambda x, w: F.layer_norm(x[:1].expand(5, 6), (6,), w), [X, W]),
    "torch.layer_norm": (lambda x, w, b: torch.layer_norm(x, (6,), w, b), [X, W, B]),
    "by name": (
        lambda x, w, b: F.layer_norm(input=x, normalized_shape=(6,), weight=w, bias=b, eps=1e-3),
        [X, W, B],
    ),
    "twice": (lambda x, w, b: layer(6)(layer(6)(x, w, b).sin() + x, w, b), [X, W, B]),
    "tied": (lambda x: F.layer_norm(x, (6,), x[0], x[0]), [X]),
    "its own square": (lambda x: F.layer_norm(x, (6,)) * x, [X]),
    "RMSNorm": (rms(6), [X, W]),
    "RMSNorm without weight": (rms(6), [X]),
    "RMSNorm with eps": (rms(6, eps=0.3), [X, W]),
    "RMSNorm of several dimensions": (rms(3, 2), [randn(4, 5, 3, 2), W.view(3, 2)]),
    "RMSNorm of one feature": (rms(1, eps=0.3), [X[:, :1], W[:1]]),
    "RMSNorm of no example": (rms(6), [X[:0], W]),
    "RMSNorm with a row of zeros": (rms(6, eps=1e-3), [CONSTANT, W]),
    "RMSNorm, tied": (lambda x: F.rms_norm(x, (6,), x[0]), [X]),
    "GroupNorm": (group(3), [IMAGES, W, B]),
    "GroupNorm, a weight alone": (group(2), [IMAGES, W]),
    "GroupNorm without weights": (group(2), [IMAGES]),
    "GroupNorm of one group": (group(1), [IMAGES, W, B]),
    "GroupNorm of each channel": (group(6), [IMAGES, W, B]),
    "GroupNorm of vectors": (group(2), [X, W, B]),
    "GroupNorm of sequences": (group(2), [IMAGES[..., 0], W, B]),
    "GroupNorm of volumes": (group(2), [IMAGES[..., None], W, B]),
    "GroupNorm with a blank image": (group(3, 1e-2), [IMAGES * BLANK, W, B]),
    "GroupNorm, twice": (
        lambda x, w, b: group(2)(group(3)(x, w, b).sin() * x, w, b),
        [IMAGES, W, B],
    ),
    "GroupNorm, tied": (lambda x: F.group_norm(x, 2, x[0, :, 0, 0], x[1, :, 0, 0]), [IMAGES]),
}


@pytest.fixture(params=CASES)
def case(request):
    """(loss, leaves) with a loss that bends in every entry."""
    function, tensors = CASES[request.param]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return lambda: torch.sin(2 * function(*leaves)).sum(), leaves


def test_loss_gradient_and_product_are_those_of_stock_double_backward(case):
    assert_same_as_stock(*case, [MARK])


def test_blocks_of_tensors_are_those_of_stock_double_backward(case):
    loss, leaves = case
    for leaf in leaves:
        for other in leaves:
            other.requires_grad_(other is leaf)
        assert_same_as_stock(loss, [leaf])


@pytest.mark.parametrize(
    "name",
    ["weight and bias", "several dimensions", "RMSNorm", "tied", "GroupNorm", "GroupNorm, tied"],
)
def test_second_and_third_derivatives_agree_with_differences(name):
    function, tensors = CASES[name]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def f(*tensors: Tensor) -> Tensor:
        with fast_second_derivatives():
            return function(*tensors)

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(f(*tensors).sin().sum(), tensors, create_graph=True)

    for g in (f, gradient):
        assert torch.autograd.gradcheck(g, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(g, leaves, fast_mode=True)


def test_products_with_many_vectors_at_once_are_the_single_ones(case):
    loss, leaves = case
    with fast_second_derivatives():
        gradient = gradient_graph(loss, leaves)
    V = [randn(3, *leaf.shape, seed=7) for leaf in leaves]
    at_once = torch.autograd.grad(gradient, leaves, V, retain_graph=True, is_grads_batched=True)
    for i in range(3):
        single = torch.autograd.grad(gradient, leaves, [v[i] for v in V], retain_graph=True)
        assert relative(flat(piece[i] for piece in at_once), flat(single)) <= EXACT


def test_what_torch_refuses_or_computes_otherwise_stays_its_own():
    x = X.clone().requires_grad_()
    with fast_second_derivatives():
        for y in (
            F.layer_norm(x.bfloat16(), (6,)),
            F.layer_norm(x, (6,), None, B),
            F.layer_norm(x[:, :0], (0,)),
            F.group_norm(x.bfloat16(), 2),
            F.group_norm(x, 2, None, B),
            F.group_norm(IMAGES[:0] * x[0, 0], 2),
        ):
            assert y.grad_fn.name() != "_NormBackward"
        for wrong in (
            lambda: F.layer_norm(x, (5,)),
            lambda: F.layer_norm(x, (6,), W[:5]),
            lambda: F.layer_norm(x, ()),
            lambda: F.layer_norm(x, (2, 5, 6)),
            lambda: F.layer_norm(x, (6,), W.float()),
            lambda: F.group_norm(x, 4),
            lambda: F.group_norm(x, 2, W[:5]),
        ):
            with pytest.raises((RuntimeError, AssertionError)) as fast:
                wrong()
            with torch._C.DisableTorchFunction(), pytest.raises(type(fast.value)) as stock:
                wrong()
            assert str(fast.value) == str(stock.value)


def test_a_loss_made_of_derivatives_may_ask_for_the_elementary_form():
    x = X.clone().requires_grad_()
    with fast_second_derivatives(normalisations=True):
        y = F.layer_norm(x, (6,))
    assert not any(MARK in name for name in node_names(gradient_graph(lambda: y.sum(), [x])))


def test_a_loss_made_of_derivatives_of_groupnorm_is_left_to_torch_when_it_asks():
    x = IMAGES.clone().requires_grad_()
    with fast_second_derivatives(normalisations=True):
        y = F.group_norm(x, 2)
    assert y.grad_fn.name() == "NativeGroupNormBackward0"


def test_the_order_of_channels_in_memory_does_not_matter_to_groupnorm():
    """torch's own double backward by the weight alone crashes where channels come last."""
    w = W.clone().requires_grad_()
    last = IMAGES.to(memory_format=torch.channels_last)
    with fast_second_derivatives():
        _, product, _ = derivatives(lambda: group(3)(last, w).sin().sum(), [w])
    _, expected, _ = derivatives(lambda: group(3)(IMAGES, w).sin().sum(), [w])
    assert relative(product, expected) <= EXACT
