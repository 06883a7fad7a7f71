"""Is there something to learn in the data, and is it given in a form that can be learnt from?"""

from __future__ import annotations

import math

from hesscope.diagnosis import words
from hesscope.diagnosis.conditioning import SCALES
from hesscope.results.sanity import DataSummary
from hesscope.results.verdict import Verdict, known

SOURCE = "scale of the inputs: LeCun, Bottou, Orr and Müller 1998, section 4.3"
# Size of the inputs. Standardised ones: 1; pixels in [0, 1]: 0.4; the digits' 0 to 16: 8; pixels
# from 0 to 255: 90 to 150. The curvature of the first layer grows with its square.
LARGE, SMALL = 20.0, 0.01
OFF_CENTRE = 30.0  # |mean| over standard deviation of a typical feature: a curvature 900 times
FEWEST = 8  # examples
COPIED = 0.99  # of the target tokens

Note = tuple[str, str, str]  # cause, claim, advice


def data(d: DataSummary, feature_ratio: float = math.nan) -> Verdict:
    """The verdict "data": constant targets or inputs, answers in the inputs, and unscaled inputs.

    Each is a finding, but for targets that are all zero, as those of residuals are. A feature leaks
    the target if it alone tells 99 % of its variance, and at most half of the features do. Inputs
    whose features differ in scale are the business of the verdict "conditioning".

    Args:
        d: what a sample of the data looks like.
        feature_ratio: largest over smallest scale of the input features; NaN if not known.
    """
    notes = [note for note in (_targets(d), _inputs(d), _leak(d), _copies(d)) if note]
    unscaled = _unscaled(d)
    if unscaled and not feature_ratio >= SCALES:
        notes.append(unscaled)
    found = [note for note in notes if note[0]]
    few = d.num_examples < FEWEST
    return Verdict(
        key="data",
        name="data",
        claim="; ".join(claim for _, claim, _ in notes) or _usual(d),
        **known(
            ("examples", "examples looked at", float(d.num_examples)),
            ("input_size", "size of the inputs", d.size),
            ("off_centre", "|mean| / standard deviation of a feature", d.off_centre),
            ("told", "share of the target that one feature tells", d.told),
            ("telling", "features that tell it alone", float(d.telling)),
            ("copied", "share of targets that equal their inputs", d.copied),
        ),
        assumptions=("a sample of the data stands for all of it",),
        confidence="undecided" if few else "measured",
        advice="; ".join(dict.fromkeys(advice for _, _, advice in notes if advice)),
        source=SOURCE,
        finding=bool(found) and not few,
        cause=found[0][0] if found and not few else "",
    )


def _usual(d: DataSummary) -> str:
    if d.num_examples < FEWEST:
        return f"undecided: {d.num_examples} examples are too few to say anything of them"
    scale = f": inputs of size {d.size:.2g}, " if d.features else ": "
    return f"nothing odd in {d.num_examples} examples{scale}targets that vary"


def _targets(d: DataSummary) -> Note | None:
    if not d.same_targets:
        return None
    claim = f"constant target: all {d.num_examples} examples looked at have the same one"
    if not d.labels and d.target == 0:
        return (
            "",
            f"{claim}, zero",
            "right if the outputs are residuals; if not, look at the loader",
        )
    return (
        "constant_target",
        f"{claim}, so there is nothing to learn but a constant",
        "look at the loader: a column picked wrongly, labels lost on the way, data sorted by class",
    )


def _inputs(d: DataSummary) -> Note | None:
    if not d.same_inputs:
        return None
    return (
        "constant_input",
        f"constant input: all {d.num_examples} examples looked at are identical, so the outputs "
        "cannot tell them apart",
        "look at what the loader gives: files not read, an augmentation that blanks, one index",
    )


def _leak(d: DataSummary) -> Note | None:
    if not 1 <= d.telling <= d.features / 2:
        return None
    more = f" (as do {d.telling - 1} others)" if d.telling > 1 else ""
    return (
        "leak",
        f"the label leaks into the input: feature {d.telling_feature} of {d.features} alone tells "
        f"{d.told:.1%} of the target{more}",
        f"leave out feature {d.telling_feature}, unless it is known before the answer is: a "
        "network that reads it learns nothing else",
    )


def _copies(d: DataSummary) -> Note | None:
    if not d.copied >= COPIED or d.same_targets:
        return None
    return (
        "unshifted",
        f"the label leaks into the input: {words.share(d.copied)} of the target tokens are the "
        "input tokens in the same place",
        "shift the targets by one, so that each place predicts the next token",
    )


def _unscaled(d: DataSummary) -> Note | None:
    if d.normalised or not d.features:
        return None
    advice = (
        "standardise the inputs (mean 0, standard deviation 1), or begin with a normalisation layer"
    )
    if d.size >= LARGE or 0 < d.size <= SMALL:
        return (
            "unscaled_inputs",
            f"unscaled inputs: their typical size is {words.plain(d.size)}, and weights and "
            "learning rates are made for 1",
            advice,
        )
    if d.off_centre >= OFF_CENTRE:
        return (
            "unscaled_inputs",
            f"unscaled inputs: a typical feature lies {words.plain(d.off_centre)} standard "
            "deviations from zero, so what differs between examples is small beside "
            "what they have in common",
            advice,
        )
    return None
