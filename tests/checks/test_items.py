"""What the loss averages over, where `count` says otherwise: the advice is the right cure."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.language import Causal, Contrasted, Masked, cut, sentences


def advised(check: hs.Check, arguments: str) -> str:
    """The code of `count` in the cure of the only fault."""
    (fault,) = check.faults
    assert fault.name == "ignored_targets"
    code = fault.cure.partition("count=")[2].rstrip(".")
    assert code.startswith(f"lambda {arguments}: ")
    return code


@pytest.mark.parametrize("make", [Causal, Masked])
def test_the_advice_cures_a_padded_model_in_a_closure(make):
    torch.manual_seed(0)
    model, whole = make().double(), sentences()

    def closure(model, batch):
        return model(**batch).loss

    batches = cut(whole, 3, 2)
    code = advised(hs.check_problem(hs.Problem.from_closure(model, closure, batches)), "batch")
    cured = hs.Problem.from_closure(model, closure, batches, count=eval(code))
    assert hs.check_problem(cured).ok
    assert cured.loss() == pytest.approx(model(**whole).loss.item(), rel=1e-14)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_advice_cures_a_padded_model_with_a_loss_of_its_outputs(shift):
    torch.manual_seed(0)
    model, whole = Causal().double(), sentences()

    def loss_fn(z, y):
        z = z[:, : z.shape[1] - shift]
        return F.cross_entropy(z.flatten(0, 1), y[:, shift:].flatten())

    arguments = dict(
        unpack=lambda b: (b["input_ids"], b["labels"]), forward=lambda m, ids: m(ids).logits
    )
    batches = cut(whole, 3, 2)
    first = hs.Problem(model, loss_fn, batches, **arguments)
    code = advised(hs.check_problem(first), "targets")
    cured = hs.Problem(model, loss_fn, batches, **arguments, count=eval(code))
    assert hs.check_problem(cured).ok
    truth = hs.Problem(model, loss_fn, [whole], **arguments)
    assert cured.loss() == pytest.approx(truth.loss(), rel=1e-14)


class Packed(nn.Module):
    """Gives outputs as long as the longest sequence, so no part of its batch fits the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, given):
        x, lengths = given
        return self.layer(x[:, : int(lengths.max())]).transpose(1, 2)


def test_ignored_targets_are_seen_where_no_batch_can_be_cut():
    torch.manual_seed(0)
    batches = []
    for lengths in ([6, 1, 1], [1, 2]):
        long, num = max(lengths), len(lengths)
        y = torch.randint(0, 5, (num, long))
        y[torch.arange(long) >= torch.tensor(lengths)[:, None]] = -100
        batches.append(((torch.randn(num, long, 3).double(), torch.tensor(lengths)), y))
    model = Packed().double()
    code = advised(hs.check_problem(hs.Problem(model, F.cross_entropy, batches)), "targets")
    cured = hs.Problem(model, F.cross_entropy, batches, count=eval(code))
    assert hs.check_problem(cured).ok
    assert cured.num_items == 11


def test_ordinary_numbers_of_minus_100_raise_no_alarm():
    table = nn.Embedding(3, 3)

    def closure(model, batch):
        return F.cross_entropy(model((batch["x"] + 100) // 100), batch["y"])

    batches = [{"x": torch.tensor([-100, 0, 100, -100]), "y": torch.tensor([0, 1, 2, 1])}] * 2
    assert hs.check_problem(hs.Problem.from_closure(table.double(), closure, batches)).ok


def contrasted(**kw):
    torch.manual_seed(0)
    a, b = torch.randn(2, 9, 4).double()

    def closure(model, batch):
        return model(**batch, return_loss=True).loss

    return hs.Problem.from_closure(
        Contrasted().double(), closure, cut({"a": a, "b": b}, 4, 3, 2), **kw
    )


@pytest.mark.parametrize("count", [1, lambda batch: 1])
def test_a_batch_that_is_one_item_is_never_cut(count):
    problem = contrasted(count=count)
    assert problem.num_items == 3
    check = hs.check_problem(problem)
    assert check.ok
    assert ("batches_are_items" if count == 1 else "mean_not_checked") in [
        finding.name for finding in check.findings
    ]
    assert "loss is a mean" not in check.passed
    with problem.evaluation() as e:
        truth = sum(e.gradient(batch) for batch in e.batches) / 3
    assert torch.allclose(problem.gradient(), truth, rtol=1e-13)


def test_a_coupled_loss_without_it_is_a_fault_whose_cure_names_it():
    (fault,) = hs.check_problem(contrasted()).faults
    assert fault.name == "not_a_mean"
    assert "count=1" in fault.cure


def test_noise_and_subsamples_take_batches_for_items():
    problem = contrasted(count=1)
    error = hs.sampling_error(problem, hs.eigsh(hs.Hessian(problem), k=1))
    assert error.num_examples == 3
    assert problem.subsample(2).num_items == 2
    with pytest.raises(ValueError, match=r"count=1 says that each batch is one item"):
        hs.class_decomposition(
            hs.Problem(
                nn.Linear(4, 3), F.cross_entropy, (torch.ones(2, 4), torch.arange(2)), count=1
            )
        )


def test_what_the_loss_divides_by_is_named_where_measurement_finds_it():
    torch.manual_seed(0)
    y = torch.arange(12).reshape(6, 2) % 3
    data = [(torch.randn(n, 4).double(), y[:n]) for n in (6, 3)]
    problem = hs.Problem(
        nn.Linear(4, 3).double(),
        lambda z, y: F.cross_entropy(z.repeat_interleave(2, 0), y.flatten()),
        data,
        count=lambda y: y.sum(),
    )
    (fault,) = hs.check_problem(problem).faults
    assert (fault.name, fault.cure.partition("divides by: ")[2]) == (
        "not_a_mean",
        "count=lambda targets: (targets != -100).sum().",
    )


@pytest.mark.parametrize("columns", [1, 3])
def test_a_loss_that_singles_an_example_out_is_not_taken_for_time_first(columns):
    """One column is no second axis along which anything was averaged."""
    torch.manual_seed(0)
    problem = hs.Problem.from_closure(
        nn.Linear(columns, 1).double(),
        lambda model, batch: model(batch[0]).square().mean() + model(batch[0])[0].sin().mean(),
        [(torch.randn(12, columns).double(),)],
    )
    notes = [note.name for note in hs.check_problem(problem).findings]
    assert notes == ["not_a_mean"]
