"""What is measured of the transformer at one step of its training."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from common.gpt import GPT, gpt, words
from common.keeping import Arrays, Run
from torch import nn

import hesscope as hs

TYPES = {  # pieces of the names of parameters
    "embedding": "symbol",
    "place": "place",
    "query": "qkv",
    "key": "qkv",
    "value": "qkv",
    "output": "attention.out",
    "up": "up.",
    "down": "down.",
    "norm": "norm",
    "head": "head",
}
FUSED = ("query", "key", "value")  # in the order of their rows


def coordinates(problem: hs.Problem) -> dict[str, torch.Tensor]:
    """The coordinates of each type, of all blocks together; rows of the fused weight apart."""
    found: dict[str, list[torch.Tensor]] = {kind: [] for kind in TYPES}
    for name in problem.layout.names:
        where = problem.layout.coordinates(name)
        if "qkv" in name:
            for kind, rows in zip(FUSED, where.chunk(3), strict=True):
                found[kind].append(rows.flatten())
            continue
        piece = "norm" if "norm" in name or "before" in name else name
        kind = next(kind for kind, part in TYPES.items() if part in piece)
        found[kind].append(where.flatten())
    return {kind: torch.cat(parts) for kind, parts in found.items()}


def course(run: Run, sizes: Any, seed: int) -> list[Arrays]:
    """Looks after the steps of `sizes.steps`, in order."""
    key = (sizes.symbols, sizes.sequences, sizes.width, sizes.depth, sizes.lr, sizes.steps)
    return [
        run.arrays(f"course/{seed}/{steps}", key, partial(_trained_and_seen, sizes, seed, steps))
        for steps in sizes.steps
    ]


def _trained_and_seen(sizes: Any, seed: int, steps: int) -> Arrays:
    text = words(sizes.sequences, sizes.length, sizes.symbols)
    model = made(sizes, sizes.symbols, sizes.width, seed)
    adam = torch.optim.Adam(model.parameters(), sizes.lr)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(model(text[0]), text[1]).backward()
        adam.step()
    return seen(hs.Problem(model, nn.functional.cross_entropy, [text]), adam)


def made(sizes: Any, symbols: int, width: int, seed: int) -> GPT:
    """The transformer at its start."""
    return gpt(seed, symbols=symbols, length=sizes.length, width=width, depth=sizes.depth)


def seen(problem: hs.Problem, optimizer: torch.optim.Optimizer) -> Arrays:
    """Eigenvalues of H and of P^-1/2 H P^-1/2, of the whole and of each type.

    H is assembled once, and P is a diagonal.
    """
    H = hs.Hessian(problem).to_dense()
    root = hs.PreconditionedHessian(problem, optimizer).preconditioner().rsqrt()
    found = {"loss": torch.tensor(problem.loss(), dtype=torch.float64)}
    for name, matrix in (("H", H), ("P", root[:, None] * H * root)):
        A = hs.as_operator((matrix + matrix.T) / 2)
        found[f"{name}/whole"] = hs.spectrum(A).eigenvalues
        for kind, where in coordinates(problem).items():
            found[f"{name}/{kind}"] = hs.spectrum(A.submatrix(where)).eigenvalues
    return found
