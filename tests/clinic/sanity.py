"""What comes before curvature, planted: nothing learnt, nothing to learn, or learnt in vain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hesscope as hs
from tests.clinic import healthy
from tests.clinic.case import Case, Outcome, Patient
from tests.clinic.data import digits, linear_targets, mlp, sgd, train, two_classes
from tests.clinic.healthy import cross_entropy, language_data, mse
from tests.clinic.networks import squeezed

logistic = nn.functional.binary_cross_entropy_with_logits
Adam = torch.optim.Adam


@dataclass(frozen=True)
class Planted(Case):
    """A case whose headline has to name one of these causes; healthy where there are none."""

    causes: tuple[str, ...] = ()


def named(case: Planted, examined: hs.Examination) -> tuple[Outcome, list[str]]:
    """Right is the planted cause on top; where nothing is planted, that nothing calls for action.

    Wrong is a cause that was not planted; undecided, none where there is one.
    """
    found = examined.headline
    findings = [f"{v.name}: {v.claim}" for v in examined.verdicts if v.finding]
    if not case.causes:
        return ("wrong", findings) if findings else ("right", [])
    if found.cause in case.causes and findings:
        return "right", []
    return ("wrong" if findings else "undecided"), [f"{found.cause}: {found.claim}", *findings]


# --- ill


def random_labels(seed: int) -> Patient:
    """Nothing in the inputs tells the labels; trained for 600 steps."""
    data = torch.randn(1500, 12), torch.randint(0, 2 + seed % 3, (1500,))
    model = mlp(12, 16, 2 + seed % 3).float()
    optimizer = Adam(model.parameters(), lr=3e-4)
    train(model, cross_entropy, data, optimizer, 600, batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def far_too_slow(seed: int) -> Patient:
    """A learning rate 10,000 times too small."""
    inputs, labels = digits(400)
    data = inputs.float(), labels
    model = mlp(64, 32, 10).float()
    optimizer = Adam(model.parameters(), lr=1e-7)
    train(model, cross_entropy, data, optimizer, 600, batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def shrunk(seed: int) -> Patient:
    """Weight decay has eaten the first layer: what is left of the inputs does not matter."""
    data = digits(300)
    model = mlp(64, 32, 10, activation=nn.Tanh)
    train(model, cross_entropy, data, sgd(model, 0.1), 100)
    with torch.no_grad():
        model[0].weight *= 1e-5
        model[2].bias += torch.randn(10)
    return hs.Problem(model, cross_entropy, data), {"lr": 0.1}


def killed(seed: int) -> Patient:
    """One step that was too large has left all units dead."""
    data = digits(300)
    model = mlp(64, 32, 10)
    train(model, cross_entropy, data, sgd(model, 0.1), 100)
    with torch.no_grad():
        model[0].bias -= 30 + 10 * torch.rand(32)
    return hs.Problem(model, cross_entropy, data), {"lr": 0.1}


def few_alive(seed: int) -> Patient:
    """Thirty of 32 units are dead, each by as little as it takes."""
    data = digits(300)
    model = mlp(64, 32, 10)
    with torch.no_grad():
        h = data[0] @ model[0].weight.T
        model[0].bias[2:] = -h.amax(0)[2:] - 0.01
    return hs.Problem(model, cross_entropy, data), {"lr": 0.1}


def constant_label(seed: int) -> Patient:
    inputs, labels = digits(300)
    model = mlp(64, 24, 10)
    data = inputs, torch.full_like(labels, seed % 10)
    train(model, cross_entropy, data, sgd(model, 0.1), 40 * (seed % 2))
    return hs.Problem(model, cross_entropy, data), {"lr": 0.1}


def constant_value(seed: int) -> Patient:
    X, Y = linear_targets(200, 6)
    data = X, torch.full_like(Y, 1.0 + seed)
    model = mlp(6, 16, 1, activation=nn.Tanh)
    train(model, mse, data, sgd(model, 0.02), 40 * (seed % 2))
    return hs.Problem(model, mse, data), {"lr": 0.02}


def exploding(activation: type[nn.Module], gain: float) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        depth = 8 + seed % 5
        model = mlp(64, *[24] * depth, 10, activation=activation)
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=gain / module.in_features**0.5)
        return hs.Problem(model, cross_entropy, digits(200)), {"lr": 0.01}

    return make


def flipped(share: float, num_steps: int) -> Callable[[int], Patient]:
    """Digits, some of whose labels are drawn anew."""

    def make(seed: int) -> Patient:
        inputs, labels = digits(800)
        wrong = torch.rand(len(labels)) < share
        labels = torch.where(wrong, torch.randint(0, 10, labels.shape), labels)
        model = mlp(64, 48, 10).float()
        data = inputs.float(), labels
        optimizer = Adam(model.parameters(), lr=1e-3)
        train(model, cross_entropy, data, optimizer, num_steps, batch_size=64)
        return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}

    return make


def leaking(how: str) -> Callable[[int], Patient]:
    """The label stands in one feature, or in one for each class, or the target in one."""

    def make(seed: int) -> Patient:
        inputs, labels = digits(400)
        if how == "target":
            X, Y = linear_targets(300, 8, noise=0.5)
            X[:, seed % 8] = 2 * Y[:, 0] + 0.01 * torch.randn(300)
            return hs.Problem(mlp(8, 16, 1, activation=nn.Tanh), mse, (X, Y)), {"lr": 0.01}
        if how == "pixel":
            inputs[:, (7 * seed) % 64] = labels / 10 + 0.005 * torch.randn(len(labels))
        else:
            inputs = torch.cat([inputs, nn.functional.one_hot(labels, 10).double()], 1)
        model = mlp(inputs.shape[1], 24, 10)
        train(model, cross_entropy, (inputs, labels), sgd(model, 0.1), 60)
        return hs.Problem(model, cross_entropy, (inputs, labels)), {"lr": 0.1}

    return make


def unshifted(seed: int) -> Patient:
    """A language model that is given the word that it has to predict."""
    tokens = language_data(48, 10, 12)
    model = healthy.Recurrent()
    loss = lambda out, y: cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
    optimizer = Adam(model.parameters(), lr=3e-3)
    train(model, loss, (tokens, tokens), optimizer, 50, batch_size=16)
    problem = hs.Problem(model, loss, (tokens, tokens), count=lambda y: y.numel())
    return problem, {"optimizer": optimizer}


def unscaled(how: str) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        if how == "pixels":
            inputs, labels = digits(300)
            model = mlp(64, 24, 10)
            return hs.Problem(model, cross_entropy, (255 * inputs, labels)), {"lr": 1e-5}
        X, Y = two_classes(300)
        X = 1000 * X + 500 if how == "money" else X + 100 * (1 + torch.rand(6))
        return hs.Problem(mlp(6, 16, 1), squeezed(logistic), (X, Y)), {"lr": 1e-6}

    return make


def frozen_head(seed: int) -> Patient:
    inputs, labels = digits(300)
    model = mlp(64, *[24] * (1 + seed % 3), 10).float()
    model[-1].requires_grad_(False)
    data = inputs.float(), labels
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    train(model, cross_entropy, data, optimizer, 100, batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def new_head(seed: int) -> Patient:
    """The head was put in after the optimiser was made."""
    inputs, labels = digits(300)
    model = mlp(64, 24, 20).float()
    optimizer = Adam(model.parameters(), lr=1e-3)
    model[-1] = nn.Linear(24, 10)
    data = inputs.float(), labels
    train(model, cross_entropy, data, optimizer, 100, batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def softmax_twice(seed: int) -> Patient:
    inputs, labels = digits(300)
    model = nn.Sequential(*mlp(64, 24, 10).float(), nn.Softmax(dim=1))
    data = inputs.float(), labels
    optimizer = Adam(model.parameters(), lr=1e-3)
    train(model, cross_entropy, data, optimizer, 100 * (seed % 4), batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def memorised(seed: int) -> Patient:
    """Forty examples with labels drawn at random, learnt by heart."""
    inputs, _ = digits(240)
    labels = torch.randint(0, 10, (240,))
    data, unseen = (inputs[:40].float(), labels[:40]), (inputs[40:].float(), labels[40:])
    model = mlp(64, 64, 10).float()
    optimizer = Adam(model.parameters(), lr=1e-3)
    train(model, cross_entropy, data, optimizer, 600)
    given = {"optimizer": optimizer, "held_out": hs.Problem(model, cross_entropy, unseen)}
    return hs.Problem(model, cross_entropy, data), given


class Last(nn.Module):
    """A recurrent network that answers at the end of a sequence."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 16) -> None:
        super().__init__()
        self.body, self.head = kind(4, width, batch_first=True), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


def sequences(length: int) -> tuple[Tensor, Tensor]:
    X = torch.randn(120, length, 4, dtype=torch.float64)
    return X, (X[:, -3:].sum((1, 2)) > 0).long()


def exploding_in_time(seed: int) -> Patient:
    model = Last(nn.LSTM if seed % 2 else nn.RNN).double()
    if not seed % 2:
        model.body = nn.RNN(4, 16, nonlinearity="relu", batch_first=True).double()
    with torch.no_grad():
        model.body.weight_hh_l0.normal_(std=2.5 if seed % 2 else 0.7)
    return hs.Problem(model, cross_entropy, sequences(40 if seed % 2 else 25)), {"lr": 0.01}


def blank(seed: int) -> Patient:
    inputs, labels = digits(200)
    inputs = torch.full_like(inputs, 0.1 * (seed % 3))
    model = mlp(64, 24, 10)
    train(model, cross_entropy, (inputs, labels), sgd(model, 0.1), 30)
    return hs.Problem(model, cross_entropy, (inputs, labels)), {"lr": 0.1}


# --- healthy


def tuned_head(seed: int) -> Patient:
    """All but the head is frozen, as when features are reused."""
    inputs, labels = digits(300)
    model = mlp(64, 24, 10).float()
    model[0].requires_grad_(False)
    data = inputs.float(), labels
    optimizer = Adam(model[-1].parameters(), lr=1e-2)
    train(model, cross_entropy, data, optimizer, 200, batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def autoencoder(seed: int) -> Patient:
    inputs = digits(300)[0].float()
    model = mlp(64, 32, 8, 32, 64).float()
    optimizer = Adam(model.parameters(), lr=1e-3)
    train(model, mse, (inputs, inputs), optimizer, 300, batch_size=32)
    return hs.Problem(model, mse, (inputs, inputs)), {"optimizer": optimizer}


def residuals(seed: int) -> Patient:
    """Targets of zero, for the outputs are the residuals of u' = -u, u(0) = 1."""
    t = torch.linspace(0, 2, 60, dtype=torch.float64)[:, None]
    model = mlp(1, 16, 16, 1, activation=nn.Tanh)

    def residual(model: nn.Module, t: Tensor) -> Tensor:
        u, du = torch.func.jvp(lambda t: 1 + t * model(t), (t,), (torch.ones_like(t),))
        return du + u

    optimizer = Adam(model.parameters(), lr=3e-3)
    data = t, torch.zeros_like(t)
    train(lambda t: residual(model, t), mse, data, optimizer, 200)
    return hs.Problem(model, mse, data, forward=residual), {"optimizer": optimizer}


def recurrent(kind: type[nn.RNNBase], num_steps: int) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        data = sequences(20)
        model = Last(kind).double()
        optimizer = Adam(model.parameters(), lr=1e-2)
        train(model, cross_entropy, data, optimizer, num_steps)
        return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}

    return make


def carried_over(seed: int) -> Patient:
    inputs, labels = digits(700)
    data, unseen = (inputs[:400].float(), labels[:400]), (inputs[400:].float(), labels[400:])
    model = mlp(64, 32, 10).float()
    optimizer = Adam(model.parameters(), lr=1e-3)
    train(model, cross_entropy, data, optimizer, 600, batch_size=32)
    given = {"optimizer": optimizer, "held_out": hs.Problem(model, cross_entropy, unseen)}
    return hs.Problem(model, cross_entropy, data), given


def raw_digits(seed: int) -> Patient:
    """Pixels from 0 to 16, which a network bears."""
    inputs, labels = digits(400)
    data = 16 * inputs.float(), labels
    model = mlp(64, 32, 10).float()
    optimizer = Adam(model.parameters(), lr=1e-3)
    train(model, cross_entropy, data, optimizer, 200, batch_size=32)
    return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}


def overlapping(seed: int) -> Patient:
    X, Y = two_classes(400)
    model = mlp(6, 16, 1)
    optimizer = Adam(model.parameters(), lr=1e-3)
    train(model, squeezed(logistic), (X, Y), optimizer, 300, batch_size=32)
    return hs.Problem(model, squeezed(logistic), (X, Y)), {"optimizer": optimizer}


def far_apart(seed: int) -> Patient:
    """Points about class centres: every feature tells much, as it does in easy data."""
    centres = 4 * torch.randn(5, 8, dtype=torch.float64)
    labels = torch.randint(0, 5, (300,))
    X = centres[labels] + torch.randn(300, 8, dtype=torch.float64)
    model = mlp(8, 24, 5)
    train(model, cross_entropy, (X, labels), sgd(model, 0.05), 200)
    return hs.Problem(model, cross_entropy, (X, labels)), {"lr": 0.05}


CASES = [
    Planted("chance level: labels at random", random_labels, causes=("chance_level",)),
    Planted("chance level: lr too small", far_too_slow, causes=("chance_level", "stuck_high")),
    Planted("collapse: first layer shrunk", shrunk, causes=("collapse",)),
    Planted("collapse: killed by a step", killed, causes=("layers",)),
    Planted("30 of 32 units just dead", few_alive, causes=("layers",)),
    Planted("constant target: label", constant_label, causes=("constant_target",)),
    Planted("constant target: value", constant_value, causes=("constant_target",)),
    Planted("exploding depth: ReLU", exploding(nn.ReLU, 5.0), causes=("layers",)),
    Planted("exploding depth: tanh", exploding(nn.Tanh, 8.0), causes=("layers",)),
    Planted("label noise 20 %, 100 steps", flipped(0.22, 100), causes=("label_noise",)),
    Planted("label noise 40 %, 600 steps", flipped(0.4, 600), causes=("label_noise",)),
    Planted("leak: a pixel", leaking("pixel"), causes=("leak",)),
    Planted("leak: one-hot", leaking("one-hot"), causes=("leak",)),
    Planted("leak: target of a regression", leaking("target"), causes=("leak",)),
    Planted("leak: tokens not shifted", unshifted, causes=("unshifted",)),
    Planted("unscaled inputs: pixels to 255", unscaled("pixels"), causes=("unscaled_inputs",)),
    Planted("unscaled inputs: money", unscaled("money"), causes=("unscaled_inputs",)),
    Planted("unscaled inputs: off centre", unscaled("years"), causes=("unscaled_inputs",)),
    Planted("frozen head", frozen_head, causes=("frozen_head",)),
    Planted("head not in the optimiser", new_head, causes=("unheld_head",)),
    Planted("softmax twice", softmax_twice, causes=("softmax_twice",)),
    Planted("memorised", memorised, causes=("memorised",)),
    Planted("exploding through time", exploding_in_time, causes=("exploding_through_time",)),
    Planted("blank inputs", blank, causes=("constant_input",)),
    Planted("healthy: head tuned, body frozen", tuned_head),
    Planted("healthy: autoencoder", autoencoder),
    Planted("healthy: residuals to zero", residuals),
    Planted("healthy: RNN at start", recurrent(nn.RNN, 0)),
    Planted("healthy: LSTM at start", recurrent(nn.LSTM, 0)),
    Planted("healthy: GRU, 100 steps", recurrent(nn.GRU, 100)),
    Planted("healthy: carries over", carried_over),
    Planted("healthy: digits 0 to 16", raw_digits),
    Planted("healthy: classes overlap", overlapping),
    Planted("healthy: classes far apart", far_apart),
]
