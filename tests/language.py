"""Small models in the manner of transformers and Lightning: they compute their own loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, LENGTH, NUM = 7, 6, 5


class Causal(nn.Module):
    """Predicts the next word; shifts its labels itself, as causal language models do."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 4), nn.Linear(4, WORDS)
        self.smoothing = smoothing

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, attention_mask: Any = None
    ) -> SimpleNamespace:
        h = self.words(input_ids)
        logits = self.head(torch.tanh(h.cumsum(1)))
        return SimpleNamespace(logits=logits, loss=self.loss(logits, labels))

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        z, y = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return F.cross_entropy(z, y, label_smoothing=self.smoothing)


class Masked(Causal):
    """Predicts the words in their own places."""

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        return None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Cached(Causal):
    """Keeps a state while it does not train, and writes into it in place."""

    def forward(self, input_ids: Tensor, labels: Any = None, use_cache: Any = None) -> Any:
        out = super().forward(input_ids, labels)
        if not self.training if use_cache is None else use_cache:
            state = torch.tanh(out.logits.mean(1))
            out.loss = out.loss + state.square().mean()
            state.mul_(2)
        return out


class Rescaling(Causal):
    """Rescales its weights in place when it is first used for inference."""

    rescaled = False

    def forward(self, input_ids: Tensor, labels: Any = None) -> Any:
        if not self.training and not self.rescaled:
            with torch.no_grad():
                self.head.weight.div_(2)
            self.rescaled = True
        return super().forward(input_ids, labels)


class Vectors(nn.Module):
    """Reads vectors; `kind` says what it predicts of them, and how its loss comes out."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), kind

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        z = self.layer(x)
        if self.kind == "pair":  # as small research codes have it
            return z, F.cross_entropy(z, labels)
        if self.kind == "values":
            return {"logits": z, "loss": F.mse_loss(z, labels)}
        if self.kind == "many labels":
            return {"logits": z, "loss": F.binary_cross_entropy_with_logits(z, labels)}
        return {"logits": z, "loss": F.cross_entropy(z, labels)}


class Contrasted(nn.Module):
    """Compares the examples of a batch, if asked for a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor, return_loss: bool = False) -> SimpleNamespace:
        u, v = F.normalize(self.one(a), dim=1), F.normalize(self.two(b), dim=1)
        loss = F.cross_entropy(u @ v.T / 0.2, torch.arange(len(u))) if return_loss else None
        return SimpleNamespace(loss=loss, logits=u @ v.T)


class Trained(nn.Module):
    """Written like a LightningModule; its log needs a trainer."""

    def __init__(self, gives: str = "tensor") -> None:
        super().__init__()
        self.layer, self.gives = nn.Linear(4, 3), gives

    def log(self, *_: Any, **__: Any) -> None:
        msg = "not attached to a Trainer"
        raise RuntimeError(msg)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("loss", loss.item() + batch_idx)
        return {"loss": loss, "more": 1} if self.gives == "dict" else loss


def sentences(num: int = NUM, length: int = LENGTH, *, padded: bool = True) -> dict[str, Tensor]:
    """Words with labels; with padding, whose labels are ignored."""
    generator = torch.Generator().manual_seed(num)
    words = torch.randint(0, WORDS, (num, length), generator=generator)
    labels = words.clone()
    if padded:
        ends = 2 + torch.arange(num) % (length - 2)
        labels[torch.arange(length) >= ends[:, None]] = -100
    return {"input_ids": words, "labels": labels}


def cut(batch: dict[str, Any], *sizes: int) -> list[dict[str, Any]]:
    """The same examples in batches of these sizes."""
    parts = {key: value.split(sizes) for key, value in batch.items()}
    return [{key: value[i] for key, value in parts.items()} for i in range(len(sizes))]
