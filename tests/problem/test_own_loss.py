"""Models that compute their own loss need no line: what is inferred is right, told, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests import language
from tests.language import Causal, Contrasted, Masked, Trained, Vectors, cut, sentences
from tests.networks import relative_error
from tests.processes import in_processes

EXACT = 1e-12


def seeded(make, *args, **kw):
    torch.manual_seed(0)
    return make(*args, **kw).double()


def assert_split_alike(model, batches, whole):
    """Any split has the loss of all examples at once, its gradient and its products."""
    split, one = hs.Problem(model, data=batches), hs.Problem(model, data=[whole])
    v = torch.linspace(-1, 1, one.n, dtype=one.dtype)
    assert split.loss() == pytest.approx(one.loss(), rel=EXACT)
    assert relative_error(split.gradient(), one.gradient()) < EXACT
    assert relative_error(hs.Hessian(split) @ v, hs.Hessian(one) @ v) < EXACT
    assert split.num_items == one.num_items
    return split


@pytest.mark.parametrize(("make", "first"), [(Causal, 1), (Masked, 0)])
@pytest.mark.parametrize("sizes", [(3, 2), (1, 1, 1, 1, 1)])
def test_words_are_counted_as_the_model_shifts_them(make, first, sizes):
    model, whole = seeded(make), sentences()
    problem = assert_split_alike(model, cut(whole, *sizes), whole)
    assert problem.num_items == int((whole["labels"][:, first:] != -100).sum())
    assert problem.loss() == pytest.approx(model(**whole).loss.item(), rel=EXACT)
    assert hs.check_problem(problem).ok


def test_gauss_newton_and_fisher_of_a_causal_model_are_those_of_the_loss_by_hand():
    model, whole = seeded(Causal), sentences()
    own = hs.Problem(model, data=cut(whole, 2, 3))
    by_hand = hs.Problem(
        model,
        F.cross_entropy,
        [whole],
        unpack=lambda b: (b["input_ids"], b["labels"][:, 1:]),
        forward=lambda m, ids: m(ids).logits[:, :-1].movedim(2, 1),
        count=lambda y: (y != -100).sum(),
    )
    for operator in (hs.GaussNewton, hs.Fisher, hs.EmpiricalFisher):
        truth = operator(by_hand).to_dense()
        assert relative_error(operator(own).to_dense(), truth) < EXACT


@pytest.mark.parametrize("kind", ["classes", "values", "many labels", "pair"])
def test_losses_of_vectors_are_recognised(kind):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.arange(6) % 3 if kind in ("classes", "pair") else F.one_hot(torch.arange(6) % 3)
    labels = labels if kind in ("classes", "pair") else labels.double()
    model, whole = seeded(Vectors, kind), {"x": x, "labels": labels}
    problem = assert_split_alike(model, cut(whole, 4, 2), whole)
    assert problem.num_items == 6
    if kind == "pair":  # no logits by name
        with pytest.raises(ValueError, match=r"outputs: unknown, for the loss is no usual one"):
            hs.GaussNewton(problem)
    else:
        loss_fn = {"values": F.mse_loss, "classes": F.cross_entropy}
        loss_fn = loss_fn.get(kind, F.binary_cross_entropy_with_logits)
        truth = hs.GaussNewton(hs.Problem(model.layer, loss_fn, (x, labels))).to_dense()
        assert relative_error(hs.GaussNewton(problem).to_dense(), truth) < EXACT


class Pixels(nn.Module):
    """Labels pictures at half their size, and compares at full size, as SegFormer does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 2, stride=2).double()

    def forward(self, x, labels):
        logits = self.layer(x)
        full = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        return {"loss": F.cross_entropy(full, labels, ignore_index=255), "logits": logits}


class Answers(nn.Module):
    """Sums the logistic loss over the labels of an example, as ViLT does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x, labels):
        logits = self.layer(x)
        loss = F.binary_cross_entropy_with_logits(logits, labels) * labels.shape[1]
        return {"loss": loss, "logits": logits}


def test_interpolated_logits_of_pixels_are_recognised():
    x = torch.randn(5, 2, 6, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = (torch.arange(120) % 3).reshape(5, 6, 4)
    labels[1, :, 0] = 255
    model, whole = seeded(Pixels), {"x": x, "labels": labels}
    problem = assert_split_alike(model, cut(whole, 3, 2), whole)
    assert problem.num_items == 114
    full = lambda m, x: F.interpolate(m(x), (6, 4), mode="bilinear", align_corners=False)  # noqa: E731
    loss_fn = nn.CrossEntropyLoss(ignore_index=255)
    by_hand = hs.Problem(model.layer, loss_fn, (x, labels), forward=full)
    for operator in (hs.GaussNewton, hs.Fisher):
        truth = operator(by_hand).to_dense()
        assert relative_error(operator(problem).to_dense(), truth) < EXACT


def test_a_logistic_loss_summed_over_labels_is_recognised():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = F.one_hot(torch.arange(6) % 3).double()
    model, whole = seeded(Answers), {"x": x, "labels": labels}
    problem = assert_split_alike(model, cut(whole, 4, 2), whole)
    loss_fn = F.binary_cross_entropy_with_logits
    truth = 3 * hs.GaussNewton(hs.Problem(model.layer, loss_fn, (x, labels))).to_dense()
    assert relative_error(hs.GaussNewton(problem).to_dense(), truth) < EXACT


def test_a_loss_of_no_usual_form_is_counted_by_measurement():
    model, whole = seeded(Causal, smoothing=0.3), sentences()
    problem = assert_split_alike(model, cut(whole, 3, 2), whole)
    assert problem.num_items == int((whole["labels"][:, 1:] != -100).sum())
    assert problem.inferred[2] == (
        'items: batch["labels"] other than -100, without the first of each, as measured'
    )
    with pytest.raises(ValueError, match=r"GaussNewton needs .* no usual one of \.logits"):
        hs.GaussNewton(problem)


def test_a_near_miss_is_not_taken_for_the_loss_of_the_logits():
    class Regularised(Causal):
        def loss(self, logits, labels):
            return super().loss(logits, labels) + 1e-6 * logits.logsumexp(-1).square().mean()

    assert hs.Problem(seeded(Regularised), data=[sentences()]).loss_fn is None


def test_the_same_value_with_another_gradient_is_not_taken_for_it():
    class Detached(Causal):
        def loss(self, logits, labels):
            return super().loss(logits, labels) + 0 * logits.sum() + self.penalty()

        def penalty(self):
            return self.words.weight.sum() - self.words.weight.sum().detach()

    assert hs.Problem(seeded(Detached), data=[sentences()]).loss_fn is None


def test_a_contrastive_loss_is_refused_until_the_user_says_that_a_batch_is_one_item():
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 7, 4, generator=generator).double()
    model, batches = seeded(Contrasted), cut({"a": a, "b": b}, 4, 3)
    with pytest.raises(ValueError, match=r"no mean over any of: examples.*count=1 if a batch is"):
        hs.Problem(model, data=batches)
    problem = hs.Problem(model, data=batches, count=1)
    losses = [model(**batch, return_loss=True).loss.item() for batch in batches]
    assert problem.loss() == pytest.approx(sum(losses) / 2, rel=EXACT)
    check = hs.check_problem(problem)
    assert check.ok
    assert "batches_are_items" in [finding.name for finding in check.findings]
    assert "return_loss=True" in str(problem)


def test_a_single_batch_of_a_contrastive_loss_needs_no_count():
    a = torch.randn(5, 4, generator=torch.Generator().manual_seed(3)).double()
    problem = hs.Problem(seeded(Contrasted), data={"a": a, "b": a.flip(1)})
    assert problem.num_items == 1
    assert hs.check_problem(problem).ok


@pytest.mark.parametrize("gives", ["tensor", "dict"])
def test_a_training_step_is_asked_and_its_logs_go_nowhere(gives):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(4)).double()
    model, y = seeded(Trained, gives), torch.arange(6) % 3
    log = model.log
    problem = hs.Problem(model, data=[(x[:4], y[:4]), (x[4:], y[4:])])
    truth = hs.Problem(model.layer, F.cross_entropy, (x, y))
    assert problem.loss() == pytest.approx(truth.loss(), rel=EXACT)
    assert relative_error(hs.Hessian(problem).to_dense(), hs.Hessian(truth).to_dense()) < EXACT
    assert hs.check_problem(problem).ok
    assert model.log == log
    assert "log" not in vars(model)


def test_manual_optimisation_is_refused():
    model = seeded(Trained)
    model.automatic_optimization = False
    with pytest.raises(ValueError, match=r"optimises by hand .*from_closure"):
        hs.Problem(model, data=[(torch.ones(2, 4).double(), torch.tensor([0, 1]))])


def test_caches_are_not_asked_for_and_their_writing_is_explained_to_a_closure():
    model, whole = seeded(language.Cached), sentences()
    own = hs.Problem(model, data=cut(whole, 3, 2))
    assert own.loss() == pytest.approx(hs.Problem(seeded(Causal), data=whole).loss(), rel=EXACT)
    closure = hs.Problem.from_closure(model, lambda m, b: m(**b).loss, [whole])
    with pytest.raises(RuntimeError, match=r"use_cache=False .* or training=True"):
        closure.gradient()
    (fault,) = hs.check_problem(closure).faults
    assert "use_cache=False" in fault.cause


@pytest.mark.parametrize("num", [1, 2])
def test_a_model_that_rescales_its_weights_is_refused_by_name_with_the_cure(num):
    model, whole = seeded(language.Rescaling), sentences()
    batches = cut(whole, 5) if num == 1 else cut(whole, 3, 2)
    before = model.head.weight.clone()
    with pytest.raises(ValueError, match=r"parameter head\.weight in place .* training=True"):
        hs.Problem(model, data=batches)
    assert torch.equal(model.head.weight, before)
    problem = hs.Problem(model, data=batches, training=True)
    assert problem.loss() == pytest.approx(hs.Problem(seeded(Causal), data=whole).loss())


def test_labels_are_found_under_other_names_and_what_the_model_does_not_know_is_left_out():
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)).double()
    batch = {"x": x, "label": torch.arange(4) % 3, "text": list("abcd"), "idx": torch.arange(4)}
    problem = hs.Problem(seeded(Vectors, "classes"), data=[batch])
    assert problem.inferred[0] == "loss: the model's own, of x, label as labels; left out text, idx"
    assert list(batch) == ["x", "label", "text", "idx"]


def test_what_was_inferred_is_printed_with_the_problem_in_its_facts_and_in_the_check():
    problem = hs.Problem(seeded(Causal), data=cut(sentences(), 3, 2))
    told = [
        "loss: the model's own, of input_ids, labels",
        "outputs: the loss is cross_entropy of logits and labels of the next words, on 2 batches "
        "to rounding",
        "items: labels other than -100, without each first",
    ]
    assert str(problem).split("\n  ")[1:] == told
    assert problem.facts()["inferred"] == told
    notes = [f.cause for f in hs.check_problem(problem).findings if f.name == "inferred"]
    assert notes == [f"{'; '.join(told)}."]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(data=None), r"no data was given: hs\.Problem\(model, loss_fn, data\)"),
        (dict(data=[sentences()], forward=lambda m, x: m(x)), r"no loss_fn was given"),
        (dict(data=[{"input_ids": torch.zeros(2, 3).long()}]), r"with input_ids .* \(labels\)"),
        (dict(data=[sentences()], count=2), r"count=2: give a function of the batch, or 1"),
    ],
)
def test_what_is_missing_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        hs.Problem(seeded(Causal), **arguments)


def test_batches_of_unlike_length_whose_items_cannot_be_told_are_refused():
    model = seeded(Causal, smoothing=0.1)
    batches = [sentences(3, 4, padded=False), sentences(3, 6, padded=False)]
    with pytest.raises(ValueError, match=r"is a mean over any of: batch"):
        hs.Problem(model, data=batches)
    counted = hs.Problem(model, data=batches, count=lambda b: b["labels"][:, 1:].numel())
    assert counted.num_items == 3 * 3 + 3 * 5


def test_batches_whose_labels_are_all_ignored_are_left_out():
    model, whole = seeded(Causal), sentences()
    nothing = {"input_ids": whole["input_ids"][:2], "labels": torch.full((2, 6), -100)}
    problem = hs.Problem(model, data=[nothing, *cut(whole, 3, 2), nothing])
    assert problem.loss() == pytest.approx(hs.Problem(model, data=whole).loss(), rel=EXACT)
    assert len(problem.batches) == 2


def test_a_loss_that_is_not_finite_is_named():
    model = seeded(Causal)
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(RuntimeError, match=r"the loss of batch 0 is nan"):
        hs.Problem(model, data=sentences())


def test_a_block_and_another_point_keep_the_loss_of_the_model():
    model, whole = seeded(Causal), sentences()
    problem = hs.Problem(model, data=cut(whole, 3, 2))
    block = problem.block("head.*")
    assert relative_error(block.gradient(), problem.gradient()[-block.n :]) < EXACT
    moved = problem.at(problem.theta + 0.1)
    assert moved.loss() == pytest.approx(hs.Problem(model, data=whole).at(moved.theta).loss())
    assert hs.diagnose(problem, lr=0.1, effort="quick").verdict("step size").claim


def test_a_model_in_half_precision_is_looked_at_in_single():
    torch.manual_seed(0)
    problem = hs.Problem(Causal().bfloat16(), data=cut(sentences(), 3, 2))
    assert problem.dtype == torch.float32
    assert problem.loss_fn is not None
    assert (hs.GaussNewton(problem) @ problem.theta).isfinite().all()


def test_a_wrapped_model_is_unwrapped_and_a_name_alone_wraps_nothing():
    class DataParallel(nn.Module):  # a user's own, which happens to have that name
        def __init__(self, module):
            super().__init__()
            self.module, self.scale = module, nn.Parameter(torch.ones(1).double())

        def forward(self, x):
            return self.scale * self.module(x)

    layer, data = seeded(nn.Linear, 4, 3), (torch.ones(2, 4).double(), torch.tensor([0, 1]))
    assert hs.Problem(nn.DataParallel(layer), F.cross_entropy, data).model is layer
    assert hs.Problem(DataParallel(layer), F.cross_entropy, data).n == 16


def of_one_of_two(rank):
    problem = hs.Problem(seeded(Causal), data=cut(sentences(), 3, 2)[rank])
    return problem.num_items, problem.loss()


def test_two_processes_count_and_average_together():
    truth = hs.Problem(seeded(Causal), data=sentences())
    for num_items, loss in in_processes(of_one_of_two, 2):
        assert num_items == truth.num_items
        assert loss == pytest.approx(truth.loss(), rel=EXACT)
