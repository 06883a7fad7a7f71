"""hs.plan beside what is then taken: bytes and processor time on ten configurations.

    python -m benchmarks.planner [--only NAME ...] [--json FILE]

Each configuration runs in a process of its own (or two), on one thread. Bytes are the most that
torch's allocator for the CPU had at once in the task, over those before; time is processor time in
units of a gradient of all of the data that is measured in the same process. A search has a
tolerance that it does not reach, so that it takes as many products as were planned. What is in the
file is not measured again. The table goes into docs/processes.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from benchmarks import workloads
from benchmarks.lean import GPT, Setting, peak
from benchmarks.peers.pages import replaced
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.examination import planned as planning
from hesscope.examination import timing
from hesscope.krylov.rows import per_block

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks/results/planner.json"
PAGE = ROOT / "docs/processes.md"
Kind = Literal["graph kept", "graph rebuilt", "lean"]
Data = tuple[Any, ...]


@dataclass(frozen=True)
class Configuration:
    """A problem, and what is done with it."""

    make: Callable[[], tuple[nn.Module, Any, Data, Any]]
    task: Literal["product", "eigsh", "density"]
    kind: Kind
    num_matvecs: int = 1
    processes: int = 1
    place: str = "memory"


def perceptron() -> tuple[nn.Module, Any, Data, Any]:
    torch.manual_seed(0)
    sizes = (784, 512, 512, 10)
    layers = [nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(512, 10))
    return model, F.cross_entropy, (torch.randn(512, 784), torch.arange(512) % 10), None


def convolutions() -> tuple[nn.Module, Any, Data, Any]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 24), (24, 48)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
    data = torch.randn(64, 3, 16, 16), torch.arange(64) % 10
    return model.eval(), F.cross_entropy, data, None


def residual() -> tuple[nn.Module, Any, Data, Any]:
    data = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    return workloads.resnet20().eval(), F.cross_entropy, data, None


def next_word(logits: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())


def num_words(words: Tensor) -> int:
    return words[:, 1:].numel()


def gpt(
    layers: int, width: int, sequences: int, length: int = 64
) -> Callable[[], tuple[nn.Module, Any, Data, Any]]:
    def make() -> tuple[nn.Module, Any, Data, Any]:
        torch.manual_seed(0)
        model = GPT(Setting(layers=layers, width=width, heads=width // 64, length=length))
        words = torch.randint(256, (sequences, length))
        return model, next_word, (words, words), num_words

    return make


class Logits(nn.Module):
    """The logits of a model of Hugging Face."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, words: Tensor) -> Tensor:
        return self.inner(words).logits


def llama() -> tuple[nn.Module, Any, Data, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, use_cache=False,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    words = torch.randint(256, (8, 64))
    return Logits(LlamaForCausalLM(config)).eval(), next_word, (words, words), num_words


def bert() -> tuple[nn.Module, Any, Data, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=192, num_hidden_layers=4, num_attention_heads=3,
        intermediate_size=768, max_position_embeddings=64, num_labels=4,
    )  # fmt: skip
    model = Logits(BertForSequenceClassification(config)).eval()
    return model, F.cross_entropy, (torch.randint(1000, (8, 48)), torch.arange(8) % 4), None


class Last(nn.Module):
    """A class from the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(32, 192, num_layers=2, batch_first=True), nn.Linear(192, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def recurrent() -> tuple[nn.Module, Any, Data, Any]:
    torch.manual_seed(0)
    return Last(), F.cross_entropy, (torch.randn(32, 24, 32), torch.arange(32) % 8), None


CONFIGURATIONS = {
    "MLP 784-512-512-10": Configuration(perceptron, "eigsh", "graph kept", 30),
    "CNN with BatchNorm": Configuration(convolutions, "density", "graph kept", 40),
    "ResNet-20": Configuration(residual, "product", "graph rebuilt"),
    "LSTM": Configuration(recurrent, "product", "graph kept"),
    "BERT, 4 layers": Configuration(bert, "eigsh", "graph rebuilt", 12, 2),
    "Llama, 4 layers": Configuration(llama, "density", "lean", 16, 2),
    "GPT 1M": Configuration(gpt(5, 128, 8), "eigsh", "lean", 16),
    "GPT 3M": Configuration(gpt(7, 192, 4), "density", "graph kept", 16, 2),
    "GPT 10M": Configuration(gpt(8, 320, 4, 32), "eigsh", "lean", 10, place="disk"),
    "GPT 30M": Configuration(gpt(9, 512, 4, 32), "product", "lean"),
}


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    file = options.json or FILE
    rows = json.loads(file.read_text()) if file.exists() else {}
    for name in options.only or CONFIGURATIONS:
        if name not in rows or options.only:
            command = [sys.executable, "-m", "benchmarks.planner", "--one", name]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            rows[name] = json.loads(run.stdout.splitlines()[-1])
            print(name, json.dumps(rows[name]), flush=True)
            file.write_text(json.dumps(rows, indent=1) + "\n")
    if file == FILE and set(rows) == set(CONFIGURATIONS):
        PAGE.write_text(replaced(PAGE.read_text("utf-8"), table(rows)), "utf-8")
    print(table(rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, help="measured again")
    parser.add_argument("--json", type=Path, help="where results are kept")
    parser.add_argument("--one", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    return parser.parse_args()


def one(name: str) -> dict[str, Any]:
    """Forecast and truth of one configuration."""
    asked = CONFIGURATIONS[name]
    torch.set_num_threads(1)
    timing.clock = time.process_time
    problem = problem_of(asked)
    problem.loss()
    num = asked.num_matvecs
    found = planning.weighed(
        problem, asked.task, num, 5, asked.processes, PRODUCTS[asked.kind], verify=False
    )
    way = next(w for w in found.ways if (w.kind, w.place) == (asked.kind, asked.place))
    found = planning.timed(problem, found, way)
    gradient = median(cpu(problem.gradient) for _ in range(5))
    if asked.processes == 1:
        bytes_, took = work(asked, problem)
    else:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(in_one_of, (name, folder), nprocs=asked.processes)
            each = [json.loads((Path(folder) / f"{r}.json").read_text()) for r in range(2)]
        bytes_, took = (max(values) for values in zip(*each, strict=True))
    again = median(cpu(problem.gradient) for _ in range(5))
    return {
        "n": problem.n,
        "num_matvecs": num,
        "predicted_bytes": int(way.memory),
        "bytes": bytes_,
        "predicted_gradients": found.seconds / found.of_gradient,
        "gradients": took / ((gradient + again) / 2),
        "load": load(),
    }


PRODUCTS = {
    "graph kept": "reverse-over-reverse",
    "graph rebuilt": "reverse-over-reverse",
    "lean": "lean",
}


def problem_of(asked: Configuration, *, shard: bool = False) -> hs.Problem:
    model, loss, data, count = asked.make()
    return hs.Problem(model, loss, data, count=count, shard=shard)


def work(asked: Configuration, problem: hs.Problem) -> tuple[int, float]:
    """The most bytes of the task, and its processor time without the count of bytes."""
    memory = {"graph rebuilt": 0, "graph kept": 1 << 62}.get(asked.kind)

    def task() -> object:
        H = hs.Hessian(problem, PRODUCTS[asked.kind], memory=memory)
        if asked.task == "product":
            return H @ v
        if asked.task == "density":
            return hs.spectral_density(H, asked.num_matvecs, seed=0, basis=asked.place)
        # Of a tolerance that is not reached: one run, with as many products as were planned.
        how = {"tol": 1e-9, "verify": False, "basis": asked.place}
        return hs.eigsh(H, 5, seed=0, max_matvecs=asked.num_matvecs, **how)

    v = torch.ones(problem.n)
    block = per_block(problem.n) * -(-problem.n // 16) * 16 * problem.dtype.itemsize
    bytes_ = peak(task, other_than=block if asked.place == "disk" else 0)  # mapped files count
    return bytes_, median(cpu(task) for _ in range(3 if asked.task == "product" else 1))


def in_one_of(rank: int, name: str, folder: str) -> None:
    """The task in one of two processes."""
    torch.set_num_threads(1)
    asked = CONFIGURATIONS[name]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=asked.processes
    )
    problem = problem_of(asked, shard=True)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(work(asked, problem)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def load() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A line for each configuration."""
    lines = [
        "| | parameters | task | product | processes | MB: planned, taken | ratio "
        "| gradients: planned, taken | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        c = CONFIGURATIONS[name]
        task = c.task if c.task == "product" else f"{c.task}, {row['num_matvecs']} products"
        task += ", on disk" if c.place == "disk" else ""
        bytes_ = row["predicted_bytes"] / row["bytes"]
        time_ = row["predicted_gradients"] / row["gradients"]
        lines.append(
            f"| {name} | {row['n']:,} | {task} | {c.kind} | {c.processes} "
            f"| {row['predicted_bytes'] / 1e6:.0f}, {row['bytes'] / 1e6:.0f} | {bytes_:.2f} "
            f"| {row['predicted_gradients']:.1f}, {row['gradients']:.1f} | {time_:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
