"""How many Hessian-vector products the ten largest eigenpairs cost.

    python benchmarks/eigenpairs.py [--seeds 5] [--only mlp] [--cache FOLDER] [--json FILE]

Matvecs are counted exactly; those of `eigsh` include the one that checks the pairs. "plain" is
Lanczos with full reorthogonalisation that stops on the residuals of its recurrence: it may skip an
eigenvalue, does not see copies, and checks nothing with a fresh product. Both networks are
trained; the ResNet once, its weights go to the cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import workloads
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import hesscope as hs
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, random_start

K, TOL = 10, 1e-3
TRAINED, MOST_EPOCHS, IMAGES = 1.0, 120, 256
CACHE = Path.home() / ".cache" / "hesscope"


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows = [
        measure(key, make(arguments.cache), target, arguments.seeds)
        for key, (make, target) in NETWORKS.items()
        if not arguments.only or key in arguments.only
    ]
    Console(width=110).print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"torch": torch.__version__, "k": K, "tol": TOL, "rows": rows}, indent=1)
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where trained weights are kept")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def trained_mlp(_: Path) -> workloads.Workload:
    """30 epochs of SGD with momentum on the digits: a few seconds."""
    inputs, targets = workloads.digits()
    model = workloads.mlp()
    descend(model, inputs, targets, epochs=30, rate=0.1, size=128)
    return workloads.supervised("MLP digits", model, inputs, targets, "1797 digits, 30 epochs")


def trained_resnet(cache: Path) -> workloads.Workload:
    """ResNet-20 on 256 CIFAR-10 images until its loss is below 1; read again if it exists.

    The loss is that of evaluation mode, which is what the Hessian belongs to: with few steps the
    running statistics lag behind, and it can be far above the loss of training mode.
    """
    inputs, targets, source = workloads.cifar(IMAGES)
    model = workloads.resnet20()
    file = cache / f"resnet20_{source.replace(' ', '_')}_{IMAGES}_below_1.safetensors"
    if file.exists():
        load_model(model, file)
    else:
        for _ in range(MOST_EPOCHS // 5):
            descend(model, inputs, targets, epochs=5, rate=0.05, size=64)
            if evaluated(model, inputs, targets) < TRAINED:
                break
        else:
            msg = f"the ResNet has not reached a loss of {TRAINED:g} in {MOST_EPOCHS} epochs."
            raise RuntimeError(msg)
        cache.mkdir(parents=True, exist_ok=True)
        save_model(model, str(file))
    return workloads.supervised("ResNet-20", model, inputs, targets, f"{IMAGES} {source}")


@torch.no_grad()
def evaluated(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """The mean loss in evaluation mode."""
    return float(nn.functional.cross_entropy(model.eval()(inputs), targets))


def descend(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, epochs: int, rate: float, size: int
) -> None:
    """SGD with momentum 0.9 on shuffled batches of `size`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()


NETWORKS: dict[str, tuple[Callable[[Path], workloads.Workload], int]] = {
    "mlp": (trained_mlp, 45),
    "resnet": (trained_resnet, 60),
}


class Remembering(hs.SymmetricOperator):
    """H, but a vector that was multiplied before costs no time; methods share their first runs."""

    def __init__(self, H: hs.Hessian) -> None:
        super().__init__(H.n, dtype=H.dtype, device=H.device)
        self.H = H
        self.products: dict[bytes, Tensor] = {}

    def matmat(self, V: Tensor) -> Tensor:
        key = V.contiguous().numpy().tobytes()
        if key not in self.products:
            self.products[key] = self.H @ V
        return self.products[key]


def measure(key: str, workload: workloads.Workload, target: int, seeds: int) -> dict[str, Any]:
    """Matvecs of each method for each seed, and whether the result is certified complete."""
    H = Remembering(hs.Hessian(workload.problem))
    counts: dict[str, list[int]] = {"verified": [], "unverified": [], "plain": []}
    certified, found = [], []
    for seed in range(seeds):
        H.products.clear()
        verified = hs.eigsh(H, K, tol=TOL, seed=seed)
        counts["verified"].append(verified.num_matvecs)
        certified.append(bool(verified.certificate.complete and verified.converged.all()))
        counts["unverified"].append(hs.eigsh(H, K, tol=TOL, seed=seed, verify=False).num_matvecs)
        theta, num_matvecs = plain(H, seed)
        counts["plain"].append(num_matvecs)
        print(workload.name, seed, {name: c[-1] for name, c in counts.items()}, file=sys.stderr)
        found.append(float(np.abs(theta / verified.eigenvalues.numpy() - 1).max()))
    return {
        "key": key,
        "name": workload.name,
        "data": workload.data,
        "n": workload.problem.n,
        "loss": workload.problem.loss(),
        "target": target,
        "matvecs": counts,
        "certified": certified,
        "plain_differs": found,
        "eigenvalues": verified.eigenvalues.tolist(),
    }


def plain(H: hs.SymmetricOperator, seed: int) -> tuple[np.ndarray, int]:
    """Lanczos until the k largest Ritz values have residuals below tol: the values, the steps."""
    locked = Basis(H)
    run = Lanczos(H, random_start(H, locked, seed), locked)
    while not run.exhausted:
        run.step()
        theta, _, residuals = run.ritz()
        if len(theta) >= K and (residuals[-K:] <= TOL * np.abs(theta[-K:])).all():
            break
    return theta[::-1][:K], run.num_steps


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title=f"Matvecs for the {K} largest eigenpairs, tol {TOL:g}: median (all seeds)")
    columns = ("network", "n", "loss", "verified", "target", "verify=False", "plain Lanczos")
    for name in (*columns, "certified"):
        out.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        worst = max(row["matvecs"]["verified"])
        out.add_row(
            f"{row['name']}\n{row['data']}",
            f"{row['n']:,}",
            f"{row['loss']:.4f}",
            cell(row, "verified"),
            f"{row['target']} {'met' if worst <= row['target'] else 'missed'}",
            cell(row, "unverified"),
            cell(row, "plain"),
            f"{sum(row['certified'])} of {len(row['certified'])}",
        )
    return out


def cell(row: dict[str, Any], name: str) -> str:
    counts = row["matvecs"][name]
    return f"{statistics.median(counts):g} ({', '.join(map(str, counts))})"


if __name__ == "__main__":
    main()
