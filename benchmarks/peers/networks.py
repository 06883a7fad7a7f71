"""The networks that all tools look at, as they would be brought to any of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from benchmarks import workloads
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

KEPT = Path(__file__).parents[2] / "build" / "peers"
EPOCHS, RATE, SIZE = 30, 0.1, 128
TRAINED, MOST_EPOCHS = 1.0, 200
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Network:
    """A model in evaluation mode, the mean loss of its outputs, batches of (inputs, targets)."""

    name: str
    model: nn.Module
    data: Batches
    criterion: nn.Module

    @property
    def n(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def inputs(self) -> Tensor:
        return torch.cat([x for x, _ in self.data])

    @property
    def targets(self) -> Tensor:
        return torch.cat([y for _, y in self.data])

    def loss(self) -> Tensor:
        """The mean loss of all examples, in one pass."""
        return self.criterion(self.model(self.inputs), self.targets)

    def gradient(self) -> tuple[Tensor, ...]:
        """One plain gradient: the unit of cost."""
        return torch.autograd.grad(self.loss(), list(self.model.parameters()))

    def doubled(self) -> Network:
        """The same in float64, where the truth is computed."""
        data = [(x.double() if x.is_floating_point() else x, y) for x, y in self.data]
        return replace(self, model=copy.deepcopy(self.model).double(), data=data)

    def with_last_batch_of_one(self) -> Network:
        """The same examples in two batches, the second of one example."""
        x, y = self.inputs, self.targets
        return replace(self, data=[(x[:-1], y[:-1]), (x[-1:], y[-1:])])


def of(name: str, model: nn.Module, inputs: Tensor, targets: Tensor) -> Network:
    return Network(name, model.eval(), [(inputs, targets)], nn.CrossEntropyLoss())


def perceptron(*widths: int) -> nn.Module:
    """Layers of these widths with ReLU between."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fresh_mlp() -> Network:
    return of("MLP 64-256-256-10", perceptron(64, 256, 256, 10), *workloads.digits())


def trained_mlp() -> Network:
    return _trained(fresh_mlp())


def small_mlp() -> Network:
    return _trained(of("MLP 64-64-32-10", perceptron(64, 64, 32, 10), *workloads.digits()))


def demonstration() -> Network:
    """The perceptron 64-24-10 of the demonstration."""
    return _trained(of("MLP 64-24-10", perceptron(64, 24, 10), *workloads.digits()))


def _trained(network: Network) -> Network:
    """30 epochs of SGD with momentum on the digits."""

    def train(model: nn.Module) -> None:
        descend(model, network.inputs, network.targets, EPOCHS, SIZE, RATE)

    kept(f"{network.name}, {EPOCHS} epochs", network.model, train)
    return network


def resnet(num: int = 32, size: int = 32) -> Network:
    """ResNet-20 on so many images, averaged down to this size."""
    inputs, targets, source = workloads.cifar(num)
    inputs = nn.functional.adaptive_avg_pool2d(inputs, size)
    model = workloads.resnet20()
    workloads.settle_statistics(model, inputs)
    return of(f"ResNet-20, {num} {source} of {size}x{size}", model, inputs, targets)


def trained_resnet() -> Network:
    """ResNet-20 on small images, until its loss in evaluation mode is below 1."""
    network = resnet(64, 16)
    inputs, targets = network.inputs, network.targets

    def train(model: nn.Module) -> None:
        for _ in range(MOST_EPOCHS // 5):
            descend(model, inputs, targets, 5, 32, 0.05)
            with torch.no_grad():
                if float(network.loss()) < TRAINED:
                    return
        msg = f"the loss is not below {TRAINED:g} after {MOST_EPOCHS} epochs."
        raise RuntimeError(msg)

    kept(f"{network.name}, loss below {TRAINED:g}", network.model, train)
    return network


def descend(
    model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int, size: int, rate: float
) -> None:
    """SGD with momentum 0.9 on shuffled batches; the model is in evaluation mode after it."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    optimizer.zero_grad()
    model.eval()


def kept(name: str, model: nn.Module, train: Callable[[nn.Module], None]) -> None:
    """Trains the model once, and reads its weights again in other processes."""
    file = KEPT / f"{name.replace(' ', '_').replace(',', '')}.safetensors"
    if file.exists():
        load_model(model, file)
        return
    train(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    save_model(model, str(unfinished))
    unfinished.replace(file)


class Predicted(nn.Module):
    """Tokens (N, T) -> scores (N, vocabulary, T - 1) of the next ones, as CrossEntropyLoss asks."""

    def __init__(self, attention: str, layers: int = 2, width: int = 128) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=256,
            n_positions=64,
            n_embd=width,
            n_layer=layers,
            n_head=4,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation=attention,
        )
        self.inner = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens).logits[:, :-1].transpose(1, 2)


def gpt2(attention: str = "sdpa") -> Network:
    """GPT-2 with its stock attention, or with the elementary one."""
    torch.manual_seed(0)
    model, tokens = Predicted(attention), torch.randint(256, (16, 64))
    name = "GPT-2 2x128" if attention == "sdpa" else "GPT-2 2x128, elementary attention"
    return of(name, model, tokens, tokens[:, 1:])


class Attention(nn.Module):
    """One stock transformer layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[:, 0])


def attention() -> Network:
    torch.manual_seed(0)
    return of("transformer layer", Attention(), torch.randn(20, 5, 8), torch.arange(20) % 3)


def tiny() -> Network:
    """Next to nothing, for tests and for what happens only once in a process."""
    torch.manual_seed(0)
    return of("tiny", perceptron(6, 12, 5), torch.randn(12, 6), torch.arange(12) % 5)
