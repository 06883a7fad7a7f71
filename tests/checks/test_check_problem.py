"""check_problem: silent on healthy models, and it calls every planted fault by its name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.clean_models import RECIPES, clean_case, trained
from tests.faults import FAULTS
from tests.networks import deep_mlp, make, mlp, vectors
from tests.state import state_of
from tests.thinning import thinned

QUESTIONS = (
    "parameters are finite",
    "data is repeatable",
    "loss is finite",
    "loss is repeatable",
    "loss moves with the parameters",
    "loss is a mean",
    "graph is differentiable again",
    "hessian is symmetric",
    "gradient matches the loss",
    "hessian matches the gradient",
    "gradient matches the loss of all data",
    "hessian matches the gradient of a batch",
    "derivatives match at a larger scale",
    "products keep their digits",
    "loss stays the same",
)


@pytest.mark.parametrize("seed", thinned(range(3), 3))
@pytest.mark.parametrize("name", RECIPES)
def test_no_healthy_model_is_called_faulty(name, seed):
    for dtype in (torch.float64, torch.float32):
        check = hs.check_problem(clean_case(name, dtype, seed).problem())
        assert check.ok, check
        assert check.passed == QUESTIONS


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_called_by_its_name(fault, seed):
    name, build = FAULTS[fault]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        check = hs.check_problem(build())
    assert not check.ok
    assert [finding.name for finding in check.faults] == [name], check
    assert check.faults[0].cure.endswith(".")
    assert f"FAULT {name}: {check.faults[0].cause}" in str(check)


@pytest.mark.parametrize("seed", range(3))
def test_kinks_of_a_trained_relu_network_on_many_examples_raise_no_alarm(seed):
    case = make(trained(lambda: deep_mlp(nn.ReLU, depth=4, width=24), 100), torch.float32, seed)
    x, y = (torch.cat([t] * 20) for t in case.data)
    check = hs.check_problem(hs.Problem(case.model, F.cross_entropy, (x + 1e-3, y)))
    assert check.ok, check


@pytest.mark.parametrize(
    "fault", ["detached residual", "loss that raises", "batch statistics in training"]
)
def test_the_check_leaves_model_and_generators_as_they_were(fault):
    with torch.random.fork_rng():
        problem = FAULTS[fault][1]()
        before = state_of(problem.model)
        hs.check_problem(problem)
        assert state_of(problem.model) == before


def test_a_coupled_loss_is_only_a_note_where_all_data_is_one_batch():
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        check = hs.check_problem(hs.Problem(mlp(), weighted, vectors(12)))
    assert check.ok
    assert [finding.name for finding in check.findings] == ["class_weights"]


def test_a_shuffling_loader_is_a_note_because_its_first_order_is_kept():
    data = torch.utils.data.TensorDataset(*vectors(12))
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    check = hs.check_problem(hs.Problem(mlp(), F.cross_entropy, loader))
    assert check.ok
    assert [finding.name for finding in check.findings] == ["shuffled_data"]


def test_parameters_that_the_loss_does_not_use_are_named():
    check = hs.check_problem(clean_case("unused_head", torch.float64, 0).problem())
    (note,) = check.findings
    assert note.name == "unused_parameters"
    assert "other.weight, other.bias" in note.cause


def test_parameters_on_a_kink_are_a_note_and_no_fault():
    check = hs.check_problem(clean_case("resnet_zero_started", torch.float64, 0).problem())
    assert {finding.name for finding in check.findings} == {"on_a_kink", "zero_gradient"}


@pytest.mark.parametrize("step", [torch.round, lambda x: F.one_hot(x.argmax(1), 4).to(x)])
def test_steps_in_the_path_are_noted(step):
    class Stepping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.last(step(self.first(x)))

    notes = {
        f.name: f
        for f in hs.check_problem(hs.Problem(Stepping(), F.cross_entropy, vectors(9))).findings
    }
    assert notes.keys() & {"zero_gradient", "unused_parameters"}
    assert "first.weight" in next(iter(notes.values())).cause


def test_low_precision_is_a_note():
    model = mlp().bfloat16()
    x, y = vectors(12)
    check = hs.check_problem(hs.Problem(model, F.cross_entropy, (x.bfloat16(), y)))
    assert check.ok, check
    assert check.findings[0].name == "low_precision"


def test_batches_of_ignored_labels_are_skipped_and_counted():
    x, y = vectors(12)
    y[4:8] = -100
    problem = hs.Problem(
        mlp(), F.cross_entropy, (x, y), batch_size=4, count=lambda y: (y != -100).sum()
    )
    check = hs.check_problem(problem)
    assert check.ok, check
    assert [finding.name for finding in check.findings] == ["skipped_batches"]


def test_a_loss_that_breaks_beside_its_parameters_is_a_finding_and_no_exception():
    def cliff(theta):
        assert float(theta.sum()) == 0.0
        return theta.square().sum()

    check = hs.check_problem(hs.Problem.from_function(cliff, torch.zeros(3)))
    assert [finding.name for finding in check.faults] == ["loss_fails"]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_loss_does_not_matter(scale):
    case = clean_case("tanh_mlp", torch.float64, 0)

    def scaled(output, targets):
        return scale * F.cross_entropy(output, targets)

    assert hs.check_problem(hs.Problem(case.model, scaled, case.data)).ok


def test_a_problem_without_data_is_checked_too():
    assert hs.check_problem(hs.Problem.from_function(lambda t: t.pow(4).sum(), torch.ones(3))).ok


@pytest.mark.parametrize("words", ["use_reentrant=False", "a Hessian needs a finite loss"])
def test_the_words_of_an_error_do_not_decide_what_it_is(words):
    def fails(output, targets):
        raise RuntimeError(words)

    check = hs.check_problem(hs.Problem(mlp(), fails, vectors()))
    assert [finding.name for finding in check.faults] == ["loss_fails"]
    assert words in check.faults[0].cause


@pytest.mark.parametrize("after", [1, 3, 4, 8, 12])
def test_too_little_memory_is_no_fault_of_the_model(after):
    calls = 0

    def full(output, targets):
        nonlocal calls
        calls += 1
        if calls == after:
            msg = "out of memory"
            raise torch.OutOfMemoryError(msg)
        return F.cross_entropy(output, targets)

    with pytest.raises(torch.OutOfMemoryError, match=r"^out of memory$"):
        hs.check_problem(hs.Problem(mlp(), full, vectors(12)))
