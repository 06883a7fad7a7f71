"""Runs with nothing wrong: none of them may raise a finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hesscope as hs
from tests.clinic.case import Case, Patient
from tests.clinic.data import digits, linear_targets, mlp, sgd, train, two_classes

cross_entropy, mse = nn.functional.cross_entropy, nn.functional.mse_loss
logistic = nn.functional.binary_cross_entropy_with_logits


def classifier(
    num_steps: int, activation: type[nn.Module] = nn.ReLU, dtype: torch.dtype = torch.float32
) -> Callable[[int], Patient]:
    """A network on the digits at lr 0.1, random batches of 64."""

    def make(seed: int) -> Patient:
        inputs, labels = digits(600)
        data = inputs.to(dtype), labels
        model = mlp(64, 32, 10, activation=activation).to(dtype)
        train(model, cross_entropy, data, sgd(model, 0.1), num_steps, batch_size=64)
        return hs.Problem(model, cross_entropy, data), {"lr": 0.1}

    return make


def with_optimizer(
    kind: type[torch.optim.Optimizer], num_steps: int, batch_size: int | None, **options: Any
) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        inputs, labels = digits(600)
        data = inputs.float(), labels
        model = mlp(64, 32, 10).float()
        optimizer = kind(model.parameters(), **options)
        train(model, cross_entropy, data, optimizer, num_steps, batch_size)
        return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}

    return make


def convolutional(num_steps: int) -> Callable[[int], Patient]:
    """Two convolutions with batch normalisation, looked at in evaluation mode."""

    def make(seed: int) -> Patient:
        inputs, labels = digits(400)
        data = inputs.float().reshape(-1, 1, 8, 8), labels
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
            nn.Linear(192, 10),
        )  # fmt: skip
        optimizer = sgd(model, 0.05)
        train(model, cross_entropy, data, optimizer, num_steps, batch_size=64)
        return hs.Problem(model, cross_entropy, data), {"optimizer": optimizer}

    return make


def language_data(num: int, length: int, words: int) -> Tensor:
    """Walks on a ring: the next word is one or two further, so that there is something to learn."""
    steps = torch.randint(1, 3, (num, length))
    return (torch.randint(0, words, (num, 1)) + steps.cumsum(1)) % words


def gpt2(num_steps: int) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=16, n_positions=12, n_embd=16, n_layer=2, n_head=2,
            bos_token_id=None, eos_token_id=None,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        tokens = language_data(48, 12, 16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        forward = lambda model, x: model(input_ids=x).logits  # noqa: E731
        loss = lambda out, y: cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        train(lambda x: forward(model, x), loss, (inputs, targets), optimizer, num_steps, 16)
        problem = hs.Problem(
            model, loss, (inputs, targets), forward=forward, count=lambda y: y.numel()
        )
        return problem, {"optimizer": optimizer} if num_steps else {}

    return make


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


def lstm(num_steps: int) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        tokens = language_data(48, 10, 12)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        model = Recurrent()
        loss = lambda out, y: cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        train(model, loss, (inputs, targets), optimizer, num_steps, batch_size=16)
        problem = hs.Problem(model, loss, (inputs, targets), count=lambda y: y.numel())
        return problem, {"optimizer": optimizer}

    return make


def regression(num_steps: int) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        X, Y = linear_targets(300, 8, noise=0.1)
        Y = torch.sin(Y)
        model = mlp(8, 32, 32, 1, activation=nn.Tanh)
        train(model, mse, (X, Y), sgd(model, 0.02), num_steps)
        return hs.Problem(model, mse, (X, Y)), {"lr": 0.02}

    return make


def trained_logistic(seed: int) -> Patient:
    X, Y = two_classes()
    model = nn.Linear(6, 1).double()
    loss = lambda out, y: logistic(out.squeeze(-1), y)  # noqa: E731
    train(model, loss, (X, Y), sgd(model, 1.0), 300)
    return hs.Problem(model, loss, (X, Y)), {"lr": 1.0}


def tabular(num_steps: int) -> Callable[[int], Patient]:
    """Standardised features of unlike distributions, some of them 0 or 1."""

    def make(seed: int) -> Patient:
        X = torch.cat([torch.randn(300, 6), (torch.rand(300, 4) < 0.2).float()], 1).double()
        Y = ((X[:, 0] * X[:, 1] + X[:, 7] + 0.3 * torch.randn(300)) > 0).long()
        model = mlp(10, 24, 24, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        train(model, cross_entropy, (X, Y), optimizer, num_steps, batch_size=32)
        return hs.Problem(model, cross_entropy, (X, Y)), {"optimizer": optimizer}

    return make


def with_an_idle_head(seed: int) -> Patient:
    """Adam holds a layer that the loss does not use: it has never stepped it."""
    inputs, labels = digits(300)
    data = inputs.float(), labels
    model = mlp(64, 24, 10).float()
    model.register_module("idle", nn.Linear(24, 5))
    body = nn.Sequential(*list(model.children())[:3])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(body, cross_entropy, data, optimizer, 100, batch_size=64)
    forward = lambda model, x: model[2](model[1](model[0](x)))  # noqa: E731
    return hs.Problem(model, cross_entropy, data, forward=forward), {"optimizer": optimizer}


def demonstration(seed: int) -> Patient:
    from hesscope.demo import LEARNING_RATE

    data = digits(600)
    model = mlp(64, 24, 10)
    train(model, cross_entropy, data, sgd(model, LEARNING_RATE), 300)
    return hs.Problem(model, cross_entropy, data), {"lr": LEARNING_RATE, "effort": "standard"}


SGD, Adam, AdamW, RMSprop = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop,
)  # fmt: skip
GOING = {"minimum?": ("no: still descending",)}

CASES = [
    Case("healthy: ReLU classifier at start", classifier(0), GOING),
    Case("healthy: ReLU classifier, 100 steps", classifier(100)),
    Case("healthy: ReLU classifier, 1500 steps", classifier(1500)),
    Case("healthy: tanh classifier at start", classifier(0, nn.Tanh, torch.float64), GOING),
    Case("healthy: tanh classifier, 1000 steps", classifier(1000, nn.Tanh, torch.float64)),
    Case("healthy: GELU classifier, 300 steps", classifier(300, nn.GELU)),
    Case("healthy: Adam at start", with_optimizer(Adam, 0, None, lr=1e-3), GOING),
    Case("healthy: Adam, 50 batches", with_optimizer(Adam, 50, 64, lr=1e-3)),
    Case("healthy: Adam, 500 batches", with_optimizer(Adam, 500, 64, lr=1e-3)),
    Case("healthy: Adam, 300 full batches", with_optimizer(Adam, 300, None, lr=1e-3)),
    Case("healthy: AdamW, 500 batches", with_optimizer(AdamW, 500, 64, lr=1e-3, weight_decay=0.01)),
    Case("healthy: RMSprop, 200 batches", with_optimizer(RMSprop, 200, 64, lr=3e-4)),
    Case("healthy: momentum, 100 batches", with_optimizer(SGD, 100, 64, lr=0.02, momentum=0.9)),
    Case("healthy: momentum, 500 batches", with_optimizer(SGD, 500, 64, lr=0.02, momentum=0.9)),
    Case(
        "healthy: momentum, 300 full batches", with_optimizer(SGD, 300, None, lr=0.02, momentum=0.9)
    ),
    Case("healthy: convolutions at start", convolutional(0), GOING),
    Case("healthy: convolutions, 100 steps", convolutional(100)),
    Case("healthy: GPT-2 at start", gpt2(0)),
    Case("healthy: GPT-2, 150 steps", gpt2(150)),
    Case("healthy: LSTM, 20 steps", lstm(20)),
    Case("healthy: LSTM, 200 steps", lstm(200)),
    Case("healthy: regression at start", regression(0), GOING),
    Case("healthy: regression, 1000 steps", regression(1000)),
    Case(
        "healthy: logistic regression, trained", trained_logistic, {"convexity": ("no negative",)}
    ),
    Case("healthy: tabular at start", tabular(0)),
    Case("healthy: tabular, 300 steps", tabular(300)),
    Case("healthy: Adam, with a layer never used", with_an_idle_head),
    Case("healthy: the demonstration's network", demonstration),
]
