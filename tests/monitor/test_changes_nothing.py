"""Two hundred steps with the monitor and without end in the same bits, whatever trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import hesscope as hs

STEPS = 200
Loss = Callable[[nn.Module, Any], Tensor]


class Block(nn.Module):
    """A residual block as in ResNets: two convolutions with batch normalisation, and the input."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.b = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.past = nn.Identity() if stride == 1 else nn.Conv2d(width, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
        return torch.relu(inside + self.past(x))


def _classified(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def _drawn(x: Tensor, y: Tensor, size: int) -> Iterator[Any]:
    while True:
        index = torch.randperm(len(x))[:size]  # the order of the data is of the global generator
        yield x[index], y[index]


def mlp() -> tuple[nn.Module, Loss, Iterator[Any], Any]:
    """A multilayer perceptron with dropout."""
    x, y = torch.randn(64, 12), torch.randint(0, 3, (64,))
    model = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 3))
    return model, _classified, _drawn(x, y, 16), (x[:32], y[:32])


def resnet() -> tuple[nn.Module, Loss, Iterator[Any], Any]:
    """Convolutions, batch normalisation and residual connections."""
    x, y = torch.randn(32, 3, 8, 8), torch.randint(0, 3, (32,))
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        Block(6), Block(6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    return model, _classified, _drawn(x, y, 8), (x[:16], y[:16])


def gpt() -> tuple[nn.Module, Loss, Iterator[Any], Any]:
    """GPT-2 of two layers with dropout at all its places."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=2, use_cache=False,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    tokens = torch.randint(0, 40, (64, 16))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        found: Tensor = model(batch, labels=batch).loss
        return found

    def drawn() -> Iterator[Any]:
        while True:
            yield tokens[torch.randperm(64)[:4]]

    return transformers.GPT2LMHeadModel(config), loss, drawn(), tokens[:8]


def _trained(make: Callable[[], Any], optimizer: Any, folder: Path | None) -> list[Tensor]:
    """All that a training leaves behind: parameters, buffers, gradients, state, generator."""
    torch.manual_seed(0)
    model, loss, batches, probe = make()
    model.train()
    steps = optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(steps, 0.05, STEPS)
    monitor = None
    if folder is not None:
        problem = hs.Problem.from_closure(model, loss, [probe])
        monitor = hs.Monitor(problem, steps, every=20, to=folder)
    left = []
    torch.manual_seed(1)
    for _ in range(STEPS):
        steps.zero_grad()
        found = loss(model, next(batches))
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        schedule.step()
        left.append(found.detach().clone())
    if monitor is not None:
        monitor.close()
        history = monitor.history
        assert history["lambda_max"].steps.tolist() == list(range(0, STEPS, 20))
        assert not history.events
    assert model.training
    left += [t for state in steps.state.values() for t in state.values() if torch.is_tensor(t)]
    left += [p.grad for p in model.parameters() if p.grad is not None]
    return [*left, *model.state_dict().values(), torch.get_rng_state()]


OPTIMISERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [
        (mlp, "momentum"),
        pytest.param(mlp, "adamw", marks=pytest.mark.slow),
        (resnet, "momentum"),
        pytest.param(resnet, "adamw", marks=pytest.mark.slow),
        pytest.param(gpt, "adamw", marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_to_the_bit(
    make: Callable[[], Any], optimizer: str, tmp_path: Path
) -> None:
    alone = _trained(make, OPTIMISERS[optimizer], None)
    watched = _trained(make, OPTIMISERS[optimizer], tmp_path)
    assert len(alone) == len(watched)
    unequal = [i for i, (a, b) in enumerate(zip(alone, watched, strict=True)) if not a.equal(b)]
    assert unequal == []


@pytest.mark.slow
def test_killed_at_fifty_moments_nothing_written_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.monitor.killed", str(tmp_path / "run"), "50", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kills, steps, _ = done.stdout.splitlines()[-1].split(", ")
    assert kills == "50 kills"
    assert int(steps.split()[0]) > 20
