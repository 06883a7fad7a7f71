"""Small networks of every kind that hesscope meets, and two oracles that share no code with it.

A `Case` is a model, a loss and one batch of data. `dense_hessian` differentiates twice by
`torch.autograd.functional.hessian` over `torch.func.functional_call`; `difference_product` needs
nothing but plain gradients, so it also judges kernels that cannot be differentiated twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import hesscope as hs

NUM = 7  # examples of a case: a prime, so that no batch size but 1 divides it


@dataclass(frozen=True)
class Case:
    """A model with its loss and one batch; `options` go to Problem."""

    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor]
    data: tuple[Any, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def problem(self, **options: Any) -> hs.Problem:
        return hs.Problem(self.model, self.loss_fn, self.data, **{**self.options, **options})

    def loss(self, model: Callable[..., Any] | None = None) -> Tensor:
        return self.loss_fn((model or self.model)(self.data[0]), self.data[1])


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def theta_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainable(model).values()])


def loss_at(case: Case, theta: Tensor) -> Tensor:
    """The loss of the case at a flat parameter vector, by functional_call."""
    pieces, start = {}, 0
    for name, p in trainable(case.model).items():
        pieces[name] = theta[start : start + p.numel()].view_as(p)
        start += p.numel()
    return case.loss(lambda x: torch.func.functional_call(case.model, pieces, (x,)))


def dense_hessian(case: Case) -> Tensor:
    """The Hessian of the case by torch alone, in evaluation mode with math attention."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        theta = theta_of(case.model)
        return torch.autograd.functional.hessian(lambda t: loss_at(case, t), theta)


def plain_gradient(case: Case, theta: Tensor) -> Tensor:
    """The gradient at theta by `.backward()` on a copy of the model."""
    model = copy.deepcopy(case.model)
    torch.nn.utils.vector_to_parameters(theta, trainable(model).values())
    case.loss(model).backward()
    zero = torch.zeros
    return torch.cat(
        [
            (zero(p.shape, dtype=p.dtype) if p.grad is None else p.grad).reshape(-1)
            for p in trainable(model).values()
        ]
    )


def difference_product(case: Case, v: Tensor, h: float = 3e-4) -> Tensor:
    """H v from six gradients: (45 Δ₁ - 9 Δ₂ + Δ₃) / 60h, with Δ_k = g(θ+khv) - g(θ-khv)."""
    theta, v = theta_of(case.model), v / (scale := v.norm())
    g = {k: plain_gradient(case, theta + k * h * v) for k in (-3, -2, -1, 1, 2, 3)}
    sides = 45 * (g[1] - g[-1]) - 9 * (g[2] - g[-2]) + (g[3] - g[-3])
    return sides / (60 * h) * scale


def relative_error(computed: Tensor, truth: Tensor) -> float:
    return float((computed - truth).norm() / truth.norm().clamp_min(1e-300))


# Data


def vectors(num: int = NUM, size: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(num, size), torch.randint(0, classes, (num,))


def images(num: int = NUM, size: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(num, 2, size, size), torch.randint(0, classes, (num,))


def sequences(num: int = NUM, length: int = 5, size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(num, length, size), torch.randint(0, 3, (num,))


def tokens(num: int = NUM, length: int = 5, vocabulary: int = 7) -> tuple[Tensor, Tensor]:
    text = torch.randint(0, vocabulary, (num, length + 1))
    return text[:, :-1], text[:, 1:]


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the tokens that are not ignored (-100), in the dtype of the logits."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# Modules


class Around(nn.Module):
    """head(function(body(x))) for any function: where planted faults go."""

    def __init__(self, function: Callable[[Tensor], Tensor], size: int = 5) -> None:
        super().__init__()
        self.body, self.function, self.head = nn.Linear(4, size), function, nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.body(x)))


class OnceDifferentiable(torch.autograd.Function):
    """x³, whose backward says that it cannot be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0] ** 2


class BagOfWords(nn.Module):
    """The mean embedding of a text is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x).mean(1)))


class Recurrent(nn.Module):
    """A recurrent layer whose last output is classified."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Residual(nn.Module):
    """x + norm(conv(act(norm(conv(x)))))."""

    def __init__(self, width: int, act: type[nn.Module], norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
            act(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Tied(nn.Module):
    """An autoencoder whose decoder has the encoder's very weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


class UnusedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = mlp(), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class CausalText(nn.Module):
    """Next-token logits from a Hugging Face causal language model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(input_ids=x).logits


class Encoder(nn.Module):
    """Tokens -> embedding -> Transformer encoder layer -> logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Seq2Seq(nn.Module):
    """Two recurrent layers: the second starts from the first one's state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.read = nn.GRU(3, 4, batch_first=True)
        self.write = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        _, state = self.read(self.embed(x[:, :half]))
        return self.head(self.write(self.embed(x), state)[0])


class Distances(nn.Module):
    """Logits are minus the distances to learnt centres (torch.cdist)."""

    def __init__(self, mode: str = "use_mm_for_euclid_dist") -> None:
        super().__init__()
        self.mode = mode
        self.body, self.centres = mlp(), nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.body(x), self.centres, compute_mode=self.mode)


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.use_reentrant = mlp(), nn.Linear(3, 3), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        run = torch.utils.checkpoint.checkpoint
        x = x.requires_grad_() if self.use_reentrant else x
        return self.head(run(self.body, x, use_reentrant=self.use_reentrant))


def mlp(act: Callable[[], nn.Module] = nn.Tanh, *, size: int = 4, out: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(size, 5), act(), nn.Linear(5, out))


def deep_mlp(act: Callable[[], nn.Module], depth: int = 3, width: int = 6) -> nn.Module:
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), act())]
    return nn.Sequential(nn.Linear(4, width), act(), *layers, nn.Linear(width, 3))


def resnet(
    act: type[nn.Module] = nn.SiLU, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        act(),
        Residual(3, act, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    with torch.no_grad():
        model(torch.randn(20, 2, 6, 6))  # running statistics that are not 0 and 1
    return model.eval()


def conv_pool(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), act(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


def normalised(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), norm, nn.GELU(), nn.Linear(6, 3))


def gpt2(attention: str = "sdpa") -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1, n_embd=4, n_head=2, vocab_size=7, n_positions=6, bos_token_id=0, eos_token_id=0,
        attn_implementation=attention,
    )  # fmt: skip
    return CausalText(GPT2LMHeadModel(config)).eval()


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=6, max_position_embeddings=6, num_labels=3,
    )  # fmt: skip
    return CausalText(BertForSequenceClassification(config)).eval()


def frozen_body() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


# Cases: name -> (model, loss, data). All smooth, so that differences are an oracle, too.

Recipe = Callable[[], tuple[nn.Module, Callable[[Any, Any], Tensor], tuple[Any, Any]]]


def _regression(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(NUM, size), torch.randn(NUM, size)


def _labelled_text() -> tuple[Tensor, Tensor]:
    return tokens()[0], torch.randint(0, 3, (NUM,))


SMOOTH: dict[str, Recipe] = {
    "mlp": lambda: (mlp(), F.cross_entropy, vectors()),
    "mlp_gelu": lambda: (mlp(nn.GELU), F.cross_entropy, vectors()),
    "mlp_silu_mse": lambda: (mlp(nn.SiLU, out=4), F.mse_loss, _regression()),
    "deep_linear": lambda: (deep_mlp(nn.Identity, 2, 4), F.cross_entropy, vectors()),
    "tied": lambda: (Tied(), F.mse_loss, _regression()),
    "frozen": lambda: (frozen_body(), F.cross_entropy, vectors()),
    "unused": lambda: (UnusedHead(), F.cross_entropy, vectors()),
    "resnet_batchnorm": lambda: (resnet(), F.cross_entropy, images()),
    "resnet_groupnorm": lambda: (
        resnet(norm=lambda c: nn.GroupNorm(1, c)), F.cross_entropy, images()
    ),
    "instancenorm": lambda: (
        resnet(norm=lambda c: nn.InstanceNorm2d(c, affine=True)), F.cross_entropy, images()
    ),
    "layernorm": lambda: (normalised(nn.LayerNorm(6)), F.cross_entropy, vectors()),
    "rmsnorm": lambda: (normalised(nn.RMSNorm(6)), F.cross_entropy, vectors()),
    "spectral_norm": lambda: (
        nn.Sequential(spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)).eval(),
        F.cross_entropy, vectors(),
    ),
    "embedding": lambda: (BagOfWords(), F.cross_entropy, _labelled_text()),
    "lstm": lambda: (
        Recurrent(nn.LSTM(4, 4, batch_first=True), 4), F.cross_entropy, sequences()
    ),
    "gru": lambda: (Recurrent(nn.GRU(4, 4, batch_first=True), 4), F.cross_entropy, sequences()),
    "seq2seq": lambda: (Seq2Seq(), token_loss, tokens()),
    "attention": lambda: (SelfAttention(), F.cross_entropy, sequences()),
    "gpt2": lambda: (gpt2(), token_loss, tokens()),
    "gpt2_eager": lambda: (gpt2("eager"), token_loss, tokens()),
    "checkpoint": lambda: (Checkpointed(), F.cross_entropy, vectors()),
    "distances": lambda: (Distances(), F.cross_entropy, vectors()),
}  # fmt: skip


def _to(content: Any, dtype: torch.dtype) -> Any:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in content)


def make(recipe: Recipe, dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any) -> Case:
    """The case of a recipe, built under a seed without touching the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, loss_fn, data = recipe()
    if isinstance(loss_fn, nn.Module):
        loss_fn = loss_fn.to(dtype)
    return Case(model.to(dtype).eval(), loss_fn, _to(data, dtype), options)


def smooth(name: str, seed: int = 0, **options: Any) -> Case:
    return make(SMOOTH[name], seed=seed, **options)
