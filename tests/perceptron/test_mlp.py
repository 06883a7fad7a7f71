"""Perceptrons: what is recognised, and the Hessian by matrix products against matvecs."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import hesscope as hs
from hesscope.perceptron import assembly
from hesscope.perceptron.assembly import assembly_bytes, dense_hessian
from hesscope.perceptron.mlp import ACTIVATIONS, recognise
from hesscope.system.progress import listening

NUM, DIM, CLASSES = 13, 4, 3
ROUNDING = 1e-12


def stack(
    *widths: int, activation: type[nn.Module] = nn.Tanh, bias: bool = True, seed: int = 0
) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for i in range(len(widths) - 1):
            modules += [nn.Linear(widths[i], widths[i + 1], bias=bias), activation()]
    return nn.Sequential(*modules[:-1]).double()


def inputs(num: int = NUM, dim: int = DIM, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, dtype=torch.float64, generator=generator)


def labels(num: int = NUM, classes: int = CLASSES) -> Tensor:
    return (torch.arange(num) * 5) % classes


def classifier(model: nn.Module, **options: object) -> hs.Problem:
    return hs.Problem(model, F.cross_entropy, (inputs(), labels()), **options)


def by_matvecs(problem: hs.Problem) -> Tensor:
    H = hs.Hessian(problem).to_dense()
    return (H + H.T) / 2


def assert_same(problem: hs.Problem, tolerance: float = ROUNDING) -> None:
    mlp = recognise(problem)
    assert mlp is not None
    H, expected = dense_hessian(mlp), by_matvecs(problem)
    assert H.dtype == problem.dtype
    assert torch.equal(H, H.T)
    assert float((H - expected).norm()) <= tolerance * float(expected.norm())


# The Hessian


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.Identity])
def test_all_activations_and_depths_agree_with_matvecs(activation, depth):
    widths = (DIM, 5, 3, 4)[:depth]
    assert_same(classifier(stack(*widths, CLASSES, activation=activation), batch_size=5))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_layers_with_and_without_bias(activation, bias):
    assert_same(classifier(stack(DIM, 6, 5, CLASSES, activation=activation, bias=bias)))


def _pull(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets[:, None]).pow(4).mean()


WEIGHTS = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
LOSSES = {
    "cross-entropy": (F.cross_entropy, labels()),
    "class weights": (nn.CrossEntropyLoss(WEIGHTS), labels()),
    "smoothing": (functools.partial(F.cross_entropy, label_smoothing=0.2), labels()),
    "weights and smoothing": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2), labels()),
    "ignored": (functools.partial(F.cross_entropy, ignore_index=1), labels()),
    "probabilities": (F.cross_entropy, inputs(NUM, CLASSES).softmax(1)),
    "squared error": (F.mse_loss, inputs(NUM, CLASSES)),
    "logistic": (F.binary_cross_entropy_with_logits, (inputs(NUM, CLASSES) > 0).double()),
    "positive weights": (
        nn.BCEWithLogitsLoss(pos_weight=WEIGHTS),
        (inputs(NUM, CLASSES) > 0).double(),
    ),
    "huber": (F.huber_loss, inputs(NUM, CLASSES)),
    "absolute": (F.l1_loss, inputs(NUM, CLASSES)),
    "own": (_pull, labels()),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_all_losses_on_ragged_batches(activation, name):
    loss_fn, targets = LOSSES[name]
    model = stack(DIM, 5, CLASSES, activation=activation)
    assert_same(hs.Problem(model, loss_fn, (inputs(), targets), batch_size=5))


def test_batches_count_by_their_items():
    """Ignored labels: a batch counts by those that are left, and one batch has none."""
    X, y = inputs(), labels()
    y[:6] = -100
    problem = hs.Problem(
        stack(DIM, 5, CLASSES, activation=nn.ReLU),
        F.cross_entropy,
        [(X[:4], y[:4]), (X[4:9], y[4:9]), (X[9:], y[9:])],
        count=lambda targets: int((targets != -100).sum()),
    )
    assert_same(problem)


@pytest.mark.parametrize(
    "params", ["0.*", "2.*", "*.weight", "*.bias", ["0.bias", "4.*"], ["2.weight", "4.bias"]]
)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_subsets_of_the_parameters(activation, params):
    assert_same(classifier(stack(DIM, 5, 4, CLASSES, activation=activation), params=params))


def test_frozen_layers_blocks_and_other_parameters():
    model = stack(DIM, 5, 4, CLASSES, activation=nn.ReLU)
    problem = classifier(model)
    for block in problem.blocks().values():
        assert_same(block)
    assert_same(problem.at(problem.theta * 1.3 + 0.1))
    assert_same(problem.in_double([batch.content for batch in problem.batches]))
    model[2].requires_grad_(False)
    assert_same(classifier(model))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Softplus])
def test_dead_and_repeated_inputs_and_dead_units(activation):
    X = inputs(NUM, 6)
    X[:, 1] = 0
    X[:, 3] = X[:, 2]
    model = stack(6, 5, 4, CLASSES, activation=activation)
    with torch.no_grad():
        model[0].bias[2] = model[2].bias[0] = -60
    assert_same(hs.Problem(model, F.cross_entropy, (X, labels())))


def test_an_activation_after_the_last_layer():
    model = nn.Sequential(*stack(DIM, 5, CLASSES), nn.Sigmoid())
    assert_same(hs.Problem(model, F.mse_loss, (inputs(), inputs(NUM, CLASSES))))
    model = nn.Sequential(*stack(DIM, 5, CLASSES, activation=nn.ReLU), nn.ReLU())
    assert_same(hs.Problem(model, F.mse_loss, (inputs(), inputs(NUM, CLASSES))))


def test_a_trained_network_with_small_gradients():
    model, X, y = stack(DIM, 8, 8, CLASSES, activation=nn.ReLU), inputs(40), labels(40)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(300):
        optimiser.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimiser.step()
    assert_same(hs.Problem(model, F.cross_entropy, (X, y)))


def test_float32_is_as_good_as_matvecs_in_float32():
    model = stack(DIM, 6, 5, CLASSES, activation=nn.GELU).float()
    problem = hs.Problem(model, F.cross_entropy, (inputs().float(), labels()))
    assert_same(problem, tolerance=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_chunks_and_groups_of_any_size_give_the_same(monkeypatch, activation):
    problem = classifier(stack(DIM, 5, 4, CLASSES, activation=activation))
    whole = dense_hessian(recognise(problem))
    monkeypatch.setattr(assembly, "WORKSPACE", 40_000)
    monkeypatch.setattr(assembly, "WIDE", 1)
    torch.testing.assert_close(dense_hessian(recognise(problem)), whole, rtol=0, atol=1e-14)


def test_progress_ends_at_its_total():
    problem, seen = classifier(stack(DIM, 5, CLASSES), batch_size=5), []
    mlp = recognise(problem)
    with listening(lambda *event: seen.append(event)):
        dense_hessian(mlp)
    done = [event[1] for event in seen]
    assert done == sorted(done)
    assert seen[-1] == ("dense matrix: units", 24, 24)


def test_the_stated_memory_holds_the_matrix_itself():
    mlp = recognise(classifier(stack(DIM, 5, CLASSES)))
    assert 8 * mlp.problem.n**2 < assembly_bytes(mlp) < 1_000_000
    assert assembly_bytes(mlp, 10) < assembly_bytes(mlp)


# What is recognised


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = stack(DIM, 5, CLASSES, activation=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


RELATIVES = {
    "one layer": lambda: stack(DIM, CLASSES),
    "bare linear": lambda: nn.Linear(DIM, CLASSES).double(),
    "nested": lambda: nn.Sequential(
        nn.Flatten(), nn.Sequential(*stack(DIM, 5, 4)), nn.ReLU(), nn.Sequential(stack(4, CLASSES))
    ).double(),
    "dropout": lambda: nn.Sequential(
        nn.Linear(DIM, 5), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Identity(), nn.Linear(5, 3)
    ).double(),
    "shared activation": lambda: nn.Sequential(
        nn.Linear(DIM, 5), act := nn.Tanh(), nn.Linear(5, 5), act, nn.Linear(5, CLASSES)
    ).double(),
    "activation first": lambda: nn.Sequential(nn.Tanh(), *stack(DIM, 5, CLASSES)),
    "wrapped": Wrapped,
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_are_recognised(name):
    assert_same(classifier(RELATIVES[name]()))


def test_images_are_flattened():
    images = inputs(NUM, 8).reshape(NUM, 2, 2, 2)
    model = nn.Sequential(nn.Flatten(), *stack(8, 5, CLASSES, activation=nn.ReLU))
    assert_same(hs.Problem(model, F.cross_entropy, (images, labels())))


def test_recognising_and_assembling_leave_the_model_as_it_was():
    model = RELATIVES["dropout"]().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense_hessian(recognise(classifier(model)))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[:, :CLASSES]


class Scaled(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.net(x)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = stack(CLASSES, 5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.net(x[:, :CLASSES]))


class Shifted(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.net[0].weight.sum())


def tied() -> nn.Module:
    model = stack(DIM, DIM, DIM, CLASSES)
    model[2].weight = model[0].weight
    return model


def repeated() -> nn.Module:
    layer = nn.Linear(DIM, DIM)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(DIM, CLASSES)).double()


def hooked() -> nn.Module:
    model = stack(DIM, 5, CLASSES)
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def patched() -> nn.Module:
    model = stack(DIM, 5, CLASSES)
    model[1].forward = torch.sin
    return model


def normed() -> nn.Module:
    model = stack(DIM, 5, CLASSES)
    parametrizations.weight_norm(model[0])
    return model


def pruned() -> nn.Module:
    model = stack(DIM, 5, CLASSES)
    prune.l1_unstructured(model[0], "weight", 3)
    return model


def between(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(DIM, 6), module, nn.Linear(6, CLASSES)).double()


LOOKALIKES = {
    "batch norm": lambda: between(nn.BatchNorm1d(6)),
    "layer norm": lambda: between(nn.LayerNorm(6)),
    "softmax": lambda: between(nn.Softmax(1)),
    "prelu": lambda: between(nn.PReLU()),
    "two activations": lambda: between(nn.Sequential(nn.ReLU(), nn.Tanh())),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, DIM)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, CLASSES)
    ).double(),
    "residual": lambda: Residual(*stack(DIM, 5, CLASSES)),
    "scaled": Scaled,
    "twice": Twice,
    "input with parameters": Shifted,
    "tied": tied,
    "repeated": repeated,
    "hooked": hooked,
    "patched": patched,
    "weight norm": normed,
    "pruned": pruned,
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_are_not_recognised(name):
    assert recognise(classifier(LOOKALIKES[name]())) is None


def test_unusual_problems_are_not_recognised():
    model = stack(DIM, 5, CLASSES)
    data = (inputs(), labels())

    def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + 1e-6 * model[0].weight.square().sum()

    def coupled(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean(0).square().sum()

    def closure(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    problems = {
        "closure": hs.Problem.from_closure(model, closure, [data]),
        "function": hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(3)),
        "penalty": hs.Problem(model, penalised, data),
        "coupled": hs.Problem(model, coupled, data),
        "forward": hs.Problem(model, F.cross_entropy, data, forward=lambda m, x: 3 * m(x)),
        "twice": hs.Problem(model, F.cross_entropy, data, forward=lambda m, x: (m(x), m(x))[0]),
        "training": hs.Problem(
            between(nn.Dropout(0.5)), F.cross_entropy, data, training=True
        ),
        "sequences": hs.Problem(
            model, F.mse_loss, (inputs()[None], inputs(NUM, CLASSES)[None])
        ),
    }  # fmt: skip
    assert {name: recognise(problem) for name, problem in problems.items()} == dict.fromkeys(
        problems
    )


def test_a_broken_model_is_left_to_others_to_report():
    assert recognise(hs.Problem(stack(7, CLASSES), F.cross_entropy, (inputs(), labels()))) is None
