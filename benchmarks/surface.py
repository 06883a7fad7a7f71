"""What a picture of a loss surface costs: against a plain loop, and the package loss-landscapes.

    python benchmarks/surface.py [--points 41] [--rounds 3] [--only mlp wide resnet] [--peers]

The same plane, data, batches and network for all. A round draws the whole surface once by each way
in turn and a ratio is taken within it; the median over rounds is shown. The loop is what one writes
by hand: parameters written in place, evaluation mode, no graph, a loss for each batch. `--peers`
adds `planar_interpolation` of loss-landscapes with a metric over the same batches (of which it
measures other points, one step further: only its time is used). `hs.loss_slice` is charged with all
that it does before: trying out ways, and checking them.

Every way is compared with float64 on `--check` points of each axis, relative to the loss there.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import workloads
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import hesscope as hs

CLOCK = time.perf_counter
Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.cpu:
        global CLOCK
        CLOCK = time.process_time
    rows = [measure(name, arguments) for name in arguments.only or NETWORKS]
    Console(width=120).print(table(rows, arguments))
    if arguments.json:
        facts = {"torch": torch.__version__, "threads": arguments.threads, "rows": rows}
        Path(arguments.json).write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=41, help="along each axis")
    parser.add_argument("--rounds", type=int, default=3, help="the median is shown")
    parser.add_argument("--images", type=int, default=128, help="for the ResNet")
    parser.add_argument("--batch", type=int, default=128, help="examples in a batch")
    parser.add_argument("--check", type=int, default=5, help="points of each axis, in float64")
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS))
    parser.add_argument("--peers", action="store_true", help="loss-landscapes, too")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--cpu", action="store_true", help="processor time: for --threads 1 on a busy machine"
    )
    return parser.parse_args()


def digits_mlp(_: int) -> tuple[nn.Module, Tensor, Tensor]:
    """MLP 64-32-10 on the digits of scikit-learn."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), *workloads.digits()


def wide_mlp(_: int) -> tuple[nn.Module, Tensor, Tensor]:
    """MLP 64-256-256-10, whose products fill the processor by themselves."""
    return workloads.mlp(), *workloads.digits()


def small_resnet(images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-20 on so many images of CIFAR-10."""
    inputs, targets, _ = workloads.cifar(images)
    return workloads.resnet20(), inputs, targets


NETWORKS = {"mlp": digits_mlp, "wide": wide_mlp, "resnet": small_resnet}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way in each round, how it was done, and how far the losses are off."""
    model, inputs, targets = NETWORKS[name](arguments.images)
    batches = list(zip(inputs.split(arguments.batch), targets.split(arguments.batch), strict=True))
    trained(model, batches)
    problem = hs.Problem(model, nn.functional.cross_entropy, batches)
    plane = hs.directions(problem, "filter", 2)
    axis = torch.linspace(-1, 1, arguments.points, dtype=torch.float64)
    if arguments.points % 2:
        axis[arguments.points // 2] = 0.0
    ways: dict[str, Callable[[], Any]] = {
        "hesscope": lambda: hs.loss_slice(
            problem, plane, span=1.0, num_points=arguments.points, max_matvecs=0
        ),
        "plain loop": lambda: plain_loop(model, batches, problem, plane.vectors, axis, axis),
    }
    if arguments.peers and importlib.util.find_spec("loss_landscapes"):
        ways["loss-landscapes"] = lambda: peer(model, batches, problem, plane, arguments.points)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        found = {}
        for way, draw in ways.items():
            start = CLOCK()
            found[way] = draw()
            seconds[way].append(CLOCK() - start)
    few = torch.linspace(0, arguments.points - 1, arguments.check).long()
    exact = in_float64(problem, batches, plane.vectors, axis[few])
    drawn = {"hesscope": found["hesscope"].losses, "plain loop": found["plain loop"]}
    return {
        "name": f"{name}, n = {problem.n:,}",
        "seconds": seconds,
        "way": found["hesscope"].facts["evaluated"],
        "largest loss": float(drawn["hesscope"].max()),
        "error": {
            way: float(((losses[few][:, few] - exact) / exact).abs().max())
            for way, losses in drawn.items()
        },
    }


def trained(model: nn.Module, batches: Batches, steps: int = 30) -> None:
    """A few steps of Adam, so that the surface has a bowl in it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for i in range(steps):
        inputs, targets = batches[i % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    model.eval()


@torch.no_grad()
def plain_loop(
    model: nn.Module, batches: Batches, problem: hs.Problem, vectors: Tensor, a: Tensor, b: Tensor
) -> Tensor:
    """The mean loss at each point, as one writes it by hand."""
    parameters = list(model.parameters())
    origin = [p.clone() for p in parameters]
    first, second = (problem.layout.split(v) for v in vectors.T.contiguous())
    num, losses = sum(len(y) for _, y in batches), torch.empty(len(a), len(b), dtype=torch.float64)
    for i, x in enumerate(a.tolist()):
        for j, y in enumerate(b.tolist()):
            for p, o, d, e in zip(parameters, origin, first, second, strict=True):
                p.copy_(o + x * d + y * e)
            total = 0.0
            for inputs, targets in batches:
                loss = nn.functional.cross_entropy(model(inputs), targets)
                total += float(loss) * len(targets)
            losses[i, j] = total / num
    for p, o in zip(parameters, origin, strict=True):
        p.copy_(o)
    return losses


def in_float64(problem: hs.Problem, batches: Batches, vectors: Tensor, axis: Tensor) -> Tensor:
    """The losses by the plain loop in double precision."""
    model = copy.deepcopy(problem.model).double()
    doubled = [(inputs.double(), targets) for inputs, targets in batches]
    return plain_loop(model, doubled, problem, vectors.double(), axis, axis)


def peer(model: nn.Module, batches: Batches, problem: hs.Problem, plane: Any, points: int) -> Any:
    """The same number of points on the same plane by loss-landscapes."""
    import loss_landscapes
    from loss_landscapes.metrics.metric import Metric

    class MeanLoss(Metric):
        def __call__(self, wrapper: Any) -> float:
            num = sum(len(targets) for _, targets in batches)
            total = 0.0
            for inputs, targets in batches:
                loss = nn.functional.cross_entropy(wrapper.forward(inputs), targets)
                total += loss.item() * len(targets)
            return total / num

    corner = problem.theta - plane.vectors.sum(1)
    ends = [corner, corner + 2 * plane.vectors[:, 0], corner + 2 * plane.vectors[:, 1]]
    models = []
    for theta in ends:
        models.append(copy.deepcopy(model))
        for p, piece in zip(models[-1].parameters(), problem.layout.split(theta), strict=True):
            p.data.copy_(piece)
    return loss_landscapes.planar_interpolation(*models, MeanLoss(), steps=points)


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Table:
    """Times faster than each, and the errors."""
    points = f"{arguments.points} x {arguments.points}"
    shown = Table(
        title=f"{points} surfaces, {arguments.threads} threads, {arguments.rounds} rounds"
    )
    for column in ("network", "hesscope", "faster than", "error against float64", "evaluated"):
        shown.add_column(column)
    for row in rows:
        ours = row["seconds"]["hesscope"]
        ratios = {
            way: [theirs / own for theirs, own in zip(taken, ours, strict=True)]
            for way, taken in row["seconds"].items()
            if way != "hesscope"
        }
        gains = [
            f"{way} {statistics.median(found):.2f} x [{min(found):.2f}-{max(found):.2f}]"
            for way, found in ratios.items()
        ]
        errors = [f"{way} {error:.1e}" for way, error in row["error"].items()]
        seconds = f"{statistics.median(ours):.1f} s"
        shown.add_row(row["name"], seconds, "\n".join(gains), "\n".join(errors), row["way"])
    return shown


if __name__ == "__main__":
    main()
