"""Models whose weights are cut over processes: looked at as they were before they were cut."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional as F

import hesscope as hs
from tests.processes import in_processes

EXACT = 1e-10


class FusedAttention(nn.Module):
    """Queries, keys and values of one weight, which sharded tensors cannot take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv = nn.Embedding(11, 8), nn.Linear(8, 24)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight  # tied

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(self.norm(x + y)).flatten(0, 1)


class Residual(nn.Module):
    """A small residual network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.block, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm(self.stem(x)))
        return self.head((x + F.silu(self.block(x))).mean((2, 3)))


def perceptron() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))
    return nn.utils.spectral_norm(net[0]) and net  # a hook of the user's stays


def transformer(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "intermediate_size": 16}
        common = {**sizes, **heads, "max_position_embeddings": 16, "use_cache": False}
        config = getattr(transformers, f"{name}Config")(**common)
        kind = "BertForMaskedLM" if name == "Bert" else f"{name}LMHeadModel"
        kind = "LlamaForCausalLM" if name == "Llama" else kind
        return getattr(transformers, kind)(config)

    return make


def logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    out = model(inputs)
    return out if isinstance(out, torch.Tensor) else out.logits.flatten(0, 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron, "residual": Residual, "fused": FusedAttention,
}  # fmt: skip
if find_spec("transformers") is not None:
    MODELS |= {name: transformer(name) for name in ("GPT2", "Llama", "Bert")}


def made(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model in float64 with inputs and targets, the same in every process."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    if name == "perceptron":
        return model, torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 3
    if name == "residual":
        return model, torch.randn(5, 1, 6, 6, dtype=torch.float64), torch.arange(5) % 3
    tokens = torch.arange(18).reshape(3, 6) * 7 % 11
    return model, tokens, (tokens * 3 + 1) % 11


def problem(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> hs.Problem:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets.flatten())

    data = [(x[i : i + 2], y[i : i + 2]) for i in range(0, len(x), 2)]  # uneven among two
    return hs.Problem(model, loss, data, forward=logits, count=_items, shard=True)


def _items(targets: torch.Tensor) -> float:
    return targets.numel()


def numbers(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return numbers_of(problem(model, x, y))


def numbers_of(p: hs.Problem) -> torch.Tensor:
    v = torch.linspace(-1, 1, p.n, dtype=torch.float64).sin()
    return torch.cat([torch.tensor([p.loss()], dtype=v.dtype), p.gradient(), hs.Hessian(p) @ v])


def _sharded(_: int) -> tuple[Any, ...]:
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name in MODELS:
        model, x, y = made(name)
        if name in ("perceptron", "residual"):  # in others it shares a weight with the rest
            fully_shard(next(model.children()), mesh=mesh)
        fully_shard(model, mesh=mesh)
        before = type(model)
        found[name] = numbers(model, x, y)
        assert type(model) is before
        logits(model, x).sum().backward()  # it trains on
        found[f"{name}, gathered"] = numbers(model, x, y)
        if name == "residual":
            with problem(model, x, y).alone() as own:
                found["alone"] = numbers_of(own)
    model, x, y = made("perceptron")
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    alone = numbers(model, x, y)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    found["tensor parallel"] = numbers(parallelize_module(model, mesh, plan), x, y)
    p = problem(model, x, y)
    with pytest.raises(ValueError, match="the weights are cut over processes"):
        p.write(p.theta)
    return found, alone, p.facts()["weights"]


@pytest.fixture(scope="module")
def lives() -> list[tuple[Any, ...]]:
    return in_processes(_sharded, 2)


@pytest.mark.parametrize("name", MODELS)
def test_a_sharded_model_gives_the_numbers_of_the_whole_one(name, lives):
    expected = numbers(*made(name))
    for found, *_ in lives:
        for state in (name, f"{name}, gathered"):
            assert float((found[state] - expected).norm() / expected.norm()) < EXACT


def test_alone_each_process_has_the_whole_one(lives):
    expected = numbers(*made("residual"))
    for found, *_ in lives:
        assert float((found["alone"] - expected).norm() / expected.norm()) < EXACT


def test_so_does_a_tensor_parallel_one_and_it_is_told(lives):
    for found, alone, told in lives:
        assert float((found["tensor parallel"] - alone).norm() / alone.norm()) < EXACT
        assert told == "put together from shards"


def test_flat_pieces_of_the_older_kind_are_refused_by_name():
    home = "torch.distributed.fsdp.fully_sharded_data_parallel"
    kind = type("FullyShardedDataParallel", (nn.Sequential,), {"__module__": home})
    with pytest.raises(ValueError, match="wrapped by FullyShardedDataParallel"):
        hs.Problem(kind(nn.Linear(2, 1)), F.mse_loss, (torch.ones(3, 2), torch.ones(3, 1)))
