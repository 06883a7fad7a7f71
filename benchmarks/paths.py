"""How high the barrier between two solutions is: on the line, after matching units, on a curve.

    python benchmarks/paths.py [--seeds 3] [--only mlp resnet] [--json FILE]

Two networks of each kind are trained from different starts on the same data. A Bézier curve with
one bend is trained between them, with the units of the second matched to those of the first where
that is asked. Barriers are excess training losses over the chord; test losses are the highest on
the way. Statistics of BatchNorm are recomputed at every point.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import workloads
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs

Data = tuple[Tensor, Tensor]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows = [
        measure(name, seed)
        for name in arguments.only or NETWORKS
        for seed in range(arguments.seeds)
    ]
    Console(width=120).print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS))
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def digits_mlp(seed: int) -> tuple[nn.Module, Data, Data, int, float]:
    """MLP 64-32-10; 1200 digits to train on, the others to test."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    inputs, targets = workloads.digits()
    return model, (inputs[:1200], targets[:1200]), (inputs[1200:], targets[1200:]), 600, 1e-2


def small_resnet(seed: int) -> tuple[nn.Module, Data, Data, int, float]:
    """A stem and three residual blocks of 8, 16 and 32 channels on 256 images of CIFAR-10."""
    inputs, targets, _ = workloads.cifar(384)
    torch.manual_seed(seed)
    model = workloads.resnet(1, (8, 16, 32))
    return model, (inputs[:256], targets[:256]), (inputs[256:], targets[256:]), 160, 3e-3


NETWORKS = {"mlp": digits_mlp, "resnet": small_resnet}


def measure(name: str, seed: int) -> dict[str, Any]:
    """Barriers and losses of one pair."""
    ends = []
    for one in (2 * seed, 2 * seed + 1):
        model, train, test, steps, lr = NETWORKS[name](one)
        ends.append(trained(model, train, steps, lr, one))
    problem = hs.Problem(ends[0], F.cross_entropy, train, batch_size=64)
    options: dict[str, Any] = {"num_points": 21, "num_steps": 300, "seed": seed, "test": test}
    plain = hs.loss_path(problem, *ends, **options)
    matched = hs.loss_path(problem, *ends, match=True, **options)
    assert matched.matched is not None
    ways = {
        "line": plain.line,
        "matched line": matched.matched,
        "curve": plain.curve,
        "matched curve": matched.curve,
    }
    row = {"name": name, "seed": seed, "ends": [float(plain.line.losses[i]) for i in (0, -1)]}
    for way, line in ways.items():
        assert line.test_losses is not None
        row[way] = {"barrier": line.barrier, "test": float(line.test_losses.max())}
    return row


def trained(model: nn.Module, data: Data, steps: int, lr: float, seed: int) -> nn.Module:
    """Adam on random batches of 64, lr falling to zero."""
    inputs, targets = data
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(steps):
        some = torch.randint(len(targets), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[some]), targets[some]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def table(rows: list[dict[str, Any]]) -> Table:
    """A row for each pair."""
    ways = ("line", "matched line", "curve", "matched curve")
    shown = Table(title="barrier of the training loss (highest test loss on the way)")
    for column in ("networks", "seed", "loss of the ends", *ways):
        shown.add_column(column)
    for row in rows:
        cells = [f"{row[way]['barrier']:.3f} ({row[way]['test']:.2f})" for way in ways]
        ends = ", ".join(f"{loss:.4f}" for loss in row["ends"])
        shown.add_row(row["name"], str(row["seed"]), ends, *cells)
    return shown


if __name__ == "__main__":
    main()
