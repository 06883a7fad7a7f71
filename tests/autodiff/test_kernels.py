"""The closed-form kernels give torch's own loss, gradient and products; the rest is torch's."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import hesscope as hs
from hesscope.autodiff.graph import broken_nodes, kept_bytes, node_names
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.derivatives.activations import GELU_TANH
from tests.autodiff.stock import EXACT, assert_same_as_stock, gradient_graph, relative
from tests.networks import OnceDifferentiable


def settled(model: nn.Module) -> nn.Module:
    """The model in float64 and evaluation mode, with running statistics away from 0 and 1."""
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
            nn.init.normal_(module.weight)
    return model


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(x + self.norm(self.conv(x)))


class Twice(nn.Module):
    """One convolution used in two places."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.tanh(self.conv(x)))


LAYER, ACTIVATION = "_LayerBackwardBackward", "_ActivationBackwardBackward"

MODELS = {
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 7, 6), [LAYER]),
    "no bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), (2, 3, 7, 6), [LAYER]),
    "strided": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 3), padding=(2, 1)), (2, 3, 7, 8), [LAYER]),
    "dilated": (lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2), (2, 3, 8, 7), [LAYER]),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 6, 6), [LAYER]),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 6), [LAYER]),
    "reflected": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 6), []),
    "same": (lambda: nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 6, 6), ["Convolution"]),
    "unbatched": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 6), ["Convolution"]),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), (2, 3, 5, 5), ["Convolution"]),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9), [LAYER]),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4), [LAYER]),
    "batchnorm1d": (lambda: nn.BatchNorm1d(5), (6, 5), [LAYER]),
    "batchnorm1d on sequences": (lambda: nn.BatchNorm1d(5), (3, 5, 4), [LAYER]),
    "batchnorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5), [LAYER]),
    "gelu": (nn.GELU, (4, 6), [ACTIVATION]),
    "gelu by tanh": (lambda: nn.GELU(approximate="tanh"), (4, 6), [ACTIVATION]),
    "silu": (nn.SiLU, (4, 6), [ACTIVATION]),
    "residual": (lambda: nn.Sequential(Residual(), Residual()), (2, 4, 6, 6), [LAYER]),
    "shared": (Twice, (2, 3, 5, 5), [LAYER]),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Conv2d(3, 2, 2)),
        (2, 3, 5, 5),
        [LAYER],
    ),
}


@pytest.fixture(params=MODELS)
def case(request):
    """(loss, parameters, marks) of a model between two linear maps, so that all paths are met."""
    make, shape, marks = MODELS[request.param]
    torch.manual_seed(0)
    middle = settled(make())
    generator = torch.Generator().manual_seed(3)
    scale = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randn(shape, generator=generator, dtype=torch.float64)

    def loss():
        return torch.tanh(middle(x * scale)).pow(2).mean()

    return loss, [scale, *middle.parameters()], marks


def test_loss_gradient_and_product_are_those_of_stock_double_backward(case):
    assert_same_as_stock(*case)


def test_blocks_of_parameters_are_those_of_stock_double_backward(case):
    loss, leaves, _ = case
    for leaf in leaves:
        for other in leaves:
            other.requires_grad_(other is leaf)
        assert_same_as_stock(loss, [leaf])


@pytest.mark.parametrize(
    "name", ["strided", "groups", "conv1d", "batchnorm2d", "gelu", "gelu by tanh", "silu"]
)
def test_second_derivatives_agree_with_differences_of_first_ones(name):
    make, shape, _ = MODELS[name]
    torch.manual_seed(0)
    model = settled(make())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]

    def f(x, *tensors):
        with fast_second_derivatives():
            return functional_call(model, dict(zip(names, tensors, strict=True)), x)

    inputs = (x, *(p.detach().requires_grad_() for p in model.parameters()))
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["strided", "batchnorm2d", "gelu", "gelu by tanh", "silu"])
def test_a_loss_with_a_derivative_in_it_has_the_same_third_derivatives(name):
    make, shape, _ = MODELS[name]
    torch.manual_seed(0)
    model = settled(make())
    x = torch.randn(shape, dtype=torch.float64)
    scale = torch.randn(shape, dtype=torch.float64).requires_grad_()

    def loss():
        point = x.clone().requires_grad_()
        energy = torch.tanh(model(point * scale)).pow(2).mean()
        (force,) = torch.autograd.grad(energy, point, create_graph=True)
        return 100 * force.pow(2).sum() + energy

    assert_same_as_stock(loss, [scale, *model.parameters()])


def test_transforms_inside_the_model_meet_stock_layers():
    torch.manual_seed(0)
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 1)))
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)

    def energy(one):
        return model(one[None]).squeeze()

    def loss():
        slopes = vmap(grad(energy))(x)
        _, change = jvp(energy, (x[0],), (x[1],))
        return slopes.pow(2).mean() + change.pow(2)

    assert_same_as_stock(loss, list(model.parameters()))


def test_dual_numbers_inside_the_model_meet_stock_layers():
    torch.manual_seed(0)
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()))
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)

    def loss():
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, x.flip(0))
            out = torch.autograd.forward_ad.unpack_dual(model(dual))
            return out.tangent.pow(2).mean() + out.primal.pow(4).mean()

    assert_same_as_stock(loss, list(model.parameters()))


def test_hooks_of_modules_and_tensors_are_called():
    torch.manual_seed(0)
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()))
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append("forward"))
    model[1].register_full_backward_hook(lambda *_: seen.append("backward"))
    model[0].weight.register_hook(lambda g: 2 * g)
    assert_same_as_stock(lambda: model(x).pow(2).mean(), list(model.parameters()), [LAYER])
    assert {"forward", "backward"} <= set(seen)


def test_parts_without_gradient_stay_without():
    torch.manual_seed(0)
    model = settled(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.GELU()))
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)

    def loss():
        with torch.no_grad():
            teacher = model(x)
            assert not teacher.requires_grad
        return (model(x) - 0.5 * teacher).pow(2).mean()

    assert_same_as_stock(loss, list(model.parameters()))


def test_batchnorm_in_training_mode_is_stock_and_counts_its_batches():
    model = nn.BatchNorm2d(3).double().train()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    with fast_second_derivatives():
        y = model(x)
    assert "NativeBatchNorm" in y.grad_fn.name()
    assert int(model.num_batches_tracked) == 1


def test_a_loss_under_autocast_is_stock():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.LayerNorm(4), nn.GELU())
    x = torch.randn(2, 2, 6, 6)

    def loss():
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).pow(2).mean()

    leaves = list(model.parameters())
    stock = gradient_graph(loss, leaves)
    with fast_second_derivatives():
        fast = gradient_graph(loss, leaves)
    assert node_names(fast) == node_names(stock)
    for one, other in zip(fast, stock, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_curvature_of_gelu_by_tanh_ends_far_from_zero(dtype):
    x = torch.tensor([-torch.inf, -1e30, -40, -20, 20, 40, 1e30, torch.inf], dtype=dtype)
    assert torch.equal(GELU_TANH.second(x), torch.zeros_like(x))


def test_errors_of_wrong_arguments_are_torchs_own():
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    for bad in (lambda: F.conv2d(x, weight), lambda: F.conv2d(x, weight.float()[:, :2])):
        with pytest.raises(RuntimeError) as stock:
            bad()
        with pytest.raises(RuntimeError) as fast, fast_second_derivatives():
            bad()
        assert str(fast.value) == str(stock.value)


def test_nothing_stays_switched_after_an_error():
    with pytest.raises(ZeroDivisionError), fast_second_derivatives():
        _ = 1 / 0
    y = F.conv2d(torch.randn(1, 1, 3, 3), torch.randn(1, 1, 3, 3, requires_grad=True))
    assert "Convolution" in y.grad_fn.name()


def test_the_scan_sees_a_broken_node_between_fast_layers_and_none_in_them():
    conv = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.SiLU()))
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    leaves = list(conv.parameters())
    with fast_second_derivatives():
        clean = gradient_graph(lambda: conv(x).mean(), leaves)
        broken = gradient_graph(lambda: OnceDifferentiable.apply(conv(x)).pow(2).mean(), leaves)
    assert broken_nodes(clean) == []
    assert [node.name for node in broken_nodes(broken)] == ["once_differentiable"]


def test_the_size_of_a_graph_counts_what_the_kernels_keep():
    torch.manual_seed(0)
    conv = settled(nn.Sequential(Residual(), Residual()))
    x = torch.randn(8, 4, 16, 16, dtype=torch.float64)
    leaves = list(conv.parameters())
    stock = kept_bytes(gradient_graph(lambda: conv(x).pow(2).mean(), leaves))
    with fast_second_derivatives():
        fast = kept_bytes(gradient_graph(lambda: conv(x).pow(2).mean(), leaves))
    assert 0.7 * stock < fast <= 1.05 * stock


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return settled(
        nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3),
        )
    )  # fmt: skip


@pytest.mark.parametrize("memory", [None, 0])
def test_the_hessian_of_a_network_is_that_of_forward_over_reverse(memory):
    model = classifier()
    data = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.arange(5) % 3
    problem = hs.Problem(model, F.cross_entropy, data, batch_size=2)
    v = torch.randn(problem.n, dtype=torch.float64)
    expected = hs.Hessian(problem, "forward-over-reverse") @ v
    assert relative(hs.Hessian(problem, memory=memory) @ v, expected) <= EXACT


class Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize("memory", [None, 0])
def test_a_checkpointed_network_has_the_same_hessian(memory):
    model = classifier()
    data = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.arange(5) % 3
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    expected = hs.Hessian(hs.Problem(model, F.cross_entropy, data)) @ v
    model.train()  # so that a recomputation outside of hesscope's surroundings would be seen
    H = hs.Hessian(hs.Problem(Checkpointed(model), F.cross_entropy, data), memory=memory)
    for _ in range(2):
        assert relative(H @ v, expected) <= EXACT


class Attending(nn.Module):
    """Makes its attention again in every backward pass, without a module that would be called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 12)

    def forward(self, x):
        parts = self.inner(x).unflatten(-1, (3, 1, 4)).unbind(-3)
        heads = [part.transpose(-2, -3) for part in parts]
        attended = checkpoint(F.scaled_dot_product_attention, *heads, use_reentrant=False)
        return attended.flatten(1)


def test_attention_that_is_made_again_has_a_second_derivative_each_time():
    torch.manual_seed(0)
    model = Attending()
    H = hs.Hessian(hs.Problem(model, F.mse_loss, (torch.randn(6, 5, 4), torch.randn(6, 20))))
    v = torch.randn(H.n)
    first = H @ v
    assert float(first.norm()) > 0
    assert torch.equal(H @ v, first)
    w = torch.randn(H.n)
    assert float((w @ first - v @ (H @ w)).abs()) < 1e-5 * float(first.norm() * w.norm())


def test_checkpointing_says_that_it_saves_nothing():
    data = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.arange(5) % 3
    H, plain = (
        hs.Hessian(hs.Problem(model, F.cross_entropy, data))
        for model in (Checkpointed(classifier()), classifier())
    )
    for A in (H, plain):
        A @ torch.ones(A.n, dtype=torch.float64)
    assert H.facts()["checkpointing"].startswith("saves no memory here")
    assert "checkpointing" not in plain.facts()
