"""What an examination will cost, before it starts: products, time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer

from hesscope import probes
from hesscope.checks.sample import small_problem
from hesscope.curvature.hessian import Hessian
from hesscope.examination.budget import Task
from hesscope.examination.efforts import GRADIENTS_PER_MATVEC, EffortName
from hesscope.examination.planned import Planned, timed, weighed
from hesscope.examination.quantities import cost_of
from hesscope.examination.question import asked
from hesscope.examination.timing import arithmetic, orthogonalising, seconds
from hesscope.problem.problem import Problem
from hesscope.results.result import Result
from hesscope.sampling.gradient import gradient_with_noise
from hesscope.system.contexts import public
from hesscope.system.memory import human

CHECK = 60.0  # gradients on a few examples that check_problem amounts to, products included
CHECK_DATA = 4.0  # and over all data: a gradient, three losses in float64
CHECK_MATVECS = 5  # that check_problem reports, on a few examples


@dataclass(frozen=True)
class Forecast(Result):
    """Cost of an examination, from one gradient and two products that were timed."""

    num_matvecs: int  # Hessian-vector products at most
    gradients: float  # all of the cost, in gradients of the mean loss
    seconds: float
    memory: int  # bytes that are kept: graphs and Krylov vectors; not what passes through products
    n: int
    effort: str
    products: str = ""  # how they are computed, where no graph is kept, and why
    processes: int = 1  # of which each takes this time and memory
    weights: int = 0  # bytes of parameters and buffers in each, there already; 0: not looked at
    basis: str = "memory"  # where vectors are
    placed: int = 0  # bytes of them that are not in memory
    ways: tuple[str, ...] = ()  # all that were weighed, the fastest first
    problem: str = ""  # that nothing fits, and what would

    @property
    def fits(self) -> bool:
        """Whether any way fits into the memory that is free."""
        return not self.problem

    def __str__(self) -> str:
        time = f"{self.seconds:.1f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        how = f"; {self.products}" if self.products else ""
        each = f" in each of {self.processes} processes" if self.processes > 1 else ""
        there = f", {human(self.placed)} on the {self.basis}" if self.placed else ""
        beside = f" beside {human(self.weights)} of weights" if self.weights else ""
        first = (
            f"{self.effort}: at most {self.num_matvecs} matvecs, {self.gradients:.0f} gradients' "
            f"worth, about {time} and {human(self.memory)}{there}{each}{beside} for {self.n} "
            f"parameters{how}"
        )
        weighed = [f"  {way}" for way in self.ways]
        return "\n".join([first, *weighed, *([self.problem] if self.problem else [])])


@public
def plan(
    problem: Problem,
    optimizer: Optimizer | None = None,
    *,
    lr: float | None = None,
    effort: EffortName = "standard",
    max_matvecs: int | None = None,
    batch_size: int | None = None,
    held_out: Problem | None = None,
    check: bool = True,
    task: Task = "diagnose",
    k: int = 6,
    processes: int | None = None,
    product: Literal["auto", "reverse-over-reverse", "lean"] = "auto",
    verify: bool = True,
) -> Forecast:
    """What `diagnose` with the same arguments will cost, or another task: matvecs, time, memory.

    Times one gradient, the first product (which builds the kept graphs) and one more, a pass over
    some Krylov vectors, and the arithmetic behind one count; the rest is multiplication. Costs
    about 13 gradients.

    With another `task`, or `processes`, the bytes of every kind of product are counted on an eighth
    and a quarter of a batch and drawn out to all of it, which costs about 8 gradients more; of the
    ways that fit in free memory (graphs kept or rebuilt, lean products, vectors in memory or on a
    disk) the fastest is taken. How near plans come stands in docs/processes.md.

    Args:
        problem: what is looked at.
        optimizer: as for `diagnose`, and so are lr, effort, batch_size, held_out and check.
        lr: see there.
        effort: see there.
        max_matvecs: of the task; by default 2 k + 26 for "eigsh", 100 for "density".
        batch_size: see there.
        held_out: see there.
        check: see there.
        task: "diagnose", or a "product" of the Hessian, "eigsh" of k pairs, or a "density".
        k: pairs, for "eigsh".
        processes: how many will share the data, each on a device as this one; vectors are then in
            pieces. Sums over processes are not in the time.
        product: as of `Hessian`, for a task or `processes`.
        verify: as of `eigsh`, for that task.

    Raises:
        ValueError: as `diagnose`; with a task or `processes` also if they or the product are
            unknown, or in one of several processes.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3))
    >>> hs.plan(p, effort="quick").num_matvecs
    44
    """
    question = asked(optimizer, lr, effort, max_matvecs, batch_size=batch_size, held_out=held_out)
    cost, steps = cost_of(question), question.spending.survey
    if task != "diagnose" or processes is not None:
        num = cost.matvecs if task == "diagnose" else max_matvecs
        num_processes = 1 if processes is None else processes
        found = weighed(problem, task, num, k, num_processes, product, verify=verify)
        return _of(timed(problem, found, found.way), problem, task)
    H = Hessian(problem)
    v = H.probe(probes.key(0, "forecast"))
    first = seconds(lambda: H @ v)
    each_took = sorted(seconds(lambda: H @ v) for _ in range(3))[1]
    gradient = sorted(seconds(problem.gradient) for _ in range(3))[1]
    in_parts = seconds(lambda: gradient_with_noise(problem))  # many small gradients
    took = each_took * cost.matvecs + gradient * cost.gradients + in_parts * cost.parts
    took += first + orthogonalising(H, steps) + arithmetic(steps)
    if check:
        few = small_problem(problem).problem
        took += CHECK * seconds(few.gradient) + CHECK_DATA * gradient
    facts = H.facts()
    each, products = _products(facts)
    kept = int(facts["graph_bytes"]) if facts.get("graph") == "graph kept" else 0
    return Forecast(
        num_matvecs=cost.matvecs + CHECK_MATVECS * check,
        gradients=each * cost.matvecs + cost.gradients,
        seconds=took,
        memory=kept + (steps + steps // 4) * H.n * H.dtype.itemsize,
        n=H.n,
        effort=effort,
        products=products,
    )


def _of(found: Planned, problem: Problem, task: Task) -> Forecast:
    """A forecast of what was planned."""
    return Forecast(
        num_matvecs=found.num_matvecs,
        gradients=found.gradients,
        seconds=found.seconds,
        memory=int(found.way.memory),
        n=problem.n,
        effort=task,
        products=found.way.kind,
        processes=found.size.processes,
        weights=found.weights,
        basis=found.way.place,
        placed=int(found.way.placed),
        ways=tuple(map(str, found.ways)),
        problem=found.problem,
    )


def _products(facts: dict[str, Any]) -> tuple[float, str]:
    """What a product costs in gradients, and why it is not one with kept graphs, if so."""
    why = facts.get("why", "")
    if facts["product"] == "lean":
        return 4.0, f"lean products, for {why}"
    if facts.get("graph") == "graph rebuilt":
        return 3.0, f"graphs are rebuilt for every product, for {why}"
    return GRADIENTS_PER_MATVEC, ""
