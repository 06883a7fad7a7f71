"""The user's code may write into the batch that it gets; nothing later depends on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem.data import Batch
from hesscope.problem.handing import Handing


def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 4, generator=generator).double()
    return {"x": x, "labels": torch.arange(12) % 3}


def plain(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["labels"])


def pops(model, batch):
    labels = batch.pop("labels")
    return F.cross_entropy(model(batch["x"]), labels)


def adds_a_key(model, batch):
    shift = batch.get("shift", 0.0)
    batch["shift"] = 1.0
    return plain(model, {**batch, "x": batch["x"] + shift})


def scales_in_place(model, batch):
    batch["x"].mul_(2)
    return F.cross_entropy(model(batch["x"] / 2), batch["labels"])


def wants_a_gradient(model, batch):
    x = batch["x"].requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return plain(model, batch) + 0 * slope.sum()


WRITERS = [pops, adds_a_key, scales_in_place, wants_a_gradient]


def problem_of(closure, batches):
    torch.manual_seed(0)
    return hs.Problem.from_closure(nn.Linear(4, 3).double(), closure, batches)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("num_batches", [1, 3])
def test_what_the_loss_writes_into_its_batch_is_gone_at_the_next_call(writer, num_batches):
    batches = [data() for _ in range(num_batches)]
    before = [{name: t.clone() for name, t in batch.items()} for batch in batches]
    problem, right = problem_of(writer, batches), problem_of(plain, [data()])
    assert [problem.loss() for _ in range(3)] == pytest.approx([right.loss()] * 3, rel=1e-14)
    H, expected = hs.Hessian(problem).to_dense(), hs.Hessian(right).to_dense()
    assert (H - expected).abs().max() <= 1e-14
    assert hs.check_problem(problem).ok
    for batch, old in zip(batches, before, strict=True):
        assert list(batch) == list(old)
        assert all(torch.equal(batch[name], old[name]) for name in old)
        assert not any(tensor.requires_grad for tensor in batch.values())


def test_a_batch_that_alone_is_written_into_is_named():
    handing = Handing()
    with handing.content(Batch(0, [torch.ones(2)], 1.0)) as content:
        assert content[0].sum() == 2
    with (
        pytest.raises(ValueError, match=r"writes into batch 1 in place, unlike into the first"),
        handing.content(Batch(1, [torch.ones(2)], 1.0)) as content,
    ):
        content[0].add_(1)
