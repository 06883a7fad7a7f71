"""The table of quantities: each measured once, in whatever order, failures kept to themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.examination import quantities
from hesscope.examination.look import Look, MissingError
from hesscope.examination.quantities import QUANTITIES, Cost, Quantity, cost_of, measure
from hesscope.examination.question import asked


def small_problem() -> hs.Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.randn(90, 6), torch.randint(0, 3, (90,))
    return hs.Problem(model, nn.functional.cross_entropy, data)


def quick(**given):
    return asked(None, given.pop("lr", 0.1), "quick", None, **given)


@pytest.fixture
def failing(monkeypatch):
    def fail(key: str, error: Exception) -> None:
        def raises(look: Look) -> None:
            raise error

        rows = [
            r if r.key != key else Quantity(key, raises, essential=r.essential) for r in QUANTITIES
        ]
        monkeypatch.setattr(quantities, "QUANTITIES", tuple(rows))

    return fail


def test_keys_are_identifiers_that_do_not_repeat():
    keys = [row.key for row in QUANTITIES]
    assert len(set(keys)) == len(keys)
    assert all(key.isidentifier() for key in keys)


@pytest.mark.parametrize("key", [row.key for row in QUANTITIES if not row.essential])
def test_a_row_that_fails_is_missing_with_its_cause_and_takes_no_other_down(key, failing):
    failing(key, ValueError("too few examples"))
    look = measure(small_problem(), quick())
    assert look.missing == {key: "too few examples"}
    assert set(look.values) | {key} >= {"loss", "density", "curvature", "step", "layers", "descent"}


@pytest.mark.parametrize("key", [row.key for row in QUANTITIES if row.essential])
def test_without_an_essential_quantity_the_error_is_the_users(key, failing):
    failing(key, RuntimeError("the loss is NaN"))
    with pytest.raises(RuntimeError, match=r"^the loss is NaN$"):
        measure(small_problem(), quick())


def test_out_of_memory_is_told_as_what_it_is(failing):
    failing("layers", torch.OutOfMemoryError("tried to allocate 2 GiB"))
    look = measure(small_problem(), quick())
    assert look.missing["layers"] == "out of memory (tried to allocate 2 GiB)"


def test_a_quantity_is_measured_once_however_often_it_is_asked_for():
    calls = []

    def counted(look: Look) -> int:
        calls.append(1)
        return 7

    look = Look(small_problem(), quick())
    assert [look.of(counted), look.maybe(counted), look.of(counted)] == [7, 7, 7]
    assert len(calls) == 1


def test_what_rests_on_a_missing_quantity_is_missing_for_the_same_reason():
    def broken(look: Look) -> None:
        msg = "no such thing"
        raise ValueError(msg)

    def above(look: Look) -> object:
        return look.of(broken)

    look = Look(small_problem(), quick())
    with pytest.raises(MissingError, match=r"^no such thing$"):
        look.of(above)
    assert look.maybe(above) is None


def test_a_quantity_of_ones_own_joins_the_record():
    def weights(look: Look) -> float:
        return float(look.problem.theta.norm())

    problem = small_problem()
    look = measure(problem, quick(), [Quantity("weight_norm", weights)])
    assert look["weight_norm"] == float(problem.theta.norm())


@pytest.mark.parametrize("effort", ["quick", "standard", "deep"])
def test_the_cost_of_the_table_is_the_sum_of_its_rows(effort):
    question = asked(None, 0.1, effort, None)
    rows = [row for row in QUANTITIES if question.effort.includes(row.since)]
    total = cost_of(question)
    assert total == sum((row.cost(question) for row in rows), Cost())
    assert total.matvecs == question.spending.total
    assert total.matvecs <= question.effort.max_matvecs


def test_the_record_says_why_a_quantity_is_not_there():
    look = measure(small_problem(), quick())
    with pytest.raises(KeyError, match="'smoothness' is not known: it was not looked at"):
        look["smoothness"]


def interrupting(label: str, at: int):
    def listener(text, done, total):
        if text.startswith(label) and done >= at:
            raise KeyboardInterrupt

    return hs.listening(listener)


def test_an_interrupted_survey_gives_verdicts_that_say_so(tmp_path):
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
    data = torch.randn(200, 20), torch.arange(200) % 10
    problem = hs.Problem(model, nn.functional.cross_entropy, data)
    with interrupting("spectral density", 8), pytest.warns(UserWarning, match=r"^interrupted"):
        examined = hs.diagnose(problem, lr=0.1, check=False)
    assert examined.interrupted
    assert not examined.healthy
    assert "interrupted" in str(examined)
    assert {"loss", "density", "curvature"} <= set(examined.measurements)
    assert examined.measurements.missing["smoothness"] == "interrupted before it was measured"
    assert examined.verdict("smoothness").confidence == "undecided"
    assert "interrupted" in examined.to_html(tmp_path / "page.html").read_text("utf-8")


def test_an_interrupt_after_the_survey_keeps_it():
    with interrupting("smoothness", 0), pytest.warns(UserWarning, match=r"^interrupted"):
        examined = hs.diagnose(small_problem(), lr=0.1, check=False)
    assert examined.measurements.missing["smoothness"] == "interrupted before it was measured"
    assert "step" in examined.measurements
    assert not examined.healthy


def test_an_interrupt_before_anything_is_known_is_passed_on():
    with interrupting("loss", 0), pytest.raises(KeyboardInterrupt):
        hs.diagnose(small_problem(), lr=0.1, check=False)


def test_a_plan_counts_the_noise_of_batches_where_there_is_a_step_to_judge():
    problem = small_problem()
    plain = hs.plan(problem, lr=0.1, effort="quick").gradients
    assert hs.plan(problem, lr=0.1, effort="quick", batch_size=4).gradients > plain + 10
    assert hs.plan(problem, effort="quick", batch_size=4).gradients == pytest.approx(plain)
    with pytest.raises(ValueError, match="batch_size=0 is no number of examples"):
        hs.plan(problem, batch_size=0)


def test_a_plan_counts_the_pass_over_held_out_data():
    problem, other = (hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3)) for _ in "ab")
    plain = hs.plan(problem, effort="quick").gradients
    with_other = hs.plan(problem, effort="quick", held_out=other).gradients
    assert with_other == pytest.approx(plain + 1 / 3)
    with pytest.raises(ValueError, match="held_out is of type int; give a hesscope"):
        hs.plan(problem, held_out=3)
