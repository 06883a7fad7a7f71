"""Attention in tiles is attention: loss, gradient, products, third derivatives and forward mode."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hesscope.autodiff import attention, elementary, tiles
from hesscope.autodiff.graph import kept_bytes, node_names
from hesscope.autodiff.kernels import fast_second_derivatives
from tests.autodiff.operations import randn
from tests.autodiff.stock import (
    EXACT,
    assert_same_as_stock,
    flat,
    gradient_graph,
    relative,
)
from tests.autodiff.test_attention import BIAS, CASES, K, Q, V, attend, math_attention

__all__ = ["math_attention"]  # around every test here, too

MARK = "_AttentionBackwardBackward"
FOUR = {name: case for name, case in CASES.items() if case[0][0].ndim == 4}


@pytest.fixture(autouse=True, params=[1, 40, 100_000], ids=["rows", "tiles", "one tile"])
def small_tiles(monkeypatch, request):
    monkeypatch.setattr(attention, "LONG", 1)
    monkeypatch.setitem(tiles.ENTRIES, "cpu", request.param)


@pytest.fixture(params=FOUR)
def case(request):
    """(loss, leaves) with a loss that bends in every entry."""
    tensors, options = FOUR[request.param]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return lambda: torch.sin(2 * attend(*leaves, **options)).sum(), leaves


def test_loss_gradient_and_product_are_those_of_stock_double_backward(case):
    assert_same_as_stock(*case, [MARK])


def test_blocks_of_tensors_are_those_of_stock_double_backward(case):
    loss, leaves = case
    for leaf in leaves:
        for other in leaves:
            other.requires_grad_(other is leaf)
        assert_same_as_stock(loss, [leaf], [MARK])


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
    vectors = [randn(3, *leaf.shape, seed=7) for leaf in leaves]
    at_once = torch.autograd.grad(
        gradient, leaves, vectors, retain_graph=True, is_grads_batched=True
    )
    for i in range(3):
        single = torch.autograd.grad(gradient, leaves, [v[i] for v in vectors], retain_graph=True)
        assert relative(flat(piece[i] for piece in at_once), flat(single)) <= EXACT


@pytest.mark.parametrize("name", FOUR)
def test_forward_mode_gives_the_derivative_along_a_line(name):
    tensors, options = FOUR[name]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    along = [torch.cos(3 * tensor) for tensor in tensors]
    value = attend(*leaves, **options)
    u = torch.zeros_like(value, requires_grad=True)
    slopes = torch.autograd.grad(value, leaves, u, create_graph=True)
    (expected,) = torch.autograd.grad(slopes, u, along)
    with forward_ad.dual_level(), fast_second_derivatives():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, along, strict=True)]
        found = forward_ad.unpack_dual(attend(*duals, **options))
    assert relative(found.primal, value.detach()) <= EXACT
    assert relative(found.tangent, expected) <= EXACT


def test_second_derivatives_agree_with_differences():
    tensors, options = FOUR["grouped, causal"]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def f(*tensors: Tensor) -> Tensor:
        with fast_second_derivatives():
            return attend(*tensors, **options)

    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


def test_a_bias_that_is_learnt_is_attended_to_at_once():
    leaves = [t.clone().requires_grad_() for t in (Q, K, V, BIAS)]
    assert_same_as_stock(lambda: attend(*leaves).sin().sum(), leaves, ["_SoftmaxBackwardBackward"])


def test_dual_numbers_that_are_differentiated_further_meet_no_tiles():
    q = Q.clone().requires_grad_()
    with forward_ad.dual_level(), fast_second_derivatives():
        dual = forward_ad.make_dual(q, Q.sin())
        assert elementary.attention(dual, dual, dual) is None
        assert attend(dual, dual, dual).grad_fn.name() != "_AttentionBackward"


def test_no_matrix_of_all_queries_by_all_keys_is_kept():
    leaves = [randn(1, 2, 64, 4, seed=i).requires_grad_() for i in range(3)]
    with fast_second_derivatives():
        gradient = gradient_graph(lambda: attend(*leaves, is_causal=True).sin().sum(), leaves)
    assert any(MARK in name for name in node_names(gradient))
    assert kept_bytes(gradient) < 8 * 2 * 64 * 64


def test_what_is_short_is_attended_to_at_once(monkeypatch):
    monkeypatch.undo()
    q = Q.clone().requires_grad_()
    with fast_second_derivatives():
        assert not any(
            MARK in n for n in node_names(gradient_graph(lambda: attend(q, q, q).sum(), [q]))
        )
        assert not attention.is_long(Q, K, None)
    long = torch.empty(1, 1, 512, 2)
    assert attention.is_long(long, long, None)
    assert not attention.is_long(long[:, :, :511], long, None)
    many = torch.empty(1, 1, 1, 1).expand(64, 16, 256, 1)
    assert attention.is_long(many, many, None)
    assert not attention.is_long(many[1:], many[1:], None)
    learnt = torch.empty(1, 1, 1, 512, requires_grad=True)
    assert not attention.is_long(long, long, learnt)


def test_a_layer_of_torch_has_the_same_hessian():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).double().eval()
    x = randn(2, 5, 8, seed=5)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert_same_as_stock(lambda: layer(x).sin().sum(), list(layer.parameters()), [MARK])
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
