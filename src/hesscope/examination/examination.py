"""An examination: verdicts on a problem, the results that they rest on, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hesscope import report
from hesscope.diagnosis.headline import headline
from hesscope.diagnosis.judge import judge
from hesscope.examination.overview import overview
from hesscope.results import html, record
from hesscope.results.headline import Headline
from hesscope.results.measurements import Measurements
from hesscope.results.result import Columns, Result
from hesscope.results.verdict import Verdict


@dataclass(frozen=True)
class Examination(Result):
    """The verdicts on a problem, and the record of the look that they rest on."""

    verdicts: tuple[Verdict, ...]
    measurements: Measurements
    headline: Headline | None = None  # what the verdicts amount to; made from them if not given

    def __post_init__(self) -> None:
        if self.headline is None:
            object.__setattr__(self, "headline", headline(self.verdicts))

    @property
    def results(self) -> dict[str, Any]:
        """What was measured, by the key of its quantity."""
        return dict(self.measurements.values)

    @property
    def num_matvecs(self) -> int:
        """Hessian-vector products that were spent."""
        return self.measurements.num_matvecs

    @property
    def gradients(self) -> float:
        """All of the cost, in gradients of the mean loss."""
        return self.measurements.gradients

    @property
    def seconds(self) -> float:
        """The time that it took."""
        return self.measurements.seconds

    @property
    def seed(self) -> int:
        """Of all random starts."""
        return self.measurements.seed

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader should know about the problem and its products."""
        return self.measurements.facts

    @property
    def healthy(self) -> bool:
        """True when no verdict calls for action, something is learnt, and nothing was cut short.

        At chance level no network is healthy, though at the start of training that is no finding.
        """
        ill = any(v.finding or v.cause == "chance_level" for v in self.verdicts)
        return not (self.interrupted or ill)

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it before all was measured."""
        return self.measurements.interrupted

    def verdict(self, key: str) -> Verdict:
        """The verdict with this key, or with this name in print.

        Raises:
            ValueError: if there is none.
        """
        for verdict in self.verdicts:
            if key in (verdict.key, verdict.name):
                return verdict
        msg = f"no verdict {key!r}; there are {', '.join(repr(v.key) for v in self.verdicts)}."
        raise ValueError(msg)

    def judge(self) -> Examination:
        """The same look, judged by the rules of the hesscope that runs now."""
        return Examination(judge(self.measurements), self.measurements)

    def picture(self) -> str:
        """The headline, above the table in a notebook."""
        return "" if self.headline is None else html.lines(str(self.headline))

    def columns(self) -> Columns:
        """A row for each verdict."""
        return {
            "verdict": [verdict.name for verdict in self.verdicts],
            "claim": [verdict.claim for verdict in self.verdicts],
            "confidence": [verdict.confidence for verdict in self.verdicts],
            "finding": [verdict.finding for verdict in self.verdicts],
            "what to do": [verdict.advice for verdict in self.verdicts],
        }

    def save(self, folder: str | Path) -> Path:
        """Writes the examination to a folder, from which `hesscope.load` reads it.

        Raises:
            RuntimeError: if the folder cannot be written.
        """
        return record.save(self, folder)

    def to_html(self, path: str | Path, title: str = "") -> Path:
        """Writes one self-contained page: verdicts, figures, numbers, cost and provenance.

        Args:
            path: of the page.
            title: its heading, such as the name of a run; by default that of the model.

        Raises:
            RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
        """
        return report.write(
            path,
            title or str(self.facts.get("model", "an examination")),
            self.verdicts,
            self.results,
            self.cost(),
            self.headline,
            overview(self.measurements),
            {"seed": self.seed, **self.facts},
        )

    def __str__(self) -> str:
        lines = [] if self.headline is None else [str(self.headline), ""]
        lines += [str(verdict) for verdict in self.verdicts]
        return "\n".join([*lines, self.cost()])

    def cost(self) -> str:
        """What it took, in one line."""
        facts = self.facts
        stopped = "interrupted, not all was measured: " if self.interrupted else ""
        return stopped + (
            f"{self.num_matvecs} matvecs, {self.gradients:.0f} gradients' worth in all, "
            f"{self.seconds:.1f} s, seed {self.seed}, "
            f"{facts.get('items', 0):g} items, n = {facts.get('n', 0)}, {facts.get('dtype', '')}, "
            f"{facts.get('mode', '')}"
        )
