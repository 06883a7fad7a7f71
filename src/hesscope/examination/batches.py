"""Quantities of training on random batches."""

from __future__ import annotations

from hesscope.examination.look import Look
from hesscope.results.batch_stability import BatchStability
from hesscope.sampling.parts import examples_of
from hesscope.sampling.stability import batch_stability as batch_stability_of
from hesscope.steps.kinds import has_started
from hesscope.steps.stability import why_unknown

GAUSS_NEWTON = 1.4  # gradients a product


def batch_stability(look: Look) -> BatchStability | None:
    """What the noise of the user's batches leaves of the largest stable learning rate."""
    q = look.question
    if q.batch_size is None or (q.optimizer is None and q.lr is None):
        return None
    if q.optimizer is not None and (why_unknown(q.optimizer) or not has_started(q.optimizer)):
        return None
    size = min(q.batch_size, int(examples_of(look.problem)))
    found = batch_stability_of(look.problem, size, q.optimizer, rounds=q.effort.rounds, seed=q.seed)
    look.spend(gradients=GAUSS_NEWTON * found.num_matvecs)
    return found
