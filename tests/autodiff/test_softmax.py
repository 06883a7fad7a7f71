"""Softmax in closed form has torch's loss, gradient and products, and derivatives of any order."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesscope.autodiff.kernels import fast_second_derivatives
from tests.autodiff.operations import randn
from tests.autodiff.stock import EXACT, assert_same_as_stock, flat, gradient_graph, relative

MARK = "_SoftmaxBackwardBackward"
X = randn(3, 4, 5)
HOLES = (
    torch.zeros(4, 5).double().masked_fill(torch.arange(5) > torch.arange(4)[:, None], -torch.inf)
)
LARGE = 8 * X

# a function and the tensors to differentiate in
CASES = {
    "last": (lambda x: F.softmax(x, -1), [X]),
    "first": (lambda x: F.softmax(x, 0), [X]),
    "by name": (lambda x: F.softmax(input=x, dim=1), [X]),
    "its own dtype": (lambda x: F.softmax(x, dim=-1, dtype=torch.float64), [X]),
    "torch.softmax": (lambda x: torch.softmax(x, 2), [X]),
    "method": (lambda x: x.softmax(-2), [X]),
    "module": (nn.Softmax(dim=-1), [X]),
    "a vector": (lambda x: x.softmax(0), [X[0, 0]]),
    "one entry": (lambda x: x.softmax(-1), [X[..., :1]]),
    "no example": (lambda x: x.softmax(-1), [X[:0]]),
    "not in order": (lambda x: x.mT.softmax(-1), [X]),
    "with holes": (lambda x: (x + HOLES).softmax(-1), [X]),
    "saturated": (lambda x: x.softmax(-1), [LARGE]),
    "twice": (lambda x: (x.softmax(-1).sin() * x).softmax(0), [X]),
    "in two places": (lambda x, y: (x + y).softmax(-1) * x.softmax(-1), [X, X[0]]),
}


@pytest.fixture(params=CASES)
def case(request):
    """(loss, leaves) with a loss that bends in every entry."""
    function, tensors = CASES[request.param]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return lambda: torch.sin(2 * function(*leaves)).sum(), leaves


def test_loss_gradient_and_product_are_those_of_stock_double_backward(case):
    assert_same_as_stock(*case, [MARK])


@pytest.mark.parametrize("name", ["last", "first", "with holes", "in two places"])
def test_derivatives_up_to_the_fourth_agree_with_differences(name):
    function, tensors = CASES[name]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def f(*tensors: Tensor) -> Tensor:
        with fast_second_derivatives():
            return function(*tensors)

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(f(*tensors).sin().sum(), tensors, create_graph=True)

    def product(*tensors: Tensor) -> tuple[Tensor, ...]:
        slope = sum(g.sin().sum() for g in gradient(*tensors))
        return torch.autograd.grad(slope, tensors, create_graph=True)

    for g in (f, gradient, product):
        assert torch.autograd.gradgradcheck(g, leaves, fast_mode=True)


def test_a_loss_made_of_its_derivatives_is_that_of_stock(case):
    loss, leaves = case

    def penalised() -> Tensor:
        value = loss()
        slopes = torch.autograd.grad(value, leaves, create_graph=True)
        return value + sum(slope.square().sum() for slope in slopes)

    assert_same_as_stock(penalised, leaves, [MARK])


def test_products_with_many_vectors_at_once_are_the_single_ones(case):
    loss, leaves = case
    with fast_second_derivatives():
        gradient = gradient_graph(loss, leaves)
    V = [randn(3, *leaf.shape, seed=7) for leaf in leaves]
    at_once = torch.autograd.grad(gradient, leaves, V, retain_graph=True, is_grads_batched=True)
    for i in range(3):
        single = torch.autograd.grad(gradient, leaves, [v[i] for v in V], retain_graph=True)
        assert relative(flat(piece[i] for piece in at_once), flat(single)) <= EXACT


def test_rows_that_see_nothing_are_as_in_torch():
    x = torch.full((2, 3), -torch.inf).requires_grad_()
    with fast_second_derivatives():
        assert F.softmax(x, -1).isnan().all()


def test_what_torch_computes_otherwise_or_refuses_stays_its_own():
    x = X.clone().requires_grad_()
    with fast_second_derivatives():
        for y in (
            F.softmax(x, -1, dtype=torch.float32),
            F.softmax(x.bfloat16(), -1),
            F.softmax(x.sum(), 0),
        ):
            assert y.grad_fn.name() != "_SoftmaxBackward"
        assert not F.softmax(x.detach(), -1).requires_grad
        with pytest.raises(IndexError):
            F.softmax(x, 3)
