"""Has the network learnt anything? Its loss beside that of the best constant answer."""

from __future__ import annotations

import math

from hesscope.diagnosis import words
from hesscope.diagnosis.stuck import CHANCE, PERFECT
from hesscope.results.sanity import Predictions, Trained
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = "loss of the best constant: entropy of the labels' frequencies, variance of the targets"
WORSE = 1.05  # of that loss: above, guessing would do better
MANY = 500.0  # steps, after which a network that has learnt nothing calls for action
RIGHT = 0.2  # of what guessing gets wrong: so much right is not chance, whatever the loss


def learnt(
    loss: float,
    constant_loss: float,
    predictions: Predictions | None = None,
    trained: Trained | None = None,
) -> Verdict:
    """The verdict "learnt?": how far below chance level the loss is.

    Chance level is the loss of the best answer that ignores the inputs. From 95 % of it on, nothing
    has been learnt; that is no finding at the start of training, and one after 500 steps, where the
    optimiser counts them.

    >>> learnt(1.378, 1.386).claim
    'nothing yet: the loss is at chance level, 1.378 where the best constant answer gets 1.386'
    """
    measures = loss >= 0 and constant_loss > PERFECT * loss
    share = loss / constant_loss if measures else math.nan
    steps = math.nan if trained is None else trained.steps
    right, guessing = _labels(predictions)
    claim, cause, advice = _judge(loss, constant_loss, share, steps, (right, guessing))
    confidence: Confidence = "undecided" if math.isnan(share) else "measured"
    return Verdict(
        key="learnt",
        name="learnt?",
        claim=claim,
        **known(
            ("loss", "loss", loss),
            ("constant_loss", "loss of the best constant answer", constant_loss),
            ("share", "loss / that", share),
            ("accuracy", "share of labels that are right", right),
            ("guessing", "share of the commonest label", guessing),
            ("steps", "steps of the optimiser", steps),
        ),
        assumptions=("on the data given, which says nothing about other data",),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=cause == "chance_level" and steps >= MANY,
        cause=cause,
    )


def _labels(predictions: Predictions | None) -> tuple[float, float]:
    if predictions is None:
        return math.nan, math.nan
    return predictions.accuracy, predictions.guessing


def _judge(
    loss: float, constant: float, share: float, steps: float, labels: tuple[float, float]
) -> tuple[str, str, str]:
    if math.isnan(share):
        return (
            "undecided: the best constant answer has a loss of zero or less, so there is no chance "
            "level to compare with",
            "",
            "",
        )
    right, guessing = labels
    known_right = f"; {words.share(right)} of the labels are right" if right >= 0 else ""
    if share < CHANCE:
        return (
            f"yes: the loss {loss:.4g} is {share:.2g} times that of the best constant answer "
            f"({constant:.4g}){known_right}",
            "",
            "",
        )
    better = right > guessing + RIGHT * (1 - guessing)
    if better and share <= WORSE:
        return (
            f"a little: {words.share(right)} of the labels are right where guessing gets "
            f"{words.share(guessing)}, but the loss is still at chance level, {loss:.4g} where the "
            f"best constant answer gets {constant:.4g}",
            "",
            "go on training",
        )
    if better:
        return (
            f"in part: {words.share(right)} of the labels are right, but the loss {loss:.4g} is no "
            f"better than the {constant:.4g} of the best constant answer: some examples are "
            "answered wrongly with great confidence",
            "overconfident",
            "look at the examples with the largest loss: wrong labels, or inputs unlike the others",
        )
    start = f"nothing in {steps:.0f} steps" if steps >= MANY else "nothing yet"
    level = "worse than" if share > WORSE else "at"
    return (
        f"{start}: the loss is {level} chance level, {loss:.4g} where the best constant answer "
        f"gets {constant:.4g}",
        "chance_level",
        "usual at the start; if it stays so, train on ten examples alone: a network that cannot "
        "fit them has a fault in model, loss or learning rate, one that can has it in the data",
    )
