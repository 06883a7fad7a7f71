"""Lean products of sharded models: blocks whole one at a time, numbers those of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

import hesscope as hs
from hesscope.autodiff.blocks import blocks_of
from hesscope.autodiff.cost import choose_weights
from hesscope.autodiff.dual import LeanError
from hesscope.autodiff.gathered import _Meetings
from hesscope.problem.absent import Absent, AbsentError
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.shards import Shards
from tests.autodiff.cut_models import resnet
from tests.autodiff.test_lean_cost import GPT, metered
from tests.problem.test_shards import FusedAttention, logits, transformer
from tests.processes import in_processes

EXACT = 1e-10
DOUBLE = torch.float64


class Fused(nn.Module):
    """Blocks whose queries, keys and values are one weight, and tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList([FusedAttention() for _ in range(2)])
        for layer in self.layers:
            layer.head, layer.embedding = nn.Linear(8, 8), nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x).view_as(x)
        return (x @ self.embedding.weight.T).flatten(0, 1)


def perceptron() -> nn.Module:
    layers = nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 6), nn.GELU()
    return nn.Sequential(*layers, nn.Linear(6, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron, "residual": lambda: resnet(nn.BatchNorm2d), "fused": Fused,
}  # fmt: skip
if find_spec("transformers") is not None:
    MODELS |= {name: transformer(name) for name in ("GPT2", "Llama", "Bert")}
SHAPES = {"perceptron": (5,), "residual": (1, 8, 8)}


def problem(name: str, *, cut: bool, num: int = 5, **given: Any) -> hs.Problem:
    """In batches of two, which two processes share unevenly."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    if name in SHAPES:
        x, y = torch.randn(num, *SHAPES[name], dtype=DOUBLE), torch.arange(num) % 3
    else:
        x = torch.arange(6 * num).reshape(num, 6) * 7 % 11
        y = (x * 3 + 1) % 11
    if cut:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in blocks_of(model) if name in ("GPT2", "fused") else ():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    data = [(x[i : i + 2], y[i : i + 2]) for i in range(0, num, 2)]
    return hs.Problem(model, _loss, data, forward=logits, count=Tensor.numel, shard=True, **given)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets.flatten())


def vectors(n: int) -> Tensor:
    v = torch.linspace(-1, 1, n, dtype=DOUBLE).sin()
    return torch.stack([v, v.flip(0) ** 2], 1)


def product(p: hs.Problem) -> Tensor:
    return hs.Hessian(p, product="lean") @ vectors(p.n)


def trained(p: hs.Problem, model: nn.Module) -> hs.Problem:
    """After a step that is the same whatever the weights lie in."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    return p


def special(*, cut: bool) -> dict[str, Callable[[], Tensor]]:
    """Products under other circumstances, by name."""

    def moved() -> Tensor:
        p = problem("perceptron", cut=cut)
        H = hs.Hessian(p, product="lean")
        before, source = H @ vectors(p.n), p.point.shards._source if cut else p.model
        trained(p, source)
        return torch.cat([before, H @ vectors(p.n), p.gradient()[:, None].expand(-1, 2)])

    def frozen() -> Tensor:
        p = problem("fused", cut=cut, params=["layers.1.*", "embedding.weight"])
        return product(p)

    def elsewhere() -> Tensor:
        p = problem("perceptron", cut=cut)
        return product(p.at(vectors(p.n)[:, 0]))

    def pieces() -> Tensor:
        p = problem("fused", cut=cut)
        A = hs.Hessian(p, product="lean").in_pieces()
        return A.whole(A @ A.own_part(vectors(p.n)))

    def parallel() -> Tensor:
        p = problem("perceptron", cut=False)
        if cut:
            plan = {"0": ColwiseParallel(), "5": RowwiseParallel()}
            model = parallelize_module(p.model, init_device_mesh("cpu", (2,)), plan)
            data = [batch.content for batch in problem("perceptron", cut=True).batches]
            p = hs.Problem(model, _loss, data, count=Tensor.numel)
        return product(p)

    return {
        "tensor parallel": parallel,
        "weights that move": moved,
        "a block of parameters": frozen,
        "other parameters": elsewhere,
        "one process without data": lambda: product(problem("perceptron", cut=cut, num=2)),
        "vectors in pieces": pieces,
    }


def refused(_: int) -> list[str]:
    """What the processes are told where it cannot be had, or one fails."""
    told = []
    own = problem("perceptron", cut=True)
    weights = hs.Problem.from_closure(
        own.point.shards._source,
        lambda model, batch: _loss(model(batch[0]), batch[1]) + model[3].weight.square().sum(),
        [batch.content for batch in own.batches],
    )
    with pytest.raises(LeanError) as error:
        product(weights)
    told.append(str(error.value))
    spoilt = problem("perceptron", cut=True)
    if torch.distributed.get_rank() == 1:
        next(iter(spoilt.batches)).content[0].fill_(torch.nan)
    with pytest.raises(NonFiniteLossError) as failure:
        product(spoilt)
    told.append(str(failure.value))
    v = vectors(own.n) + torch.distributed.get_rank()
    with pytest.raises(RuntimeError, match="differ in their vectors") as unlike:
        hs.Hessian(own, product="lean") @ v
    return [*told, str(unlike.value)]


def _automatic() -> tuple[Tensor, dict[str, Any]]:
    from hesscope.autodiff import automatic

    automatic.available_bytes = lambda _: 1000
    p = problem("fused", cut=True)
    H = hs.Hessian(p)
    return H @ vectors(p.n), H.facts()


def _life(rank: int) -> dict[str, Any]:
    asked = []
    whole = Shards.whole
    Shards.whole = lambda self: asked.append(1) or whole(self)
    found: dict[str, Any] = {name: product(problem(name, cut=True)) for name in MODELS}
    H = hs.Hessian(problem("fused", cut=True), product="lean")
    found["precision"] = str(H.in_pieces().precision)
    found["automatic"] = _automatic()
    found["asked"] = len(asked)
    found["special"] = {name: make() for name, make in special(cut=True).items()}
    found["refused"] = refused(rank)
    H @ vectors(H.n)
    return found | {"n": H.n, "facts": H.facts()}


@pytest.fixture(scope="module")
def lives() -> list[dict[str, Any]]:
    return in_processes(_life, 2)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_whole_model(name, lives):
    expected = product(problem(name, cut=False))
    assert all(off(life[name], expected) < EXACT for life in lives)


@pytest.mark.parametrize("name", special(cut=False))
def test_so_they_are_under_other_circumstances(name, lives):
    expected = special(cut=False)[name]()
    assert all(off(life["special"][name], expected) < EXACT for life in lives)


def test_no_process_puts_all_weights_together_and_it_is_told_what_travels(lives):
    for life in lives:
        assert life["asked"] == 0
        facts, n = life["facts"], life["n"]
        assert facts["weights"] == "one block at a time"
        outer = (
            11 * 8
        )  # embeddings, brought once; the rest forward and back, in each of two batches
        numbers = 3 * (outer + 4 * (n - outer))
        assert facts["bytes brought"] == 8 * numbers
        assert facts["bytes added"] == 8 * 2 * (outer + 2 * (n - outer))
        assert life["precision"] == "torch.float64"


def test_automatic_products_do_so_where_whole_weights_do_not_fit(lives):
    expected = product(problem("fused", cut=False))
    for found, facts in (life["automatic"] for life in lives):
        assert off(found, expected) < EXACT
        assert facts["product"] == "lean"
        assert facts["why"].startswith("whole weights and what is as large would take about ")
    two = nn.Linear(9, 10)
    assert "no blocks that could be brought" in choose_weights(two, 1e3, blocks=1).why


def test_what_cannot_be_had_is_refused_in_all_processes_with_its_cause(lives):
    for rank, (weight, loss, vector) in enumerate(life["refused"] for life in lives):
        assert "weight 3.weight is used (in square) away from the block that holds it" in weight
        assert "use each weight in the module that holds it" in weight
        assert "the loss of batch 1 is nan" in loss
        assert ("process 1 has failed" in loss) is (rank == 0)
        assert "process 1 has another block of vectors" in vector


def test_an_absent_weight_has_a_shape_and_no_numbers():
    weight = Absent.like(nn.Parameter(torch.ones(300, 200, dtype=DOUBLE)))
    assert (weight.shape, weight.dtype, weight.requires_grad) == ((300, 200), DOUBLE, True)
    assert weight.untyped_storage().nbytes() == 8
    uses = lambda: weight.T, lambda: torch.cat([weight]), lambda: weight.data, weight.sum
    for use in uses:
        with pytest.raises(AbsentError, match="a weight is used"):
            use()


class Held:
    """The most bytes of weights that are brought and alive at once."""

    def __init__(self, bring):
        self.bring, self.alive, self.most = bring, [], 0

    def __call__(self, meetings, group):
        weights, tangents = self.bring(meetings, group)
        storages = [tensor.untyped_storage() for tensor in weights.values()]
        self.alive += [(StorageWeakRef(one), one.nbytes()) for one in storages]
        self.alive = [one for one in self.alive if not one[0].expired()]
        self.most = max(self.most, sum(size for _, size in self.alive))
        return weights, tangents


def _large(_: int) -> dict[str, Any]:
    model, num = language(), torch.distributed.get_world_size()
    fully_shard(model, mesh=init_device_mesh("cpu", (num,)))
    A = hs.Hessian(of_language(model), product="lean").in_pieces()
    v = A.own_part(torch.linspace(-1, 1, A.n)).clone()
    with pytest.MonkeyPatch.context() as patch:
        held = Held(_Meetings._bring)
        patch.setattr(_Meetings, "_bring", lambda *given: held(*given))
        product = A.whole(A @ v)
    pieces = sum(p._local_tensor.untyped_storage().nbytes() for p in model.parameters())
    return {"weights": pieces + held.most, "peak": metered(lambda: A @ v).peak, "product": product}


def language() -> GPT:
    torch.manual_seed(0)
    return GPT(words=16, width=16, layers=8)


def of_language(model: nn.Module) -> hs.Problem:
    words = torch.arange(8).reshape(4, 2)
    data = [(words[i : i + 1], words[i : i + 1]) for i in range(4)]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    return hs.Problem(model, loss, data, count=Tensor.numel, shard=True)


@pytest.mark.parametrize("num", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_process_holds_its_piece_of_the_weights_and_one_block(num):
    """And of vectors its share: v, H v and what checks H v; and some eight tensors of a block."""
    model = language()
    n, block = (sum(p.numel() for p in m.parameters()) for m in (model, model.layers[0]))
    expected = hs.Hessian(of_language(model), product="lean") @ torch.linspace(-1, 1, n)
    for life in in_processes(_large, num):
        assert off(life["product"], expected) < 1e-5
        assert life["weights"] <= 4 * (1.3 * n / num + block)
        assert life["peak"] <= 4 * (5 * n / num + 8 * block)
