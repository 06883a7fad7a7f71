"""What a check found: faults with cause and cure, and notes that are no faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class Finding(Result):
    """One thing that a check found: its name, what causes it and what to do about it."""

    name: str
    cause: str
    cure: str
    fault: bool = True

    def __str__(self) -> str:
        return (
            f"{'FAULT' if self.fault else 'note '} {self.name}: {self.cause}\n      -> {self.cure}"
        )


@dataclass(frozen=True)
class Check(Result):
    """The outcome of a check; `ok` unless one of the findings is a fault. It never raises."""

    findings: tuple[Finding, ...]
    num_matvecs: int = 0
    passed: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True when no finding is a fault; notes do not count."""
        return not self.faults

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that make numbers wrong, the cause first."""
        return tuple(finding for finding in self.findings if finding.fault)

    def columns(self) -> Columns:
        """A row for each finding; empty where there is none."""
        names = ("name", "cause", "cure", "fault")
        rows = {name: [getattr(finding, name) for finding in self.findings] for name in names}
        return rows if self.findings else {}

    def quantities(self) -> dict[str, Any]:
        """The outcome, the cost, and the questions that found nothing."""
        return {
            "outcome": "ok" if self.ok else f"{len(self.faults)} faults",
            "cost in products (matvecs)": self.num_matvecs,
            "nothing found by": ", ".join(self.passed) or "none",
        }

    def __str__(self) -> str:
        head = "ok" if self.ok else f"{len(self.faults)} fault" + "s" * (len(self.faults) > 1)
        lines = [f"check: {head} ({self.num_matvecs} matvecs)"]
        lines += [f"  {finding}" for finding in self.findings]
        if self.passed:
            lines.append(f"  passed: {', '.join(self.passed)}")
        return "\n".join(lines)
