"""Thirty healthy models, by name: `check_problem` must find no fault in any of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import networks
from tests.networks import (
    NUM,
    BagOfWords,
    Case,
    Checkpointed,
    Encoder,
    Recipe,
    Recurrent,
    SelfAttention,
    Seq2Seq,
    Tied,
    UnusedHead,
    conv_pool,
    deep_mlp,
    images,
    make,
    mlp,
    normalised,
    resnet,
    sequences,
    tokens,
    vectors,
)

MANY = 120  # examples, so that ReLU networks have many kinks


def hinge(output: Tensor, targets: Tensor) -> Tensor:
    return F.relu(1 - output[:, 0] * (2.0 * (targets > 0) - 1)).square().mean()


def padded_tokens() -> tuple[Tensor, Tensor]:
    inputs, targets = tokens()
    return inputs, torch.where(torch.rand(targets.shape) < 0.3, -100, targets)


def count_tokens(targets: Tensor) -> Tensor:
    return (targets != -100).sum()


def trained(make_model: Callable[[], nn.Module], steps: int = 30) -> Recipe:
    """A classifier after some steps of Adam on its own data."""

    def recipe() -> tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, Tensor]]:
        model, data = make_model(), vectors(MANY)
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        return model, F.cross_entropy, data

    return recipe


def regression(loss_fn: Callable[..., Tensor]) -> Recipe:
    return lambda: (mlp(nn.SiLU, out=1), loss_fn, (torch.randn(NUM, 4), torch.randn(NUM, 1)))


def zero_started() -> nn.Module:
    """A residual network whose branches end in zero: it starts on kinks of its ReLUs."""
    model = resnet(nn.ReLU)
    nn.init.zeros_(model[2].branch[4].weight)
    model.insert(3, nn.ReLU())
    return model


def spectral() -> nn.Module:
    return networks.SMOOTH["spectral_norm"]()[0]


RECIPES: dict[str, Recipe] = {
    "relu_mlp": trained(lambda: deep_mlp(nn.ReLU)),
    "leaky_relu_mlp": trained(lambda: deep_mlp(nn.LeakyReLU)),
    "gelu_mlp": lambda: (deep_mlp(nn.GELU), F.cross_entropy, vectors(MANY)),
    "silu_mlp": lambda: (deep_mlp(nn.SiLU), F.cross_entropy, vectors()),
    "tanh_mlp": lambda: (deep_mlp(nn.Tanh), F.cross_entropy, vectors()),
    "softplus_mlp": lambda: (deep_mlp(nn.Softplus), F.cross_entropy, vectors()),
    "hardswish_mlp": lambda: (deep_mlp(nn.Hardswish), F.cross_entropy, vectors(MANY)),
    "conv_max_pool": lambda: (conv_pool(), F.cross_entropy, images()),
    "resnet_batchnorm_eval": lambda: (resnet(nn.ReLU), F.cross_entropy, images()),
    "resnet_zero_started": lambda: (zero_started(), F.cross_entropy, images()),
    "groupnorm": lambda: (resnet(norm=lambda c: nn.GroupNorm(1, c)), F.cross_entropy, images()),
    "instancenorm": lambda: (resnet(norm=nn.InstanceNorm2d), F.cross_entropy, images()),
    "layernorm": lambda: (normalised(nn.LayerNorm(6)), F.cross_entropy, vectors()),
    "rmsnorm": lambda: (normalised(nn.RMSNorm(6)), F.cross_entropy, vectors()),
    "bag_of_words": lambda: (BagOfWords(), F.cross_entropy, (tokens()[0], vectors()[1])),
    "lstm": lambda: (Recurrent(nn.LSTM(4, 4, batch_first=True), 4), F.cross_entropy, sequences()),
    "gru": lambda: (Recurrent(nn.GRU(4, 4, batch_first=True), 4), F.cross_entropy, sequences()),
    "transformer_encoder": lambda: (Encoder(), networks.token_loss, tokens()),
    "multihead_attention": lambda: (SelfAttention(), F.cross_entropy, sequences()),
    "gpt2": lambda: (networks.gpt2(), networks.token_loss, tokens()),
    "bert": lambda: (networks.bert(), F.cross_entropy, (tokens()[0], vectors()[1])),
    "tied_autoencoder": lambda: (Tied(), F.mse_loss, (torch.randn(NUM, 4),) * 2),
    "huber": regression(F.huber_loss),
    "binary": regression(lambda out, y: F.binary_cross_entropy_with_logits(out, (y > 0).to(out))),
    "nll": lambda: (
        nn.Sequential(mlp(), nn.LogSoftmax(-1)), nn.NLLLoss(), vectors()
    ),
    "squared_hinge": lambda: (mlp(nn.ReLU), hinge, vectors(MANY)),
    "spectral_norm": lambda: (spectral(), F.cross_entropy, vectors()),
    "logistic_regression": lambda: (nn.Linear(4, 3), F.cross_entropy, vectors()),
    "deep_linear": lambda: (deep_mlp(nn.Identity), F.cross_entropy, vectors()),
    "frozen_part": lambda: (networks.frozen_body(), F.cross_entropy, vectors()),
    "unused_head": lambda: (UnusedHead(), F.cross_entropy, vectors()),
    "token_loss_with_count": lambda: (Encoder(), networks.token_loss, padded_tokens()),
    "checkpoint_non_reentrant": lambda: (Checkpointed(), F.cross_entropy, vectors()),
    "seq2seq": lambda: (Seq2Seq(), networks.token_loss, tokens()),
    "interpolating": lambda: interpolating(),
    "class_weights_with_count": lambda: (mlp(), nn.CrossEntropyLoss(weight=WEIGHTS), vectors()),
}  # fmt: skip

WEIGHTS = torch.tensor([1.0, 2.0, 5.0])


def interpolating() -> tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, Tensor]]:
    """A student at its teacher's parameters: loss and gradient are exactly zero."""
    model, x = mlp(), torch.randn(NUM, 4)
    return model, F.mse_loss, (x, model(x).detach())


OPTIONS = {
    "token_loss_with_count": {"count": count_tokens, "batch_size": 3},
    "class_weights_with_count": {"count": lambda y: WEIGHTS[y].sum(), "batch_size": 3},
    "interpolating": {"batch_size": 3},
    "relu_mlp": {"batch_size": 50},
}


def clean_case(name: str, dtype: torch.dtype, seed: int) -> Case:
    return make(RECIPES[name], dtype, seed, **OPTIONS.get(name, {}))
