"""A verdict: what is claimed, on which numbers, under which assumptions, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Confidence = Literal["proven", "certified", "measured", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """One judgement. `finding` says that it calls for action (the command line exits with 1)."""

    name: str  # the question, in one or two words
    claim: str  # the answer, in plain words
    evidence: dict[str, float] = field(default_factory=dict)  # the numbers that it rests on
    assumptions: tuple[str, ...] = ()
    confidence: Confidence = "measured"
    advice: str = ""
    source: str = ""
    finding: bool = False

    def __str__(self) -> str:
        numbers = "   ".join(f"{name} = {value:.4g}" for name, value in self.evidence.items())
        lines = [f"{self.name:<14} {self.claim}  ({self.confidence})"]
        if numbers:
            lines.append(f"{'':<14} {numbers}")
        if self.advice:
            lines.append(f"{'':<14} -> {self.advice}")
        return "\n".join(lines)
