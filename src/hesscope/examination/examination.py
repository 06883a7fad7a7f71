"""An examination: verdicts on a problem, the results that they rest on, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hesscope import report
from hesscope.results import record
from hesscope.results.verdict import Verdict


@record.savable
@dataclass(frozen=True)
class Examination:
    """The verdicts on a problem, the results that they rest on, and what it all cost."""

    verdicts: tuple[Verdict, ...]
    results: dict[str, Any]
    num_matvecs: int
    seconds: float
    seed: int = 0
    gradients: float = 0.0  # all of the cost, in gradients of the mean loss
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """True when no verdict calls for action."""
        return not any(verdict.finding for verdict in self.verdicts)

    def verdict(self, name: str) -> Verdict:
        """The verdict of this name.

        Raises:
            ValueError: if there is none.
        """
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        msg = f"no verdict {name!r}; there are {', '.join(repr(v.name) for v in self.verdicts)}."
        raise ValueError(msg)

    def save(self, folder: str | Path) -> Path:
        """Writes the examination to a folder, from which `hesscope.load` reads it.

        Raises:
            RuntimeError: if the folder cannot be written.
        """
        return record.save(self, folder)

    def to_html(self, path: str | Path) -> Path:
        """Writes one self-contained page: verdicts, figures, numbers, cost and provenance.

        Raises:
            RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
        """
        return report.write(path, "hesscope examination", self.verdicts, self.results, self.cost())

    def __str__(self) -> str:
        lines = [str(verdict) for verdict in self.verdicts]
        return "\n".join([*lines, self.cost()])

    def cost(self) -> str:
        """What it took, in one line."""
        facts = self.facts
        return (
            f"{self.num_matvecs} matvecs, {self.gradients:.0f} gradients' worth in all, "
            f"{self.seconds:.1f} s, seed {self.seed}, "
            f"{facts.get('items', 0):g} items, n = {facts.get('n', 0)}, {facts.get('dtype', '')}, "
            f"{facts.get('mode', '')}"
        )
