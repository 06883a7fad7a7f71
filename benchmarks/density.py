"""How far spectral densities are from the exact spectrum, at equal numbers of products.

    python benchmarks/density.py [--peers] [--seeds 5] [--only initial trained nn] [--json FILE]
    python benchmarks/density.py --large [--repeat 3]     # n = 1,000,000: time and memory

An MLP 64-60-35-10 (6,395 parameters) on the digits in float64, at initialisation and trained by
full-batch SGD with momentum to three losses, and two spectra that are known by formula. The
distance is Wasserstein's W1 between the exact eigenvalues and nodes with weights, relative to the
range; medians over seeds. Products are counted in all, those of verification included.

`--peers` adds PyHessian and curvlinops, where they are installed (see README.md), on the same
networks. PyHessian needs `torch.eig`, which torch has removed; here it gets `torch.linalg.eigh`,
and float64 throughout. Both are measured through their own public functions.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import workloads
from rich.console import Console
from rich.table import Table
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

import hesscope as hs

BUDGETS = (100, 200, 400)
LOSSES = {"loss 0.2": 0.2, "loss 0.014": 0.014, "loss 0.0005": 0.0005}
NETWORKS = ("initial", *LOSSES)
FAMILIES = ("nn", "sing")
SIZE, LARGE, STORED = 5000, 1_000_000, 100
LARGE_SETTINGS = [
    (dtype, verify) for dtype in (torch.float32, torch.float64) for verify in (True, False)
]
MOST_STEPS = 20_000

Rule = tuple[np.ndarray, np.ndarray]  # nodes, weights
Method = Callable[[int, int], Rule | None]  # of budget and seed; None where the budget is too small
console = Console(width=140)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.large:
        rows = [apart(*setting, arguments) for setting in LARGE_SETTINGS]
        console.print(large_table(rows))
    else:
        if arguments.peers:
            announce_peers()
        rows = []
        for case in cases(arguments.only):
            rows += measure(case, arguments.seeds, arguments.peers)
        console.print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"torch": torch.__version__, "rows": rows}, indent=1)
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=(*NETWORKS, *FAMILIES))
    parser.add_argument("--peers", action="store_true", help="PyHessian and curvlinops, too")
    parser.add_argument("--large", action="store_true", help="time and memory at n = 1,000,000")
    parser.add_argument("--repeat", type=int, default=3, help="of --large")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


# The operators


class Counted(hs.SymmetricOperator):
    """An operator that counts its products and their seconds."""

    def __init__(self, A: hs.SymmetricOperator) -> None:
        super().__init__(A.n, dtype=A.dtype, device=A.device)
        self.A, self.positive_semidefinite = A, A.positive_semidefinite
        self.products, self.seconds = 0, 0.0

    def matmat(self, V: Tensor) -> Tensor:
        start = time.perf_counter()
        W = self.A @ V
        self.seconds += time.perf_counter() - start
        self.products += V.shape[1]
        return W


class Diagonal(hs.SymmetricOperator):
    """diag(eigenvalues): to a Gaussian start as good as any matrix with this spectrum."""

    def __init__(self, eigenvalues: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(len(eigenvalues), dtype=dtype)
        self.eigenvalues = eigenvalues.to(dtype)

    def matmat(self, V: Tensor) -> Tensor:
        return self.eigenvalues[:, None] * V


@dataclass
class Case:
    """An operator, its exact eigenvalues, and the network that it belongs to, if any."""

    name: str
    A: hs.SymmetricOperator
    eigenvalues: np.ndarray
    network: Network | None = None

    @property
    def range(self) -> float:
        return float(np.ptp(self.eigenvalues))

    def distance(self, rule: Rule) -> float:
        """W1 to the exact spectrum, in units of its range."""
        nodes, weights = rule
        return float(wasserstein_distance(self.eigenvalues, nodes, None, weights)) / self.range


@dataclass
class Network:
    """A model in float64 with one batch, which is all of its data."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    problem: hs.Problem = field(init=False)

    def __post_init__(self) -> None:
        batch = (self.inputs, self.targets)
        self.problem = hs.Problem(self.model, nn.functional.cross_entropy, batch)


def networks(only: list[str] | None = None) -> Iterator[Network]:
    """One training run by full-batch SGD, looked at four times."""
    inputs, targets = workloads.digits()
    inputs = inputs.double()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 35), nn.ReLU(), nn.Linear(35, 10)
    ).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    waiting = [name for name in NETWORKS if not only or name in only]
    for _ in range(MOST_STEPS):
        if not waiting:
            return
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if waiting[0] == "initial" or loss.item() <= LOSSES[waiting[0]]:
            yield Network(waiting.pop(0), copy.deepcopy(model).eval(), inputs, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    msg = f"the loss has not come down to that of {waiting} in {MOST_STEPS} steps."
    raise RuntimeError(msg)


def cases(only: list[str] | None) -> Iterator[Case]:
    wanted = only or [*NETWORKS, *FAMILIES]
    if any(name in NETWORKS for name in wanted):
        for network in networks([name for name in wanted if name in NETWORKS]):
            H = hs.Hessian(network.problem)
            yield Case(network.name, H, hs.spectrum(H).eigenvalues.numpy(), network)
    for name in wanted:
        if name in FAMILIES:
            values = family(name, SIZE)
            yield Case(f"{name} {SIZE}", Diagonal(torch.from_numpy(values)), values)


def family(kind: str, n: int) -> np.ndarray:
    """Like a trained network: 55 outliers and a heavy-tailed bulk ("nn"); 70 % zeros ("sing")."""
    if kind == "nn":
        bulk = np.random.default_rng(1).standard_t(2, n) * 3e-4
        negative = -np.logspace(np.log10(0.3), -2, 5)
        return np.sort(np.concatenate([np.logspace(1, -2, 50), negative, bulk[: n - 55]]))
    zeros = int(0.7 * n)
    positive = (n - zeros) * 2 // 3
    tail = np.arange(1, n) ** -1.2
    ends = [20 * tail[:positive], -0.5 * tail[: n - zeros - positive]]
    return np.sort(np.concatenate([*ends, np.zeros(zeros)]))


# The methods


def own_methods(A: hs.SymmetricOperator) -> dict[str, Method]:
    def ours(budget: int, seed: int) -> Rule:
        return rule(hs.spectral_density(A, budget, seed=seed))

    def slq(num: int) -> Method:
        def method(budget: int, seed: int) -> Rule:
            """`num` runs that share the budget, each with full reorthogonalisation."""
            runs = [
                rule(hs.spectral_density(A, budget // num, deflate="none", seed=1000 * seed + i))
                for i in range(num)
            ]
            return joined(runs)

        return method

    return {"hesscope": ours, "SLQ 1": slq(1), "SLQ 5": slq(5), "SLQ 10": slq(10)}


def rule(density: Any) -> Rule:
    return density.nodes.numpy(), density.weights.numpy()


def joined(rules: list[Rule]) -> Rule:
    return np.concatenate([x for x, _ in rules]), np.concatenate([w for _, w in rules]) / len(rules)


def announce_peers() -> None:
    for name in ("pyhessian", "curvlinops"):
        if not present(name):
            console.print(f"{name} is not installed here: its columns are left out (README.md).")


def present(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def pyhessian_methods(network: Network, counter: list[int]) -> dict[str, Method]:
    """PyHessian's density with its defaults (one run), and with five."""
    peer = pyhessian_of(network, counter)

    def density(num: int) -> Method:
        def method(budget: int, seed: int) -> Rule:
            torch.manual_seed(seed)
            with float64_by_default():
                nodes, weights = peer.density(iter=budget // num, n_v=num)
            return joined([(np.array(x), np.array(w)) for x, w in zip(nodes, weights, strict=True)])

        return method

    return {"PyHessian 1": density(1), "PyHessian 5": density(5)}


def pyhessian_of(network: Network, counter: list[int]) -> Any:
    """PyHessian's object for this network; every product adds one to the counter."""
    module = importlib.import_module("pyhessian.hessian")
    if not getattr(module.hessian_vector_product, "counts", False):
        module.hessian_vector_product = counting(module.hessian_vector_product)
    module.hessian_vector_product.counter = counter
    torch.eig = symmetric_eig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # backward with create_graph, which it uses
        return module.hessian(
            copy.deepcopy(network.model),
            nn.functional.cross_entropy,
            data=(network.inputs, network.targets),
            cuda=False,
        )


def counting(product: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        counted.counter[0] += 1  # type: ignore[attr-defined]
        return product(*args)

    counted.counts = True  # type: ignore[attr-defined]
    return counted


def symmetric_eig(T: Tensor, eigenvectors: bool = True) -> tuple[Tensor, Tensor]:
    """What `torch.eig` gave for a symmetric matrix, more accurately."""
    assert eigenvectors
    values, vectors = torch.linalg.eigh(T)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


@contextmanager
def float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def curvlinops_methods(network: Network, counter: list[int]) -> dict[str, Method]:
    """Its Lanczos nodes at the full budget, and its smooth density, which finds the ends first."""
    spectra = importlib.import_module("curvlinops.papyan2020traces.spectrum")
    H = curvlinops_hessian(network, counter)

    def nodes(budget: int, seed: int) -> Rule:
        torch.manual_seed(seed)
        theta, S = spectra.fast_lanczos(H, budget)
        return theta.numpy(), S[0].square().numpy()

    def smooth(budget: int, seed: int) -> Rule | None:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # ARPACK's start
        before = counter[0]
        ends = spectra.approximate_boundaries(H)
        left = budget - (counter[0] - before)
        if left < 3:
            return None
        x, density = spectra.lanczos_approximate_spectrum(H, left, boundaries=ends)
        return x.numpy(), density.numpy()

    return {"curvlinops nodes": nodes, "curvlinops smooth": smooth}


def curvlinops_hessian(network: Network, counter: list[int]) -> Any:
    """curvlinops' operator for this network; every column adds one to the counter."""
    curvlinops = importlib.import_module("curvlinops")

    class Hessian(curvlinops.HessianLinearOperator):  # type: ignore[name-defined,misc]
        def _matmat(self, X: list[Tensor]) -> list[Tensor]:
            counter[0] += X[0].shape[-1]
            return super()._matmat(X)  # type: ignore[no-any-return]

    model = copy.deepcopy(network.model)
    data = [(network.inputs, network.targets)]
    loss = nn.CrossEntropyLoss()
    return Hessian(model, loss, list(model.parameters()), data, check_deterministic=False)


# The measurement


def measure(case: Case, seeds: int, peers: bool) -> list[dict[str, Any]]:
    """One row per budget: all distances and products of each method."""
    A, counter = Counted(case.A), [0]
    methods = own_methods(A)
    if peers and case.network is not None:
        if present("pyhessian"):
            methods |= pyhessian_methods(case.network, counter)
        if present("curvlinops"):
            methods |= curvlinops_methods(case.network, counter)
    rows = []
    for budget in BUDGETS:
        distances: dict[str, list[float]] = {}
        products: dict[str, list[int]] = {}
        for name, method in methods.items():
            for seed in range(seeds):
                A.products = counter[0] = 0
                found = method(budget, seed)
                products.setdefault(name, []).append(A.products + counter[0])
                distances.setdefault(name, [])
                if found is not None:
                    distances[name].append(case.distance(found))
        row = {"name": case.name, "n": case.A.n, "budget": budget, "range": case.range}
        rows.append(row | {"distances": distances, "products": products})
        print(case.name, budget, row_text(rows[-1]), file=sys.stderr, flush=True)
    return rows


def row_text(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.1e} {products_of(row, k)}" for k, v in medians(row).items())


def products_of(row: dict[str, Any], name: str) -> str:
    counts = row["products"][name]
    low, high = min(counts), max(counts)
    return f"[{low}]" if low == high else f"[{low}-{high}]"


def medians(row: dict[str, Any]) -> dict[str, float]:
    return {k: statistics.median(v) for k, v in row["distances"].items() if v}


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(
        title="W1 to the exact spectrum over its range: median over seeds, (theirs / hesscope's), "
        "\\[products] where they are not the budget"
    )
    names = list(dict.fromkeys(name for row in rows for name in row["distances"]))
    for name in ("case", "products", *names):
        out.add_column(name, justify="left" if name == "case" else "right")
    for row in rows:
        found = medians(row)
        cells = [cell(row, name, found) for name in names]
        out.add_row(row["name"], str(row["budget"]), *cells, end_section=row["budget"] == 400)
    return out


def cell(row: dict[str, Any], name: str, found: dict[str, float]) -> str:
    if name not in found:
        return "-"
    spent = row["products"][name]
    other = "" if set(spent) == {row["budget"]} else f" {products_of(row, name)}"
    if name == "hesscope":
        return f"{found[name]:.1e}{other}"
    return f"{found[name]:.1e} ({found[name] / found['hesscope']:.1f}){other}"


# A million parameters


def apart(dtype: torch.dtype, verify: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """`large` in a process of its own, whose peak memory is that of this setting."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(large, dtype, verify, arguments.repeat, arguments.threads).result()


def large(dtype: torch.dtype, verify: bool, repeat: int, threads: int) -> dict[str, Any]:
    """Time outside of the products beside four reads of the basis per step, and peak memory."""
    torch.set_num_threads(threads)
    A = Counted(Diagonal(torch.from_numpy(family("nn", LARGE)), dtype))
    vector = LARGE * torch.finfo(dtype).bits // 8
    before, peak = resident_bytes(), 0
    outside, bandwidths, floors = [], [], []
    for seed in range(repeat):
        A.seconds = 0.0
        start = time.perf_counter()
        density = hs.spectral_density(A, STORED, verify=verify, seed=seed)
        outside.append(time.perf_counter() - start - A.seconds)
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        bandwidths.append(bandwidth(dtype))
        steps, k = density.facts["steps"], len(density.outliers)
        second = density.num_matvecs - steps
        floors.append(4 * (stored(steps) + stored(second, k)) * vector / bandwidths[-1])
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "verify": verify,
        "outliers": k,
        "steps": [steps, second],
        "bandwidths": bandwidths,
        "floors": floors,
        "outside": outside,
        "products": A.seconds,
        "peak_vectors": peak / vector,
        "peak_bytes": peak,
    }


def stored(steps: int, locked: int = 0) -> int:
    """Vectors that all steps of a run together have before them: its own and the locked ones."""
    return steps * (steps + 1) // 2 + steps * locked


def bandwidth(dtype: torch.dtype, times: int = 7) -> float:
    """Bytes per second of a matrix-vector product over a hundred stored vectors."""
    Q, w = torch.ones(STORED, LARGE, dtype=dtype), torch.ones(LARGE, dtype=dtype)
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        Q @ w
        seconds.append(time.perf_counter() - start)
    return Q.numel() * Q.element_size() / statistics.median(seconds)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def large_table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title=f"Density of {LARGE:,} eigenvalues from {STORED} products: medians")
    names = ("steps", "outliers", "GB/s", "floor, s", "outside products, s", "ratio", "products, s")
    for name in ("", *names, "peak"):
        out.add_column(name, justify="right" if name else "left")
    for row in rows:
        ratios = sorted(a / b for a, b in zip(row["outside"], row["floors"], strict=True))
        out.add_row(
            f"{row['dtype']}, {'default' if row['verify'] else 'verify=False'}",
            f"{row['steps'][0]} + {row['steps'][1]}",
            str(row["outliers"]),
            f"{statistics.median(row['bandwidths']) / 1e9:.1f}",
            f"{statistics.median(row['floors']):.2f}",
            f"{statistics.median(row['outside']):.2f}",
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}-{ratios[-1]:.2f}]",
            f"{row['products']:.2f}",
            f"{row['peak_vectors']:.0f} vectors, {row['peak_bytes'] / 1e9:.2f} GB",
        )
    return out


if __name__ == "__main__":
    main()
