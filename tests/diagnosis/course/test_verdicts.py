"""Each verdict on a run: said where it holds, not where something only looks like it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import hesscope as hs
from hesscope.diagnosis.course.verdicts import RULES
from tests.diagnosis.course.runs import EVERY, NEAR, PLANTED, history, without

FINDINGS = {"divergence", "plateau", "warm_up"}
NEEDS = {rule.key: rule for rule in RULES}


def _cases(table: dict[str, list[hs.History]]) -> list[tuple[str, int]]:
    return [(key, i) for key, runs in table.items() for i in range(len(runs))]


def _by_key(run: hs.History) -> dict[str, hs.Verdict]:
    return {verdict.key: verdict for verdict in hs.verdicts(run)}


def test_every_rule_is_tested_both_ways():
    assert set(PLANTED) == set(NEAR) == set(NEEDS)


@pytest.mark.parametrize(("key", "case"), _cases(PLANTED))
def test_what_is_there_is_named(key, case):
    run = PLANTED[key][case]
    verdict = _by_key(run)[key]
    assert verdict.confidence == "measured"
    assert verdict.finding == (key in FINDINGS)
    assert verdict.claim
    assert verdict.advice
    assert any(c.isdigit() for c in verdict.source)
    assert verdict.assumptions[-1].startswith("would be contradicted by")
    assert set(verdict.labels) == set(verdict.evidence)
    assert 0 <= verdict.evidence["first_step"] <= verdict.evidence["last_step"] <= run.last_step


@pytest.mark.parametrize(("key", "case"), _cases(NEAR))
def test_what_only_looks_like_it_is_not(key, case):
    assert key not in _by_key(NEAR[key][case])


@pytest.mark.parametrize(("key", "case"), _cases(PLANTED))
def test_too_few_checks_decide_nothing(key, case):
    rule = NEEDS[key]
    found = _by_key(PLANTED[key][case][: EVERY * (max(rule.checks, 3) - 1)])
    if rule.checks:
        assert found[key].claim.startswith(f"undecided: {rule.checks - 1} checks so far")
        assert found[key].confidence == "undecided"
        assert not found[key].finding
    else:
        assert key not in found


@pytest.mark.parametrize(("key", "case"), _cases(PLANTED))
def test_what_was_not_measured_is_not_judged(key, case):
    run = PLANTED[key][case]
    ahead = "predicted_change" if "predicted_change" in run else "loss"
    for needed in NEEDS[key].needs or (ahead,):
        assert key not in _by_key(without(run, needed))


@pytest.mark.parametrize("key", [key for key, rule in NEEDS.items() if rule.needs])
def test_a_quantity_that_was_switched_off_leaves_it_undecided(key):
    rows = {
        "sharpness_over_limit": "stability",
        "batch_sharpness_over_limit": "batch_sharpness",
    }
    needed = NEEDS[key].needs[0]
    text = f"no longer measured: trace, {rows.get(needed, needed)} (MemoryError: out of it)"
    off = hs.Event(0, "switched off", text)
    run = replace(without(PLANTED[key][0], needed), events=(off,))
    verdict = _by_key(run)[key]
    assert verdict.claim == f"undecided: {text}"
    assert verdict.confidence == "undecided"


def test_an_empty_history_has_no_verdict():
    assert hs.verdicts(hs.History.of({})) == ()


def test_steps_of_the_edge_are_those_at_the_limit():
    evidence = _by_key(PLANTED["edge_of_stability"][2])["edge_of_stability"].evidence
    assert evidence["first_step"] == pytest.approx(110, abs=20)
    assert evidence["last_step"] == pytest.approx(250, abs=20)
    assert evidence["sharpness_over_limit"] == pytest.approx(1.0, abs=0.05)


def test_sharpening_ends_where_the_edge_begins():
    found = _by_key(PLANTED["progressive_sharpening"][3])
    assert found["progressive_sharpening"].evidence["last_step"] == pytest.approx(110, abs=20)
    assert (
        "it ended where the learning rate met what is stable"
        in found["progressive_sharpening"].advice
    )


def test_the_training_loss_stands_in_for_that_of_the_probe_data():
    run = PLANTED["progressive_sharpening"][0]
    told = replace(run, series={"train_loss": run["loss"], "lambda_max": run["lambda_max"]})
    assert set(_by_key(told)) == {"progressive_sharpening"}


def test_one_wild_check_does_not_hide_the_edge():
    run = PLANTED["edge_of_stability"][1]
    over = run["sharpness_over_limit"].values.clone()
    over[7], over[15] = 40.0, torch.nan
    series = hs.Series(run["sharpness_over_limit"].steps, over)
    wild = replace(run, series={**run.series, "sharpness_over_limit": series})
    assert "edge_of_stability" in _by_key(wild)


@pytest.mark.parametrize("kind", ["event", "train_loss"])
@pytest.mark.parametrize("over", [1.8, 0.4, None])
def test_a_loss_that_is_not_finite_is_divergence(kind, over):
    numbers = {"loss": lambda i: 1.0 + i}
    if over is not None:
        numbers["sharpness_over_limit"] = over
    run = history(4, **numbers)
    if kind == "event":
        run = replace(run, events=(hs.Event(40, "not finite", "the loss is nan"),))
    else:
        values = torch.tensor([8.0, 9.0, torch.inf, torch.nan]).double()
        told = hs.Series(torch.tensor([38, 39, 40, 41]), values)
        run = replace(run, series={**run.series, "train_loss": told})
    verdict = _by_key(run)["divergence"]
    assert verdict.finding
    assert verdict.claim.startswith("diverged: the loss is not finite at step 40")
    assert ("since step 0" in verdict.claim) == (over == 1.8)
    assert ("does not explain it" in verdict.claim) == (over == 0.4)


def test_the_cause_of_a_divergence_is_looked_for_where_it_began():
    """What is measured on the way to infinity is no sharpness of anything."""
    run = history(
        8,
        loss=lambda i: [2.0, 1.0, 0.8, 0.9, 4.0, 1e8, 1e20, 1e30][i],
        sharpness_over_limit=lambda i: [0.5, 0.7, 0.9, 1.2, 1.4, 1e9, 0.3, -1e16][i],
    )
    run = replace(run, events=(hs.Event(80, "not finite", "the loss is nan"),))
    verdict = _by_key(run)["divergence"]
    assert (
        "the learning rate was too large since step 30, up to 1.4 times what is stable"
        in verdict.claim
    )
    assert verdict.evidence["sharpness_over_limit"] == 1.4


def test_a_loss_that_is_finite_again_is_none():
    lost = hs.Event(40, "not finite", "the loss of the probe data is inf")
    run = replace(history(12, loss=lambda i: 2.0 * 0.9**i), events=(lost,))
    assert "divergence" not in _by_key(run)


def test_a_rising_loss_under_a_falling_sharpness_is_undecided():
    rises = {"loss": lambda i: 2.0**i, "sharpness_over_limit": lambda i: 1.9 - 0.2 * i}
    verdict = _by_key(history(4, lambda_max=lambda i: 19.0 - 2 * i, **rises))["divergence"]
    assert verdict.confidence == "undecided"
    assert not verdict.finding
    assert "a catapult" in verdict.claim


def test_the_training_loss_shows_a_peak_between_checks():
    run = history(
        4,
        loss=lambda i: [1.0, 0.9, 0.5, 0.3][i],
        lambda_max=lambda i: [30.0, 10.0, 10.0, 10.0][i],
        sharpness_over_limit=lambda i: [1.5, 0.5, 0.5, 0.5][i],
    )
    assert "catapult" not in _by_key(run)
    told = hs.Series(torch.arange(40), torch.ones(40).double())
    told.values[3:8] = 6.0
    verdict = _by_key(replace(run, series={**run.series, "train_loss": told}))["catapult"]
    assert verdict.evidence["loss_peak"] == 6.0


@pytest.mark.parametrize(
    ("case", "claim", "advice"),
    [
        (0, "the gradient stays at 0.5", "hs.diagnose"),
        (1, "some directions go downhill from it", "hs.escape"),
        (2, "the steps bounce", "lower lr: the bouncing"),
        (3, "the steps are short", "raise lr: up to 1e+02 times"),
    ],
)
def test_a_plateau_has_its_cause(case, claim, advice):
    verdict = _by_key(PLANTED["plateau"][case])["plateau"]
    assert claim in verdict.claim
    assert advice in verdict.advice


def test_a_history_of_many_checks_is_judged_in_no_time():
    run = history(20_000, loss=lambda i: 1 / (1 + i), lambda_max=lambda i: 1.0 + i, lr=0.1)
    assert set(_by_key(run)) == {"progressive_sharpening"}
