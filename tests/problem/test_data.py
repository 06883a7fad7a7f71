"""Batches: every shape that loaders make, the same values at every pass, drift named."""

from __future__ import annotations

import random
import re
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import hesscope as hs
from hesscope.problem.contents import fingerprint, map_tensors
from hesscope.problem.data import Batches, preserved_rng
from hesscope.problem.examples import num_examples
from tests.faults import Augmented
from tests.networks import NUM, mlp, smooth, vectors
from tests.problem.test_problem import assert_same, numbers


def batches_of(data, **options) -> Batches:
    options = {"count_of": num_examples, "batch_size": None, **options}
    return Batches(data, device=torch.device("cpu"), dtype=torch.float32, **options)


class Stream(IterableDataset):
    def __init__(self, *arrays: Tensor) -> None:
        self.arrays = arrays

    def __iter__(self):
        return iter(zip(*self.arrays, strict=True))


class Rows:
    """A container of the user's own: it has an __iter__ and nothing else."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self):
        return iter([(self.x[:5], self.y[:5]), [self.x[5:], self.y[5:]]])


SHAPES = {
    "tuple of tensors": lambda x, y: (x, y),
    "tuple of arrays": lambda x, y: (x.numpy(), y.numpy()),
    "tuple of a tensor and an array": lambda x, y: (x, y.numpy()),
    "list of pairs": lambda x, y: [(x[:4], y[:4]), (x[4:], y[4:])],
    "list of lists": lambda x, y: [[x[:4], y[:4]], [x[4:], y[4:]]],
    "list of pairs of arrays": lambda x, y: [(x.numpy()[:4], y.numpy()[:4]),
                                             (x.numpy()[4:], y.numpy()[4:])],
    "tuple of batches": lambda x, y: ((x[:4], y[:4]), (x[4:], y[4:])),
    "dataset": lambda x, y: TensorDataset(x, y),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3),
    "shuffling loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True),
    "iterable dataset": lambda x, y: DataLoader(Stream(x, y), batch_size=3),
    "own container": Rows,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_data_gives_the_same_numbers(shape):
    case = smooth("mlp")
    problem = hs.Problem(case.model, case.loss_fn, SHAPES[shape](*case.data))
    assert_same(numbers(problem), numbers(case.problem()))


@pytest.mark.parametrize("nest", [lambda x: {"a": x}, lambda x: [x], lambda x: (x, {"b": [x]})])
def test_numpy_float64_meets_a_float32_model_at_any_depth(nest):
    x, y = np.random.default_rng(0).standard_normal((6, 4)), np.arange(6, dtype=np.int32) % 3
    model, contents = mlp(), []
    problem = hs.Problem(
        model, F.cross_entropy, [(nest(x), y)], count=len,
        forward=lambda model, inputs: contents.append(inputs) or model(_first(inputs)),
    )  # fmt: skip
    assert problem.loss() == pytest.approx(
        F.cross_entropy(model(torch.tensor(x).float()), torch.tensor(y).long()).item(), rel=1e-6
    )


def _first(content):
    while not isinstance(content, Tensor):
        content = next(iter(content.values() if isinstance(content, dict) else content))
    return content


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.ones(3, np.float64), torch.float32),
        (np.ones(3, np.float16), torch.float32),
        (np.ones(3, np.uint8), torch.int64),
        (np.ones(3, np.uint16), torch.int64),
        (np.ones(3, bool), torch.bool),
        (np.ones((3, 2))[:, ::-1], torch.float32),
        (np.broadcast_to(np.float64(1), (3,)), torch.float32),
    ],
)
def test_arrays_become_tensors_of_a_useful_dtype_without_a_warning(array, dtype):
    (batch,) = batches_of([(array,)])
    assert batch.content[0].dtype == dtype
    assert batch.content[0].sum() == array.sum()


def test_tensors_keep_their_dtype_and_lose_their_graph():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (batch,) = batches_of([(2 * x,)])
    assert batch.content[0].dtype == torch.float64
    assert not batch.content[0].requires_grad


Point = namedtuple("Point", "x y")


@dataclass
class Record:
    x: Tensor
    name: str


def test_every_container_keeps_its_type():
    content = {"p": Point(torch.ones(2), 1), "r": Record(torch.ones(2), "a"), "l": [torch.ones(2)]}
    doubled = map_tensors(content, lambda t: 2 * t)
    assert type(doubled["p"]) is Point
    assert (doubled["p"].x.tolist(), doubled["p"].y) == ([2, 2], 1)
    assert (doubled["r"].x.tolist(), doubled["r"].name) == ([2, 2], "a")
    assert doubled["l"][0].tolist() == [2, 2]


# Passes


def augmented(draw):
    return DataLoader(Augmented(draw), batch_size=5)


DRAWS = {
    "torch": lambda: float(torch.randn(())),
    "python": random.random,
    "numpy": lambda: float(np.random.rand()),  # noqa: NPY002  as transforms do
}


@pytest.mark.parametrize("cache_bytes", [0, 150, 1 << 20])
@pytest.mark.parametrize("draw", DRAWS)
def test_data_too_large_to_be_kept_is_drawn_again_as_it_was(draw, cache_bytes):
    """Random transforms repeat themselves even while dropout draws between two batches."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3))
    options = {"training": True, "cache_bytes": cache_bytes}
    problem = hs.Problem(model, F.cross_entropy, augmented(DRAWS[draw]), **options)
    assert problem.batches.cached == (cache_bytes == 1 << 20)
    first, second = numbers(problem), numbers(problem)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


@pytest.mark.parametrize("cache_bytes", [0, 100, 200, 10_000])
def test_a_cache_of_any_size_gives_the_same_numbers(cache_bytes):
    case = smooth("mlp")
    problem = case.problem(batch_size=2, cache_bytes=cache_bytes)
    assert problem.batches.cached == (cache_bytes == 10_000)
    assert_same(numbers(problem), numbers(case.problem()))


@pytest.mark.parametrize("cache_bytes", [0, 150, 10_000])
def test_batches_that_count_nothing_are_skipped_whether_kept_or_not(cache_bytes):
    x, y = vectors(9)
    y[0:3] = -100
    problem = hs.Problem(
        mlp(), F.cross_entropy, (x, y), batch_size=3, cache_bytes=cache_bytes,
        count=lambda y: (y != -100).sum(),
    )  # fmt: skip
    assert problem.batches.skipped == [0]
    assert (len(problem.batches), problem.num_items) == (2, 6)
    expected = F.cross_entropy(problem.model(x[3:]), y[3:]).item()
    assert [problem.loss() for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-6)


def test_a_loader_that_shuffles_by_its_own_generator_is_named_as_drift():
    data = TensorDataset(*vectors(12))
    loader = DataLoader(data, batch_size=5, shuffle=True, generator=torch.Generator())
    problem = hs.Problem(mlp(), F.cross_entropy, loader, cache_bytes=0)
    text = (
        "the data changes between passes: batch 0 differs from the first pass. The loader "
        "shuffles or augments with a random generator of its own. Use shuffle=False and a fixed "
        "transform, or pass list(loader)."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        problem.loss()


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ([0], "1 batches came, the first pass had 2"),
        ([0, 1, 2], "batch 2 differs from the first pass"),
    ],
)
def test_a_pass_of_another_length_is_named_as_drift(second, what):
    class Growing:
        passes = 0

        def __iter__(self):
            Growing.passes += 1
            which = [0, 1] if Growing.passes == 1 else second
            return iter([(torch.full((2, 4), float(i)), torch.zeros(2).long()) for i in which])

    problem = hs.Problem(mlp(), F.cross_entropy, Growing(), cache_bytes=0)
    with pytest.raises(RuntimeError, match=f"^the data changes between passes: {what}[.] "):
        problem.loss()


def test_the_order_of_a_shuffling_loader_is_that_of_the_first_pass_for_ever():
    loader = DataLoader(TensorDataset(*vectors(12)), batch_size=5, shuffle=True)
    batches = batches_of(loader)
    first = [fingerprint(b.content) for b in batches]
    torch.rand(3)
    assert [fingerprint(b.content) for b in batches] == first
    assert tuple(first) == batches.fingerprints


def test_reading_data_draws_nothing_from_the_global_generators():
    loader = augmented(random.random)
    for cache_bytes in (0, 1 << 20):
        before = torch.get_rng_state(), random.getstate()
        batches = batches_of(loader, cache_bytes=cache_bytes)
        next(iter(batches))  # and give up in the middle
        list(batches)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]


def test_a_fingerprint_tells_values_shapes_and_dtypes_apart():
    x = torch.arange(6.0)
    others = [x + 1, x.view(2, 3), x.double(), x[:5], -x, {"x": x, "y": x}]
    assert len({fingerprint(c) for c in (x, *others)}) == 7
    assert fingerprint({"a": x}) == fingerprint([x.clone()])


def test_preserved_rng_restores_three_generators_even_after_an_error():
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    drawn = []

    def draw_and_fail():
        with preserved_rng(3):
            drawn.extend(three_draws())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (repr(np.random.get_state()), random.getstate()) == before[1:]  # noqa: NPY002
    with preserved_rng(3):
        assert drawn == three_draws()


def three_draws():
    return [float(torch.rand(())), np.random.rand(), random.random()]  # noqa: NPY002


def test_a_tuple_of_arrays_is_one_batch_unless_a_size_is_given():
    x, y = vectors()
    assert [b.count for b in batches_of((x, y))] == [NUM]
    assert [b.count for b in batches_of((x, y), batch_size=3)] == [3, 3, 1]


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_batch_size_that_is_none_is_refused(size):
    data = torch.ones(4, 2), torch.ones(4, 1)
    with pytest.raises(ValueError, match=r"batch_size=.* whole number of examples, one or more"):
        hs.Problem(nn.Linear(2, 1), nn.MSELoss(), data, batch_size=size)
