"""What a look amounts to: the most likely cause, what speaks for and against it, what to do."""

from __future__ import annotations

from dataclasses import dataclass

from hesscope.results.result import Result
from hesscope.results.verdict import Confidence


@dataclass(frozen=True)
class Headline(Result):
    """One sentence on top of all verdicts, and what it rests on."""

    claim: str  # the most likely cause, or that none was found
    key: str  # of the verdict that it is taken from
    cause: str  # the verdict's cause, or its key where that has no name; empty: nothing was found
    confidence: Confidence
    speaks_for: tuple[str, ...] = ()
    speaks_against: tuple[str, ...] = ()
    advice: str = ""
    others: tuple[str, ...] = ()  # keys of the other findings, by rank

    @property
    def title(self) -> str:
        """What the claim is; chance level is where a network stands, and no cause of that."""
        return "in short" if self.cause in ("", "chance_level") else "most likely cause"

    def __str__(self) -> str:
        lines = [f"{self.title}: {self.claim}  ({self.confidence})"]
        lines += [f"  speaks for it:     {text}" for text in self.speaks_for]
        lines += [f"  speaks against it: {text}" for text in self.speaks_against]
        if self.advice:
            lines.append(f"  what to do next:   {self.advice}")
        return "\n".join(lines)
