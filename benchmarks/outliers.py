"""How many outliers the spectra of small classifiers have, and whether the count is clear.

    python benchmarks/outliers.py [--initial narrow|torch] [--only trained] [--json FILE]

Networks 30-16-16-C (ReLU, softmax) on N Gaussian points around C centres, C = 3, 5, 10, in float64
by gradient descent with momentum. States: nine trained but not interpolating per C, at
initialisation (with and without classes in the inputs), and interpolating. Initial weights are
N(0, 1/fan-in) without biases ("narrow") or PyTorch's. For each state and matrix: in how many cases
the count is C - 1, clear, or both, and in how many the class subspace holds C - 1 eigenvectors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import hesscope as hs

INPUTS, HIDDEN, CLASSES, SEEDS = 30, 16, (3, 5, 10), 3
MATRICES = {"Gauss-Newton": hs.GaussNewton, "Hessian": hs.Hessian}
STATES = {  # name: (distance of the centres, steps of gradient descent)
    "trained": ((0.3, 40), (0.3, 300), (0.15, 300)),
    "initial": ((0.3, 0),),
    "initial, no classes": ((0.0, 0),),
    "interpolating": ((1.0, 1500),),
}


@dataclass(frozen=True)
class Case:
    """A network with its data and mean loss."""

    state: str
    num_classes: int
    spread: float
    steps: int
    seed: int
    loss: float
    problem: hs.Problem


def cases(*states: str, initial: str = "narrow", seeds: int = SEEDS) -> Iterator[Case]:
    """All networks of these states."""
    for state in states:
        for C in CLASSES:
            for spread, steps in STATES[state]:
                for seed in range(seeds):
                    yield case(state, C, spread, steps, seed, initial)


def case(
    state: str, num_classes: int, spread: float, steps: int, seed: int, initial: str = "narrow"
) -> Case:
    """One network after these steps; the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = clusters(num_classes, spread, generator)
    model = network(num_classes, generator, initial)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(inputs), labels))
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (inputs, labels))
    return Case(state, num_classes, spread, steps, seed, loss, problem)


def clusters(num_classes: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard normal points around centres drawn from N(0, spread² I), in equal numbers."""
    num = 1000 if num_classes == 10 else 1500
    labels = torch.arange(num) % num_classes
    centres = spread * torch.randn(num_classes, INPUTS, generator=generator, dtype=torch.float64)
    noise = torch.randn(num, INPUTS, generator=generator, dtype=torch.float64)
    return centres[labels] + noise, labels


def network(num_classes: int, generator: torch.Generator, initial: str) -> nn.Module:
    """A multilayer perceptron with weights N(0, 1/fan-in) and no biases, or PyTorch's uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        model = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, num_classes),
        ).double()  # fmt: skip
    if initial == "narrow":
        with torch.no_grad():
            for layer in model[::2]:
                layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()
    return model


def measure(case: Case) -> list[dict[str, Any]]:
    """Counts on both matrices, with the class subspace of their leading eigenvectors."""
    C, rows = case.num_classes, []
    for name, matrix in MATRICES.items():
        A = matrix(case.problem)
        pairs = hs.eigsh(A, k=2 * C + 2)
        overlap = hs.class_decomposition(case.problem, pairs).overlap
        found = hs.outliers(hs.spectrum(A, check=False), C, classes=overlap)
        listed = hs.outliers(pairs, C)
        rows.append(
            {
                "state": case.state, "C": C, "spread": case.spread, "steps": case.steps,
                "seed": case.seed, "loss": case.loss, "matrix": name, "count": found.count,
                "gap_ratio": found.gap_ratio, "runner_up": found.runner_up,
                "runner_up_ratio": found.runner_up_ratio, "clear": found.clear,
                "class_count": found.class_count, "reasons": found.reasons,
                "pairs_agree": (listed.count, listed.clear) == (found.count, found.clear),
            }
        )  # fmt: skip
    return rows


def line(row: dict[str, Any]) -> str:
    return (
        f"C={row['C']:<2} spread {row['spread']:<4} steps {row['steps']:<4} seed {row['seed']} "
        f"loss {row['loss']:.3g}  {row['matrix']}: {row['count']} "
        f"{'clear' if row['clear'] else 'unclear'}, ratio {row['gap_ratio']:.2f}, runner-up "
        f"{row['runner_up']}: {row['runner_up_ratio']:.2f}, class subspace {row['class_count']}"
    )


def table(rows: list[dict[str, Any]], initial: str) -> Table:
    out = Table(title=f"networks {INPUTS}-{HIDDEN}-{HIDDEN}-C, initial weights: {initial}")
    columns = ("cases", "loss", "C - 1", "clear", "clear, C - 1", "class subspace C - 1", "k pairs")
    for name in ("state", "matrix", *columns):
        out.add_column(name, justify="left" if name in {"state", "matrix"} else "right")
    for state in dict.fromkeys(row["state"] for row in rows):
        for matrix in MATRICES:
            group = [r for r in rows if (r["state"], r["matrix"]) == (state, matrix)]
            right = [r["count"] == r["C"] - 1 for r in group]
            out.add_row(
                state, matrix, str(len(group)),
                f"{min(r['loss'] for r in group):.2g}-{max(r['loss'] for r in group):.2g}",
                str(sum(right)), str(sum(r["clear"] for r in group)),
                str(sum(r["clear"] and ok for r, ok in zip(group, right, strict=True))),
                str(sum(r["class_count"] == r["C"] - 1 for r in group)),
                str(sum(r["pairs_agree"] for r in group)),
            )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--initial", choices=("narrow", "torch"), default="narrow")
    parser.add_argument("--only", nargs="+", choices=STATES, default=list(STATES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for each in cases(*arguments.only, initial=arguments.initial, seeds=arguments.seeds):
        for row in measure(each):
            print(line(row), flush=True)
            rows.append(row)
    Console(width=130).print(table(rows, arguments.initial))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**vars(arguments), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
