"""Other tools and hesscope on one small network whose spectrum is known exactly.

Needs pip install --no-deps pyhessian hessian-eigenthings curvlinops-for-pytorch
backpack-for-pytorch einops einconv unfoldNd linear_operator. Each tool is called as its own
documentation does, at its defaults.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import hessian_eigenthings as eigenthings
import torch
from curvlinops import HessianLinearOperator, hutchpp_trace, xtrace
from pyhessian import hessian as pyhessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

import hesscope as hs
from hesscope.demo import digits, trained_network

LOSS, K, SEEDS = nn.CrossEntropyLoss(), 10, range(20)
PEERS = ("pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch")


def by_pyhessian(model, data, k, seed):
    """Power iteration with deflation; its products are calls of a function of its module."""
    torch.manual_seed(seed)
    h, calls = pyhessian(model, LOSS, dataloader=data, cuda=False), []
    product = h.dataloader_hv_product
    h.dataloader_hv_product = lambda v: (calls.append(1), product(v))[1]
    return torch.tensor(h.eigenvalues(top_n=k)[0]), len(calls)


def by_eigenthings(model, data, k, seed):
    A = eigenthings.HessianOperator(model, data, eigenthings.supervised_loss(LOSS))
    found = eigenthings.lanczos(A, k=k, which="LA", seed=seed)
    return found.eigenvalues, found.iterations


def by_curvlinops(model, data, k, seed):
    S, calls = HessianLinearOperator(model, LOSS, list(model.parameters()), data).to_scipy(), []
    counted = LinearOperator(S.shape, lambda v: (calls.append(1), S.matvec(v))[1], dtype=S.dtype)
    start = torch.randn(S.shape[0], generator=torch.Generator().manual_seed(seed)).numpy()
    return torch.tensor(eigsh(counted, k=k, which="LA", v0=start)[0][::-1].copy()), len(calls)


def by_hesscope(model, data, k, seed):
    found = hs.eigsh(hs.Hessian(hs.Problem(model, LOSS, data)), k=k, seed=seed)
    return found.eigenvalues, found.num_matvecs


TOOLS = {
    "PyHessian": by_pyhessian,
    "hessian-eigenthings": by_eigenthings,
    "curvlinops with SciPy's eigsh": by_curvlinops,
    "hesscope": by_hesscope,
}


def traces(model, data) -> dict[str, Callable[[int], float]]:
    """tr H by each tool, from a seed."""
    A = HessianLinearOperator(model, LOSS, list(model.parameters()), data)
    E = eigenthings.HessianOperator(model, data, eigenthings.supervised_loss(LOSS))
    P = pyhessian(model, LOSS, data=data[0], cuda=False)

    def mean(values):
        return sum(values) / len(values), len(values)

    return {
        "PyHessian, trace()": lambda _: mean(P.trace()),
        "hessian-eigenthings, trace()": lambda s: (eigenthings.trace(E, seed=s).estimate, 100),
        "curvlinops, hutchpp_trace": lambda _: (float(hutchpp_trace(A, 99)), 99),
        "curvlinops, xtrace": lambda _: (float(xtrace(A, 100)), 100),
        "hesscope, trace(rtol=0.01)": lambda s: _of(
            hs.trace(_ours(model, data), rtol=0.01, seed=s)
        ),
    }


def _ours(model, data):
    return hs.Hessian(hs.Problem(model, LOSS, data))


def _of(estimate):
    return estimate.value, estimate.num_matvecs


def outcome(call: Callable[[], float]) -> str:
    try:
        return f"{call():.1e}"
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error)[:60]}"


class Attention(nn.Module):
    """One stock transformer layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x)[:, 0])


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}", *(f"{name} {_version(name)}" for name in PEERS))
    x, y = digits()
    model = trained_network(x, y)
    exact = hs.spectrum(hs.Hessian(hs.Problem(model, LOSS, (x, y)))).eigenvalues.flip(0)
    model, x = model.float(), x.float()
    whole = [(x, y)]
    print(f"n = {len(exact)}; worst error of the {K} and of the 40 largest eigenvalues, products")
    for name, largest in TOOLS.items():
        for k in (K, 40):
            runs = [largest(model, whole, k, seed) for seed in range(3)]
            errors = [float((values / exact[:k] - 1).abs().max()) for values, _ in runs]
            print(f"  {name:32}{k:3} {max(errors):8.1e} {[cost for _, cost in runs]}")
    print("relative error of λmax where the last batch holds one example of 1,797")
    ragged = [(x[:1796], y[:1796]), (x[1796:], y[1796:])]
    for name, largest in TOOLS.items():
        print(f"  {name:34} {float(largest(model, ragged, 3, 0)[0][0] / exact[0] - 1):8.1e}")
    print("rms error of the trace over 20 seeds, products")
    for name, trace in traces(model, whole).items():
        torch.manual_seed(0)
        runs = [trace(seed) for seed in SEEDS]
        square = [(value / float(exact.sum()) - 1) ** 2 for value, _ in runs]
        cost = sorted(cost for _, cost in runs)[len(runs) // 2]
        print(f"  {name:34} {(sum(square) / len(square)) ** 0.5:8.1e} {cost}")
    print("a stock transformer layer: its λmax, or what is raised")
    torch.manual_seed(0)
    layer = Attention().eval()
    few = [(torch.randn(20, 5, 8), torch.arange(20) % 3)]
    for name, largest in TOOLS.items():
        told = outcome(lambda largest=largest: float(largest(layer, few, 3, 0)[0][0]))
        print(f"  {name:34} {told}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


if __name__ == "__main__":
    sys.exit(main())
