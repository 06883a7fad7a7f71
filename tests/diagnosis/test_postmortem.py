"""Causes of spikes from histories written by hand."""

from __future__ import annotations

import math

import pytest

import hesscope as hs
from hesscope.diagnosis.postmortem.excursion import excursion
from hesscope.results.history import Event, Series

STEPS, ONSET = 24, 20
Values = dict[int, float]


def level(value: float) -> Values:
    return dict.fromkeys(range(STEPS), value)


def step_up(before: float, after: float, at: int) -> Values:
    return {t: before if t < at else after for t in range(STEPS)}


def losses(at: int = ONSET) -> Values:
    """Falls as 1/(1 + t/10), and is ten times as high from a step on."""
    return {t: (1 if t < at else 10) / (1 + t / 10) for t in range(STEPS)}


def run(**numbers: Values) -> hs.History:
    usual = {
        "loss": losses(),
        "lr": level(0.1),
        "lambda_max": level(5.0),
        "sharpness_over_limit": level(0.25),
        "gradient_norm": level(1.0),
        "gradient_noise": level(0.1),
        "update_norm": level(0.1),
    }
    return hs.History.of({**usual, **numbers})


def memory(steps: float, ratio: Values) -> dict[str, Values]:
    return {"preconditioner_memory": level(steps), "preconditioner_lag": ratio}


def layers(**growing: Values) -> dict[str, Values]:
    names = ("0", "2", "4")
    weights = {f"layer/{name}/weight_norm": level(1.0) for name in names}
    updates = {f"layer/{name}/update_norm": growing.get(f"l{name}", level(0.1)) for name in names}
    return {**weights, **updates}


OVER = step_up(0.25, 2.5, ONSET - 5)
PLANTED = {
    "lr_too_high": run(sharpness_over_limit=OVER, lr=step_up(0.1, 1.0, ONSET - 5)),
    "warm_up": run(
        sharpness_over_limit={t: 0.1 * t for t in range(STEPS)},
        lr={t: 0.04 * t for t in range(STEPS)},
    ),
    "preconditioner_lag": run(sharpness_over_limit=OVER, **memory(1000, level(1.0))),
    "layer": run(**layers(l2=step_up(0.1, 4.0, ONSET - 1))),
    "underflow": run(moment_underflow=step_up(0.0, 0.6, ONSET - 1)),
    "bad_batch": run(training_gradient_norm={**level(1.5), ONSET - 1: 30.0}),
    "noise": run(gradient_noise=level(5.0)),
}


@pytest.mark.parametrize("cause", PLANTED)
def test_each_cause_is_named_from_its_numbers(cause):
    found = hs.postmortem(PLANTED[cause])
    assert (found.kind, found.onset, found.cause) == ("spike", ONSET, cause)
    assert "would be contradicted by" in found.verdicts[0].assumptions[-1]
    assert found.verdicts[0].advice
    assert all(math.isfinite(x) for x in found.verdicts[0].evidence.values())


def test_a_run_without_a_spike_has_no_cause_whatever_its_numbers():
    for history in PLANTED.values():
        calm = dict(history.series) | {"loss": hs.History.of({"loss": losses(99)})["loss"]}
        found = hs.postmortem(hs.History(calm))
        assert (found.kind, found.signals) == ("none", ())
        assert found.cause == ("underflow" if history is PLANTED["underflow"] else "")


def test_where_nothing_came_first_the_cause_is_undecided():
    found = hs.postmortem(run())
    assert (found.cause, found.verdicts[0].confidence) == ("", "undecided")
    assert not found.healthy
    alone = hs.postmortem(hs.History.of({"loss": losses()}))
    assert "optimiser's state" in alone.verdicts[0].claim


def test_the_growth_of_the_curvature_with_a_short_memory_is_no_lag():
    history = run(
        sharpness_over_limit=OVER,
        lambda_max=step_up(5.0, 50.0, ONSET - 5),
        **memory(10, level(1.0)),
    )
    assert hs.postmortem(history).cause == "lr_too_high"


def test_shares_of_the_growth_add_up():
    lr, curvature = step_up(0.1, 0.2, ONSET - 5), step_up(5.0, 10.0, ONSET - 5)
    history = run(sharpness_over_limit=OVER, lr=lr, lambda_max=curvature)
    evidence = hs.postmortem(history).verdicts[0].evidence
    expected = math.log(2) / math.log(10)
    assert evidence["share_of_lr"] == pytest.approx(expected)
    assert evidence["share_of_curvature"] == pytest.approx(expected)
    assert evidence["share_of_preconditioner"] == pytest.approx(1 - 2 * expected)


def test_a_layer_that_grows_with_all_others_is_not_named():
    up = step_up(0.1, 4.0, ONSET - 1)
    assert hs.postmortem(run(**layers(l0=up, l2=up, l4=up))).cause == ""


def test_a_batch_that_the_probe_data_is_as_far_off_as_is_not_bad():
    norms = {**level(1.5), ONSET - 1: 30.0}
    probe = {**level(1.0), ONSET - 1: 20.0}
    history = run(training_gradient_norm=norms, gradient_norm=probe)
    assert hs.postmortem(history).cause == ""


def test_odd_examples_of_a_suspect_are_named():
    values = hs.History.of({"x": dict.fromkeys(range(8), 0.4) | {3: 30.0, 6: 20.0}})["x"].values
    suspect = {
        "batch_loss": level(6.5),
        "batch_loss_excess": level(40.0),
        "batch_gradient_excess": level(1.0),
    }
    numbers = run(**suspect)
    examples = {ONSET - 1: Series(hs.History.of({"x": level(0)})["x"].steps[:8], values)}
    history = hs.History(numbers.series, results={"batch_examples": examples})
    claim = hs.postmortem(history).verdicts[0].claim
    assert "2 of its 8 examples are far off, the worst are 3, 6" in claim


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["training_gradient_norm", "train_loss"])
def test_a_batch_that_gives_nothing_finite_is_bad(key, value):
    history = run(**{key: {**level(1.5), ONSET - 1: value}})
    assert hs.postmortem(history).cause == "bad_batch"
    at_once = run(**{key: {**level(1.5), ONSET - 3: 5.0, ONSET - 2: 50.0, ONSET - 1: value}})
    assert hs.postmortem(at_once).cause == ""


def test_several_causes_are_told_the_most_specific_first():
    history = run(
        sharpness_over_limit=OVER,
        training_gradient_norm={**level(1.5), ONSET - 1: 30.0},
        **memory(1000, level(1.0)),
    )
    keys = [verdict.key for verdict in hs.postmortem(history).verdicts]
    assert keys == ["bad_batch", "preconditioner_lag", "lr_too_high"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0], None),
        ([1.0, 0.9, 0.8, 0.7, 0.6], None),
        ([3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.01, 0.03, 0.005], None),  # a flicker near zero
        ([1.0, 0.8, 0.7, 0.6, 5.0, 0.6, 0.5], ("spike", 4, 4)),
        ([1.0, 3.0, 9.0, 27.0, 81.0, 243.0], ("divergence", 1, 5)),
        ([1.0, 0.8, 0.7, math.nan], ("divergence", 3, 3)),
        ([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.1], ("spike", 1, 1)),
        ([-1.0, -2.0, -2.1, -2.2, -2.3, 4.0, -2.3], ("spike", 5, 5)),
    ],
)
def test_excursions(values, expected):
    found = excursion(hs.History.of({"loss": dict(enumerate(values))}))
    assert (None if found is None else (found.kind, found.onset, found.peak)) == expected


def test_a_loss_that_the_monitor_found_not_finite_is_a_divergence():
    events = (Event(7, "not finite", "the loss is nan"),)
    found = excursion(hs.History.of({"loss": {t: 1.0 for t in range(7)}}, events=events))
    assert (found.kind, found.onset) == ("divergence", 7)


def test_it_prints_the_signals_on_one_axis_and_survives_a_file(tmp_path):
    found = hs.postmortem(PLANTED["lr_too_high"])
    lines = str(found).splitlines()
    bars = [line for line in lines if "█" in line]
    assert [line.index("█") for line in bars] == sorted(line.index("█") for line in bars)
    assert f"{ONSET}: the loss" in bars[-1]
    assert found.lead == 5
    again = hs.load(hs.save(found, tmp_path / "found"))
    assert str(again) == str(found)
    assert "<svg" in found._repr_html_()


def test_neither_checkpoints_nor_a_history_is_refused():
    problem = hs.Problem.from_function(
        lambda t: t.sum(), hs.History.of({"x": {0: 1.0}})["x"].values
    )
    with pytest.raises(ValueError, match="give checkpoints"):
        hs.postmortem(problem)
