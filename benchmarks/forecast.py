"""hs.plan beside what hs.diagnose then takes: products, seconds and memory on ten configurations.

python benchmarks/forecast.py
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

import hesscope as hs

F = nn.functional


def mlp(widths: tuple[int, ...], examples: int, dtype: torch.dtype) -> hs.Problem:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    data = torch.randn(examples, widths[0], dtype=dtype), torch.arange(examples) % widths[-1]
    return hs.Problem(model, F.cross_entropy, data, batch_size=512)


def convolutional(channels: int, examples: int) -> hs.Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(channels, 10),
    )  # fmt: skip
    data = torch.randn(examples, 3, 16, 16), torch.arange(examples) % 10
    return hs.Problem(model.eval(), F.cross_entropy, data)


def recurrent() -> hs.Problem:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    return hs.Problem(Last(), F.cross_entropy, (torch.randn(128, 12, 8), torch.arange(128) % 5))


def transformer() -> hs.Problem:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(32 * 10, 4)
    ).eval()
    return hs.Problem(model, F.cross_entropy, (torch.randn(96, 10, 32), torch.arange(96) % 4))


f32, f64 = torch.float32, torch.float64
CONFIGURATIONS: dict[str, tuple[Callable[[], hs.Problem], str]] = {
    "MLP 64-64-10, 1797, float32": (lambda: mlp((64, 64, 10), 1797, f32), "standard"),
    "the same, quick": (lambda: mlp((64, 64, 10), 1797, f32), "quick"),
    "the same, deep": (lambda: mlp((64, 64, 10), 1797, f32), "deep"),
    "MLP 64-256-256-10, float32": (lambda: mlp((64, 256, 256, 10), 1797, f32), "standard"),
    "MLP 64-256-256-10, float64": (lambda: mlp((64, 256, 256, 10), 1797, f64), "standard"),
    "MLP 784-500-10, 2000": (lambda: mlp((784, 500, 10), 2000, f32), "quick"),
    "convolutions, 8 channels": (lambda: convolutional(8, 256), "standard"),
    "convolutions, 24 channels": (lambda: convolutional(24, 128), "standard"),
    "LSTM": (recurrent, "standard"),
    "transformer encoder": (transformer, "standard"),
}


def one(name: str) -> None:
    """Forecast and truth of one configuration, in a process of its own for its peak memory."""
    make, effort = CONFIGURATIONS[name]
    problem = make()
    problem.loss()
    hs.diagnose(problem, effort="quick", lr=1e-3, max_matvecs=8, check=False)  # imports and warm-up
    forecast = hs.plan(problem, lr=1e-3, effort=effort)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    done = hs.diagnose(problem, lr=1e-3, effort=effort)
    seconds = time.perf_counter() - started
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(
        f"{name:<30} matvecs {forecast.num_matvecs:>4} / {done.num_matvecs:>4}   "
        f"seconds {forecast.seconds:7.2f} / {seconds:7.2f} = {forecast.seconds / seconds:.2f}   "
        f"MB {forecast.memory / 1e6:7.1f} / {grown / 1e6:7.1f}",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) > 1:
        one(sys.argv[1])
        return
    print(f"{'configuration':<30} forecast / truth, {torch.get_num_threads()} threads")
    for name in CONFIGURATIONS:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
