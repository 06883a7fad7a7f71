"""All verdicts on a run, from its history alone: a table of rules, one row a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from hesscope.diagnosis.course.batch_edge import batch_edge
from hesscope.diagnosis.course.catapult import catapult
from hesscope.diagnosis.course.divergence import divergence
from hesscope.diagnosis.course.edge import edge
from hesscope.diagnosis.course.flattening import flattening
from hesscope.diagnosis.course.noise_floor import noise_floor
from hesscope.diagnosis.course.plateau import plateau
from hesscope.diagnosis.course.saddle import saddle
from hesscope.diagnosis.course.sharpening import sharpening
from hesscope.diagnosis.course.trends import smooth, together
from hesscope.diagnosis.course.warm_up import warm_up
from hesscope.results.history import History, Series
from hesscope.results.verdict import Verdict
from hesscope.system.contexts import public


@dataclass(frozen=True)
class Rule:
    """How one verdict follows from a history, and from how many checks on it is asked for.

    Where a quantity that it needs was never measured there is no verdict. Where it was switched
    off, or the checks are too few so far, the verdict is undecided and says why.
    """

    key: str
    name: str
    needs: tuple[str, ...]
    checks: int
    judge: Callable[[History], Verdict | None]

    def verdict(self, history: History) -> Verdict | None:
        """The verdict on this run, if there is one."""
        known = len(together(history, *self.needs)[0]) if self.needs else 0
        if known >= self.checks:
            return self.judge(history)
        why = _switched_off(history, self.needs)
        if not why and not all(len(history.get(key)) for key in self.needs):
            return None
        few = f"{known} checks so far, and {self.checks} are needed"
        claim = f"undecided: {why or few}"
        return Verdict(self.name, claim, confidence="undecided", key=self.key)


@public
def verdicts(history: History) -> tuple[Verdict, ...]:
    """The verdicts on a run, as far as it has come; pure, nothing is measured.

    What was looked for and not found has no verdict. Findings are what calls for action:
    divergence, a plateau, a warm-up too short. The rest names what is usual, so that nobody takes
    it for a fault: progressive sharpening, the edge of stability and that of small batches, a
    catapult, flattening, the passage of a saddle, the noise floor. Each says in its last assumption
    what would contradict it, and in its evidence (`first_step`, `last_step`) of which steps it
    speaks.

    Args:
        history: of a `Monitor`, or loaded from its folder. Without a loss of the probe data the
            training loss stands in, smoothed.

    >>> import hesscope as hs
    >>> rises, falls = {t: 1.0 + t for t in range(9)}, {t: 9.0 - t for t in range(9)}
    >>> for verdict in hs.verdicts(hs.History.of({"lambda_max": rises, "loss": falls})):
    ...     print(verdict.key, verdict.finding)
    progressive_sharpening False
    """
    history = _with_loss(history)
    found = (rule.verdict(history) for rule in RULES)
    return tuple(verdict for verdict in found if verdict is not None)


def _with_loss(history: History) -> History:
    """The training loss in place of the probe data's where that was not measured."""
    told = history.get("train_loss")
    if "loss" in history or not len(told):
        return history
    finite = told.finite()
    return replace(
        history,
        series={**history.series, "loss": Series(finite.steps, smooth(finite.values))},
    )


def _switched_off(history: History, needs: tuple[str, ...]) -> str:
    """Why one of these is no longer measured; empty if all are."""
    rows = {ROWS.get(key, key) for key in needs}
    for event in history.events:
        if event.kind == "switched off" and rows & set(re.findall(r"\w+", event.text)):
            return event.text
    return ""


ROWS = {
    "sharpness_over_limit": "stability",
    "batch_sharpness_over_limit": "batch_sharpness",
}  # quantities of a row with another name

SHARPNESS, LIMIT = ("lambda_max", "loss"), ("sharpness_over_limit", "loss")
GRADIENT = ("gradient_norm", "loss")

RULES: tuple[Rule, ...] = (
    Rule("divergence", "divergence", (), 0, divergence),
    Rule("warm_up", "warm-up", ("lr", *LIMIT), 3, warm_up),
    Rule("plateau", "plateau", GRADIENT, 16, plateau),
    Rule("edge_of_stability", "edge of stability", LIMIT, 8, edge),
    Rule(
        "small_batch_edge",
        "small-batch edge",
        ("batch_sharpness_over_limit", *LIMIT),
        8,
        batch_edge,
    ),
    Rule("progressive_sharpening", "sharpening", SHARPNESS, 8, sharpening),
    Rule("flattening", "flattening", SHARPNESS, 8, flattening),
    Rule("catapult", "catapult", (*LIMIT, "lambda_max"), 3, catapult),
    Rule("saddle_passage", "saddle", ("gradient_norm", "gradient_curvature", "loss"), 8, saddle),
    Rule("noise_floor", "noise floor", GRADIENT, 16, noise_floor),
)
