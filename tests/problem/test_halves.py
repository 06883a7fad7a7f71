"""Where memory does not hold a batch, halves give the same numbers, or a sentence says why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hesscope as hs
from hesscope.problem.halves import in_halves

X, Y = torch.linspace(-2, 2, 160, dtype=torch.float64).reshape(40, 4).sin(), torch.arange(40) % 3


class Tight(nn.Module):
    """A network that has memory for so many examples, where a graph is recorded."""

    def __init__(self, room: int, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.room, self.error = room, error

    def forward(self, x):
        if len(x) > self.room and torch.is_grad_enabled():
            msg = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
            raise self.error(msg)
        return self.body(x)


def problem(room: int, **options) -> hs.Problem:
    return hs.Problem(Tight(room), F.cross_entropy, (X, Y), **options)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize(("room", "halvings"), [(40, 0), (20, 1), (9, 3), (1, 6)])
def test_products_are_those_of_the_whole_batches(room, halvings, memory, error):
    v = torch.linspace(-1, 1, 43, dtype=torch.float64)
    expected = hs.Hessian(problem(40)) @ v
    H = hs.Hessian(hs.Problem(Tight(room, error), F.cross_entropy, (X, Y)), memory=memory)
    assert torch.allclose(H @ v, expected, rtol=0, atol=1e-14)
    assert H.facts().get("batches halved", 0) == halvings
    assert torch.allclose(H @ v, expected, rtol=0, atol=1e-14)  # in the batches that do fit
    assert H.facts().get("batches halved", 0) == halvings


def test_eigenpairs_are_those_of_the_whole_batches():
    whole, cut = (hs.eigsh(hs.Hessian(problem(room)), 2, seed=0) for room in (40, 15))
    assert torch.allclose(whole.eigenvalues, cut.eigenvalues, rtol=1e-12)
    assert cut.facts["batches halved"] == 2


def ragged(outputs, targets):
    return F.cross_entropy(outputs, targets, ignore_index=0)


def test_halves_weigh_what_their_loss_averages_over():
    made = hs.Problem(Tight(40), ragged, (X, Y), count=lambda y: (y != 0).sum(), batch_size=17)
    halves = in_halves(made)
    assert [len(batch.content[1]) for batch in halves.batches] == [8, 9, 8, 9, 3, 3]
    assert halves.num_items == made.num_items
    assert halves.loss() == pytest.approx(made.loss(), rel=1e-14)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: problem(0), "each is one example"),
        (lambda: hs.Problem(Tight(9), F.cross_entropy, (X, Y), count=1), "batch 0 is one item"),
        (
            lambda: hs.Problem(Tight(9), lambda out, y: out.square().mean().sqrt(), (X, Y)),
            "the loss of batch 0 is no mean over its examples",
        ),
        (
            lambda: hs.Problem(
                Tight(9),
                F.cross_entropy,
                DataLoader(TensorDataset(X, Y), batch_size=20),
                cache_bytes=0,
            ),
            "the data is read anew at every pass",
        ),
    ],
)
def test_what_cannot_be_cut_is_said(made, why):
    H = hs.Hessian(made())
    for _ in range(2):  # and the operator is of use as before
        with pytest.raises(RuntimeError) as caught:
            H @ torch.ones(43, dtype=torch.float64)
        assert str(caught.value).startswith("memory ran out, and the batches cannot be made small")
        assert why in str(caught.value)


def test_other_errors_pass():
    class Odd(Tight):
        def forward(self, x):
            msg = "of its own kind"
            raise RuntimeError(msg)

    H = hs.Hessian(hs.Problem(Odd(9), F.cross_entropy, (X, Y)))
    with pytest.raises(ValueError, match="of its own kind"):
        H @ torch.ones(43, dtype=torch.float64)
