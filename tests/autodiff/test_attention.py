"""Attention from products and a short softmax has torch's loss, gradient and products."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hesscope.autodiff.graph import node_names
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.problem.surroundings import twice_differentiable
from tests.autodiff.operations import randn
from tests.autodiff.stock import assert_same_as_stock, gradient_graph, relative

MARK = "_SoftmaxBackwardBackward"
attend = F.scaled_dot_product_attention

Q, K, V = randn(2, 4, 5, 3), randn(2, 4, 6, 3, seed=1), randn(2, 4, 6, 2, seed=2)
PAIRS = K[:, :2], V[:, :2]
SEEN = randn(2, 1, 5, 6, seed=3) > 0
BLIND = SEEN & (torch.arange(5) != 2)[:, None]  # query 2 sees nothing
BIAS = randn(2, 4, 5, 6, seed=4)
FLOAT_HOLES = torch.zeros(5, 6).double().masked_fill(~BLIND[0, 0], -torch.inf)

# the tensors to differentiate in, and the other arguments
CASES = {
    "plain": ([Q, K, V], {}),
    "causal": ([Q, K, V], {"is_causal": True}),
    "scaled": ([Q, K, V], {"scale": 0.3}),
    "scaled downwards": ([Q, K, V], {"scale": -0.7}),
    "grouped": ([Q, *PAIRS], {"enable_gqa": True}),
    "grouped, causal": ([Q, *PAIRS], {"enable_gqa": True, "is_causal": True}),
    "one head of keys": ([Q, K[:, :1], V[:, :1]], {"enable_gqa": True, "attn_mask": SEEN}),
    "one head of keys for all": ([Q, K[:, :1], V[:, :1]], {"is_causal": True}),
    "grouped, with bias": ([Q, *PAIRS], {"enable_gqa": True, "attn_mask": BIAS}),
    "masked": ([Q, K, V], {"attn_mask": SEEN}),
    "masked by one row": ([Q, K, V], {"attn_mask": SEEN[0, 0, 0]}),
    "blind": ([Q, K, V], {"attn_mask": BLIND}),
    "blind by numbers": ([Q, K, V], {"attn_mask": FLOAT_HOLES}),
    "three dimensions": ([Q[0], K[0], V[0]], {"attn_mask": BIAS[0]}),
    "five dimensions": ([t[None].expand(2, *t.shape) for t in (Q, K, V)], {"is_causal": True}),
    "not in order": ([t.mT.contiguous().mT for t in (Q, K, V)], {}),
    "one token": ([Q[:, :, :1], K[:, :, :1], V[:, :, :1]], {"is_causal": True}),
}


@pytest.fixture(params=CASES)
def case(request):
    """(loss, leaves) with a loss that bends in every entry."""
    tensors, options = CASES[request.param]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return lambda: torch.sin(2 * attend(*leaves, **options)).sum(), leaves


@pytest.fixture(autouse=True)
def math_attention():
    with sdpa_kernel(SDPBackend.MATH):
        yield


def test_loss_gradient_and_product_are_those_of_stock_double_backward(case):
    assert_same_as_stock(*case, [MARK])


def test_blocks_of_tensors_are_those_of_stock_double_backward(case):
    loss, leaves = case
    for leaf in leaves:
        for other in leaves:
            other.requires_grad_(other is leaf)
        assert_same_as_stock(loss, [leaf])


@pytest.mark.parametrize("name", ["grouped, causal", "blind", "three dimensions"])
def test_second_and_third_derivatives_agree_with_differences(name):
    tensors, options = CASES[name]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def f(*tensors: Tensor) -> Tensor:
        with fast_second_derivatives():
            return attend(*tensors, **options)

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(f(*tensors).sin().sum(), tensors, create_graph=True)

    for g in (f, gradient):
        assert torch.autograd.gradgradcheck(g, leaves, fast_mode=True)


def test_a_bias_that_is_learnt_is_differentiated_in():
    leaves = [t.clone().requires_grad_() for t in (Q, K, V, BIAS[:, :, :1])]
    q, k, v, bias = leaves
    assert_same_as_stock(lambda: attend(q, k, v, bias).sin().sum(), leaves, [MARK])


OTHERWISE = {
    "dropout": lambda q: attend(q, q, q, dropout_p=0.5),
    "broadcast": lambda q: attend(q, q[:1], q[:1]),
    "two dimensions": lambda q: attend(q[0, 0], q[0, 0], q[0, 0]),
    "autocast": lambda q: attend(*[q.float()] * 3),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_unusual_calls_are_torchs_own(name):
    q = Q.clone().requires_grad_()

    def loss() -> Tensor:
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
            return OTHERWISE[name](q).sin().sum()

    stock = gradient_graph(loss, [q])
    with fast_second_derivatives():
        fast = gradient_graph(loss, [q])
    assert torch.equal(fast[0], stock[0])
    assert node_names(fast) == node_names(stock)


@pytest.mark.parametrize(
    "arguments",
    [
        {"attn_mask": SEEN, "is_causal": True},
        {"attn_mask": SEEN[..., :4]},
        {"attn_mask": SEEN.long()},
    ],
    ids=["both", "shape", "integers"],
)
def test_errors_of_wrong_arguments_are_torchs_own(arguments):
    q, k, v = (t.clone().requires_grad_() for t in (Q, K, V))
    with pytest.raises(RuntimeError) as stock:
        attend(q, k, v, **arguments)
    with pytest.raises(RuntimeError) as fast, fast_second_derivatives():
        attend(q, k, v, **arguments)
    assert str(fast.value) == str(stock.value)


def multihead(**options):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **options).double().eval()

    def f(x: Tensor) -> Tensor:
        return attention(x, x, x, need_weights=False)[0]

    return attention, f


LAYERS = {
    "multi-head": multihead,
    "multi-head, other keys": lambda: multihead(kdim=8, vdim=8, add_bias_kv=True),
    "encoder": lambda: (lambda e: (e, e))(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True).double(), 2
        ).eval()
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_torch_with_attention_inside_gain_too(name):
    model, f = LAYERS[name]()
    x = randn(3, 5, 8, seed=5)
    with twice_differentiable(model, x.device):
        assert_same_as_stock(lambda: f(x).sin().sum(), list(model.parameters()), [MARK])


def test_multi_head_attention_that_returns_its_weights_is_that_of_stock():
    attention, _ = multihead()
    x = randn(3, 5, 8, seed=5)

    def loss() -> Tensor:
        y, weights = attention(x, x, x, average_attn_weights=False)
        return y.sin().sum() + weights.square().sum()

    assert_same_as_stock(loss, list(attention.parameters()), [MARK])


def test_a_subclass_of_tensor_keeps_its_say_in_multi_head_attention():
    seen = []

    class Watching(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    _, f = multihead()
    with fast_second_derivatives():
        f(randn(3, 5, 8).as_subclass(Watching))
    assert F.multi_head_attention_forward in seen


def test_the_loss_is_that_of_torch_in_single_precision_to_rounding():
    q, k, v = (t.float().requires_grad_() for t in (Q, K, V))
    expected = attend(q, k, v, is_causal=True)
    with fast_second_derivatives():
        y = attend(q, k, v, is_causal=True)
    assert relative(y.detach(), expected.detach()) <= 1e-6


def test_a_model_that_chooses_its_kernel_inside_gets_the_same():
    q = Q.clone().requires_grad_()

    def loss() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return attend(q, q, q).sin().sum()

    with fast_second_derivatives():
        names = node_names(gradient_graph(loss, [q]))
    assert any(MARK in name for name in names)
