"""A history in, a post-mortem out: pure, nothing is measured."""

from __future__ import annotations

from hesscope.diagnosis.postmortem.causes import CAUSES, underflow_without_spike, unknown
from hesscope.diagnosis.postmortem.evidence import Evidence
from hesscope.diagnosis.postmortem.excursion import excursion
from hesscope.diagnosis.postmortem.signals import signals
from hesscope.results.history import History
from hesscope.results.postmortem import Postmortem


def judged(history: History) -> Postmortem:
    """Where the loss left its course, which signals came before, and which causes explain them.

    Of a run without a spike nothing is claimed, but for half precision that loses most of what is
    to be learned: that is seen without one.

    >>> losses = {t: 1.0 / (1 + t) for t in range(10)} | {10: 3.0, 11: 9.0}
    >>> ratio = {t: 0.2 for t in range(6)} | {t: 1.6 for t in range(6, 12)}
    >>> lr = {t: 0.1 for t in range(6)} | {t: 0.8 for t in range(6, 12)}
    >>> run = {"loss": losses, "sharpness_over_limit": ratio, "lr": lr}
    >>> found = judged(History.of(run))
    >>> found.cause, found.onset, found.lead
    ('lr_too_high', 10, 4)
    """
    rise = excursion(history)
    if rise is None:
        lost = underflow_without_spike(history)
        return Postmortem("none", -1, -1, (), () if lost is None else (lost,), history)
    evidence = Evidence(history, rise)
    found = [cause(evidence) for cause in CAUSES]
    verdicts = tuple(verdict for verdict in found if verdict is not None)
    return Postmortem(
        rise.kind,
        rise.onset,
        rise.peak,
        signals(evidence),
        verdicts or (unknown(evidence),),
        history,
    )
