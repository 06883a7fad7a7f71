"""The engine room: losses and gradients batch by batch, inside of the evaluation alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.problem.calls import NonFiniteLossError
from tests.networks import make, mlp, smooth, vectors
from tests.state import state_of


@pytest.mark.parametrize("name", ["mlp", "resnet_batchnorm", "gpt2", "tied", "frozen"])
def test_means_of_batches_are_the_numbers_of_the_problem(name):
    problem = smooth(name).problem(batch_size=3)
    with problem.evaluation() as e:
        weights = [batch.count / e.num_items for batch in e.batches]
        losses = [float(e.loss(batch).detach()) for batch in e.batches]
        gradients = [e.gradient(batch) for batch in e.batches]
        again = e.mean(lambda batch: e.loss(batch).detach())
    assert sum(weights) == pytest.approx(1, rel=1e-15)
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    assert problem.loss() == pytest.approx(expected, rel=1e-14)
    assert float(again) == problem.loss()
    mean = sum(w * g for w, g in zip(weights, gradients, strict=True))
    assert torch.allclose(problem.gradient(), mean, rtol=1e-13, atol=1e-15)


def test_leaves_are_the_models_own_or_those_of_the_other_point():
    problem = smooth("mlp").problem()
    own = list(problem.model.parameters())
    with problem.evaluation() as e:
        assert all(leaf is p for leaf, p in zip(e.leaves, own, strict=True))
        assert all(leaf.requires_grad for leaf in e.leaves)
    moved = problem.at(problem.theta + 1)
    with moved.evaluation() as e:
        assert all(leaf is not p for leaf, p in zip(e.leaves, own, strict=True))
        assert all(leaf.requires_grad for leaf in e.leaves)
        assert not any(p.requires_grad for p in own)
        assert torch.equal(torch.cat([leaf.detach().reshape(-1) for leaf in e.leaves]), moved.theta)


def test_outputs_and_targets_are_those_of_the_batch():
    case = smooth("mlp")
    with case.problem(batch_size=4).evaluation() as e:
        found = [e.outputs(batch) for batch in e.batches]
    z, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert torch.allclose(z, case.model(case.data[0]), rtol=1e-13, atol=0)
    assert torch.equal(y, case.data[1])


def test_a_closure_has_no_outputs():
    problem = hs.Problem.from_closure(
        nn.Linear(1, 1), lambda model, batch: model(batch[0]).sum(), [(torch.ones(2, 1),)]
    )
    with (
        problem.evaluation() as e,
        pytest.raises(ValueError, match=r"^this problem was made from a"),
    ):
        e.predict(next(iter(e.batches)))


@pytest.mark.parametrize("ask", ["loss", "finite_loss", "gradient", "outputs", "predict"])
def test_outside_it_is_of_no_use(ask):
    problem = smooth("mlp").problem()
    before = state_of(problem.model)
    with problem.evaluation() as e:
        batch = next(iter(e.batches))
    with pytest.raises(RuntimeError, match=r"^this evaluation is over, .*with problem.evaluation"):
        getattr(e, ask)(batch)
    assert state_of(problem.model) == before


def test_it_is_over_after_an_error_too():
    problem = smooth("mlp").problem()
    with pytest.raises(KeyError), problem.evaluation() as e:
        raise KeyError
    with pytest.raises(RuntimeError, match=r"^this evaluation is over"):
        e.loss(next(iter(e.batches)))


def test_it_is_frozen():
    problem = smooth("mlp").problem()
    with problem.evaluation() as e, pytest.raises(dataclasses.FrozenInstanceError):
        e.leaves = []


def test_graphs_outlive_it():
    problem = make(lambda: (mlp(), F.cross_entropy, vectors())).problem()
    with problem.evaluation() as e:
        (batch,) = e.batches
        loss = e.loss(batch)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, e.leaves)])
    assert torch.equal(gradient, problem.gradient())


def test_only_what_is_differentiated_must_be_finite():
    problem = hs.Problem.from_function(lambda t: t.log().sum(), torch.zeros(1))
    with problem.evaluation() as e:
        (batch,) = e.batches
        assert e.loss(batch) == -torch.inf
        for differentiate in (e.finite_loss, e.gradient):
            with pytest.raises(NonFiniteLossError, match=r"^the loss of batch 0 is -inf; a Hess"):
                differentiate(batch)
