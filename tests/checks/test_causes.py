"""Causes are tried out: a model left in training mode is blamed for what it does, in no mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.checks.examples import _joined
from tests.networks import vectors
from tests.planted.faults import Bent, ignoring_in_the_last


def batch_norm(dropout=False):
    middle = [nn.Dropout()] if dropout else []
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), *middle, nn.Linear(6, 3))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = batch_norm(dropout=True)

    def forward(self, x):
        return self.body(x + 0.1 * torch.randn_like(x))


WEIGHT = torch.tensor([1.0, 5.0, 0.2])
CAUSES = {
    "sum": ("sum_reduction", batch_norm, nn.CrossEntropyLoss(reduction="sum")),
    "weights": ("class_weights", batch_norm, nn.CrossEntropyLoss(weight=WEIGHT)),
    "noise": ("random_loss", Noisy, F.cross_entropy),
    "coupling": (
        "not_a_mean", batch_norm, lambda out, y: F.cross_entropy(out - out.mean(0), y)),
}  # fmt: skip


def first_fault(model, loss, data=None, **options):
    data = data or vectors(40)
    return hs.check_problem(hs.Problem(model, loss, data, batch_size=10, **options)).faults[0]


@pytest.mark.parametrize("left_in_training", [True, False])
@pytest.mark.parametrize("case", CAUSES)
def test_the_mode_that_a_model_was_left_in_is_no_cause(case, left_in_training):
    name, make, loss = CAUSES[case]
    torch.manual_seed(0)
    assert first_fault(make().train(left_in_training), loss).name == name


def test_training_mode_that_was_asked_for_is_a_cause():
    torch.manual_seed(0)
    fault = first_fault(batch_norm(), F.cross_entropy, training=True)
    assert fault.name == "batch_statistics"
    assert "1 (BatchNorm1d)" in fault.cause
    assert "leave out training=True" in fault.cure
    fault = first_fault(batch_norm(dropout=True), F.cross_entropy, training=True)
    assert fault.name == "dropout"
    assert "leave out training=True" in fault.cure


class Stubborn(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(True)


def test_a_layer_that_no_mode_reaches_is_not_told_to_leave_out_an_argument():
    torch.manual_seed(0)
    fault = first_fault(nn.Sequential(Stubborn(4), nn.Linear(4, 3)), F.cross_entropy)
    assert fault.name == "batch_statistics"
    assert "evaluation mode does not reach it" in fault.cure


def test_a_module_that_couples_examples_is_named():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Centred(), nn.Linear(6, 3))
    fault = first_fault(model, F.cross_entropy)
    assert fault.name == "not_a_mean"
    assert "what 1 (Centred) makes of an example depends on its neighbours" in fault.cause


def test_a_count_is_advised_only_if_the_numbers_agree_with_it():
    torch.manual_seed(0)
    check = hs.check_problem(ignoring_in_the_last(torch.float64))
    assert check.faults[0].cure.endswith("count=lambda targets: (targets != -100).sum().")


class Shifted(nn.Module):
    """A causal model that shifts its labels itself, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 9)

    def forward(self, ids, labels):
        outputs = self.head(torch.tanh(self.embed(ids)))[:, :-1]
        return F.cross_entropy(outputs.flatten(0, 1), labels[:, 1:].flatten())


def test_the_count_of_shifted_labels_is_advised_and_right():
    torch.manual_seed(0)
    model, ids = Shifted(), torch.randint(0, 9, (12, 6))
    labels = torch.where(torch.arange(6) >= torch.randint(2, 7, (12, 1)), -100, ids)
    batches = [{"ids": ids[i : i + 4], "labels": labels[i : i + 4]} for i in (0, 4, 8)]
    fault = hs.check_problem(hs.Problem.from_closure(model, lambda m, b: m(**b), batches)).faults[0]
    assert fault.name == "ignored_targets"
    words = fault.cure.partition(": ")[2].rstrip(".")
    assert words == 'count=lambda batch: (batch["labels"][:, 1:] != -100).sum()'
    count = eval(words.removeprefix("count="))
    problem = hs.Problem.from_closure(model, lambda m, b: m(**b), batches, count=count)
    assert hs.check_problem(problem).ok


def test_custom_functions_are_named_and_differences_offered():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.body(x)
            return self.head(Bent.apply(x, torch.ones_like(x, dtype=torch.bool), 2, 0.0))

    torch.manual_seed(0)
    fault = first_fault(Model(), F.cross_entropy)
    assert fault.name == "wrong_second_derivative"
    assert "(here: Bent)" in fault.cause
    assert "product='finite-difference'" in fault.cure


def test_the_operation_that_breaks_is_named_and_not_what_uses_it():
    def ctc(outputs, targets):
        log_p = outputs.log_softmax(-1).transpose(0, 1)
        lengths = torch.full((log_p.shape[1],), log_p.shape[0])
        return F.ctc_loss(log_p, targets, lengths, torch.full_like(lengths, 2))

    torch.manual_seed(0)
    data = torch.randn(12, 6, 4), torch.randint(1, 5, (12, 2))
    problem = hs.Problem(nn.Linear(4, 5), ctc, data, count=len)
    assert "(at CtcLossBackward0)" in hs.check_problem(problem).faults[0].cause


class OnlyInTraining(nn.Linear):
    def forward(self, x):
        if not self.training:
            msg = "put me into training mode"
            raise OSError(msg)
        return super().forward(x)


def test_a_model_that_needs_the_other_mode_is_told_so_and_runs_in_it():
    torch.manual_seed(0)
    fault = first_fault(OnlyInTraining(4, 3), F.cross_entropy)
    assert fault.name == "loss_fails"
    assert "hesscope puts the model into evaluation mode" in fault.cure
    assert "training=True" in fault.cure
    problem = hs.Problem(OnlyInTraining(4, 3), F.cross_entropy, vectors(40), training=True)
    assert hs.check_problem(problem).ok


class NeedsAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x).to(torch.float16).to(torch.int32).to(torch.float16))


def test_a_model_that_needs_autocast_is_told_that_it_is_off():
    torch.manual_seed(0)
    fault = first_fault(NeedsAutocast(), F.cross_entropy)
    assert fault.name == "loss_fails"
    assert "hesscope switches autocast off, and it runs under autocast only" in fault.cure


class Margins(nn.Module):
    """Cosines to trained class centres, as ArcFace has them."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 5))

    def forward(self, z, y):
        return F.cross_entropy(4 * F.normalize(z) @ F.normalize(self.centres).T, y)


def test_trained_parameters_of_the_loss_are_a_note_and_the_advice_takes_them_in():
    torch.manual_seed(0)
    model, loss, data = nn.Linear(4, 5), Margins(), vectors(40)
    problem = hs.Problem(model, loss, data)
    check = hs.check_problem(problem)
    assert check.ok
    (note,) = (f for f in check.findings if f.name == "parameters_outside")
    assert "Margins.centres (15 numbers)" in note.cause
    both = nn.ModuleList([model, loss])
    whole = hs.Problem.from_closure(
        both, lambda both, batch: both[1](both[0](batch[0]), batch[1]), data
    )
    assert whole.n == problem.n + 15
    assert not [f for f in hs.check_problem(whole).findings if f.name == "parameters_outside"]
    torch.testing.assert_close(whole.gradient()[: problem.n], problem.gradient())


def test_frozen_parameters_of_the_loss_are_no_note():
    torch.manual_seed(0)
    check = hs.check_problem(
        hs.Problem(nn.Linear(4, 5), Margins().requires_grad_(False), vectors(40))
    )
    assert check.ok
    assert check.findings == ()


class Bounded(torch.autograd.Function):
    """x²/2 whose slope is off by a share where x is larger than 1.5."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.save_for_backward(x)
        ctx.share = share
        return x.square() / 2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x * torch.where(x > 1.5, 1 + ctx.share, 1.0), None


def rough_beyond(x):
    """Waves so short where x is larger than 1.5 that no difference sees their slope."""
    return x.square() / 2 + torch.where(x > 1.5, (1e9 * x).sin(), 0.0)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda x: Bounded.apply(x, 0.0), ""),
        (lambda x: Bounded.apply(x, 2e-3), "gradient_is_not_the_derivative"),
        (rough_beyond, ""),
    ],
)
def test_what_is_wrong_in_large_arguments_is_told_from_what_is_rough_there(function, fault):
    start = torch.linspace(0.4, 0.6, 5).double()
    problem = hs.Problem.from_function(lambda t: function(t).square().sum(), start)
    assert "".join(f.name for f in hs.check_problem(problem).faults) == fault


def test_the_examples_of_a_check_are_joined_evenly():
    joined = _joined([(torch.ones(1, 2), torch.ones(1)) for _ in range(7)], 3)
    assert [len(content[0]) for content in joined] == [2, 2, 3]


def test_a_loss_that_is_rough_where_it_stands_is_not_accused_of_a_detached_value():
    """Waves that no difference sees, though their slope is right."""
    start = torch.linspace(1.6, 1.9, 5).double()
    check = hs.check_problem(hs.Problem.from_function(lambda t: rough_beyond(t).sum(), start))
    assert "gradient_is_not_the_derivative" not in [f.name for f in check.faults]
    assert "gradient_not_checked" in [f.name for f in check.findings]
