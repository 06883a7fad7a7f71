"""Eigenpairs of a sparse operator of a million rows in 1, 2 and 4 processes, beside SciPy's.

The operator is the Hessian of a function that all processes have: tridiagonal, five entries stand
out. Vectors are in pieces. Resumes: the JSON file has each number of processes.

    python benchmarks/oracle.py [--processes 1 2 4]     # --tiny: 10,000 rows
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import eigsh as arpack

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.processes import in_processes

import hesscope as hs

OUT = Path(__file__).parent / "results" / "oracle.json"
K, TOL = 5, 1e-8


def weights(n: int) -> torch.Tensor:
    """The diagonal, (n,), but for the springs between neighbours."""
    w = 1 + 0.5 * torch.sin(0.37 * torch.arange(n, dtype=torch.float64))
    for place, height in ((0.001, 40.0), (0.25, 35.0), (0.5, 30.0), (0.75, 27.0), (0.999, 24.0)):
        w[int(place * n)] += height
    return w


@dataclass(frozen=True)
class Found:
    """What a process finds; a class, so that other processes can be given it."""

    n: int

    def __call__(self, _: int) -> dict[str, Any]:
        w = weights(self.n)

        def energy(t: torch.Tensor) -> torch.Tensor:
            return 0.5 * (w * t * t).sum() + 0.5 * (t[1:] - t[:-1]).square().sum()

        at = torch.zeros(self.n, dtype=torch.float64)
        H, start = hs.Hessian(hs.Problem.from_function(energy, at)), time.process_time()
        held = H.in_pieces().num_local
        pairs = hs.eigsh(H, K, seed=0, tol=TOL)
        return {
            "eigenvalues": pairs.eigenvalues.tolist(),
            "largest residual": float(pairs.residuals.max()),
            "products": pairs.num_matvecs,
            "certified": bool(pairs.certificate.complete),
            "entries of a vector in a process": held,
            "processor seconds": time.process_time() - start,
            "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }


def reference(n: int) -> np.ndarray:
    """The same by ARPACK, from the sparse matrix."""
    diagonal, beside = weights(n).numpy(), -np.ones(n - 1)
    diagonal[:-1] += 1
    diagonal[1:] += 1
    A = sp.diags([diagonal, beside, beside], [0, 1, -1], format="csr")
    return np.sort(arpack(A, K, which="LA", tol=1e-12, return_eigenvectors=False))[::-1]


def main() -> None:
    """One line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    n = 10_000 if options.tiny else 1_000_000
    torch.set_num_threads(1)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    exact = reference(n)
    for processes in options.processes:
        if str(processes) not in known:
            lives = in_processes(Found(n), processes)
            found = {**lives[0], "peak MB": max(life["peak MB"] for life in lives)}
            apart = np.abs(np.array(found["eigenvalues"]) / exact - 1).max()
            known[str(processes)] = {**found, "apart from SciPy": float(apart)}
            options.out.write_text(json.dumps(known, indent=1) + "\n")
        print(processes, json.dumps(known[str(processes)]), flush=True)


if __name__ == "__main__":
    main()
