"""The networks and data that the benchmarks measure: small enough for two CPU cores.

Every function is deterministic. Data comes from scikit-learn, from a file that HESSCOPE_CIFAR
names (CIFAR-10), or, where that file is absent, from a seeded generator.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hesscope as hs

CIFAR = Path(
    os.environ.get("HESSCOPE_CIFAR", Path(__file__).parents[2] / "shared/data/cifar10_6k.npz")
)


@dataclass(frozen=True)
class Workload:
    """A model in evaluation mode, its mean loss and one batch that holds all of the data."""

    name: str
    model: nn.Module
    loss: Callable[[nn.Module], Tensor]
    problem: hs.Problem
    data: str

    def gradient(self) -> tuple[Tensor, ...]:
        """One plain gradient with torch's default settings: the unit of cost."""
        return torch.autograd.grad(self.loss(self.model), list(self.model.parameters()))


def digits_mlp() -> Workload:
    """MLP 64-256-256-10 on the 1797 digits of scikit-learn, n = 85,002."""
    inputs, targets = digits()
    return supervised("MLP digits", mlp(), inputs, targets, "1797 digits 8x8")


def gpt2() -> Workload:
    """GPT-2 with 2 layers of width 128 and 256 tokens, on 16 sequences of 64 random tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=256,
        n_positions=64,
        n_embd=128,
        n_layer=2,
        n_head=4,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    tokens = torch.randint(256, (16, 64))

    def loss(model: nn.Module, batch: Any = tokens) -> Tensor:
        logits = model(batch).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    problem = hs.Problem.from_closure(model, loss, [tokens])
    return Workload("GPT-2 2x128", model, loss, problem, "16 sequences x 64 tokens")


def resnet20_on_cifar(num: int = 128) -> Workload:
    """ResNet-20 (16-32-64 channels, BatchNorm in evaluation mode), n = 272,474."""
    inputs, targets, source = cifar(num)
    model = resnet20()
    settle_statistics(model, inputs)
    return supervised("ResNet-20 eval", model, inputs, targets, f"{num} {source} 32x32")


def gelu_mlp() -> Workload:
    """MLP 200-300-300-12 with GELU on 1,500 random inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(200, 300), nn.GELU(), nn.Linear(300, 300), nn.GELU(), nn.Linear(300, 12)
    )
    inputs, targets = torch.randn(1500, 200), torch.randint(12, (1500,))
    return supervised("MLP with GELU", model, inputs, targets, "1500 random inputs")


def group_norm_cnn() -> Workload:
    """Three convolutions, each with GroupNorm and SiLU, on 32 random images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    inputs, targets = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))
    return supervised("conv SiLU GroupNorm", model, inputs, targets, "32 random images 16x16")


def llama(classes: int = 256, sequences: int = 16, tokens: int = 64) -> Workload:
    """Llama with 2 layers of width 128 and grouped queries, which computes its own loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=classes,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=tokens,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    batch = torch.randint(classes, (sequences, tokens))

    def loss(model: nn.Module, batch: Any = batch) -> Tensor:
        found: Tensor = model(batch, labels=batch).loss
        return found

    problem = hs.Problem.from_closure(model, loss, [batch])
    name = f"Llama 2x128, {classes:,} tokens"
    return Workload(name, model, loss, problem, f"{sequences} sequences x {tokens} tokens")


def long_llama() -> Workload:
    """The same on sequences long enough for tiles, with classes enough for pending logits."""
    return llama(8_192, 1, 2_048)


def vit() -> Workload:
    """A vision transformer, 2 layers of width 128, of torch's own layers, on 12 images."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(12, 3, 32, 32), torch.randint(10, (12,))
    return supervised("ViT 2x128", _VisionTransformer(), inputs, targets, "12 random images 32x32")


class _VisionTransformer(nn.Module):
    """64 patches, a position for each, an encoder, and a linear layer on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(64, 128))
        layer = nn.TransformerEncoderLayer(
            128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x).flatten(2).mT + self.positions).mean(1))


def supervised(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, data: str) -> Workload:
    """A classifier with cross-entropy on one batch."""
    model.eval()

    def loss(model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(inputs), targets)

    problem = hs.Problem(model, nn.functional.cross_entropy, (inputs, targets))
    return Workload(name, model, loss, problem, data)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def resnet20() -> nn.Module:
    """Three stages of three residual blocks (He et al. 2016, section 4.2), with projections."""
    torch.manual_seed(0)
    return resnet(3, (16, 32, 64))


def resnet(blocks: int, widths: tuple[int, ...]) -> nn.Module:
    """A stage of so many residual blocks for each width, for images of 3 channels, 10 classes."""
    width = widths[0]
    layers: list[nn.Module] = [_conv_norm(3, width, 3, 1), nn.ReLU()]
    for channels in widths:
        for block in range(blocks):
            stride = 2 if block == 0 and channels > widths[0] else 1
            layers.append(_Residual(width, channels, stride))
            width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class _Residual(nn.Module):
    """relu(x + f(x)) with two 3x3 convolutions in f."""

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _conv_norm(width, channels, 3, stride), nn.ReLU(), _conv_norm(channels, channels, 3, 1)
        )
        same = width == channels and stride == 1
        self.skip = nn.Identity() if same else _conv_norm(width, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.skip(x) + self.inner(x))


def _conv_norm(width: int, channels: int, size: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(width, channels, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


@torch.no_grad()
def settle_statistics(model: nn.Module, inputs: Tensor) -> None:
    """Fills the running statistics of BatchNorm, which are 0 and 1 before the first batch."""
    model.train()
    for _ in range(30):
        model(inputs)
    model.eval()


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)


def cifar(num: int) -> tuple[Tensor, Tensor, str]:
    """The first CIFAR-10 images, each channel standardised; noise where the file is absent."""
    if not CIFAR.exists():
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(num, 3, 32, 32, generator=generator)
        return inputs, torch.randint(10, (num,), generator=generator), "random images"
    with np.load(CIFAR) as archive:
        images, labels = archive["x_train"][:num], archive["y_train"][:num]
    pixels = torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2) / 255
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    return (pixels - mean).div(std).contiguous(), torch.tensor(labels).long(), "CIFAR-10 images"
