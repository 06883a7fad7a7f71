"""The table of what an examination measures: key, measurement, cost, and from which effort on.

One more quantity is one more row. `measure` fills the record of a look from the rows, `cost_of`
adds up what they will cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hesscope.anatomy.constant_prediction import constant_loss
from hesscope.anatomy.signals import signals
from hesscope.examination import batches, gradients, motion, network, sanity, spectral
from hesscope.examination.efforts import GRADIENTS_PER_MATVEC, EffortName
from hesscope.examination.look import INTERRUPTED, Look, MissingError
from hesscope.examination.question import Question
from hesscope.problem.problem import Problem
from hesscope.results.measurements import Measurements
from hesscope.sampling.error import DEPTH
from hesscope.sampling.parts import num_units, unit_of
from hesscope.sampling.stability import cost_of as cost_of_stability
from hesscope.system import interrupts, progress


@dataclass(frozen=True)
class Cost:
    """Products, gradients of the mean loss, and passes of gradients over the data in parts."""

    matvecs: int = 0
    gradients: float = 0.0
    parts: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.matvecs + other.matvecs,
            self.gradients + other.gradients,
            self.parts + other.parts,
        )


@dataclass(frozen=True)
class Quantity:
    """A row: what is measured under which key, at what cost, and from which effort on.

    Where an `essential` one fails the look is worth nothing and the error is the user's; any other
    one is then missing from the record, with its cause.
    """

    key: str
    measure: Callable[[Look], Any]  # None: there is nothing to measure
    cost: Callable[[Question], Cost] = lambda _: Cost()
    since: EffortName = "quick"
    essential: bool = False


def of_problem(
    key: str,
    measure: Callable[[Problem], Any],
    *,
    gradients: float,
    since: EffortName = "quick",
) -> Quantity:
    """A row that needs nothing but the problem, and costs so many gradients of the mean loss."""

    def measured(look: Look) -> Any:
        look.spend(gradients=gradients)
        return measure(look.problem)

    return Quantity(key, measured, lambda _: Cost(gradients=gradients), since)


def measure(problem: Problem, question: Question, rows: Iterable[Quantity] = ()) -> Measurements:
    """Fills the record of one look from the rows of the table, and from rows of one's own.

    Raises:
        ValueError: if an essential quantity does not fit the problem.
        RuntimeError: if the loss or a product is not finite.
        KeyboardInterrupt: if it comes before the essential quantities are known; later ones leave
            what costs anything unmeasured, and the record says so.
    """
    look = Look(problem, question)
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    asked = [row for row in (*QUANTITIES, *rows) if question.effort.includes(row.since)]
    before, interrupted = interrupts.so_far(), False
    for row in asked:
        try:
            progress.report(row.key.replace("_", " "), look.num_matvecs)
            value = look.of(row.measure)
        except MissingError as error:
            if row.essential:
                raise error.origin from None
            missing[row.key] = str(error)
            continue
        except KeyboardInterrupt:
            if row.essential:
                raise
            value, missing[row.key] = None, INTERRUPTED
            interrupts.note()
        if value is not None:
            values[row.key] = value
        if not interrupted and interrupts.so_far() > before:
            interrupted = True
            look.close(other.measure for other in asked if other.cost(question) != Cost())
    return Measurements(
        values=values,
        missing=missing,
        asked=question.given(),
        num_matvecs=look.num_matvecs,
        gradients=look.gradients + GRADIENTS_PER_MATVEC * look.num_matvecs,
        seed=question.seed,
        facts=look.H.facts(),
        interrupted=interrupted,
    )


def cost_of(question: Question) -> Cost:
    """What the rows will cost, at most."""
    rows = [row.cost(question) for row in QUANTITIES if question.effort.includes(row.since)]
    return sum(rows, Cost())


def _sampling(question: Question) -> Cost:
    """Products on parts, whose graphs are built anew: about three gradients, and two a vector."""
    matvecs = question.spending.sampling
    if not matvecs:
        return Cost()
    return Cost(matvecs, 2.0, 3 + 2 * matvecs // (1 + DEPTH))


def _batches(question: Question) -> Cost:
    """That of the noise of batches, where their size is given."""
    if question.batch_size is None or (question.optimizer is None and question.lr is None):
        return Cost()
    return Cost(gradients=batches.GAUSS_NEWTON * cost_of_stability(question.effort.rounds))


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("loss", gradients.loss, lambda _: Cost(gradients=0.5), essential=True),
    Quantity(
        "gradient_noise", gradients.gradient_noise, lambda _: Cost(0, 1.0, 1.0), essential=True
    ),
    Quantity("density", spectral.density, lambda q: Cost(q.spending.survey), essential=True),
    Quantity("eigenpairs", spectral.eigenpairs, essential=True),
    Quantity("curvature", spectral.curvature, essential=True),
    Quantity("gradient_curvature", gradients.gradient_curvature, lambda _: Cost(1)),
    Quantity(
        "step",
        motion.step,
        lambda q: Cost(q.spending.along - 1 + q.spending.preconditioned, 0.5),
    ),
    Quantity("batch_stability", batches.batch_stability, _batches),
    Quantity("escape", motion.escape, lambda _: Cost(gradients=1.0)),
    Quantity("flat_fall", motion.flat_fall),
    Quantity("descent", motion.descent),
    Quantity("conditioning", spectral.conditioning),
    Quantity("outliers", spectral.outliers),
    Quantity("layers", network.layers, lambda _: Cost(gradients=network.LAYERS)),
    Quantity("feature_ratio", network.feature_ratio, lambda _: Cost(gradients=network.FEATURES)),
    of_problem("num_examples", num_units, gradients=0.0),
    of_problem("unit", unit_of, gradients=0.0),
    of_problem("constant_loss", constant_loss, gradients=1.0),
    Quantity("predictions", sanity.predictions, lambda _: Cost(gradients=sanity.PASS)),
    Quantity("data_summary", sanity.data_summary),
    Quantity("neighbours", sanity.neighbours),
    Quantity("trained", sanity.trained, lambda _: Cost(gradients=sanity.PASS)),
    Quantity("time_signals", sanity.time_signals, lambda _: Cost(gradients=1.0)),
    Quantity(
        "held_out_loss",
        sanity.held_out_loss,
        lambda q: Cost(gradients=0.0 if q.held_out is None else sanity.PASS),
    ),
    of_problem("signals", signals, gradients=1.0, since="standard"),
    Quantity("gradient_in_top", spectral.gradient_in_top),
    Quantity("smoothness", motion.smoothness, lambda _: Cost(gradients=15.0), since="standard"),
    Quantity("sampling_error", spectral.sampling_error, _sampling, since="standard"),
    Quantity(
        "convexity_probes",
        spectral.convexity_probes,
        lambda q: Cost(q.spending.probes),
        since="deep",
    ),
)
