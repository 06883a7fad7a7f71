"""Small networks of several kinds, on digits, text, a table and a function, and their training."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from common import data
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

Pair = tuple[Tensor, Tensor]
LETTERS = " abcdefghijklmnopqrstuvwxyz"  # everything else is one symbol more
WINDOW = 4  # symbols that the transformer sees


class Transformer(nn.Module):
    """One block of attention with two heads and a perceptron; logits of the symbol that follows."""

    def __init__(self, symbols: int, outputs: int, d: int = 6) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(symbols, d), nn.Parameter(torch.randn(WINDOW, d) / 2)
        self.before, self.between, self.last = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.wide, self.narrow = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.head = nn.Linear(d, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, WINDOW) of symbols to (batch, outputs)."""
        h = self.embed(x) + self.place
        h = h + self.out(self._attention(self.before(h)))
        h = h + self.narrow(F.gelu(self.wide(self.between(h))))
        return self.head(self.last(h[:, -1]))

    def _attention(self, h: Tensor) -> Tensor:
        heads = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


def perceptron(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), act()]
    return nn.Sequential(*layers[:-1])


def convolutions(outputs: int = 10, first: int = 6, second: int = 8) -> nn.Sequential:
    """Two convolutions and a linear layer on images of 7 x 7."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 7, 7)), nn.Conv2d(1, first, 3), nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * second, outputs),
    )  # fmt: skip


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network in float64 from torch's own start with a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def images(num: int, first: int = 0) -> Pair:
    """Digits of 7 x 7 pixels, as rows."""
    X, y = data.digits(examples=first + num, pool=4)
    return X[first:], y[first:]


def symbols() -> Tensor:
    """The text that `import this` prints (the same in every Python 3), letters and one other."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    source = Path(this.__file__ or "").read_text("utf-8")
    text = "".join(this.d.get(c, c) for c in source.split('"""')[1]).lower()
    return torch.tensor([LETTERS.find(c) % 28 for c in text.strip()])


def text(num: int, classes: int = 28) -> Pair:
    """Windows of text and what follows: one of the `classes` - 1 most frequent symbols, or not."""
    run = symbols()
    X = run.unfold(0, WINDOW, 1)[:-1][:num]
    often = run.bincount(minlength=28).argsort(descending=True, stable=True)
    rank = often.argsort()
    return X, rank[run[WINDOW:]][:num].clamp(max=classes - 1)


def waveforms(num: int, seed: int = 0) -> Pair:
    """A table of 21 columns in three classes (Breiman, Friedman, Olshen and Stone 1984, p. 49)."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 3
    u = torch.rand(num, 1, generator=g, dtype=torch.float64)
    column = torch.arange(1, 22, dtype=torch.float64)
    waves = torch.stack([(6 - (column - c).abs()).clamp(min=0) for c in (11, 7, 15)])
    a, b = waves[torch.tensor([0, 0, 1])[y]], waves[torch.tensor([1, 2, 2])[y]]
    X = u * a + (1 - u) * b + torch.randn(num, 21, generator=g, dtype=torch.float64)
    return X / 3, y


def friedman(num: int, seed: int = 0) -> Pair:
    """A function of ten variables, five of which matter (Friedman 1991, section 4.3)."""
    g = torch.Generator().manual_seed(seed)
    X = torch.rand(num, 10, generator=g, dtype=torch.float64)
    y = 10 * (math.pi * X[:, 0] * X[:, 1]).sin() + 20 * (X[:, 2] - 0.5) ** 2
    y = y + 10 * X[:, 3] + 5 * X[:, 4] + torch.randn(num, generator=g, dtype=torch.float64)
    return X, ((y - y.mean()) / y.std())[:, None]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    lr: float = 0.1
    steps: int = 2000
    batch: int = 50
    adam: bool = False
    momentum: float = 0.9


def trained(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], pair: Pair, r: Recipe, seed: int
) -> nn.Module:
    """The network after training, its rate falling to zero over the last third."""
    X, y = pair
    if r.adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), r.lr)
    else:
        optimizer = torch.optim.SGD(model.parameters(), r.lr, momentum=r.momentum)
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for step in range(r.steps):
        if len(order) < min(r.batch, len(y)):
            order = torch.randperm(len(y), generator=generator)
        some, order = order[: r.batch], order[r.batch :]
        for group in optimizer.param_groups:
            group["lr"] = r.lr * min(1.0, 3 * (1 - step / r.steps))
        optimizer.zero_grad()
        loss(model(X[some]), y[some]).backward()
        optimizer.step()
    return model


def flat(model: nn.Module) -> Tensor:
    """The parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def placed(model: nn.Module, theta: Tensor) -> nn.Module:
    """The network at other parameters."""
    nn.utils.vector_to_parameters(theta, model.parameters())
    return model


def eigenvalues(model: nn.Module, loss: Callable[..., Tensor], pair: Pair) -> Tensor:
    """All eigenvalues of the Hessian, ascending."""
    return hs.spectrum(hs.Hessian(hs.Problem(model, loss, pair)), check=False).eigenvalues
