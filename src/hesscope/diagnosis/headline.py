"""The most likely cause of what the verdicts found: causes before their consequences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from hesscope.diagnosis.stuck import CHANCE
from hesscope.results.headline import Headline
from hesscope.results.verdict import Verdict

# From the data upwards: what comes first explains what comes later more often than the other way
# round. A cause stands for itself, other findings under the key of their verdict.
RANK = (
    "model_fault",
    "constant_target",
    "constant_input",
    "unshifted",
    "leak",
    "softmax_twice",
    "frozen_head",
    "unheld_head",
    "feature_scales",
    "unscaled_inputs",
    "exploding_through_time",
    "layers",
    "step_size",
    "stuck_high",
    "critical_point",
    "collapse",
    "label_noise",
    "memorised",
    "conditioning",
    "chance_level",
)
_DATA = ("learnt", "outputs", "stuck_high", "critical_point", "noise", "layers", "labels")
_SIGNAL = ("learnt", "outputs", "stuck_high", "critical_point", "step_size", "conditioning")
# What a cause brings with it: verdicts that then speak for it, and do not need another cause.
FOLLOWS: dict[str, tuple[str, ...]] = {
    "constant_target": _DATA,
    "constant_input": _DATA,
    "softmax_twice": _DATA,
    "frozen_head": ("learnt", "outputs", "stuck_high", "critical_point"),
    "unheld_head": ("learnt", "outputs", "stuck_high", "critical_point", "step_size"),
    "feature_scales": ("data", "learnt", "step_size", "conditioning", "critical_point", "layers"),
    "unscaled_inputs": ("learnt", "step_size", "conditioning", "critical_point", "layers"),
    "layers": _SIGNAL,
    "exploding_through_time": (*_SIGNAL, "layers"),
    "step_size": ("learnt", "outputs"),
    "stuck_high": ("learnt", "outputs", "critical_point", "layers"),
    "critical_point": ("learnt", "outputs", "stuck_high", "conditioning"),
    "collapse": ("learnt", "layers"),
    "label_noise": ("learnt", "noise", "memorised"),
    "conditioning": ("learnt", "critical_point"),
    "chance_level": ("noise",),
}
ECHOES = ("learnt", "outputs")  # verdicts that are symptoms wherever one of the causes is found
# The numbers of a verdict that speak for it in a headline, by their keys.
NUMBERS: dict[str, tuple[str, ...]] = {
    "step_size": ("lr_over_limit", "lr_over_batch_limit", "measured_change"),
    "layers": ("signal_growth", "largest_dead_share", "largest_saturated_share"),
    "outputs": ("relative_spread",),
    "data": ("input_size", "told"),
    "labels": ("contradicted_low", "contradicted_high"),
    "memorised": ("loss", "held_out_loss"),
    "critical_point": ("gradient_norm", "lambda_min"),
    "conditioning": ("feature_ratio", "gradient_curvature"),
    "stuck_high": ("share",),
    "through_time": ("first_over_last",),
    "learnt": ("share", "steps"),
}
# Those whose own names lean on the number before them, which a headline leaves out.
ALONE = {
    "share": "loss over that of the best constant answer",
    "lr_over_batch_limit": "lr over the limit on batches",
    "relative_spread": "spread of the outputs over their size",
    "contradicted_low": "share of labels unlike their neighbours' at least",
    "first_over_last": "gradient at the first step over that at the last",
}
NOT_USED = ("leak", "unshifted")  # what only a network that has learnt something can have read
REACH = "vanishing_through_time"  # no finding, for LSTMs begin so; at chance level it may be why
HALF = 0.5  # of chance level: below, the network learns in spite of what was found


def headline(verdicts: Iterable[Verdict]) -> Headline | None:
    """The finding that most likely explains the others, and what speaks for and against it.

    For it speak the verdicts on its usual consequences, where these have found something; against
    it findings that it does not explain, and that the network learns all the same. Without findings
    it says so, and at chance level that nothing is learnt yet. None without verdicts.

    >>> dead = Verdict("layers", "all units of 2 are dead", finding=True)
    >>> chance = Verdict("learnt?", "nothing yet", key="learnt", cause="chance_level")
    >>> found = headline([chance, dead])
    >>> found.claim, found.speaks_for
    ('all units of 2 are dead', ('learnt?: nothing yet',))
    """
    verdicts = tuple(verdicts)
    if not verdicts:
        return None
    at_chance = _share(verdicts) >= CHANCE
    ranked = sorted((v for v in verdicts if v.finding), key=lambda v: _rank(v, at_chance))
    if not ranked:
        return _without_finding(verdicts)
    first, others = ranked[0], ranked[1:]
    follows = FOLLOWS.get(_name(first), ())
    told = [v for v in verdicts if v.key in follows and v is not first and _is_odd(v)]
    apart = [v for v in others if v.key not in follows]
    return Headline(
        claim=_claim(first),
        key=first.key,
        cause=_name(first),
        confidence=first.confidence,
        speaks_for=(*_numbers(first), *(_short(v) for v in told)),
        speaks_against=tuple(_against(first, apart, _share(verdicts))),
        advice=first.advice,
        others=tuple(v.key for v in others),
    )


def _claim(verdict: Verdict) -> str:
    """What it says, as a sentence that stands without its name."""
    if verdict.key != "step_size" or not verdict.claim.startswith("too large"):
        return verdict.claim
    what = f"lr {verdict.evidence['lr']:.3g}" if "lr" in verdict.evidence else "the step"
    return f"{what} is {verdict.claim}"


def _numbers(verdict: Verdict) -> tuple[str, ...]:
    """Its telling numbers, in one line if there are any."""
    keys = [key for key in NUMBERS.get(verdict.key, ()) if key in verdict.evidence]
    named = {**verdict.labels, **ALONE}
    told = [f"{named.get(key, key)} {verdict.evidence[key]:.3g}" for key in keys]
    return (", ".join(told),) if told else ()


def _against(first: Verdict, apart: Iterable[Verdict], share: float) -> Iterator[str]:
    """What does not fit to the cause, and what it takes for granted."""
    for other in apart:
        yield f"not explained by it: {_short(other)}"
    if share >= CHANCE and _name(first) in NOT_USED:
        yield "the loss is at chance level: nothing was read from there yet"
    if share < HALF:
        yield f"the network learns all the same: its loss is {share:.2g} times chance level"
    if first.key == "step_size" and first.evidence.get("measured_change", 0.0) < 0:
        yield "the step that was tried here still lowers the loss"
    if first.confidence == "undecided":
        yield "the verdict itself is undecided"
    elif first.confidence == "measured" and first.assumptions:
        yield f"it takes for granted: {first.assumptions[0]}"


def without_echoes(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts, with symptoms told without an alarm where one that explains them has it.

    >>> dead, blind = Verdict("layers", "dead", finding=True), Verdict("outputs", "", finding=True)
    >>> [v.finding for v in without_echoes([blind, dead])]
    [False, True]
    """
    alarms = {_name(v) for v in verdicts if v.finding and v.key not in ECHOES}
    alarms |= {v.cause for v in verdicts if v.finding and v.cause == "softmax_twice"}
    explained = {key for cause in alarms for key in FOLLOWS.get(cause, ()) if key in ECHOES}
    return tuple(
        replace(v, finding=False)
        if v.finding and v.key in explained and v.cause != "softmax_twice"
        else v
        for v in verdicts
    )


def _without_finding(verdicts: Sequence[Verdict]) -> Headline:
    chance = next((v for v in verdicts if v.cause == "chance_level"), None)
    open_ = [v.name for v in verdicts if v.confidence == "undecided"]
    undecided = (f"not decided: {', '.join(open_)}",) if open_ else ()
    told = [_short(v) for v in verdicts if v.cause and v is not chance]
    where = next((v for v in verdicts if v.key == "critical_point"), None)
    if chance is not None:
        seen = [_short(where)] if where is not None else []
        reach = [v.advice for v in verdicts if v.cause == REACH]
        return Headline(
            chance.claim,
            chance.key,
            "chance_level",
            chance.confidence,
            (*seen, *told),
            undecided,
            "; ".join([chance.advice, *reach]),
        )
    level = "" if math.isnan(_share(verdicts)) else f"; the loss is {_level(verdicts)}"
    return Headline(
        claim=f"nothing wrong was found{level}",
        key="" if where is None else where.key,
        cause="",
        confidence="measured",
        speaks_for=(_short(where),) if where is not None else (),
        speaks_against=(*told, *undecided),
        advice="" if where is None else where.advice,
    )


def _rank(verdict: Verdict, at_chance: bool) -> int:
    name = _name(verdict)
    if at_chance and name in NOT_USED:
        return len(RANK) + 1
    return RANK.index(name) if name in RANK else len(RANK)


def _name(verdict: Verdict) -> str:
    return verdict.cause or verdict.key


def _is_odd(verdict: Verdict) -> bool:
    """Whether it found something, be it only a symptom."""
    return verdict.finding or bool(verdict.cause)


def _short(verdict: Verdict) -> str:
    return f"{verdict.name}: {verdict.claim}"


def _share(verdicts: Iterable[Verdict]) -> float:
    """The loss over that of the best constant answer; NaN where that is not known."""
    return next((v.evidence["share"] for v in verdicts if "share" in v.evidence), math.nan)


def _level(verdicts: Iterable[Verdict]) -> str:
    share = _share(verdicts)
    at = " (nothing learnt yet)" if share >= CHANCE else ""
    return f"{share:.2g} times that of the best constant answer{at}"
