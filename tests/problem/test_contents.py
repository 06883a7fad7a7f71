"""Batches of any class: seen, copied, cast, cut, or said not to be."""

from __future__ import annotations

import collections
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem.contents import map_tensors, to_device
from hesscope.problem.examples import num_examples, take

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(6) % 3


class Plain:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.name = x, y, "plain"


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    y: Tensor


@dataclass
class Derived:
    x: Tensor
    y: Tensor
    num: int = field(init=False)

    def __post_init__(self) -> None:
        self.num = len(self.x)


class Circular:
    """Holds itself, the tensors deep inside, and a module that must not be copied."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.inside, self.own, self.layer = {"x": [x], "y": {"is": y}}, self, nn.Linear(1, 1)

    @property
    def x(self) -> Tensor:
        return self.inside["x"][0]

    @property
    def y(self) -> Tensor:
        return self.own.inside["y"]["is"]


class Mapped(Mapping):
    """A mapping that cannot be made of a mapping."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.held = {"x": x, "y": y}

    def __getitem__(self, key: str) -> Tensor:
        return self.held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    x = property(lambda self: self["x"])
    y = property(lambda self: self["y"])


class Hidden:
    """Nobody sees its tensors."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.get = lambda: (x, y)

    x = property(lambda self: self.get()[0])
    y = property(lambda self: self.get()[1])


SEEN = [Plain, Slotted, Pair, Frozen, Derived, Circular, Mapped]


def classified(reduction: str = "mean"):
    return lambda model, batch: F.cross_entropy(model(batch.x), batch.y, reduction=reduction)


def problem_of(kind: Any, reduction: str = "mean", **kw: Any) -> hs.Problem:
    batches = [kind(X[:4], Y[:4]), kind(X[4:], Y[4:])]
    torch.manual_seed(0)
    return hs.Problem.from_closure(nn.Linear(4, 3).double(), classified(reduction), batches, **kw)


@pytest.mark.parametrize("kind", SEEN)
def test_tensors_in_objects_are_seen_cast_and_counted(kind):
    batch = kind(X, Y)
    single = map_tensors(batch, lambda t: t.float() if t.is_floating_point() else t)
    assert type(single) is kind
    assert single.x.dtype == torch.float32
    assert torch.equal(single.y, Y)
    assert batch.x is X
    assert num_examples(batch) == 6
    assert torch.equal(take(batch, slice(2, 4)).x, X[2:4])
    torch.manual_seed(0)
    truth = hs.Problem(nn.Linear(4, 3).double(), F.cross_entropy, (X, Y))
    assert problem_of(kind).loss() == pytest.approx(truth.loss(), rel=1e-14)


@pytest.mark.parametrize("kind", SEEN)
def test_the_mean_over_objects_is_asked(kind):
    assert "loss is a mean" in hs.check_problem(problem_of(kind)).passed
    faults = hs.check_problem(problem_of(kind, "sum")).faults
    assert [fault.name for fault in faults] == ["sum_reduction"]


@pytest.mark.parametrize("kind", [*SEEN, collections.UserDict])
def test_what_is_written_into_an_object_is_gone_at_the_next_call(kind):
    def writes(model, batch):
        x, y = (batch.x, batch.y) if hasattr(batch, "x") else (batch["x"], batch["y"])
        return F.cross_entropy(model(x.mul_(2)), y)

    x = X.clone()
    batch = kind({"x": x, "y": Y}) if kind is collections.UserDict else kind(x, Y)
    torch.manual_seed(0)
    problem = hs.Problem.from_closure(nn.Linear(4, 3).double(), writes, [batch])
    assert problem.loss() == problem.loss()
    assert torch.equal(x, X)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_cannot_be_seen_is_noted_and_never_passed(reduction):
    check = hs.check_problem(problem_of(Hidden, reduction, count=lambda batch: len(batch.x)))
    assert check.ok
    assert [f.name for f in check.findings] == ["no_tensor_seen", "mean_not_checked"]
    assert not {"loss is a mean", "data is repeatable"} & set(check.passed)


def test_changed_data_in_objects_is_noticed():
    class Noisy:
        def __iter__(self):
            yield Plain(X + torch.randn(6, 4), Y)

    problem = hs.Problem.from_closure(nn.Linear(4, 3).double(), classified(), Noisy())
    assert [f.name for f in hs.check_problem(problem).faults] == ["data_changes"]


def test_modules_and_words_in_a_batch_are_shared_and_circles_closed():
    batch = Circular(X, Y)
    copied = map_tensors(batch, Tensor.clone)
    assert copied.own is copied
    assert copied.layer is batch.layer
    assert copied.x is not X


def test_a_tensor_that_occurs_twice_stays_one():
    copied = map_tensors(Plain(X, X), Tensor.clone)
    assert copied.x is copied.y


def test_mappings_of_every_kind_keep_their_kind():
    for mapping in (
        collections.defaultdict(list, x=X),
        collections.OrderedDict(x=X),
        collections.UserDict(x=X),
        types.MappingProxyType({"x": X}),
    ):
        doubled = map_tensors(mapping, lambda t: 2 * t)
        assert type(doubled) is type(mapping)
        assert torch.equal(doubled["x"], 2 * X)
        assert mapping["x"] is X


def test_arrays_become_tensors_in_containers_and_dataclasses_but_not_in_other_objects():
    array = np.ones((2, 3))
    read = to_device([{"x": array}, Frozen(array, Y), Plain(array, Y)], X.device, torch.float32)
    assert read[0]["x"].dtype == read[1].x.dtype == torch.float32
    assert type(read[2].x) is np.ndarray


def test_an_object_that_moves_itself_is_asked_to():
    class Moves(Hidden):
        def to(self, device):
            return Hidden(*(t.to(device) for t in self.get()))

    assert type(to_device(Moves(X, Y), X.device, X.dtype)) is Hidden


def test_what_cannot_be_copied_is_refused_by_name():
    class Uncopied(Plain):
        def __deepcopy__(self, memo):
            msg = "no"
            raise TypeError(msg)

    with pytest.raises(ValueError, match=r"Uncopied with tensors inside that cannot be copied"):
        problem_of(Uncopied)


class Graph:
    """One graph: its nodes are not independent."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.edge_index = x, y, torch.tensor([[0, 1], [1, 0]])


class Graphs(Graph):
    """Graphs side by side, which can be taken apart again."""

    def __init__(self, graphs: list[Graph]) -> None:
        super().__init__(torch.cat([g.x for g in graphs]), torch.cat([g.y for g in graphs]))
        self.graphs = graphs

    num_graphs = property(lambda self: len(self.graphs))

    def index_select(self, index: Any) -> list[Graph]:
        return self.graphs[index] if isinstance(index, slice) else [self.graphs[i] for i in index]

    from_data_list = classmethod(lambda cls, graphs: cls(graphs))


class GraphNet(nn.Linear):
    def forward(self, graph: Any) -> Tensor:
        return super().forward(graph.x)


def graphs(*nodes: int) -> list[Graph]:
    return [Graph(X[:n], Y[:n]) for n in nodes]


def test_graphs_are_cut_graph_by_graph_and_bring_their_targets():
    torch.manual_seed(0)
    model = GraphNet(4, 3).double()
    problem = hs.Problem(model, F.cross_entropy, [Graphs(graphs(5, 3)), Graphs(graphs(4, 2))])
    assert problem.num_items == 14  # nodes
    assert hs.check_problem(problem).ok
    assert "loss is a mean" in hs.check_problem(problem).passed
    per_graph = hs.Problem.from_closure(model, lambda m, g: F.cross_entropy(m(g), g.y),
                                        [Graphs(graphs(5, 3)), Graphs(graphs(4, 2))])  # fmt: skip
    (fault,) = hs.check_problem(per_graph).faults
    assert fault.cure.endswith("count=lambda batch: (batch.y != -100).sum().")


def test_a_single_graph_is_a_batch_that_is_not_cut():
    with pytest.raises(ValueError, match="cannot tell the examples"):
        num_examples(Graph(X[:2], Y[:2]))
    problem = hs.Problem(GraphNet(4, 3).double(), F.cross_entropy, graphs(5)[0])
    assert (len(problem.batches), problem.num_items) == (1, 5)


def test_a_graph_with_a_mask_has_to_be_explained():
    graph = graphs(6)[0]
    graph.train_mask = torch.arange(6) < 3
    with pytest.raises(ValueError, match=r"train_mask.*unpack=lambda g: \(g, g\.y\[g\.train_mask"):
        hs.Problem(GraphNet(4, 3), F.cross_entropy, [graph])


def boxes(*nums: int) -> list[dict[str, Tensor]]:
    return [{"labels": torch.arange(n), "boxes": torch.ones(n, 4)} for n in nums]


@pytest.mark.parametrize("nums", [(1, 3, 2), (2, 2), (3, 3, 3)])
def test_records_of_examples_in_a_list_are_cut_with_them(nums):
    batch = {"pixels": torch.ones(len(nums), 3, 2), "labels": boxes(*nums), "size": (7, 7)}
    assert num_examples(batch) == len(nums)
    part = take(batch, torch.tensor([1, 0]))
    assert [len(record["labels"]) for record in part["labels"]] == [nums[1], nums[0]]
    assert (len(part["pixels"]), part["size"]) == (2, (7, 7))


def test_a_pair_in_a_list_is_a_pair_and_words_are_cut_with_their_examples():
    batch = [X[:2], {"y": Y[:2], "text": ["a", "b"]}]
    assert num_examples(batch) == 2
    x, rest = take(batch, slice(1, 2))
    assert x.shape == (1, 4)
    assert rest["text"] == ["b"]
