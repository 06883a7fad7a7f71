"""A small transformer on characters of a text that Python ships with."""

from __future__ import annotations

import pydoc_data.topics
from collections import Counter

import torch
from torch import Tensor, nn

LETTERS = " abcdefghijklmnopqrstuvwxyz"  # everything else is a space


class Attention(nn.Module):
    """Causal attention; queries, keys and values are rows of one weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width)."""
        N, T, width = x.shape
        apart = self.qkv(x).view(N, T, 3, self.heads, width // self.heads)
        q, k, v = apart.permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / (width // self.heads) ** 0.5
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(N, T, width))


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.before_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width)."""
        x = x + self.attention(self.before_attention(x))
        return x + self.down(nn.functional.gelu(self.up(self.before_mlp(x))))


class GPT(nn.Module):
    """Scores of the next symbol at every place but the first, one row each."""

    def __init__(self, symbols: int, length: int, width: int, depth: int, heads: int = 2) -> None:
        super().__init__()
        self.symbol, self.place = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """(N, T) -> (N T, symbols)."""
        x = self.symbol(text) + self.place.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


def gpt(seed: int, *, symbols: int, length: int, width: int, depth: int) -> GPT:
    """In float64; linear layers keep the size of their inputs, embeddings have that of one half."""
    torch.manual_seed(seed)
    model = GPT(symbols, length, width, depth).double()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    return model


def words(num: int, length: int, symbols: int = len(LETTERS)) -> tuple[Tensor, Tensor]:
    """Pieces of Python's help texts, (num, length), and the symbol that follows each place.

    The most frequent symbols - 1 characters are kept, all others are one symbol more. The texts are
    taken in the order of their names, and of each only the first words, evenly.
    """
    topics = pydoc_data.topics.topics
    text = " ".join(topics[name][:1500].lower() for name in sorted(topics))
    text = " ".join("".join(c if c in LETTERS else " " for c in text).split())
    kept = [c for c, _ in Counter(text).most_common(symbols - (symbols < len(LETTERS)))]
    codes = torch.tensor([kept.index(c) if c in kept else symbols - 1 for c in text])
    starts = torch.linspace(0, len(codes) - length - 2, num).long()
    pieces = codes[starts[:, None] + torch.arange(length + 1)]
    return pieces[:, :-1], pieces[:, 1:].flatten()
