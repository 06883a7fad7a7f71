"""A GPT of ten million parameters on two cores: memory of lean products, top of its spectrum.

    python benchmarks/lean.py [--tiny] [--folder FOLDER] [--minutes 5] [--threads 2]

Eight layers of width 320 are trained for some minutes on the documentation that Python ships with,
as bytes. Then: bytes and time of a lean product, of one whose graph is rebuilt and of a gradient,
in units of the gradient; the twenty largest eigenvalues, certified; and the density. Weights,
products and results are kept in the folder, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import hesscope as hs
from hesscope.operator.kept import KeptProducts

WORDS = 256  # bytes
console = Console(width=110)


@dataclass(frozen=True)
class Setting:
    layers: int = 8
    width: int = 320
    heads: int = 5
    length: int = 128  # of a sequence
    sequences: int = 16  # that the curvature is measured on
    k: int = 20
    density: int = 120  # products


TINY = Setting(layers=8, width=32, heads=2, length=32, sequences=16, k=4, density=20)


def main() -> None:
    options = parse()
    torch.set_num_threads(1 if options.tiny else options.threads)
    setting = TINY if options.tiny else Setting()
    folder = options.folder or Path("build") / ("lean-tiny" if options.tiny else "lean")
    folder.mkdir(parents=True, exist_ok=True)
    model = trained(setting, folder, 0.05 if options.tiny else options.minutes)
    words = sequences(setting, setting.sequences, seed=1)
    problem = hs.Problem(model, loss, (words, words), count=lambda t: t[:, 1:].numel())
    console.print(
        f"{problem.n:,} parameters, {problem.num_items:g} bytes, loss {problem.loss():.3f}"
    )
    costs = folder / "costs.json"
    if not costs.exists():
        costs.write_text(json.dumps(measured(problem), indent=1))
    show(json.loads(costs.read_text()))
    spectrum(problem, setting, folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="seconds; its numbers mean nothing")
    parser.add_argument("--folder", type=Path, help="where weights and products are kept")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


class Layer(nn.Module):
    """Attention and a perceptron, each behind a norm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        some, length, width = x.shape
        parts = self.qkv(self.n1(x)).view(some, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(some, length, width))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    """Bytes in, logits of the next ones out; the head is tied to the embedding."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, setting.width)
        self.places = nn.Parameter(torch.zeros(setting.length, setting.width))
        layers = [Layer(setting.width, setting.heads) for _ in range(setting.layers)]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(setting.width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embedding.weight.T


def loss(logits: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())


def sequences(setting: Setting, num: int, seed: int) -> Tensor:
    """So many pieces of Python's documentation, as bytes."""
    raw = "\n".join(topics[name] for name in sorted(topics)).encode()
    text = torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(text) - setting.length, (num,), generator=generator).tolist()
    return torch.stack([text[i : i + setting.length] for i in starts])


def trained(setting: Setting, folder: Path, minutes: float) -> nn.Module:
    """The model after so many minutes of AdamW, or the one that is kept."""
    torch.manual_seed(0)
    model, file = GPT(setting), folder / "weights.safetensors"
    if file.exists():
        model.load_state_dict(load_file(file))
        return model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    until, step = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < until:
        step += 1
        words = sequences(setting, 16, seed=1000 + step)
        optimizer.zero_grad()
        found = loss(model(words), words)
        found.backward()
        optimizer.step()
        if step % 20 == 0:
            console.print(f"step {step}, loss {float(found.detach()):.3f}")
    save_file(model.state_dict(), file)
    return model


def measured(problem: hs.Problem) -> dict[str, Any]:
    """Bytes and seconds of one product of each kind, in gradients."""
    v = torch.randn(problem.n)
    lean = hs.Hessian(problem, product="lean")
    whole = hs.Hessian(problem, product="reverse-over-reverse", memory=0)
    ways: dict[str, Callable[[], object]] = {
        "gradient": problem.gradient,
        "lean": lambda: lean @ v,
        "whole graph, rebuilt": lambda: whole @ v,
    }
    found: dict[str, Any] = {}
    for name, work in ways.items():
        work()  # the first compares, or measures
        found[name] = {"bytes": peak(work), "seconds": min(seconds(work) for _ in range(2))}
    return found


def show(found: dict[str, Any]) -> None:
    """A line for each way."""
    for name, cost in found.items():
        units = {key: value / found["gradient"][key] for key, value in cost.items()}
        console.print(
            f"{name:22} {cost['bytes'] / 1e6:8.1f} MB {cost['seconds']:8.2f} s, in gradients: "
            f"memory {units['bytes']:.2f}, time {units['seconds']:.2f}"
        )


def peak(work: Callable[[], object], other_than: int = 0) -> int:
    """The most bytes that torch had on the CPU at once, over those before.

    Blocks of one size may be left out: files that are mapped into memory count as well.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        now += change if abs(change) != other_than else 0
        most = max(most, now)
    return most


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spectrum(problem: hs.Problem, setting: Setting, folder: Path) -> None:
    """The certified top and the density, from products that are kept."""
    lean = hs.Hessian(problem, product="lean")
    H = KeptProducts(lean, folder / "products")
    top = hs.eigsh(H, setting.k, tol=1e-2, seed=0)
    console.print(str(top))
    hs.save(top, folder / "top")
    density = hs.spectral_density(H, setting.density, seed=1)
    console.print(str(density))
    hs.save(density, folder / "density")
    facts = {key: lean.facts().get(key) for key in ("product", "blocks", "compared")}
    console.print(str(facts))


if __name__ == "__main__":
    main()
