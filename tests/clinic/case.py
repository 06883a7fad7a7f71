"""A planted case: what is wrong with it is known, so the verdicts on it are right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

import hesscope as hs

Outcome = Literal["right", "undecided", "wrong"]
Patient = tuple[hs.Problem, dict[str, Any]]  # a problem, and what else `diagnose` is given
Words = Mapping[str, tuple[str, ...]]  # by the name of a verdict


@dataclass(frozen=True)
class Case:
    """A maker of problems with one known cause, and what the verdicts have to say.

    A verdict named in `findings` must call for action, any other must not, those of `tolerated`
    excepted: consequences of the planted cause that are true of some seeds. A claim must hold one
    of the words in `claims` and none of those in `never`.
    """

    name: str
    make: Callable[[int], Patient]
    claims: Words = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    tolerated: tuple[str, ...] = ()
    never: Words = field(default_factory=dict)

    def examine(self, seed: int, **options: Any) -> hs.Examination:
        """Diagnoses the case drawn by this seed; the verdicts' own random start is that seed, too.

        Cases that need more than the quick effort say so in what they give `diagnose`.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            problem, given = self.make(seed)
            return hs.diagnose(problem, **{"effort": "quick", "seed": seed, **given, **options})


def outcome(case: Case, examined: hs.Examination) -> tuple[Outcome, list[str]]:
    """How the verdicts compare with what is known, and where they are wrong or undecided.

    An undecided verdict is never wrong, unless it calls for action where nothing is the matter.
    """
    verdicts = {verdict.name: verdict for verdict in examined.verdicts}
    wrong, open_ = [], []
    for name, verdict in verdicts.items():
        unasked = verdict.finding and name not in (*case.findings, *case.tolerated)
        said = [word for word in case.never.get(name, ()) if word in verdict.claim]
        if unasked or said:
            wrong.append(f"{name}: {verdict.claim}")
    for name in dict.fromkeys((*case.claims, *case.findings)):
        if name not in verdicts:
            wrong.append(f"{name}: not among the verdicts {', '.join(verdicts)}")
            continue
        verdict = verdicts[name]
        words = case.claims.get(name, ("",))
        said = any(word in verdict.claim for word in words)
        if said and (name not in case.findings or verdict.finding):
            continue
        (open_ if verdict.confidence == "undecided" else wrong).append(f"{name}: {verdict.claim}")
    if wrong:
        return "wrong", wrong
    return ("undecided", open_) if open_ else ("right", [])
