"""What one product of the Hessian's relatives costs, in gradients.

    python benchmarks/relatives.py [--threads 2] [--repeat 15]

Kept graphs; the gradient is taken on the same model and data, each ratio within one round.
"""

from __future__ import annotations

import argparse

import torch
import workloads
from hvp import rounds
from rich.console import Console
from rich.table import Table

import hesscope as hs
from hesscope import probes

OPERATORS = {"GaussNewton": hs.GaussNewton, "EmpiricalFisher": hs.EmpiricalFisher, "H": hs.Hessian}
TARGETS = {"MLP digits": (1.5, 2.0), "ResNet-20 eval": (2.2, 2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15, help="rounds; the median is shown")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(title=f"product / gradient, {arguments.threads} threads, [quartiles] (target)")
    for name in ("network", *OPERATORS):
        table.add_column(name)
    for workload in (workloads.digits_mlp(), workloads.resnet20_on_cifar()):
        table.add_row(workload.name, *measure(workload, arguments.repeat))
    Console(width=110).print(table)


def measure(workload: workloads.Workload, repeat: int) -> list[str]:
    v = probes.gaussian(workload.problem.n, seed=0, dtype=torch.float32)
    operators = {name: kind(workload.problem) for name, kind in OPERATORS.items()}
    for A in operators.values():
        A @ v  # builds the graphs
    jobs = {name: lambda A=A: A @ v for name, A in operators.items()}
    targets = dict(zip(OPERATORS, TARGETS[workload.name], strict=False))
    cells = []
    for name, found in rounds(workload.gradient, jobs, repeat).items():
        aim = f" ({targets[name]})" if name in targets else ""
        cells.append(f"{found['median']:.2f} [{found['lower']:.2f}-{found['upper']:.2f}]{aim}")
    return cells


if __name__ == "__main__":
    main()
