"""Does what was learnt carry over to data that the network has not seen?"""

from __future__ import annotations

import math

from hesscope.diagnosis.stuck import CHANCE, HIGH, PERFECT
from hesscope.results.verdict import Verdict, known

SOURCE = "Zhang, Bengio, Hardt, Recht and Vinyals 2017"
APART = 1.5  # held-out loss over training loss
NOTED = 0.05  # of chance level, by which they have to differ as well


def memorised(loss: float, held_out: float, constant_loss: float = math.nan) -> Verdict:
    """The verdict "memorised?": the training loss beside that of held-out data.

    A finding where the training loss is below half of chance level and the held-out loss is not
    below it at all.

    >>> memorised(0.01, 2.9, 2.3).claim
    'memorised: loss 0.01 on training data, 2.9 on held-out data, where guessing gets 2.3'
    """
    scale = constant_loss if constant_loss > PERFECT * abs(loss) else math.nan
    both = f"loss {loss:.3g} on training data, {held_out:.3g} on held-out data"
    claim, cause, advice = f"no: {both}", "", ""
    if held_out >= CHANCE * scale and loss < HIGH * scale:
        claim, cause = f"memorised: {both}, where guessing gets {scale:.3g}", "memorised"
        advice = (
            "nothing that was learnt carries over: stop earlier, add data, augmentation or weight "
            "decay; look for wrong labels, and for held-out data unlike the training data"
        )
    elif held_out > APART * loss and not held_out - loss < NOTED * scale:
        claim = f"in part: {both}"
        advice = "more data, augmentation, weight decay or an earlier stop narrow the gap"
    return Verdict(
        key="memorised",
        name="memorised?",
        claim=claim,
        **known(
            ("loss", "loss", loss),
            ("held_out_loss", "held-out loss", held_out),
            ("constant_loss", "loss of the best constant answer", constant_loss),
        ),
        assumptions=("both are drawn alike",),
        advice=advice,
        source=SOURCE,
        finding=bool(cause),
        cause=cause,
    )
