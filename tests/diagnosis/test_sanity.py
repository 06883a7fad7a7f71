"""Numbers in, claims out: what comes before curvature, and the headline that ranks it all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import hesscope as hs
from hesscope.diagnosis.data import data
from hesscope.diagnosis.headline import headline, without_echoes
from hesscope.diagnosis.labels import interval, labels
from hesscope.diagnosis.learnt import learnt
from hesscope.diagnosis.memorised import memorised
from hesscope.diagnosis.outputs import outputs
from hesscope.diagnosis.through_time import through_time
from hesscope.diagnosis.trained_layers import trained_layers
from hesscope.results.sanity import DataSummary, Neighbours, Predictions, TimeSignal, Trained

NAN = math.nan
LABELLED = Predictions(200, 2.0, 1.0, NAN, 0.3, 0.1, False)
PLAIN = DataSummary(200, 10, 1.0, 0.5, False, False, NAN, True, 0, 3, 0.4, NAN, False)
LAYERS = Trained("head", (), (), 4, 10.0)


@pytest.mark.parametrize(
    ("loss", "constant", "accuracy", "steps", "claim", "cause", "finding"),
    [
        (1.0, 2.0, 0.6, 10, "yes: the loss 1 is 0.5 times", "", False),
        (
            1.378,
            1.386,
            0.25,
            NAN,
            "nothing yet: the loss is at chance level",
            "chance_level",
            False,
        ),
        (1.378, 1.386, 0.25, 499, "nothing yet: the loss is at chance", "chance_level", False),
        (1.378, 1.386, 0.25, 500, "nothing in 500 steps: the loss is at", "chance_level", True),
        (2.0, 1.386, 0.25, NAN, "nothing yet: the loss is worse than", "chance_level", False),
        (2.0, 1.386, 0.9, 900, "in part: 90% of the labels are right", "overconfident", False),
        (1.38, 1.386, 0.6, 900, "a little: 60% of the labels", "", False),
        (1.0, 0.0, NAN, 900, "undecided: the best constant answer", "", False),
        (-1.0, 1.0, NAN, 900, "undecided: the best constant answer", "", False),
    ],
)
def test_the_loss_stands_beside_that_of_a_constant(
    loss, constant, accuracy, steps, claim, cause, finding
):
    seen = replace(LABELLED, accuracy=accuracy, guessing=0.25)
    verdict = learnt(loss, constant, seen, replace(LAYERS, steps=steps))
    assert verdict.claim.startswith(claim)
    assert (verdict.cause, verdict.finding) == (cause, finding)


@pytest.mark.parametrize(
    ("known", "zero", "claim", "cause", "finding"),
    [
        ({}, (), "they follow the inputs: over 200 examples they vary by 50%", "", False),
        ({"spread": 0.0}, (), "collapsed: the outputs of 200 examples are all", "collapse", True),
        (
            {"spread": 1e-3},
            (),
            "collapsed: the outputs of 200 examples are alike to",
            "collapse",
            True,
        ),
        ({"spread": 0.01}, (), "they depend on the inputs only weakly", "", False),
        ({"spread": 1.0, "size": 1e4}, (), "they depend on the inputs only", "", False),
        ({"spread": 1.0, "size": 1e4, "target_spread": 1.0}, (), "they depend", "", False),
        ({"spread": 1e-3, "target_spread": 1.0}, (), "collapsed", "collapse", True),
        ({"spread": 0.0, "size": 0.0}, ("head.weight",), "the same for every input", "", False),
        ({"probabilities": True}, (), "softmax is applied twice", "softmax_twice", True),
        ({"num_examples": 7, "spread": 0.0}, (), "undecided: 7 examples", "", False),
    ],
)
def test_outputs_that_ignore_the_inputs_have_collapsed(known, zero, claim, cause, finding):
    verdict = outputs(replace(LABELLED, **known), zero)
    assert verdict.claim.startswith(claim)
    assert (verdict.cause, verdict.finding) == (cause, finding)


@pytest.mark.parametrize(
    ("known", "ratio", "claim", "cause"),
    [
        ({}, NAN, "nothing odd in 200 examples", ""),
        ({"same_targets": True, "target": 0.0}, NAN, "constant target", "constant_target"),
        ({"same_targets": True, "target": 0.0, "labels": False}, NAN, "constant target", ""),
        ({"same_targets": True, "target": 2.0, "labels": False}, 1, "const", "constant_target"),
        ({"same_inputs": True}, NAN, "constant input", "constant_input"),
        ({"telling": 1, "told": 1.0}, NAN, "the label leaks into the input", "leak"),
        ({"telling": 5, "told": 1.0}, NAN, "the label leaks into the input", "leak"),
        ({"telling": 6, "told": 1.0}, NAN, "nothing odd", ""),  # easy data: most features tell
        ({"telling": 1, "features": 1}, NAN, "nothing odd", ""),
        ({"copied": 1.0}, NAN, "the label leaks into the input: 100%", "unshifted"),
        ({"copied": 0.9}, NAN, "nothing odd", ""),
        ({"size": 127.0}, NAN, "unscaled inputs: their typical size is 130", "unscaled_inputs"),
        ({"size": 1e-3}, NAN, "unscaled inputs", "unscaled_inputs"),
        ({"off_centre": 100.0}, NAN, "unscaled inputs: a typical", "unscaled_inputs"),
        ({"size": 127.0, "normalised": True}, NAN, "nothing odd", ""),
        ({"size": 127.0}, 1000.0, "nothing odd", ""),  # that is told by "conditioning"
        ({"num_examples": 7, "same_inputs": True}, NAN, "constant input", ""),
    ],
)
def test_what_is_wrong_with_the_data_has_a_name(known, ratio, claim, cause):
    verdict = data(replace(PLAIN, **known), ratio)
    assert verdict.claim.startswith(claim)
    assert (verdict.cause, verdict.finding) == (cause, bool(cause))


@pytest.mark.parametrize(
    ("contradicted", "decided", "claim", "finding"),
    [
        (80, 400, "label noise: about 20 %", True),
        (40, 400, "some may be wrong: about 10 %", False),
        (4, 400, "no sign of wrong labels", False),
        (20, 99, "undecided: the nearest examples agree on a label for 99", False),
    ],
)
def test_label_noise_is_told_with_an_interval(contradicted, decided, claim, finding):
    verdict = labels(Neighbours(500, decided, tuple(range(contradicted))))
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding


def test_the_interval_of_a_share_is_wilsons():
    """(p + z²/2n ± z √(p(1-p)/n + z²/4n²))/(1 + z²/n), for 20 of 100: Brown, Cai, DasGupta 2001."""
    assert interval(20, 100) == pytest.approx((0.1334, 0.2888), abs=1e-4)
    assert all(math.isnan(end) for end in interval(0, 0))


@pytest.mark.parametrize(
    ("known", "claim", "cause"),
    [
        ({}, "all 4 layers", ""),
        ({"frozen": ("head",)}, "the head is frozen", "frozen_head"),
        ({"frozen": ("a", "b")}, '2 of 4 frozen: layers "a", "b"', ""),
        ({"frozen": ("a", "b", "c", "head")}, "4 of 4 frozen", ""),
        ({"unmoved": ("head",)}, "the optimiser does not move the head", "unheld_head"),
        ({"unmoved": ("a",)}, 'the optimiser leaves alone layer "a"', ""),
    ],
)
def test_a_head_that_stays_is_found(known, claim, cause):
    verdict = trained_layers(replace(LAYERS, **known))
    assert verdict.claim.startswith(claim)
    assert (verdict.cause, verdict.finding) == (cause, bool(cause))


@pytest.mark.parametrize(
    ("first", "last", "claim", "finding"),
    [
        (1e3, 1.0, "exploding through time: in layer", True),
        (math.inf, 1.0, "exploding through time: in layer", True),
        (0.5, 1.0, "gradients reach back: in layer", False),
        (0.0, 1.0, "vanishing through time: in layer", False),
    ],
)
def test_the_worst_layer_through_time_is_told(first, last, claim, finding):
    even, odd = TimeSignal("a", 9, 1.0, 1.0, 1.0), TimeSignal("b", 9, first, last, first)
    verdict = through_time([even, odd])
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding


@pytest.mark.parametrize(
    ("loss", "held_out", "claim", "finding"),
    [
        (0.01, 2.3, "memorised: loss 0.01", True),
        (1.5, 2.3, "in part: loss 1.5", False),
        (0.5, 1.0, "in part: loss 0.5", False),
        (0.01, 0.05, "no: loss 0.01", False),
        (0.5, 0.6, "no: loss 0.5", False),
    ],
)
def test_what_does_not_carry_over_is_memorised(loss, held_out, claim, finding):
    verdict = memorised(loss, held_out, 2.3)
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding


# --- the headline


DEAD = hs.Verdict("layers", "all units are dead", {"largest_dead_share": 1.0}, finding=True)
CHANCE = hs.Verdict("learnt?", "nothing yet", {"share": 1.0}, key="learnt", cause="chance_level")
BLIND = hs.Verdict("outputs", "collapsed", finding=True, cause="collapse")
LEAK = hs.Verdict("data", "the label leaks", finding=True, cause="leak", advice="leave it out")
GOING = hs.Verdict("minimum?", "no: still descending", key="critical_point", advice="go on")


def test_the_headline_ranks_causes_before_their_consequences():
    found = headline([CHANCE, BLIND, DEAD])
    assert (found.cause, found.key, found.others) == ("layers", "layers", ("outputs",))
    assert found.speaks_for[1:] == ("learnt?: nothing yet", "outputs: collapsed")
    assert not any("not explained" in text for text in found.speaks_against)


def test_what_a_cause_does_not_explain_speaks_against_it():
    learning = replace(CHANCE, cause="", evidence={"share": 0.2})
    found = headline([learning, DEAD, LEAK])
    assert (found.cause, found.advice) == ("leak", "leave it out")
    assert "not explained by it: layers: all units are dead" in found.speaks_against
    assert any("learns all the same" in text for text in found.speaks_against)


def test_without_a_finding_the_headline_says_what_was_learnt():
    assert headline([]) is None
    fine = headline([GOING])
    assert (fine.claim, fine.cause, fine.advice) == ("nothing wrong was found", "", "go on")
    assert headline([CHANCE, GOING]).cause == "chance_level"
    assert "most likely cause" in str(headline([DEAD]))
    assert str(headline([CHANCE])).startswith("in short: nothing yet")
    assert str(fine).startswith("in short: nothing wrong was found")


def test_a_symptom_whose_cause_is_found_raises_no_alarm_of_its_own():
    assert [v.finding for v in without_echoes([BLIND, DEAD])] == [False, True]
    assert [v.finding for v in without_echoes([BLIND, LEAK])] == [True, True]
    twice = replace(BLIND, cause="softmax_twice")
    assert [v.finding for v in without_echoes([twice, DEAD])] == [True, True]


def test_nothing_is_healthy_at_chance_level():
    look = hs.Measurements({})
    assert hs.Examination((GOING,), look).healthy
    assert not hs.Examination((GOING, CHANCE), look).healthy
    assert hs.Examination((GOING, DEAD), look).headline == headline([GOING, DEAD])


def test_a_leak_that_was_not_read_is_no_likely_cause_of_a_loss_at_chance_level():
    leak = hs.Verdict("data", "the label leaks", finding=True, key="data", cause="leak")
    dead = hs.Verdict("layers", "all units are dead", finding=True, key="layers")
    for share, first in ((1.0, "layers"), (0.4, "data")):
        level = hs.Verdict("learnt?", "as said", {"share": share}, key="learnt")
        assert headline([leak, dead, level]).key == first
    alone = headline([leak, hs.Verdict("learnt?", "nothing yet", {"share": 1.0}, key="learnt")])
    assert alone.speaks_against == ("the loss is at chance level: nothing was read from there yet",)


def test_at_chance_level_vanishing_gradients_say_what_to_do():
    chance = hs.Verdict("learnt?", "nothing", key="learnt", cause="chance_level", advice="wait")
    gone = hs.Verdict("through time", "they vanish", cause="vanishing_through_time", advice="a GRU")
    assert headline([chance]).advice == "wait"
    assert headline([chance, gone]).advice == "wait; a GRU"


def test_a_headline_on_a_step_stands_without_the_name_of_its_verdict():
    step = hs.Verdict("step size", "too large: it climbs", finding=True, key="step_size")
    assert headline([step]).claim == "the step is too large: it climbs"
    assert headline([replace(step, evidence={"lr": 0.3})]).claim == (
        "lr 0.3 is too large: it climbs"
    )


def test_the_numbers_of_a_headline_lean_on_none_that_it_leaves_out():
    evidence = {"limit": 2.0, "lr_over_batch_limit": 1.5, "share": 0.2}
    labels = {"lr_over_batch_limit": "lr over that", "share": "loss / that"}
    step = hs.Verdict("step size", "x", evidence, finding=True, key="step_size", labels=labels)
    assert headline([step]).speaks_for == ("lr over the limit on batches 1.5",)
