"""Verdicts from a record alone: pure, and undecided with a cause where a number is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.diagnosis.judge import RULES, judge
from hesscope.results.measurements import Measurements


@pytest.fixture(scope="module")
def look() -> Measurements:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.randn(90, 6), torch.randint(0, 3, (90,))
    problem = hs.Problem(model, nn.functional.cross_entropy, data)
    return hs.diagnose(problem, lr=0.1).measurements


def test_every_rule_has_its_verdict_under_its_own_key_and_name(look):
    verdicts = judge(look)
    assert [(v.key, v.name) for v in verdicts] == [
        (rule.key, rule.name) for rule in RULES if all(key in look for key in rule.needs)
    ]
    assert len({rule.key for rule in RULES}) == len(RULES)


def test_evidence_has_names_for_scripts_and_labels_for_readers(look):
    for verdict in judge(look):
        assert set(verdict.labels) == set(verdict.evidence)
        assert all(key.isidentifier() for key in verdict.evidence)
        assert not any(math.isnan(value) for value in verdict.evidence.values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_a_missing_quantity_leaves_its_verdicts_undecided_and_no_other(rule, look):
    for key in rule.needs:
        values = {name: value for name, value in look.values.items() if name != key}
        verdicts = {v.key: v for v in judge(replace(look, values=values, missing={key: "no luck"}))}
        for other in RULES:
            if key in other.needs:
                assert verdicts[other.key].claim == "undecided: no luck"
                assert verdicts[other.key].confidence == "undecided"
                assert not verdicts[other.key].finding
            elif all(need in values for need in other.needs):
                assert verdicts[other.key].claim.split(":")[-1].strip() != "no luck"


def test_what_was_not_looked_at_has_no_verdict():
    assert judge(Measurements({})) == ()


def test_a_saved_look_is_judged_again(look, tmp_path):
    old = hs.Examination((hs.Verdict("minimum?", "by the rules of another day"),), look)
    again = hs.load(old.save(tmp_path)).judge()
    assert again.verdicts == judge(look)
    assert again.measurements.seconds == look.seconds
