"""What the noise of data is counted in: what is drawn independently of the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.sampling.gradient import gradient_with_noise
from hesscope.sampling.parts import num_units, unit_of


def seeded(num: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator).double() for _ in range(num)]


class Recurrent(nn.Module):
    """Reads sequences with time first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.core, self.head = nn.GRU(3, 4).double(), nn.Linear(4, 2).double()

    def forward(self, x):
        return self.head(self.core(x)[0])


def of_words(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def time_first(**options):
    data = [(x, torch.arange(30).reshape(6, 5) % 2) for x in seeded(4, 6, 5, 3)]
    return hs.Problem(Recurrent(), of_words, data, **options)


def contrasted(model, batch):
    a, b = (F.normalize(model(x), dim=1) for x in batch)
    return F.cross_entropy(a @ b.T, torch.arange(len(a)))


def pairs(count):
    torch.manual_seed(0)
    data = list(zip(seeded(4, 8, 4), seeded(8, 8, 4)[4:], strict=True))
    return hs.Problem.from_closure(nn.Linear(4, 3).double(), contrasted, data, count=count)


def sums_that_differ_in_length():
    """The first axis of the tensors of a batch is not shared; the user says what counts."""
    data = [(x, torch.arange(5) % 2) for x in seeded(3, 6, 5, 3)]
    last = lambda outputs, targets: F.cross_entropy(outputs[-1], targets)  # noqa: E731
    return hs.Problem(Recurrent(), last, data)


def rows():
    (x,) = seeded(1, 40, 4)
    torch.manual_seed(0)
    return hs.Problem(nn.Linear(4, 3).double(), F.cross_entropy, (x, torch.arange(40) % 3))


CASES = {
    "rows": (rows, "examples", 40),
    "time first": (time_first, "batches", 4),
    "time first, words counted": (
        lambda: time_first(count=lambda targets: targets.numel()), "batches", 4,
    ),
    "count=1": (lambda: pairs(1), "batches", 4),
    "a count of one": (lambda: pairs(lambda _: 1), "batches", 4),
    "axes that differ": (sums_that_differ_in_length, "items", 15),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_unit_is_what_is_drawn_independently(name):
    make, unit, num = CASES[name]
    problem = make()
    assert (unit_of(problem), num_units(problem)) == (unit, num)
    verdict = hs.diagnose(problem, lr=0.1, batch_size=2, effort="quick").verdict("noise")
    assert f"on all {num} {unit}" in verdict.claim
    assert ("batch of 2" in verdict.claim) <= (unit == "examples")


@pytest.mark.parametrize("name", ["time first", "count=1", "a count of one"])
def test_the_noise_of_batches_is_the_spread_of_their_gradients(name):
    problem = CASES[name][0]()
    with problem.evaluation() as e:
        gradients = torch.stack([e.gradient(batch) for batch in e.batches])
    expected = math.sqrt(float(gradients.var(0).sum()) / len(gradients))
    assert gradient_with_noise(problem)[1] == pytest.approx(expected, rel=1e-10)
    error = hs.sampling_error(problem, hs.eigsh(hs.Hessian(problem), 2))
    assert (error.num_examples, error.unit) == (4, "batches")
    assert "4 batches in 4 parts" in str(error)


def test_no_curvature_of_single_examples_is_claimed_where_there_is_none():
    with pytest.raises(ValueError, match=r"made of batches.*batch_first=True"):
        hs.batch_stability(time_first(), 2)
