"""What the lean product costs, by counting: operations of matrix products, and bytes alive."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hesscope as hs
from hesscope.autodiff.cost import choose
from hesscope.system import memory
from tests.autodiff.cut_models import Net, classes

MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addmm_", "baddbmm_")


class Meter(TorchDispatchMode):
    """Counts multiplications in matrix products, and the most bytes that were alive at once."""

    def __init__(self):
        super().__init__()
        self.multiplications = self.bytes = self.peak = 0
        self._alive = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func.__name__.partition(".")[0] in MATRIX_PRODUCTS:
            a, b = [item for item in args if isinstance(item, torch.Tensor)][-2:]
            self.multiplications += a.numel() * b.shape[-1]
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and not hasattr(tensor, "placements"):  # of pieces
                self._note(tensor.untyped_storage())
        return results

    def _note(self, storage):
        key = storage._cdata
        if key in self._alive:
            if not self._alive[key][0].expired():
                return
            self.bytes -= self._alive.pop(key)[1]
        self._alive[key] = StorageWeakRef(storage), storage.nbytes()
        self.bytes += storage.nbytes()
        if self.bytes > self.peak:
            for gone in [k for k, (alive, _) in self._alive.items() if alive.expired()]:
                self.bytes -= self._alive.pop(gone)[1]
            self.peak = max(self.peak, self.bytes)


def metered(work):
    with Meter() as meter:
        work()
    return meter


class Layer(nn.Module):
    """Attention and a perceptron, each behind a norm and beside a skip."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        some, length, width = x.shape
        parts = self.qkv(self.n1(x)).view(some, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(some, length, width))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    def __init__(self, words=64, width=32, layers=8):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.layers = nn.ModuleList([Layer(width, 2) for _ in range(layers)])

    def forward(self, words):
        x = self.embedding(words)
        for layer in self.layers:
            x = layer(x)
        return x @ self.embedding.weight.T


@pytest.fixture(scope="module")
def language():
    torch.manual_seed(0)
    words = torch.randint(0, 64, (28, 32))

    def loss(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    data = words, words.roll(1, 1)
    return hs.Problem(GPT(), loss, data, count=lambda t: t.numel())


def test_operations_and_bytes_of_a_product_in_gradients(language):
    """Operations: 3.8 gradients for one vector, 3.0 for each of five. Bytes: 0.7."""
    V = torch.randn(5, language.n).T
    gradient = metered(language.gradient)
    lean = hs.Hessian(language, product="lean")
    first = metered(lambda: lean @ V[:, 0])
    one, five = metered(lambda: lean @ V[:, 0]), metered(lambda: lean @ V)
    assert one.multiplications < 3.9 * gradient.multiplications
    assert five.multiplications < 3.1 * 5 * gradient.multiplications
    assert first.multiplications - one.multiplications < 1.0 * gradient.multiplications
    assert one.peak < 0.8 * gradient.peak
    whole = metered(lambda: hs.Hessian(language, product="ror", memory=0) @ V[:, 0])
    assert one.peak < 0.3 * whole.peak


# The choice


@pytest.mark.parametrize(
    ("graph", "free", "blocks", "product"),
    [
        (None, 1e9, 12, "reverse-over-reverse"),
        (0.5e9, 1e9, 12, "reverse-over-reverse"),
        (0.79e9, 1e9, 12, "reverse-over-reverse"),
        (0.81e9, 1e9, 12, "lean"),
        (40e9, 1e9, 2, "lean"),
        (40e9, 1e9, 1, "reverse-over-reverse"),
        (40e9, 1e9, 0, "reverse-over-reverse"),
    ],
)
def test_the_choice_by_numbers(graph, free, blocks, product):
    choice = choose(graph, free, blocks)
    assert choice.product == product
    assert ("of 1.0 GB that are free" in choice.why) is (graph is not None)
    assert ("no blocks" in choice.why) is (graph == 40e9 and blocks < 2)


@pytest.fixture
def free(monkeypatch):
    """Sets how much memory there seems to be."""

    def set_to(num_bytes):
        monkeypatch.setattr("hesscope.autodiff.automatic.available_bytes", lambda _: num_bytes)
        monkeypatch.setattr("hesscope.autodiff.cost.available_bytes", lambda _: num_bytes)

    return set_to


def test_automatic_products_are_lean_where_a_graph_does_not_fit(language, free):
    v = torch.randn(language.n)
    graphs = hs.Hessian(language)
    whole, size = graphs @ v, graphs.facts()["graph_bytes"]
    free(1.5 * size)
    assert (hs.Hessian(language) @ v).equal(whole)
    free(1.0 * size)
    H = hs.Hessian(language)
    assert float((H @ v - whole).norm() / whole.norm()) < 1e-5
    facts = H.facts()
    assert facts["product"] == "lean"
    told = float(facts["why"].partition("about ")[2].split()[0]) * 1e6
    assert facts["why"].startswith("the graph of a batch would take about ")
    assert abs(told - size) < 0.1 * size


def test_what_is_small_beyond_doubt_is_not_measured(language):
    H = hs.Hessian(language)
    calls = []
    handle = language.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        H @ torch.randn(language.n)
    finally:
        handle.remove()
    assert memory.available_bytes(language.device) > 2**30
    assert calls == [1]
    assert "why" not in H.facts()


def test_a_forecast_says_why_products_are_lean_or_rebuilt(free):
    torch.manual_seed(0)
    problem = classes(Net(), batch_size=3)
    kept = hs.plan(problem, effort="quick", check=False)
    assert kept.products == ""
    free(1000)
    lean = hs.plan(problem, effort="quick", check=False)
    assert lean.products.startswith("lean products, for the graph of a batch would take about ")
    assert str(lean).endswith("up to 4 gradients a product instead of 2 or 3")
    assert kept.gradients < lean.gradients < 2.1 * kept.gradients
    rebuilt = hs.Hessian(problem, "reverse-over-reverse", memory=0)
    rebuilt @ torch.ones(problem.n)
    assert rebuilt.facts()["why"].startswith("the graphs of all batches would take about ")


def test_a_first_example_without_a_label_stops_neither_forecast_nor_product(free):
    torch.manual_seed(0)
    data = torch.randn(7, 3, dtype=torch.float64), torch.tensor([-100, 1, 2, 3, 0, 1, 2])

    def count(targets):
        return (targets >= 0).sum()

    problem = hs.Problem(Net().double(), F.cross_entropy, data, count=count)
    v = torch.ones(problem.n, dtype=torch.float64)
    lean = hs.Hessian(problem, product="lean")
    free(1000)
    assert torch.allclose(lean @ v, hs.Hessian(problem) @ v, rtol=1e-12)
    assert "the loss of batch 0 is nan" in lean.facts()["compared"]


class Tight(GPT):
    """A transformer for which memory runs out where the graph of all of it is recorded."""

    def forward(self, words):
        if torch.is_grad_enabled() and self.layers[0].up.weight.requires_grad:
            before = self.layers[0](self.embedding(words[:1, :1]))
            if before.grad_fn is not None and len(words) > 1 and not before.is_leaf:
                msg = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
                raise RuntimeError(msg)
        return super().forward(words)


def test_memory_that_runs_out_makes_products_lean_before_batches_are_halved(language):
    tight = Tight()
    tight.load_state_dict(language.model.state_dict())
    batch = next(iter(language.batches)).content
    H = hs.Hessian(hs.Problem(tight, language.loss_fn, batch, count=lambda t: t.numel()))
    v = torch.randn(language.n)
    whole = hs.Hessian(language) @ v
    assert float((H @ v - whole).norm() / whole.norm()) < 1e-5
    assert H.facts()["why"] == "memory ran out for the graph of a batch"
    assert "batches halved" not in H.facts()
