"""What torch differentiates wrongly is served in elementary form, exactly, or refused by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, weight_norm

import hesscope as hs
from hesscope.autodiff import elementary
from hesscope.autodiff.broken import UntrustworthyError
from hesscope.autodiff.graph import node_names
from hesscope.autodiff.kernels import fast_second_derivatives

EXACT = 1e-12  # relative, in float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# The elementary forms are the functions of torch

X, IMAGES = randn(5, 6), randn(5, 4, 3, 2)
W, B = randn(6, seed=1), randn(6, seed=2)
MEAN, VAR = randn(4, seed=3), randn(4, seed=4).square()
V, ROWS, COLUMNS, MIDDLE = randn(4, 3, 2), randn(4, 1, 1), randn(1, 1, 2), randn(1, 3, 1)
# torch's function, the tensors to differentiate in, and a call of the function on them
FORMS = {
    "LayerNorm": (F.layer_norm, [X, W, B], lambda f, x, w, b: f(x, (6,), w, b, 1e-3)),
    "LayerNorm without weights": (F.layer_norm, [X], lambda f, x: f(x, (6,))),
    "LayerNorm over images": (F.layer_norm, [IMAGES], lambda f, x: f(x, (3, 2))),
    "RMSNorm": (F.rms_norm, [X, W], lambda f, x, w: f(x, (6,), w)),
    "RMSNorm with eps": (F.rms_norm, [X], lambda f, x: f(x, (6,), eps=1e-3)),
    "BatchNorm": (
        F.batch_norm, [IMAGES, W[:4], B[:4]], lambda f, x, w, b: f(x, None, None, w, b, True)
    ),
    "BatchNorm of vectors": (F.batch_norm, [X], lambda f, x: f(x, None, None, training=True)),
    "BatchNorm, fixed": (F.batch_norm, [IMAGES], lambda f, x: f(x, MEAN, VAR)),
    "InstanceNorm": (
        F.instance_norm, [IMAGES, W[:4], B[:4]], lambda f, x, w, b: f(x, weight=w, bias=b)
    ),
    "InstanceNorm, fixed": (
        F.instance_norm, [IMAGES, W[:4]],
        lambda f, x, w: f(x, MEAN, VAR, w, use_input_stats=False),
    ),
    "weight_norm": (torch._weight_norm, [V, ROWS], lambda f, v, g: f(v, g)),
    "weight_norm, last": (torch._weight_norm, [V, COLUMNS], lambda f, v, g: f(v, g, 2)),
    "weight_norm, middle": (torch._weight_norm, [V, MIDDLE], lambda f, v, g: f(v, g, 1)),
    "weight_norm, whole": (torch._weight_norm, [V, W[0]], lambda f, v, g: f(v, g, -1)),
}  # fmt: skip
FORM_OF = {**elementary.ELEMENTARY, **elementary.NORMALISATIONS}


@pytest.mark.parametrize("name", FORMS)
def test_an_elementary_form_has_the_value_and_the_gradient_of_the_function(name):
    function, tensors, call = FORMS[name]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    values = [call(f, *leaves) for f in (function, FORM_OF[function])]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value.sin().sum(), leaves) for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_elementary_hardsigmoid_is_torchs_to_the_precision_of_its_slope(inplace):
    """Whose 1/6 is rounded to float32."""
    x = (4 * X).requires_grad_()
    values = [f(x * 1, inplace=inplace) for f in (F.hardsigmoid, FORM_OF[F.hardsigmoid])]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value.sin().sum(), x)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=2**-24, atol=0)


@pytest.mark.parametrize("function", [F.batch_norm, F.instance_norm])
def test_elementary_statistics_follow_the_batch_as_torchs_do(function):
    results = []
    for f in (function, FORM_OF[function]):
        mean, var = MEAN.clone(), VAR.clone()
        f(IMAGES, mean, var, None, None, True, 0.3)
        results.append((mean, var))
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)


def test_normalisations_of_a_plain_loss_are_torchs_own():
    """Their second derivatives are right, and cheaper than those of the elementary form."""
    w = W.clone().requires_grad_()
    with fast_second_derivatives():
        loss = F.batch_norm(X * w, None, None, training=True).sin().sum()
    (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
    assert "NativeBatchNormBackwardBackward0" in node_names([gradient])


# Losses made of derivatives


class Standardised(nn.Module):
    """(x - mean)/√(var + ε) over some dimensions: a normalisation that torch gets right."""

    def __init__(self, dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dims, self.shape = dims, shape
        size = shape[0]
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(self.dims, keepdim=True)
        var = ((x - mean) ** 2).mean(self.dims, keepdim=True)
        scaled = (x - mean) / (var + 1e-5).sqrt() * self.weight.view(self.shape)
        return scaled + self.bias.view(self.shape)


def images(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (2, 3)), norm, nn.Flatten())


NORMS = {  # torch's, and the same by hand
    "LayerNorm": (lambda: nn.LayerNorm(6), lambda: Standardised((1,), (6,))),
    "InstanceNorm": (
        lambda: images(nn.InstanceNorm1d(2, affine=True)),
        lambda: images(Standardised((2,), (2, 1))),
    ),
    "BatchNorm": (
        lambda: nn.BatchNorm1d(6, track_running_stats=False), lambda: Standardised((0,), (6,))
    ),
    "GroupNorm": (
        lambda: images(nn.GroupNorm(2, 2)), lambda: images(Standardised((2,), (2, 1)))
    ),
}  # fmt: skip


def slope(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]


def bend(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x, create_graph=True)[0]


def functional(model: nn.Module, x: Tensor) -> Tensor:
    return torch.func.grad(lambda q: model(q).sum())(x)


def pushed(model: nn.Module, x: Tensor) -> Tensor:
    return torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]


def dual(model: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        output = model(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(output).tangent


DERIVATIVES = [slope, bend, functional, pushed, dual]


def network(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), norm, nn.Tanh(), nn.Linear(6, 1)).double()


def with_derivatives(model: nn.Module, derivative) -> hs.Problem:
    """(u' - cos 3x)² + u²: a network that solves a differential equation, or fits forces."""

    def closure(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        (x,) = batch
        residual = derivative(model, x) - torch.cos(3 * x).mean(1, keepdim=True)
        return residual.square().mean() + model(x).square().mean()

    return hs.Problem.from_closure(model, closure, [(randn(9, 2),)])


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("name", NORMS)
def test_third_derivatives_through_a_normalisation_are_those_of_its_elementary_form(
    name, derivative
):
    theirs, by_hand = NORMS[name]
    problem = with_derivatives(network(theirs()), derivative)
    truth = with_derivatives(network(by_hand()), derivative)
    truth.model.load_state_dict(problem.model.state_dict(), strict=False)
    assert problem.n == truth.n
    V = randn(truth.n, 3)
    assert relative(hs.Hessian(problem) @ V, hs.Hessian(truth) @ V) < EXACT


def test_energies_and_forces_through_layer_norm_pass_the_check():
    """Forces are minus the gradient of an energy: the loss that first showed the fault."""

    def loss(z: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(z[0], targets[0]) + F.mse_loss(z[1], targets[1])

    def forward(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        energy = model(x)
        return energy, -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]

    data = [(randn(9, 2), (randn(9, 1, seed=1), randn(9, 2, seed=2)))]
    problem = hs.Problem(network(nn.LayerNorm(6)), loss, data, forward=forward, count=lambda t: 9)
    assert hs.check_problem(problem).ok


def test_gauss_newton_of_forces_has_their_jacobian():
    def forces(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return -torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]

    data = randn(9, 2), randn(9, 2, seed=2)
    theirs, by_hand = (
        hs.Problem(network(norm), F.mse_loss, data, forward=forces)
        for norm in (nn.LayerNorm(6), Standardised((1,), (6,)))
    )
    G = hs.GaussNewton(by_hand).to_dense()
    assert relative(hs.GaussNewton(theirs).to_dense(), G) < EXACT


def test_a_normalisation_behind_torchs_back_is_refused_where_third_derivatives_need_it():
    class Native(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.native_layer_norm(x, (6,), None, None, 1e-5)[0]

    problem = with_derivatives(network(Native()), slope)
    with pytest.raises(UntrustworthyError, match="a third time"):
        hs.Hessian(problem) @ torch.ones(problem.n)
    visible = with_derivatives(network(nn.LayerNorm(6, elementwise_affine=False)), slope)
    v = randn(problem.n)
    approximate = hs.Hessian(problem, "finite-difference") @ v
    assert relative(approximate, hs.Hessian(visible) @ v) < 1e-6


SOLVERS = {
    "solve": lambda A, x: torch.linalg.solve(A, x),
    "slogdet": lambda A, x: torch.linalg.slogdet(A)[1][:, None],
    "logdet": lambda A, x: A.logdet()[:, None],
}


@pytest.mark.parametrize("derivative", [pushed, dual])
@pytest.mark.parametrize("name", SOLVERS)
def test_forward_mode_inside_a_loss_is_refused_where_torch_cannot_differentiate_it(
    name, derivative
):
    class Solves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            A = x[:, :, None] * x[:, None, :] + torch.eye(6, dtype=x.dtype)
            return SOLVERS[name](A, x).sum(1, keepdim=True).expand(-1, 6)

    problem = with_derivatives(network(Solves()), derivative)
    with pytest.raises(UntrustworthyError, match=f"forward-mode derivative .* through .*{name}, "):
        hs.Hessian(problem) @ torch.ones(problem.n)
    plain = with_derivatives(network(Solves()), slope)
    assert hs.check_problem(plain).ok  # in reverse mode all is well


# Layers without a second derivative of torch's own


def magnitude_and_direction(layer: nn.Module) -> tuple[Tensor, Tensor]:
    if hasattr(layer, "weight_g"):
        return layer.weight_g, layer.weight_v
    return layer.parametrizations.weight.original0, layer.parametrizations.weight.original1


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("attach", [parametrizations.weight_norm, weight_norm])
def test_weight_norm_has_the_hessian_of_its_formula(attach, dim):
    torch.manual_seed(0)
    layer = attach(nn.Linear(4, 5), dim=dim)
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3)).double()
    data = randn(7, 4), torch.arange(7) % 3
    over = (0, 1) if dim is None else (1 - dim,)

    def by_hand(model: nn.Module, x: Tensor) -> Tensor:
        g, v = magnitude_and_direction(model[0])
        norm = (v**2).sum(over, keepdim=dim is not None).sqrt()
        return model[2](torch.tanh(F.linear(x, g * v / norm, model[0].bias)))

    problem = hs.Problem(model, F.cross_entropy, data)
    truth = hs.Hessian(hs.Problem(model, F.cross_entropy, data, forward=by_hand)).to_dense()
    assert relative(hs.Hessian(problem).to_dense(), truth) < EXACT
    assert relative(hs.Hessian(problem, "forward-over-reverse").to_dense(), truth) < EXACT
    assert hs.check_problem(problem).ok


class OwnKernel(nn.Module):
    """Attention that chooses its kernel itself, as fast implementations do."""

    def __init__(self, choose) -> None:
        super().__init__()
        self.project, self.choose = nn.Linear(4, 4), choose

    def forward(self, x: Tensor) -> Tensor:
        q = self.project(x).view(-1, 5, 2, 2).transpose(1, 2)
        with self.choose():
            return F.scaled_dot_product_attention(q, q, q, is_causal=True).mean((1, 2))


KERNELS = {
    "sdpa_kernel": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    "several": lambda: sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]),
}


@pytest.mark.parametrize("product", ["auto", "forward-over-reverse"])
@pytest.mark.parametrize("name", KERNELS)
def test_attention_that_sets_its_own_kernel_has_the_hessian_of_math_attention(name, product):
    torch.manual_seed(0)
    model = OwnKernel(KERNELS[name]).double()
    data = randn(6, 5, 4), torch.arange(6) % 2
    problem = hs.Problem(model, F.cross_entropy, data)
    H = hs.Hessian(problem, product).to_dense()
    model.choose = lambda: sdpa_kernel(SDPBackend.MATH)
    assert relative(H, hs.Hessian(problem).to_dense()) < EXACT
    model.choose = KERNELS[name]
    assert hs.check_problem(problem).ok


@pytest.mark.parametrize("inplace", [False, True])
def test_hardsigmoid_has_the_curvature_of_its_slope(inplace):
    """σ(x) = (x + 3)/6 between the kinks, as MobileNetV3 and hard LSTMs use it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.Hardsigmoid(inplace=inplace), nn.Linear(5, 3)
    ).double()
    data = 6 * randn(9, 4), torch.arange(9) % 3
    problem = hs.Problem(model, F.cross_entropy, data)
    by_hand = hs.Problem(
        model, F.cross_entropy, data,
        forward=lambda m, x: m[2](((m[0](x) + 3) / 6).clamp(0, 1)),
    )  # fmt: skip
    assert relative(hs.Hessian(problem).to_dense(), hs.Hessian(by_hand).to_dense()) < EXACT
    assert hs.check_problem(problem).ok


# Forward mode over the gradient


FORWARD = {
    "cholesky_inverse": lambda x: torch.cholesky_inverse(
        torch.linalg.cholesky(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype))
    ),
    "scatter_reduce": lambda x: torch.ones(2, x.shape[1], dtype=x.dtype).scatter_reduce(
        0, (torch.arange(len(x)) % 2)[:, None].expand_as(x), x, "prod"
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_over_reverse_refuses_what_torch_gets_wrong_there_and_reverse_is_right(name):
    x, theta = randn(5, 3), randn(3, seed=1)

    def f(t: Tensor) -> Tensor:
        return FORWARD[name](x * t).square().sum()

    problem = hs.Problem.from_function(f, theta)
    with pytest.raises(UntrustworthyError, match=f"forward mode over the gradient of {name}"):
        hs.Hessian(problem, "forward-over-reverse") @ theta
    truth = torch.autograd.functional.hessian(f, theta)
    assert relative(hs.Hessian(problem).to_dense(), truth) < EXACT
    close = hs.Hessian(problem, "finite-difference").to_dense()
    assert relative(close, truth) < 1e-6


def test_forward_over_reverse_refuses_a_loss_that_is_another_one_inside_torch_func():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 3)).double()
    data = randn(9, 5, 4), torch.arange(9) % 3
    problem = hs.Problem(model, F.cross_entropy, data, training=True)
    with pytest.raises(RuntimeError, match=r"draws other random numbers there \(dropout"):
        hs.Hessian(problem, "forward-over-reverse") @ torch.ones(problem.n)
