"""Small networks of every kind that the lean product cuts at its blocks, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

NUM = 7  # examples
WORDS = 11
DOUBLE = torch.float64


class Block(nn.Module):
    """x + W tanh(A x)."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.tanh(self.a(x)))


class Net(nn.Module):
    """Blocks of one class between two linear layers; `call` says what is between the blocks."""

    def __init__(
        self,
        block: Callable[[], nn.Module] = Block,
        call: Callable[[nn.Module, Tensor], Tensor] | None = None,
        num: int = 2,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.blocks = nn.ModuleList([block() for _ in range(num)])
        self.last = nn.Linear(5, 4)
        self.call = call or (lambda block, x: block(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = self.call(block, x)
        return self.last(x)


class Products(Net):
    """Skips and products between blocks."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sin(self.first(x))
        y = self.blocks[0](x)
        z = self.blocks[1](y * y) * torch.tanh(x)
        return self.last(z + y)


class Language(nn.Module):
    """A transformer with its head tied to its embeddings, whose padding is a held row."""

    def __init__(self, dropout: float = 0.0, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, F.gelu, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)

    def forward(self, words: Tensor) -> Tensor:
        return self.encoder(self.embedding(words)) @ self.embedding.weight.T


class Residual(nn.Module):
    """Two convolutions, each with a norm, and a skip."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.c1, self.c2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.n1, self.n2 = norm(channels), norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.n1(self.c1(x)), inplace=True)
        return F.silu(self.n2(self.c2(hidden)) + x)


def resnet(norm: Callable[[int], nn.Module]) -> nn.Module:
    """Two stages of two blocks."""
    stages = [nn.Sequential(*(Residual(c, norm) for _ in range(2))) for c in (2, 4)]
    between = nn.Conv2d(2, 4, 2, stride=2)
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(nn.Conv2d(1, 2, 3), stages[0], between, stages[1], *end)


class Twice(nn.Module):
    """A block of an LSTM and a weight-normalised layer, with results in a dict and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(5, 5)
        self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
        hidden = self.memory(x[None])[0][0]
        first, second = (scale * self.norm(hidden)).chunk(2, 0)
        return {"parts": [first, second], "index": x.argmax(1), "none": None, "same": x}


def joined(block: nn.Module, x: Tensor) -> Tensor:
    """What `Twice` gives, in one."""
    found = block(x, scale=0.5)
    return torch.cat(found["parts"]) + found["same"] * (found["index"][:, None] > 1)


def stopped(block: nn.Module, x: Tensor) -> Tensor:
    """A block and what it gives without a gradient."""
    with torch.no_grad():
        fixed = block(x)
    return block(x) * fixed


class Scaled(Block):
    """Divides by a number that takes no part in the derivative."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            size = x.abs().amax()
        return super().forward(x / size)


def classes(model: nn.Module, **options: Any) -> hs.Problem:
    """Classification of seven points."""
    data = torch.randn(NUM, 3, dtype=DOUBLE), torch.arange(NUM) % 4
    return hs.Problem(model.double(), F.cross_entropy, data, **options)


def words(model: nn.Module, **options: Any) -> hs.Problem:
    """The next of 5 words; zeros are padding."""
    inputs = torch.randint(0, WORDS, (4, 5))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    data = inputs, inputs.roll(1, 1)
    return hs.Problem(model.double(), loss, data, count=lambda t: t.numel(), **options)


def images(model: nn.Module, **options: Any) -> hs.Problem:
    """Sixteen images of 8 x 8 pixels."""
    data = torch.randn(16, 1, 8, 8, dtype=DOUBLE), torch.arange(16) % 3
    return hs.Problem(model.double(), F.cross_entropy, data, **options)


def frozen(problem: hs.Problem) -> hs.Problem:
    """Some parameters in the midst held fixed."""
    for name, parameter in problem.model.named_parameters():
        parameter.requires_grad_("layers.0" not in name and "norm" not in name)
    return words(problem.model)


def elsewhere(problem: hs.Problem) -> hs.Problem:
    """At other parameters."""
    return problem.at(problem.theta + 0.1 * torch.randn(problem.n, dtype=DOUBLE))


def layers() -> nn.Module:
    """No blocks, but layers."""
    chain = nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 4)
    return nn.Sequential(*chain)


CUT: dict[str, Callable[[], hs.Problem]] = {
    "layers of a Sequential": lambda: classes(layers()),
    "several batches": lambda: classes(Net(), batch_size=3),
    "skips and products": lambda: classes(Products()),
    "one block, three times": lambda: classes(Net(call=lambda b, x: b(b(b(x))), num=1)),
    "results written to": lambda: classes(Net(call=lambda b, x: b(x).add_(x).tanh_())),
    "dicts, lists, an LSTM": lambda: classes(Net(Twice, joined)),
    "without gradients": lambda: classes(Net(Scaled, stopped)),
    "transformer, tied": lambda: words(Language(), batch_size=2),
    "dropout in training": lambda: words(Language(0.1), training=True),
    "frozen parameters": lambda: frozen(words(Language())),
    "a block of parameters": lambda: words(Language()).block("encoder.layers.1.*"),
    "other parameters": lambda: elsewhere(words(Language())),
    "ResNet, BatchNorm": lambda: images(resnet(nn.BatchNorm2d)),
    "ResNet, BatchNorm in training": lambda: images(resnet(nn.BatchNorm2d), training=True),
    "ResNet, GroupNorm": lambda: images(resnet(lambda c: nn.GroupNorm(2, c))),
}


def _of_transformers(kind: str, config: str, **given: Any) -> hs.Problem:
    import transformers

    sizes = {
        "vocab_size": 23, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 16, "use_cache": False,
    }  # fmt: skip
    model = getattr(transformers, kind)(getattr(transformers, config)(**{**sizes, **given}))
    ids = torch.randint(1, 23, (3, 5))
    batch = {"input_ids": ids, "labels": ids}
    if kind == "GPT2LMHeadModel":  # padded on the left
        batch["attention_mask"] = torch.ones_like(ids)
        batch["attention_mask"][0, :2] = 0
    return hs.Problem(model.double(), data=[batch])


GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "bos_token_id": 0}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
FOREIGN: dict[str, Callable[[], hs.Problem]] = {
    "BERT": lambda: _of_transformers("BertForMaskedLM", "BertConfig"),
    "GPT-2": lambda: _of_transformers("GPT2LMHeadModel", "GPT2Config", eos_token_id=0, **GPT2),
    "Llama": lambda: _of_transformers(
        "LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, tie_word_embeddings=True
    ),
    "Qwen3": lambda: _of_transformers(
        "Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=1, head_dim=4
    ),
    "Mixtral": lambda: _of_transformers(
        "MixtralForCausalLM", "MixtralConfig", num_key_value_heads=1, num_local_experts=3,
        experts_implementation="eager",
    ),
    "T5": lambda: _of_transformers(
        "T5ForConditionalGeneration", "T5Config", decoder_start_token_id=0, **T5
    ),
    "Mamba": lambda: _of_transformers("MambaForCausalLM", "MambaConfig", state_size=4),
    "ALBERT": lambda: _of_transformers("AlbertForMaskedLM", "AlbertConfig", embedding_size=4),
}  # fmt: skip
