"""What people bring that cannot be served is refused by name, with its cause and its cure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).double()
Y = torch.arange(12) % 3
WORDS = torch.randint(0, 6, (12, 3), generator=torch.Generator().manual_seed(4))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Around(nn.Module):
    """A network with something foreign around it."""

    def __init__(self, foreign) -> None:
        super().__init__()
        self.net, self.drop, self.foreign = network(), nn.Dropout(), foreign

    def forward(self, x):
        return self.drop(self.foreign(self.net, x))


class Listed(nn.Module):
    """Keeps one of its weights in a list as well."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.tied = [self.net[0].weight]

    def forward(self, x):
        return self.net(x) + F.linear(x, self.tied[0][:3])


def held_by_an_optimiser():
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

    def penalised(outputs, targets):
        held = [p for group in optimiser.param_groups for p in group["params"]]
        return F.cross_entropy(outputs, targets) + sum(p.square().sum() for p in held)

    return hs.Problem(model, penalised, (X, Y))


def with_a_backward_hook():
    model = network()
    model[1].register_full_backward_hook(lambda module, inputs, _: tuple(-g for g in inputs))
    return hs.Problem(model, F.cross_entropy, (X, Y))


def with_short_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, 3))
    return hs.Problem(model.double(), F.cross_entropy, (WORDS, Y))


def probabilities():
    model = nn.Sequential(*network()[:2], nn.Linear(5, 1).double(), nn.Sigmoid())
    with torch.no_grad():
        model[2].weight.normal_(std=30.0)
    return hs.Problem(model, nn.BCELoss(), (X, (Y > 0).double()[:, None]))


def power_iteration():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), network())
    model = model.double()
    for _ in range(100):  # its vectors settle
        model(X)
    return hs.Problem(model, F.cross_entropy, (X, Y), training=True)


def old_power_iteration():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), network())
    return hs.Problem(model.double(), F.cross_entropy, (X, Y), training=True)


def noisy(draw):
    return hs.Problem(Around(lambda net, x: net(x) + draw(x)), F.cross_entropy, (X, Y))


def summed_slots():
    class Slots:
        __slots__ = ("x", "y")

        def __init__(self, part) -> None:
            self.x, self.y = X[part], Y[part]

    return hs.Problem.from_closure(
        network(),
        lambda m, b: F.cross_entropy(m(b.x), b.y, reduction="sum"),
        [Slots(slice(5)), Slots(slice(5, 12))],
        count=lambda b: len(b.y),
    )


def ignored_pixels_with_weights():
    labels = torch.where(torch.arange(12) % 4 == 0, 255, Y)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 3.0, 0.5]).double(), ignore_index=255)
    return hs.Problem(network(), loss, (X, labels), batch_size=5)


class SavesItsOutput(torch.autograd.Function):
    """A sigmoid whose backward is right, once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.sigmoid())
        return x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (s,) = ctx.saved_tensors
        return gradient * s * (1 - s)


def behind_a_cast(cast):
    model = Around(lambda net, x: cast(SavesItsOutput.apply(net(x))))
    return hs.Problem(model, F.cross_entropy, (X, Y))


def bag_of_sparse_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(6, 4, sparse=True), nn.Tanh(), nn.Linear(4, 3))
    return hs.Problem(model.double(), F.cross_entropy, (WORDS, Y))


def rounded():
    straight = lambda net, x: net(x) + (net(x).round() - net(x)).detach()  # noqa: E731
    return hs.Problem(Around(straight), F.cross_entropy, (X, Y))


OTHER = torch.zeros(1)
REFUSED = {
    "a weight in a list": (
        lambda: hs.Problem(Listed(), F.cross_entropy, (X, Y)),
        "captured_parameters", "net.0.weight", "from_closure",
    ),
    "a penalty through the optimiser": (
        held_by_an_optimiser, "captured_parameters", "0.weight", "from_closure",
    ),
    "a backward hook": (
        with_a_backward_hook, "gradient_is_not_the_derivative", "1 (Tanh) has backward hooks",
        "remove these hooks",
    ),
    "rows of a largest norm": (
        with_short_rows, "gradient_is_not_the_derivative", "max_norm", "max_norm = None",
    ),
    "probabilities near 0": (
        probabilities, "gradient_is_not_the_derivative", "binary_cross_entropy of probabilities",
        "binary_cross_entropy_with_logits",
    ),
    "spectral norm in training": (
        power_iteration, "wrong_second_derivative", "spectral_norm", "leave out training=True",
    ),
    "spectral norm of old in training": (
        old_power_iteration, "gradient_is_not_the_derivative", "spectral_norm",
        "leave out training=True",
    ),
    "NumPy noise beside dropout": (
        lambda: noisy(lambda x: torch.from_numpy(np.random.randn(12, 3)[: len(x)])),  # noqa: NPY002
        "random_loss", "draws random numbers", "noise",
    ),
    "dropout that no mode reaches": (
        lambda: noisy(lambda x: F.dropout(x[:, :3])),
        "random_loss", "bernoulli in Around", "training=self.training",
    ),
    "noise of torch": (
        lambda: noisy(lambda x: torch.rand_like(x[:, :3])),
        "random_loss", "rand_like in Around", "noise",
    ),
    "sums over objects with slots": (summed_slots, "sum_reduction", "a sum", "reduction='mean'"),
    "class weights and ignored pixels": (
        ignored_pixels_with_weights, "class_weights", "class weights",
        "count=lambda targets: loss_fn.weight[targets[targets != 255]].sum()",
    ),
    "a wrong second derivative behind .type(name)": (
        lambda: behind_a_cast(lambda z: z.type("torch.FloatTensor")),
        "wrong_second_derivative", "SavesItsOutput", "finite-difference",
    ),
    "a wrong second derivative behind .type(class)": (
        lambda: behind_a_cast(lambda z: z.type(torch.FloatTensor)),
        "wrong_second_derivative", "SavesItsOutput", "finite-difference",
    ),
    "a wrong second derivative behind .type_as": (
        lambda: behind_a_cast(lambda z: z.type_as(OTHER)),
        "wrong_second_derivative", "SavesItsOutput", "finite-difference",
    ),
    "a wrong second derivative behind .to(other)": (
        lambda: behind_a_cast(lambda z: z.to(OTHER)),
        "wrong_second_derivative", "SavesItsOutput", "finite-difference",
    ),
    "a bag of sparse rows": (
        bag_of_sparse_rows, "not_differentiable_twice", "_embedding_bag_backward",
        "finite-difference",
    ),
    "a straight-through estimator": (
        rounded, "gradient_is_not_the_derivative", "detached", "no Hessian",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_cause_and_cure(name):
    make, finding, cause, cure = REFUSED[name]
    check = hs.check_problem(make())
    assert [fault.name for fault in check.faults] == [finding]
    assert cause in check.faults[0].cause
    assert cure in check.faults[0].cure


@pytest.mark.parametrize(
    ("x", "y", "cure"),
    [
        (X, Y, "bring it to torch.float32"),
        (X.half(), Y, "bring it to torch.float32"),
        (X.float(), Y.int(), "targets.long()"),
        (X.float(), Y.double(), "targets.long()"),
    ],
)
def test_data_of_the_wrong_dtype_is_told_which_one_is_wanted(x, y, cure):
    check = hs.check_problem(hs.Problem(network().float(), F.cross_entropy, (x, y)))
    assert [fault.name for fault in check.faults] == ["loss_fails"]
    assert cure in check.faults[0].cause


def test_compiled_parameters_are_refused_at_the_door():
    model = torch.jit.script(network())
    with pytest.raises(ValueError, match=r"0.weight belongs to a model in TorchScript .* Measure"):
        hs.Problem(model, F.cross_entropy, (X, Y))


def test_a_random_loss_of_a_models_own_is_called_random_where_batches_are_to_be_counted():
    class Masks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x, labels):
            outputs = self.net(x)
            kept = torch.rand(outputs.shape) < 0.5
            return {"loss": F.cross_entropy(outputs * kept, labels), "logits": outputs}

    halves = [{"x": X[:5], "labels": Y[:5]}, {"x": X[5:], "labels": Y[5:]}]
    with pytest.raises(ValueError, match=r"another one under each random seed .* with the batch"):
        hs.Problem(Masks(), data=halves)


def test_what_a_loss_holds_is_left_as_it_was():
    class Teacher:
        def __init__(self) -> None:
            self.net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).double().train()
            self.calls = []

        def loss(self, model, batch):
            self.calls.append(1)
            return F.mse_loss(model(batch[0]), self.net(batch[0]).detach())

    teacher, seen = Teacher(), []
    before = {name: t.clone() for name, t in teacher.net.state_dict().items()}

    def closure(model, batch):
        seen.append(1)
        return teacher.loss(model, batch)

    for one in (teacher.loss, closure):
        problem = hs.Problem.from_closure(network(), one, [(X,)])
        assert len({problem.loss() for _ in range(3)}) == 1
    assert teacher.calls == seen == []
    now = teacher.net.state_dict()
    assert all(torch.equal(old, now[name]) for name, old in before.items())
    assert teacher.net.training


def test_a_penalty_that_looks_at_flags_is_the_same_in_a_block():
    def penalised(model, batch):
        own = [p for p in model.parameters() if p.requires_grad]
        return F.cross_entropy(model(batch[0]), batch[1]) + sum(p.square().sum() for p in own)

    whole = hs.Problem.from_closure(network(), penalised, [(X, Y)])
    part = hs.Problem.from_closure(network(), penalised, [(X, Y)], params="2.*")
    assert part.loss() == whole.loss() == whole.block("2.*").loss()
