"""Broken problems, one fault each: what real code does wrong, with the name of its finding."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

import hesscope as hs
from tests import networks
from tests.networks import Around, mlp, tokens, vectors

cross_entropy = F.cross_entropy


class Stashed(torch.autograd.Function):
    """tanh that keeps its detached output for the backward: right once, wrong twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.y = torch.tanh(x).detach()
        return ctx.y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 - ctx.y**2)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (1 - torch.tanh(x) ** 2)


def attention(x: Tensor) -> Tensor:
    """The features of an example attend to each other."""
    x = x[:, :, None]
    return (torch.softmax(x @ x.mT, -1) @ x)[:, :, 0]


class ForeignAttention(torch.autograd.Function):
    """Softmax attention whose backward runs outside autograd, as fused kernels do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return attention(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(attention(x), x, g.detach())
        return gradient


class Asymmetric(torch.autograd.Function):
    """x * w with half of the second factor's gradient missing: no gradient of any function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.roll(1, -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.roll(1, -1)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Shifting(nn.Module):
    """A model that counts its calls in an object of its own, and uses the count."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls = mlp(), itertools.count(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * (1 + 0.01 * next(self.calls))


CALLS: list[int] = []


class RemembersOutside(nn.Module):
    """A model that keeps its state where nobody looks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(1)
        return self.body(x) * (1 + 0.01 * len(CALLS))


class ReadOnce:
    """Looks like a list of batches, but its second pass is empty."""

    def __init__(self, batches: list[Any]) -> None:
        self.iterator = iter(batches)

    def __iter__(self) -> Iterator[Any]:
        return self.iterator


class ReusedBuffer:
    """Fills one buffer again and again, as fast loaders do."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.buffer = batches, batches[0][0].clone()

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.batches:
            yield self.buffer.copy_(x), y


class Augmented(Dataset):
    """Adds noise to each example as it is read."""

    def __init__(self, noise: Callable[[], float]) -> None:
        (self.x, self.y), self.noise = vectors(12), noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + self.noise(), self.y[i]


def classifier(model: nn.Module, loss: Any = cross_entropy, **options: Any) -> hs.Problem:
    return hs.Problem(model, loss, vectors(12), **options)


def around(function: Callable[[Tensor], Tensor]) -> hs.Problem:
    return classifier(Around(function))


def planted_loss(loss: Callable[[Tensor, Tensor], Tensor], **options: Any) -> hs.Problem:
    return classifier(mlp(), loss, **options)


class Recomputed(nn.Module):
    """A layer whose activations are recomputed, where no kernel can be replaced."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layer, x, use_reentrant=False)


def through_a_sparse_matrix(x: Tensor) -> Tensor:
    """x times the matrix with its first row on the diagonal, which is built sparse."""
    places = torch.arange(x.shape[1]).expand(2, -1)
    size = (x.shape[1],) * 2
    matrix = torch.sparse_coo_tensor(places, x[0], size, check_invariants=False)
    return torch.sparse.mm(matrix, x.T).T


def through_solve(x: Tensor) -> Tensor:
    squares = x[:, :, None] * x[:, None, :] + torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(squares, x)


class Pushed(nn.Module):
    """The derivative of a function along its own input, in forward mode."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = Around(function)

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.jvp(self.model, (x,), (x,))[1]


def second_derivatives_in_loss() -> hs.Problem:
    """A network whose second derivative in its input is in the loss, through LayerNorm."""
    model = nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1))

    def closure(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)
        return (bend[:, 0] - slope[:, 1]).square().mean()

    return hs.Problem.from_closure(model, closure, [(torch.randn(12, 2),)])


def classifier_of_texts(embedding: nn.Embedding) -> hs.Problem:
    model = networks.BagOfWords()
    model.embed = embedding
    return hs.Problem(model, cross_entropy, (tokens(12)[0].contiguous(), vectors(12)[1]))


def with_nan() -> nn.Module:
    model = mlp()
    model[2].weight.data[1, 1] = float("nan")
    return model


def padded(**options: Any) -> hs.Problem:
    x, y = tokens(12)
    y = torch.where(torch.arange(5) > torch.randint(1, 5, (12, 1)), -100, y)
    return hs.Problem(networks.Seq2Seq(), networks.token_loss, (x, y), **options)


def embedding_bag() -> hs.Problem:
    model = nn.Sequential(nn.EmbeddingBag(7, 4), nn.Tanh(), nn.Linear(4, 3))
    return hs.Problem(model, cross_entropy, (tokens(12)[0].contiguous(), vectors(12)[1]))


def ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    log_p = outputs.log_softmax(-1).transpose(0, 1)
    lengths = torch.full((log_p.shape[1],), log_p.shape[0])
    return F.ctc_loss(log_p, targets[:, :2] % 6 + 1, lengths, torch.full_like(lengths, 2))


def loader(data: Any, **options: Any) -> DataLoader:
    return DataLoader(data, batch_size=5, **options)


def on_data(data: Any, **options: Any) -> hs.Problem:
    return hs.Problem(mlp(), cross_entropy, data, **options)


def two_batches() -> list[Any]:
    return [vectors(5), vectors(5)]


def own_shuffle(**options: Any) -> hs.Problem:
    data = loader(TensorDataset(*vectors(12)), shuffle=True, generator=torch.Generator())
    return on_data(data, **options)


def scaled() -> hs.Problem:
    """The loss that a loop in mixed precision calls backward of."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    data = vectors()
    return hs.Problem(mlp(), lambda out, y: scaler.scale(cross_entropy(out, y)), data)


FAULTS: dict[str, tuple[str, Callable[[], hs.Problem]]] = {
    "dropout in training mode": ("dropout", lambda: classifier(
        nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3)), training=True)),
    "dropout module that ignores the mode": ("random_loss", lambda: around(F.dropout)),
    "noise in the model": ("random_loss", lambda: around(lambda x: x + torch.randn_like(x))),
    "noise from Python": ("random_loss", lambda: around(lambda x: x * random.random())),
    "batch statistics in training": ("batch_statistics", lambda: classifier(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), training=True)),
    "batch norm without running statistics": ("batch_statistics", lambda: classifier(
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), mlp()))),
    "sum instead of mean": ("sum_reduction", lambda: planted_loss(
        nn.CrossEntropyLoss(reduction="sum"))),
    "sum over batches": ("sum_reduction", lambda: planted_loss(
        nn.CrossEntropyLoss(reduction="sum"), batch_size=4)),
    "loss scaled for mixed precision": ("scaled_loss", scaled),
    "ignored labels counted": ("ignored_targets", padded),
    "ignored labels counted in batches": ("ignored_targets", lambda: padded(batch_size=4)),
    "padding counted, its index unknown": ("not_a_mean", lambda: hs.Problem(
        mlp(), lambda out, y: cross_entropy(out, y, ignore_index=0), vectors(12), batch_size=6)),
    "class weights in a module": ("class_weights", lambda: planted_loss(
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])), batch_size=6)),
    "class weights in a function": ("not_a_mean", lambda: planted_loss(
        lambda out, y: cross_entropy(out, y, weight=torch.tensor([1.0, 2.0, 5.0])), batch_size=6)),
    "loss that couples examples": ("not_a_mean", lambda: planted_loss(
        lambda out, y: cross_entropy(out - out.mean(0), y), batch_size=6)),
    "detached factor (its Hessian is symmetric)": ("gradient_is_not_the_derivative", lambda: around(
        lambda x: torch.tanh(x) * x.detach())),
    "detached residual": ("gradient_is_not_the_derivative", lambda: around(
        lambda x: torch.tanh(x) + 0.1 * x.data)),
    "straight-through rounding": ("gradient_is_not_the_derivative", lambda: around(
        StraightThrough.apply)),
    "stashed intermediate": ("wrong_second_derivative", lambda: around(Stashed.apply)),
    "foreign attention": ("wrong_second_derivative", lambda: around(ForeignAttention.apply)),
    "once_differentiable": ("once_differentiable", lambda: around(OnceDifferentiable.apply)),
    "weight_norm in a checkpoint": ("weight_norm", lambda: around(
        Recomputed(parametrizations.weight_norm(nn.Linear(5, 5))))),
    "gradient scaled by frequency": ("scaled_gradient", lambda: classifier_of_texts(
        nn.Embedding(7, 4, scale_grad_by_freq=True))),
    "values of a sparse tensor": ("sparse_values", lambda: around(through_a_sparse_matrix)),
    "forward mode through solve": ("forward_mode_inside", lambda: classifier(
        Pushed(through_solve))),
    "second derivatives through LayerNorm": ("wrong_third_derivative", second_derivatives_in_loss),
    "asymmetric backward": ("asymmetric", lambda: around(Asymmetric.apply)),
    "EmbeddingBag": ("not_differentiable_twice", embedding_bag),
    "CTC": ("not_differentiable_twice", lambda: hs.Problem(
        networks.Seq2Seq(), ctc, tokens(12), count=len)),
    "small cdist": ("not_differentiable_twice", lambda: classifier(
        networks.Distances("donot_use_mm_for_euclid_dist"))),
    "reentrant checkpoint": ("reentrant_checkpoint", lambda: classifier(
        networks.Checkpointed(use_reentrant=True))),
    "second pass empty": ("data_read_once", lambda: on_data(ReadOnce(two_batches()))),
    "reused buffer": ("data_overwritten", lambda: on_data(ReusedBuffer(two_batches()))),
    "augmentation by torch": ("data_changes", lambda: on_data(
        loader(Augmented(lambda: float(torch.randn(())))))),
    "augmentation by random": ("data_changes", lambda: on_data(loader(Augmented(random.random)))),
    "shuffle and drop_last": ("data_changes", lambda: on_data(
        loader(TensorDataset(*vectors(12)), shuffle=True, drop_last=True))),
    "shuffle by its own generator, not kept": ("data_changes", lambda: own_shuffle(cache_bytes=0)),
    "counter in the model": ("stateful_loss", lambda: classifier(Shifting())),
    "state in a global list": ("stateful_loss", lambda: classifier(RemembersOutside())),
    "norm at zero": ("product_not_finite", lambda: around(
        lambda x: x + (0 * x).norm(dim=-1, keepdim=True))),
    "square root at zero": ("gradient_not_finite", lambda: around(lambda x: (0 * x).abs().sqrt())),
    "parameters with NaN": ("parameters_not_finite", lambda: classifier(with_nan())),
    "loss is NaN": ("loss_not_finite", lambda: planted_loss(
        lambda out, y: (out.sum() - 1e9).log())),
    "loss without a graph": ("loss_fails", lambda: planted_loss(
        lambda out, y: torch.tensor(cross_entropy(out, y).item()))),
    "loss that raises": ("loss_fails", lambda: planted_loss(lambda out, y: out.logits)),
}  # fmt: skip
