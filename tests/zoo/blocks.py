"""torch's own blocks, put together as its users do: the bigger layers, and every kind of norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.specimen import NUM, Specimen

Batch = Callable[[torch.Generator], Any]
Loss = Callable[[nn.Module, Any], Tensor]


def classes() -> Tensor:
    return torch.arange(NUM) % 3


def inputs(*shape: int) -> Batch:
    """Inputs of a shape for each example, with a class for it."""
    return lambda generator: (torch.randn(NUM, *shape, generator=generator), classes())


def entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def seeded(make: Callable[[], nn.Module]) -> Callable[[bool], nn.Module]:
    def seeded_make(eager: bool) -> nn.Module:
        torch.manual_seed(0)
        return make()

    return seeded_make


def row(
    name: str, make: Callable[[], nn.Module], batch: Batch, loss: Loss = entropy, **kw: Any
) -> Specimen:
    return Specimen(name, "torch", seeded(make), batch, loss, **kw)


class First(nn.Module):
    """A recurrent layer's outputs, without its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Mean(nn.Module):
    """The mean over one axis."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim)


class Attended(nn.Module):
    """Multi-head attention over the words that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        h = self.attention(h, h, h, key_padding_mask=x == 0, need_weights=False)[0]
        return self.head(h.mean(1))


class Bottleneck(nn.Module):
    """A small U-net: convolutions down, a transposed one up, and the skip between."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.out = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, self.up(F.gelu(self.down(x)))], 1))


class Coordinates(nn.Module):
    """u(x, t), whose equation is asked for in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x))


def heat_equation(model: nn.Module, batch: Tensor) -> Tensor:
    points = batch.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)
    return (slope[:, 1] - bend[:, 0]).square().mean()


class Sampled(nn.Module):
    """A variational autoencoder, which draws its code in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encode(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.decode(code), mean, logvar


def evidence(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    rebuilt, mean, logvar = model(batch[0])
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1).mean()
    return F.mse_loss(rebuilt, batch[0]) + kl


def word_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, 20, (NUM, 6), generator=generator)
    x[0, 4:] = 0
    return x, classes()


def time_major(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(7, NUM, 4, generator=generator), torch.arange(7)[:, None].repeat(1, NUM) % 3


def every_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def source_and_target(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    draw = [torch.randn(n, NUM, 8, generator=generator) for n in (6, 4, 4)]
    return draw[0], draw[1], draw[2]


def translated(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    source, target, wanted = batch
    mask = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=target.dtype)
    return F.mse_loss(model(source, target, tgt_mask=mask), wanted)


def segmented(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), (batch[0][:, 0] > 0).long())


def connected(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """CTC over twelve steps and two labels each."""
    steps = model(batch[0]).log_softmax(-1).transpose(0, 1)
    labels = torch.stack([batch[1] + 1, 3 - batch[1]], 1)
    lengths = torch.full((len(labels),), 12), torch.full((len(labels),), 2)
    return F.ctc_loss(steps, labels, *lengths)


def heteroscedastic(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    mean, spread = model(batch[0]).unbind(-1)
    return F.gaussian_nll_loss(mean, batch[1].to(mean), F.softplus(spread))


def adaptive(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0], 4 * batch[1]).loss


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
    return nn.Sequential(nn.Linear(4, 8), stack, Mean(1), nn.Linear(8, 3))


def convolved(norm: Callable[[], nn.Module], *, conv: Any = nn.Conv2d) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        first, second = conv(1, 4, 3, padding=1), conv(4, 4, 3, padding=1)
        return nn.Sequential(first, norm(), nn.ReLU(), second, nn.Flatten(2), Mean(2), _head())

    return make


def _head() -> nn.Module:
    return nn.Linear(4, 3)


def recurrent(kind: Any, width: int, **kw: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(First(kind(4, 6, **kw)), nn.Linear(width, 3))


def normed(norm: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3))


def pixels() -> nn.Module:
    shuffle = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(2))
    return nn.Sequential(shuffle, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))


SQUARE = inputs(1, 8, 8)
STEPS = inputs(7, 4)
BLOCKS = [
    row("TransformerEncoder", encoder, STEPS),
    row("Transformer-time-major", lambda: nn.Transformer(8, 2, 1, 1, 16), source_and_target,
        translated, axis=1, count=lambda batch: batch[0].shape[1]),
    row("MultiheadAttention-padded", Attended, word_batch),
    row("LSTM-bidirectional", lambda: nn.Sequential(
        recurrent(nn.LSTM, 12, num_layers=2, bidirectional=True, batch_first=True)(), Mean(1)),
        STEPS),
    row("LSTM-time-major", recurrent(nn.LSTM, 3, proj_size=3), time_major, every_step, axis=1,
        count=lambda batch: batch[1].numel()),
    row("GRU-time-major", recurrent(nn.GRU, 6, num_layers=2, dropout=0.1), time_major, every_step,
        axis=1, count=lambda batch: batch[1].numel()),
    row("RNN-relu", lambda: nn.Sequential(
        recurrent(nn.RNN, 6, nonlinearity="relu", batch_first=True)(), Mean(1)), STEPS),
    row("Conv2d-BatchNorm", convolved(lambda: nn.BatchNorm2d(4)), SQUARE),
    row("Conv1d-GroupNorm", convolved(lambda: nn.GroupNorm(2, 4), conv=nn.Conv1d), inputs(1, 12)),
    row("Conv2d-InstanceNorm", convolved(lambda: nn.InstanceNorm2d(4, affine=True)), SQUARE),
    row("Conv2d-InstanceNorm-tracked", convolved(
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), SQUARE),
    row("Conv3d-LayerNorm", convolved(lambda: nn.LayerNorm([4, 4, 4, 4]), conv=nn.Conv3d),
        inputs(1, 4, 4, 4)),
    row("Conv2d-RMSNorm", convolved(lambda: nn.RMSNorm([4, 8, 8])), SQUARE),
    row("Conv2d-LocalResponseNorm", convolved(lambda: nn.LocalResponseNorm(2)), SQUARE),
    row("Conv2d-MaxPool", convolved(lambda: nn.MaxPool2d(2)), SQUARE),
    row("Conv2d-circular", lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.SiLU(), nn.Flatten(2), Mean(2),
        _head()), SQUARE),
    row("U-net", Bottleneck, SQUARE, segmented),
    row("PixelShuffle-PReLU", pixels, SQUARE),
    row("EmbeddingBag", lambda: nn.Sequential(
        nn.EmbeddingBag(20, 8, padding_idx=0), nn.Tanh(), nn.Linear(8, 3)), word_batch),
    row("weight_norm", normed(nn.utils.parametrizations.weight_norm), inputs(4)),
    row("spectral_norm", normed(nn.utils.parametrizations.spectral_norm), inputs(4)),
    row("orthogonal", normed(nn.utils.parametrizations.orthogonal), inputs(4)),
    row("CTC", lambda: nn.Linear(4, 6), inputs(12, 4), connected),
    row("GaussianNLL", lambda: nn.Linear(4, 2), inputs(4), heteroscedastic),
    row("AdaptiveLogSoftmax", lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 6]), inputs(8),
        adaptive),
    row("heat-equation", Coordinates, lambda g: torch.rand(NUM, 2, generator=g), heat_equation),
    row("variational-autoencoder", Sampled, inputs(6), evidence),
]  # fmt: skip
