"""What it costs to watch training, whether λmax is right, and the edge of stability.

    python benchmarks/monitor.py follow [--steps 600]   # λmax at each check, beside the truth
    python benchmarks/monitor.py overhead [--seconds 20]  # the share of the time that checks take
    python benchmarks/monitor.py edge [--seeds 3] [--steps 8000] [--rates .1 .2 .3 .4]
    python benchmarks/monitor.py muon [--seeds 2]

`follow`: the products of λmax itself, besides those along gradient and step that it makes use of.
An MLP on the digits with momentum, the same with Adam, and a GPT-2 of two layers with AdamW; the
truth is `hs.eigsh` from a random start at tol 1e-6. `overhead`: models with steps of about 1 ms and
1 s. `edge`: Cohen et al. 2021, full-batch gradient descent on a tanh MLP 49-20-20-10
with MSE on 1,000 images pooled to 7x7 (those of the paper of Sagun et al. in papers/data): η λmax
should settle at 2. `muon`: a tanh network 49-20-10 on 200 of these images, full batch: the harmonic
mean of lr over its limit for the ball of its steps, and the mean of d·Hd/2 over that of -g·d along
the steps themselves, which is 1 where the loss rests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from workloads import digits, mlp

import hesscope as hs

sys.path.insert(0, str(Path(__file__).parents[1] / "papers"))


def follow(options: argparse.Namespace) -> None:
    """λmax of the monitor beside a converged run, at every check of three trainings."""
    for name, model, loss, batches, probe, optimizer in _trainings():
        problem = hs.Problem.from_closure(model, lambda m, b, loss=loss: loss(m, b), [probe])
        quantities = ["gradient_curvature", "update_curvature", "lambda_max", _converged]
        if options.alone:
            quantities = quantities[2:]
        with hs.Monitor(problem, optimizer, every=options.every, quantities=quantities) as monitor:
            for _ in range(options.steps):
                optimizer.zero_grad()
                loss(model, next(batches)).backward()
                optimizer.step()
        history = monitor.history
        found, true = history["lambda_max"].values, history["_converged"].values
        errors = ((found - true).abs() / true.abs()).tolist()
        spent = history["lambda_max_matvecs"].values
        products = spent.tolist()
        age = history["lambda_max_age"].values
        print(
            f"{name:<22} {len(errors)} checks, within 2 %: "
            f"{sum(e <= 0.02 for e in errors) / len(errors):.3f}, largest error {max(errors):.1%}; "
            f"products {statistics.mean(products):.2f} a check, without proofs "
            f"{float(spent[age > 0].mean()):.2f} ({int((age == 0).sum())} proofs)",
            flush=True,
        )


def _converged(problem: hs.Problem) -> float:
    """λmax, converged from a random start."""
    found = hs.eigsh(hs.Hessian(problem), k=1, tol=1e-6, verify=False, seed=7)
    return float(found.eigenvalues[0])


def _trainings() -> Iterator[tuple[Any, ...]]:
    inputs, targets = digits()

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def drawn() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            index = torch.randint(0, len(inputs), (64,))
            yield inputs[index], targets[index]

    probe = inputs[:512], targets[:512]
    torch.manual_seed(0)
    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    yield "MLP digits, momentum", model, loss, drawn(), probe, sgd
    torch.manual_seed(1)
    model = mlp()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    yield "MLP digits, Adam", model, loss, drawn(), probe, adam
    yield _gpt()


def _gpt() -> tuple[Any, ...]:
    """Two layers of width 64 on the bytes of this repository's own README."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=4, use_cache=False
    )
    model = GPT2LMHeadModel(config).eval()
    text = (Path(__file__).parents[1] / "README.md").read_bytes()
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()

    def drawn() -> Iterator[Tensor]:
        while True:
            starts = torch.randint(0, len(tokens) - 64, (16,))
            yield torch.stack([tokens[s : s + 64] for s in starts])

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch, labels=batch).loss

    batches = drawn()
    return (
        "GPT-2 2x64, AdamW",
        model,
        loss,
        batches,
        next(batches),
        torch.optim.AdamW(model.parameters(), lr=1e-3),
    )


def overhead(options: argparse.Namespace) -> None:
    """The share of the time of training that checks take, for quick steps and for slow ones."""
    inputs, targets = digits()
    for name, width, rows in (("about 1 ms", 32, 64), ("about 1 s", 2048, 1797)):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 10),
        )  # fmt: skip
        repeated = inputs.repeat(4, 1)[: rows * 4 if rows > 64 else rows]
        labels = targets.repeat(4)[: len(repeated)]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        problem = hs.Problem(model, nn.CrossEntropyLoss(), (repeated[:512], labels[:512]))
        steps = 0
        monitor = hs.Monitor(problem, optimizer, overhead=0.05)
        began = time.perf_counter()
        while time.perf_counter() - began < options.seconds * (1 if rows == 64 else 10):
            optimizer.zero_grad()
            cross_entropy(model(repeated), labels).backward()
            optimizer.step()
            steps += 1
        whole = time.perf_counter() - began
        checks = float(monitor.history["check_seconds"].values.sum())
        count = len(monitor.history["check_seconds"])
        print(
            f"steps of {name}: {1e3 * (whole - checks) / steps:.2f} ms, {steps} steps, {count} "
            f"checks of {1e3 * checks / count:.1f} ms, {checks / (whole - checks):.1%} of training",
            flush=True,
        )


def edge(options: argparse.Namespace) -> None:
    """η λmax along full-batch gradient descent, and λmax of P⁻¹H over its limit under Adam."""
    from common import data

    X, y = data.digits(options.data or data.DEFAULT, pool=4)
    inputs = X.float()
    inputs = (inputs - inputs.mean()) / inputs.std()
    targets = one_hot(y.long(), 10).float()
    kinds = [("GD", rate) for rate in options.rates] + [("Adam", 1e-3)]
    found = {}
    for kind, rate in kinds:
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = nn.Sequential(
                nn.Linear(49, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 10)
            )
            optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            if kind == "Adam":
                optimizer = torch.optim.Adam(model.parameters(), lr=rate)
            problem = hs.Problem(model, _half_squares, (inputs, targets))
            keys = ["loss", "lambda_max", "stability"]
            with hs.Monitor(problem, optimizer, every=20, quantities=keys) as monitor:
                for _ in range(options.steps):
                    optimizer.zero_grad()
                    _half_squares(model(inputs), targets).backward()
                    optimizer.step()
            history = monitor.history
            ratio = history["sharpness_over_limit"].between(options.steps - 1000, options.steps)
            mean = 2 * float(ratio.values.mean())
            found[f"{kind} {rate} seed {seed}"] = mean
            print(
                f"{kind} lr {rate} seed {seed}: twice λmax over its limit, last 1000 steps "
                f"{mean:.3f}; λmax {history['lambda_max'].values[0]:.3g} to "
                f"{history['lambda_max'].last:.3g}, loss {history['loss'].last:.4g}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def muon(options: argparse.Namespace) -> None:
    """Where Muon hovers: by the sharpest member of its ball, and along its own steps."""
    from common import data

    X, y = data.digits(options.data or data.DEFAULT, pool=4)
    inputs = X.float()[:200]
    inputs = (inputs - inputs.mean()) / inputs.std()
    targets = one_hot(y.long(), 10).float()[:200]
    keys = ["loss", "stability", "update_curvature", "update_norm", "predicted_change"]
    for momentum in (0.0, 0.95):
        for lr in (0.02, 0.05):
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                model = nn.Sequential(
                    nn.Linear(49, 20, bias=False), nn.Tanh(), nn.Linear(20, 10, bias=False)
                )
                optimizer = torch.optim.Muon(
                    model.parameters(), lr=lr, momentum=momentum, weight_decay=0.0
                )
                problem = hs.Problem(model, _half_squares, (inputs, targets))
                monitor = hs.Monitor(problem, optimizer, every=7, quantities=keys)
                for _ in range(900):  # 7 is odd: both phases of an oscillation are seen
                    optimizer.zero_grad()
                    _half_squares(model(inputs), targets).backward()
                    optimizer.step()
                monitor.close()
                late = monitor.history[600:]
                over = late["sharpness_over_limit"].values
                bend = late["update_curvature"].values * late["update_norm"].values ** 2 / 2
                slope = bend - late["predicted_change"].values
                print(
                    f"momentum {momentum} lr {lr} seed {seed}: lr over its limit, harmonic mean "
                    f"{float(1 / (1 / over).mean()):.3f}; along its steps "
                    f"{float(bend.mean() / slope.mean()):.3f}; loss {late['loss'].last:.3g}",
                    flush=True,
                )


def _half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance of an example, in the mean, as in the paper."""
    return (outputs - targets).square().sum(1).mean() / 2


def main() -> None:
    """Reads the command line and runs one of the four."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("follow", help=follow.__doc__)
    one.add_argument("--steps", type=int, default=600)
    one.add_argument("--every", type=int, default=10)
    one.add_argument("--alone", action="store_true", help="without products along g and d")
    one.set_defaults(run=follow)
    one = commands.add_parser("overhead", help=overhead.__doc__)
    one.add_argument("--seconds", type=float, default=20.0)
    one.set_defaults(run=overhead)
    one = commands.add_parser("edge", help=edge.__doc__)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--steps", type=int, default=8000)
    one.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4])
    one.add_argument("--data", type=Path)
    one.add_argument("--json", type=Path)
    one.set_defaults(run=edge)
    one = commands.add_parser("muon", help=muon.__doc__)
    one.add_argument("--seeds", type=int, default=2)
    one.add_argument("--data", type=Path)
    one.set_defaults(run=muon)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
