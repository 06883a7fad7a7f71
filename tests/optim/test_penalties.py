"""Penalties: their gradients are those of exact traces and eigenvalues, by central differences."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.optim import penalties
from tests.networks import OnceDifferentiable
from tests.oracles import gauss_newton, hessian, network

STEP = 1e-3
both = pytest.mark.parametrize("curvature", ["hessian", "ggn"])


def tensor(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


X, Y = tensor(7, 4), torch.arange(7) % 3
REAL, BITS = tensor(7, 3, seed=1), (tensor(7, 3, seed=2) > 0).double()


def dense(model, loss_fn, batch, curvature, params=None):
    """The whole matrix, and the block that is asked for, by torch's own dense derivatives."""
    problem = hs.Problem(model, loss_fn, batch)
    matrix = {"hessian": hessian, "ggn": gauss_newton}[curvature](problem, *batch)
    if params is None:
        return matrix
    slices = problem.layout.slices()
    rows = torch.cat([torch.arange(problem.n)[slices[name]] for name in params])
    return matrix[rows][:, rows]


def moved(model, direction, by):
    with torch.no_grad():
        for p, d in zip(model.parameters(), direction, strict=True):
            p.add_(d, alpha=by)


def slope(model, number, direction):
    """The derivative of a number along a direction in parameter space, to fourth order."""
    values = []
    for by in (STEP, STEP, -3 * STEP, -STEP):
        moved(model, direction, by)
        values.append(float(number().detach()))
    moved(model, direction, 2 * STEP)
    near, far, below, beneath = values
    return (8 * (near - below) - (far - beneath)) / (12 * STEP)


def directions(model, seed):
    """One of length 1."""
    found = [tensor(*p.shape, seed=seed) for p in model.parameters()]
    size = torch.cat([d.flatten() for d in found]).norm()
    return [d / size for d in found]


def check(model, penalty, number, num=3):
    """Value and gradient of a penalty against an exact number, along random directions."""
    model.zero_grad()
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(float(number().detach()), rel=1e-9)
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    size = float(torch.cat([g.flatten() for g in gradient]).norm())
    for seed in range(num):
        along = directions(model, seed)
        found = sum((g * d).sum() for g, d in zip(gradient, along, strict=True))
        assert abs(float(found) - slope(model, number, along)) < 1e-6 * size


@pytest.fixture
def all_basis_vectors(monkeypatch):
    """Probes that are the basis vectors times √n: their mean is the trace itself."""

    def basis(tensors, _, __, index):
        n = sum(t.numel() for t in tensors)
        e = torch.zeros(n, dtype=tensors[0].dtype)
        e[index] = n**0.5
        return [part.view_as(t) for part, t in zip(e.split([t.numel() for t in tensors]), tensors, strict=True)]  # fmt: skip  # noqa: E501

    monkeypatch.setattr(penalties, "signs", basis)


LOSSES = {
    "cross-entropy": (F.cross_entropy, Y),
    "smoothed, weighted": (
        nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]).double(), label_smoothing=0.1), Y),
    "squared error": (F.mse_loss, REAL),
    "logistic": (nn.BCEWithLogitsLoss(), BITS),
    "Huber": (nn.HuberLoss(delta=0.3), REAL),
}  # fmt: skip


@both
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_gradient_is_that_of_the_exact_trace(name, curvature, all_basis_vectors):
    loss_fn, targets = LOSSES[name]
    model, batch = network(4, 5, 3), (X, targets)
    rows = 21 if curvature == "ggn" and name != "Huber" else 43
    penalty = hs.trace_penalty(model, loss_fn, batch, rows, curvature=curvature)
    check(model, penalty, lambda: dense(model, loss_fn, batch, curvature).trace())


@both
def test_a_layer_has_its_own_trace_and_all_parameters_have_its_gradient(
    curvature, all_basis_vectors
):
    model, batch = network(4, 5, 3), (X, Y)
    rows = 25 if curvature == "hessian" else 21
    penalty = hs.trace_penalty(
        model, F.cross_entropy, batch, rows, curvature=curvature, params="0.*"
    )
    names = ["0.weight", "0.bias"]
    check(model, penalty, lambda: dense(model, F.cross_entropy, batch, curvature, names).trace())
    assert bool(model[2].weight.grad.any())


@both
@pytest.mark.parametrize("params", [None, "2.*"])
def test_the_gradient_is_that_of_the_largest_eigenvalue(curvature, params):
    model, batch = network(4, 5, 3), (X, Y)
    found = hs.spectral_penalty(
        model, F.cross_entropy, batch, num_steps=40, curvature=curvature, params=params, seed=0
    )
    names = None if params is None else ["2.weight", "2.bias"]
    assert found.residual < 1e-9
    assert not found.vector.requires_grad

    def top():
        return torch.linalg.eigvalsh(dense(model, F.cross_entropy, batch, curvature, names))[-1]

    check(model, found.value, top)


@both
def test_the_mean_over_probes_is_the_trace_within_its_standard_error(curvature):
    model, batch = network(4, 5, 3), (X, Y)
    values, gradients = [], []
    for seed in range(300):
        model.zero_grad()
        penalty = hs.trace_penalty(model, F.cross_entropy, batch, curvature=curvature, seed=seed)
        penalty.backward()
        values.append(float(penalty.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    direction = directions(model, 5)
    slopes = torch.stack(gradients) @ torch.cat([d.flatten() for d in direction])

    def number():
        return dense(model, F.cross_entropy, batch, curvature).trace()

    for found, exact in (
        (torch.tensor(values).double(), float(number())),
        (slopes, slope(model, number, direction)),
    ):
        stderr = float(found.std()) / len(found) ** 0.5
        assert abs(float(found.mean()) - exact) < 3.5 * stderr
        assert stderr < 0.3 * abs(exact)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(2, 1, batch_first=True)
        self.norm = nn.LayerNorm(2)
        self.out = nn.Linear(2, 3)

    def forward(self, x):
        x = x.view(-1, 2, 2)
        return self.out(self.norm(x + self.inner(x, x, x, need_weights=False)[0]).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.GRU(2, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x):
        return self.out(self.inner(x.view(-1, 2, 2))[0][:, -1])


LAYERS = {
    "BatchNorm in training": lambda: [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh()],
    "LayerNorm": lambda: [nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()],
    "GELU": lambda: [nn.Linear(4, 5), nn.GELU()],
    "SiLU": lambda: [nn.Linear(4, 5), nn.SiLU()],
    "ReLU": lambda: [nn.Linear(4, 5), nn.ReLU()],
    "convolution and GroupNorm": lambda: [
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, padding=1), nn.GroupNorm(2, 4), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)],
    "weight_norm": lambda: [nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh()],
    "attention": lambda: [Attention(), nn.Linear(3, 5)],
    "recurrent": lambda: [Recurrent(), nn.Linear(3, 5)],
}  # fmt: skip


@pytest.mark.parametrize("name", list(LAYERS))
def test_layers_that_torch_differentiates_wrongly_or_not_at_all(name, all_basis_vectors):
    """The exact trace, by this call itself, is differenced; the tests above tell that it is one."""
    torch.manual_seed(0)
    model = nn.Sequential(*LAYERS[name](), nn.Linear(5, 3)).double().train()
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    n = sum(p.numel() for p in model.parameters())

    def penalty():
        return hs.trace_penalty(model, F.cross_entropy, (X, Y), n)

    check(model, penalty(), penalty, num=1)
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
    if name not in ("attention", "weight_norm"):  # of which torch's own dense Hessian is wrong
        problem = hs.Problem(model, F.cross_entropy, (X, Y), training=True)
        exact = float(hessian_in_training(problem).trace())
        assert float(penalty().detach()) == pytest.approx(exact, rel=1e-8)


def hessian_in_training(problem):
    names, shapes = problem.layout.names, problem.layout.shapes

    def loss(theta):
        pieces = theta.split([shape.numel() for shape in shapes])
        tensors = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(problem.model, tensors, (X,)), Y)

    return torch.autograd.functional.hessian(loss, problem.theta)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def of_trace(model, batch, step):
    return hs.trace_penalty(model, F.cross_entropy, batch, seed=step)


def of_top(model, batch, step):
    return hs.spectral_penalty(model, F.cross_entropy, batch, num_steps=4, seed=step).value


@pytest.mark.parametrize("term", [of_trace, of_top])
def test_training_with_a_penalty_is_flatter_under_amp_and_accumulation(term):
    """bfloat16 autocast with a GradScaler, a batch in two parts; the penalty is in float32."""
    x, found = X.float(), []
    for strength in (0.0, 0.05):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for step in range(60):
            optimizer.zero_grad()
            for part in (slice(0, 3), slice(3, 7)):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(model(x[part]), Y[part])
                    penalty = term(model, (x[part], Y[part]), step)
                assert penalty.dtype == torch.float32
                scaler.scale((loss + strength * penalty) / 2).backward()
            scaler.step(optimizer)
            scaler.update()
        H = hs.Hessian(hs.Problem(model.eval(), F.cross_entropy, (x, Y)))
        top = float(hs.eigsh(H, 1, seed=0).eigenvalues[0])
        found.append(hs.trace(H, seed=0).value if term is of_trace else top)
    assert found[1] < 0.8 * found[0]


def test_a_warm_start_follows_the_top_of_a_network_in_training():
    model, v = small().double(), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(12):
        found = hs.spectral_penalty(model, F.cross_entropy, (X, Y), start=v, num_steps=3, seed=0)
        v = found.vector
        optimizer.zero_grad()
        (F.cross_entropy(model(X), Y) + 0.01 * found.value).backward()
        optimizer.step()
        assert found.num_matvecs == 4
    problem = hs.Problem(model, F.cross_entropy, (X, Y), training=True)
    value = hs.spectral_penalty(model, F.cross_entropy, (X, Y), start=v, num_steps=3).value
    top = float(hs.eigsh(hs.Hessian(problem), 1).eigenvalues[0])
    assert float(value.detach()) == pytest.approx(top, rel=0.02)


@both
def test_a_model_is_left_as_it_was_and_no_context_reaches_the_arithmetic(curvature):
    model = small().double()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain = hs.trace_penalty(model, F.cross_entropy, (X, Y), curvature=curvature, seed=3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = hs.trace_penalty(model, F.cross_entropy, (X, Y), curvature=curvature, seed=3)
    assert torch.equal(plain, inside)
    assert inside.requires_grad
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_a_curvature_that_is_constant_has_a_gradient_of_zero():
    model = nn.Linear(4, 3).double()
    penalty = hs.trace_penalty(model, F.mse_loss, (X, REAL), 5, seed=0)
    penalty.backward()
    assert not bool(model.weight.grad.any())


class Custom(nn.Module):
    def forward(self, x):
        return OnceDifferentiable.apply(x)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), reentrant

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(
            self.inner, x.clone().requires_grad_(), use_reentrant=self.reentrant
        )


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), Custom()), "@once_differentiable"),
        (lambda: Checkpointed(reentrant=True), "use_reentrant=True"),
        (lambda: Checkpointed(reentrant=False), "LayerNorm, InstanceNorm or BatchNorm"),
    ],
)
def test_what_cannot_be_differentiated_three_times_is_refused(model, cause):
    with pytest.raises(RuntimeError, match=cause):
        hs.trace_penalty(model().double(), F.cross_entropy, (X, Y))


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda m: hs.trace_penalty(m, F.cross_entropy, (X, Y), 0), "num_probes=0; give a whole"),
        (lambda m: hs.trace_penalty(m, F.cross_entropy, (X, Y), curvature="gn"), "curvature='gn'"),
        (lambda m: hs.trace_penalty(m, F.cross_entropy, (X, Y), params="9.*"), "selects none"),
        (lambda m: hs.trace_penalty(m, F.cross_entropy, (X, Y), seed=0.5), "seed=0.5 is no int"),
        (lambda m: hs.trace_penalty(m.bfloat16(), F.cross_entropy, (X, Y)), "in torch.bfloat16"),
        (lambda m: hs.trace_penalty(3, F.cross_entropy, (X, Y)), "model is a int"),
        (lambda m: hs.trace_penalty(m, lambda z, y: z, (X, Y)), "loss of batch 0"),
        (lambda m: hs.trace_penalty(m, F.l1_loss, (X, REAL), curvature="ggn"), "piecewise linear"),
        (lambda m: hs.trace_penalty(m, lambda z, t: (z - t).abs().mean(), (X, REAL),
                                    curvature="ggn"), "piecewise linear"),
        (lambda m: hs.spectral_penalty(m, F.cross_entropy, (X, Y), num_steps=1), "num_steps=1"),
        (lambda m: hs.spectral_penalty(m, F.cross_entropy, (X, Y), start=torch.ones(3)),
         "start of shape (3,) for 43 parameters"),
        (lambda m: hs.spectral_penalty(m, F.cross_entropy, (X, Y), start=torch.zeros(43)),
         "finite and not zero"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        call(network(4, 5, 3))
