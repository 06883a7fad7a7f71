"""A verdict: what is claimed, on which numbers, under which assumptions, and what to do."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hesscope.results.result import Result

Confidence = Literal["proven", "certified", "measured", "undecided"]


@dataclass(frozen=True)
class Verdict(Result):
    """One judgement. `finding` says that it calls for action (the command line exits with 1).

    `key` and the names in `evidence` stay what they are over versions, optimisers and networks, so
    that scripts can rely on them; `name` and `labels` are the words that a reader sees.
    """

    name: str  # the question, in one or two words
    claim: str  # the answer, in plain words
    evidence: dict[str, float] = field(default_factory=dict)  # the numbers that it rests on
    assumptions: tuple[str, ...] = ()
    confidence: Confidence = "measured"
    advice: str = ""
    source: str = ""
    finding: bool = False
    labels: dict[str, str] = field(default_factory=dict)  # evidence -> what a reader calls it
    key: str = ""  # the question for scripts, such as "step_size"; made from the name if not given
    cause: str = ""  # what was found, for scripts, such as "leak"; empty where it has no name

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or re.sub(r"\W+", "_", self.name).strip("_"))

    def numbers(self) -> dict[str, float]:
        """The evidence under the names that a reader sees.

        >>> Verdict("noise", "none", {"size": 2.0}, labels={"size": "‖g‖"}).numbers()
        {'‖g‖': 2.0}
        """
        return {self.labels.get(key, key): value for key, value in self.evidence.items()}

    def quantities(self) -> dict[str, Any]:
        """The claim, how sure it is, its numbers, and what to do."""
        told = {
            "claim": self.claim,
            "confidence": self.confidence,
            "calls for action": self.finding,
        }
        advice = {"what to do": self.advice} if self.advice else {}
        source = {"rests on": self.source} if self.source else {}
        return {"verdict": self.name, **told, **advice, **self.numbers(), **source}

    def remarks(self) -> tuple[str, ...]:
        """What it takes for granted."""
        return tuple(f"assumes: {text}" for text in self.assumptions)

    def __str__(self) -> str:
        numbers = "   ".join(f"{name} = {value:.4g}" for name, value in self.numbers().items())
        lines = [f"{self.name:<14} {self.claim}  ({self.confidence})"]
        if numbers:
            lines.append(f"{'':<14} {numbers}")
        if self.advice:
            lines.append(f"{'':<14} -> {self.advice}")
        return "\n".join(lines)


def known(*numbers: tuple[str, str, float]) -> dict[str, Any]:
    """`evidence` and `labels` of a verdict from (key, label, value); NaN says "not known".

    >>> known(("lr", "lr", 0.5), ("slope", "g·d", math.nan))
    {'evidence': {'lr': 0.5}, 'labels': {'lr': 'lr'}}
    """
    here = [(key, label, float(value)) for key, label, value in numbers if not math.isnan(value)]
    return {
        "evidence": {key: value for key, _, value in here},
        "labels": {key: label for key, label, _ in here},
    }
