"""All kernels in one model: none is left out, and the product is that of torch's own kernels."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope import rounding
from hesscope.autodiff import kernels, pending
from tests.autodiff.operations import randn
from tests.autodiff.stock import EXACT, relative

CLASSES = 60


class Everything(nn.Module):
    """A layer for each function that has a kernel, in one chain."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.ModuleList([nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)])
        self.flat, self.deep = nn.Conv2d(1, 2, 3, padding=1), nn.Conv3d(1, 1, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layer, self.rms = nn.LayerNorm(4), nn.RMSNorm(4)
        self.head = nn.Linear(4, CLASSES, bias=False)
        self.to(dtype).eval()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.first:
            x = layer(x)
        x = F.silu(self.flat(x[:, None])).sum(1)
        x = x + self.deep(F.pad(x, (1, 0, 1, 0))[:, None, None].expand(-1, -1, 2, -1, -1))[:, 0, 0]
        x = self.layer(F.gelu(x.mT.contiguous(), approximate="tanh"))
        x = torch.layer_norm(x, (4,)) + self.attention(x, x, x, need_weights=False)[0]
        x = F.gelu(self.rms(x)) * x.softmax(1) + torch.softmax(x, -1) * F.softmax(x, 1)
        return self.head(x)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


@pytest.fixture
def called(monkeypatch):
    """The functions that a kernel has taken the place of; pending logits for a small head, too."""
    monkeypatch.setattr(pending, "LARGE", 1)
    found = set()

    def watched(func, kernel):
        def replacement(*args, **kwargs):
            result = kernel(*args, **kwargs)
            if result is not None:
                found.add(func)
            return result

        return replacement

    for func, kernel in kernels._KERNELS.items():
        monkeypatch.setitem(kernels._KERNELS, func, watched(func, kernel))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_product_through_all_kernels_is_that_of_torchs_own(dtype, called, monkeypatch):
    model = Everything(dtype)
    batch = randn(3, 2, 8).to(dtype), torch.arange(18).view(3, 6) % CLASSES
    problem = hs.Problem.from_closure(model, loss, [batch])
    v = randn(problem.n, seed=1).to(dtype)
    H = hs.Hessian(problem)
    found = H @ v
    assert called == set(kernels._KERNELS)
    monkeypatch.setattr(kernels, "_KERNELS", {})
    monkeypatch.setattr(pending, "LARGE", 10**9)
    expected = hs.Hessian(problem) @ v
    tolerance = EXACT if dtype == torch.float64 else rounding.recomputed(dtype)
    assert relative(found, expected) <= tolerance
    assert "torch's own kernels" not in H.facts()


def test_what_has_no_kernel_is_named_in_the_facts():
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding="same"), nn.SiLU(inplace=True), nn.GELU(), nn.Flatten()
    ).double()  # fmt: skip
    problem = hs.Problem(model, F.cross_entropy, (randn(4, 2, 5), torch.arange(4)))
    H = hs.Hessian(problem)
    assert "torch's own kernels" not in H.facts()
    assert float((H @ randn(H.n)).norm()) > 0
    assert H.facts()["torch's own kernels"] == "conv1d, silu"
