"""The spectrum over a series of checkpoints: one measurement for each, kept as it ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesscope import store
from hesscope.curvature.hessian import Hessian
from hesscope.estimators.density import spectral_density
from hesscope.estimators.trace import trace as trace_of
from hesscope.krylov.eigsh import check_arguments, eigsh
from hesscope.krylov.overlap import outermost, overlap, space_error
from hesscope.krylov.wanted import Which
from hesscope.monitor.checkpoints import Checkpoints, Saved, digest, in_order, move_to, name_of
from hesscope.monitor.monitor import data_hash
from hesscope.problem.problem import Problem
from hesscope.results import record
from hesscope.results.checkpoint_spectrum import KEY, CheckpointSpectrum, spectra_of
from hesscope.results.density import SpectralDensity
from hesscope.results.history import Event, History
from hesscope.results.result import Result
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import interrupts
from hesscope.system.collectives import is_first_process
from hesscope.system.contexts import public
from hesscope.system.progress import report

NEGATIVE = 1e-3  # of λmax: eigenvalues below minus this are counted as negative curvature
NEIGHBOUR = "neighbour"  # the folder of the last eigenvectors
log = logging.getLogger("hesscope")


@public
def spectra(
    problem: Problem,
    checkpoints: Checkpoints,
    k: int = 10,
    *,
    which: Which = "LA",
    tol: float = 1e-3,
    verify: bool = True,
    max_matvecs: int | None = None,
    trace_matvecs: int = 20,
    density_matvecs: int = 60,
    to: str | Path | None = None,
    seed: int = 0,
    delta: float = 1e-3,
) -> History:
    """The outer eigenvalues of the Hessian over checkpoints, and how far their space turns.

    At each checkpoint `eigsh` finds the pairs, starting from those of the one before; with them
    taken out, the trace and the density are estimated, and from that the share of negative
    eigenvalues. The space of the k eigenvectors is compared with that of the checkpoint before:
    principal angles, and the mean of their squared cosines with its error, which comes from the
    residuals and the gap to the next eigenvalue. The data, and the random vectors of the estimates,
    are the same at all checkpoints. The model is not touched: a copy moves.

    Args:
        problem: model, loss and data.
        checkpoints: {step: weights}, or a list of files with the step in their names, or without:
            then their places in natural order stand for it. Weights are a state dict, or a path
            to one (.pt, .safetensors, a training checkpoint that holds it).
        k: how many eigenvalues; by one or two less than n, so that the gap is known.
        which: of them, as for `eigsh`.
        tol: residual relative to |eigenvalue|.
        verify: whether copies are looked for, too.
        max_matvecs: for the eigenpairs of one checkpoint.
        trace_matvecs: for the trace; 0 leaves it out.
        density_matvecs: for the density; 0 leaves it out.
        to: a run folder that takes each checkpoint as it ends. What it holds of these checkpoints
            is not measured again; files that have changed, or have another neighbour, are. Of the
            eigenvectors it keeps those of the last checkpoint.
        seed: of all random vectors.
        delta: the probability that a certificate is wrong, for each.

    Returns:
        A history with the series `lambda_1` ... `lambda_k`, `trace`, `negative_share`, `overlap`
        and their errors. `history.results["spectrum"]` has a `CheckpointSpectrum` for each step,
        `history.results["density"]` the density. A checkpoint that cannot be measured is an event.
        Interrupted, it returns the checkpoints that are done.

    Costs some 100 matvecs a checkpoint: 20 to 30 for ten pairs, those of trace and density.

    Raises:
        ValueError: if no checkpoint can be measured, an argument is out of range, or the folder
            holds another run.
        RuntimeError: if the folder cannot be written.

    >>> import torch, hesscope as hs
    >>> bowl = hs.Problem.from_function(lambda t: (t**4).sum(), torch.ones(3).double())
    >>> weights = {i: {"theta": torch.tensor([1, 2, 3 - 1.5 * i]).double()} for i in range(3)}
    >>> found = hs.spectra(bowl, weights, k=1)  # H = 12 diag(θ²)
    >>> found["lambda_1"].values.round().tolist(), found["overlap"].values.round().tolist()
    ([108.0, 48.0, 48.0], [0.0, 1.0])
    """
    check_arguments(Hessian(problem), k, which, tol, delta)
    asked = Settings(
        k, which, tol, verify, max_matvecs, trace_matvecs, density_matvecs, seed, delta
    )
    weights, are_steps = in_order(checkpoints, "checkpoints")
    facts = {
        **problem.facts(),
        "data_hash": data_hash(problem),
        **vars(asked),
        "axis": "steps" if are_steps else "places in the list",
    }
    series = _Series(problem, asked, weights, facts, to)
    try:
        series.measure()
    finally:
        series.close()
    return series.history()


@dataclass(frozen=True)
class Settings:
    """What is measured at each checkpoint: a folder holds series of one kind."""

    k: int
    which: Which
    tol: float
    verify: bool
    max_matvecs: int | None
    trace_matvecs: int
    density_matvecs: int
    seed: int
    delta: float


@dataclass(frozen=True)
class Neighbour:
    """The checkpoint before; its eigenvectors where they are known."""

    step: int
    name: str
    digest: str
    vectors: Tensor | None = None  # (n, k)
    error: float = math.inf  # of the space of its eigenvectors


class _Series:
    """A series that is being measured."""

    def __init__(
        self,
        problem: Problem,
        asked: Settings,
        weights: Mapping[int, Saved],
        facts: dict[str, Any],
        to: str | Path | None,
    ) -> None:
        self.asked, self.weights, self.facts = asked, weights, facts
        self.standing = problem.frozen_copy()
        self.spectra: dict[int, CheckpointSpectrum] = {}
        self.densities: dict[int, Result] = {}
        self.events: dict[int, Event] = {}
        self.last: Neighbour | None = None
        self.to = None if to is None else Path(to)
        if self.to is not None and store.holds_run(self.to):  # by all processes, one writes
            self._take_up(store.read(self.to))
        self.folder = store.RunFolder(self.to) if self.to and is_first_process() else None
        if self.folder is not None:
            self.folder.tell(self.facts)

    def close(self) -> None:
        """Lets go of the folder."""
        if self.folder is not None:
            self.folder.close()

    def history(self) -> History:
        """What has been found, and what the folder knew."""
        numbers: dict[str, dict[int, float]] = {}
        for step, one in self.spectra.items():
            for key, value in one.numbers(self.asked.which).items():
                numbers.setdefault(key, {})[step] = value
        results: dict[str, dict[int, Result]] = {KEY: dict(self.spectra)}
        if self.densities:
            results["density"] = self.densities
        provenance = {"provenance": record.provenance()}
        events = tuple(self.events[step] for step in sorted(self.events))
        return History.of(numbers, events=events, facts=self.facts | provenance, results=results)

    def measure(self) -> None:
        """All checkpoints, one after another, those aside that are known.

        Raises:
            ValueError: if none can be measured.
            KeyboardInterrupt: if it comes before the first is done.
        """
        before, causes = interrupts.so_far(), []
        for i, (step, saved) in enumerate(self.weights.items()):
            report("checkpoints", i, len(self.weights))
            try:
                self._one(step, saved)
            except KeyboardInterrupt:
                interrupts.note()
            except (ValueError, RuntimeError) as error:
                causes.append(f"{name_of(step, saved)}: {error}")
                self._event(step, "not measured", f"not measured: {causes[-1]}")
            if interrupts.so_far() > before:
                break
        if not self.spectra:
            if interrupts.so_far() > before:
                raise KeyboardInterrupt
            if causes:
                raise ValueError(causes[0])
            msg = "no checkpoint has finite parameters and a finite loss."
            raise ValueError(msg)

    def _one(self, step: int, saved: Saved) -> None:
        """Measures a checkpoint, unless it is known; one that diverged is an event."""
        name = name_of(step, saved)
        move_to(self.standing.model, saved)
        own = digest(self.standing.model)
        if self._is_known(step, own):
            self.last = Neighbour(step, name, own)
            return
        loss = self.standing.loss_at(self.standing.theta)
        if not (math.isfinite(loss) and bool(torch.isfinite(self.standing.theta).all())):
            self._event(step, "not finite", f"{name}: parameters or loss are NaN or infinite")
            return
        before = self._before()
        if before is not self.last:
            move_to(self.standing.model, saved)
        seen = interrupts.so_far()
        found, pairs, density = self._look(name, own, loss, before)
        if interrupts.so_far() > seen:
            return  # what an interrupt has left is no measurement like the others
        self._keep(step, found, density)
        outer, gap = outermost(pairs, self.asked.k, self.asked.which)
        self.last = Neighbour(step, name, own, outer.eigenvectors, space_error(outer, gap))
        if self.to is not None and self.folder is not None:
            record.save(replace(pairs, facts={"digest": own}), self.to / NEIGHBOUR)

    def _look(
        self, name: str, own: str, loss: float, before: Neighbour | None
    ) -> tuple[CheckpointSpectrum, Eigenpairs, SpectralDensity | None]:
        """The measurement at a checkpoint."""
        asked, H = self.asked, Hessian(self.standing)
        start = None if before is None else before.vectors
        pairs = self._pairs(H, start)
        outer, gap = outermost(pairs, asked.k, asked.which)
        found = CheckpointSpectrum(
            name=name,
            eigenvalues=outer.eigenvalues,
            residuals=outer.residuals,
            converged=outer.converged,
            certificate=pairs.certificate,
            gap=gap,
            num_matvecs=pairs.num_matvecs,
            loss=loss,
            n=H.n,
            digest=own,
        )
        if before is not None and start is not None:
            errors = before.error, space_error(outer, gap)
            turned = overlap(H, start, outer.eigenvectors, errors)
            found = replace(found, overlap=turned, before=before.name, digest_before=before.digest)
        if asked.trace_matvecs:
            estimate = trace_of(
                H, rtol=None, max_matvecs=asked.trace_matvecs, pairs=pairs, seed=asked.seed
            )
            spent = found.num_matvecs + estimate.num_matvecs
            found = replace(found, trace=estimate, num_matvecs=spent)
        if not asked.density_matvecs:
            return found, pairs, None
        density = spectral_density(H, asked.density_matvecs, deflate=pairs, seed=asked.seed)
        negative = density.count(-math.inf, -NEGATIVE * density.size)
        spent = found.num_matvecs + density.num_matvecs
        return replace(found, negative=negative, num_matvecs=spent), pairs, density

    def _pairs(self, H: Hessian, start: Tensor | None) -> Eigenpairs:
        """The wanted pairs, and those after them that tell the gap."""
        asked = self.asked
        beyond = 2 if asked.which == "BE" else 1
        return eigsh(
            H,
            min(self.asked.k + beyond, H.n),
            asked.which,
            tol=asked.tol,
            verify=asked.verify,
            start=start,
            max_matvecs=asked.max_matvecs,
            seed=asked.seed,
            delta=asked.delta,
        )

    def _before(self) -> Neighbour | None:
        """The checkpoint before with its eigenvectors, found again where they were not kept."""
        last = self.last
        if last is None or last.vectors is not None:
            return last
        kept = self._kept()
        if kept is not None and kept.facts.get("digest") != last.digest:
            kept = None
        if kept is None:
            move_to(self.standing.model, self.weights[last.step])
            kept = self._pairs(Hessian(self.standing), None)
        outer, gap = outermost(kept, self.asked.k, self.asked.which)
        return replace(last, vectors=outer.eigenvectors, error=space_error(outer, gap))

    def _kept(self) -> Eigenpairs | None:
        """The eigenvectors that the folder keeps; None where they are damaged or not there."""
        if self.to is None:
            return None
        try:
            kept = record.load(self.to / NEIGHBOUR)
        except (ValueError, RuntimeError):
            return None
        return kept if isinstance(kept, Eigenpairs) else None

    def _is_known(self, step: int, own: str) -> bool:
        """Whether this very checkpoint was measured after the one that comes before it now."""
        known = self.spectra.get(step)
        before = "" if self.last is None else self.last.digest
        return known is not None and (known.digest, known.digest_before) == (own, before)

    def _keep(self, step: int, found: CheckpointSpectrum, density: Result | None) -> None:
        self.spectra[step] = found
        self.events.pop(step, None)
        results: dict[str, Result] = {KEY: found}
        if density is not None:
            self.densities[step] = results["density"] = density
        if self.folder is not None:
            numbers = found.numbers(self.asked.which)
            self.folder.add(step, numbers, results=results, afresh=True)

    def _event(self, step: int, kind: str, text: str) -> None:
        log.warning("step %d: %s", step, text)
        self.events[step] = Event(step, kind, text)
        for known in (self.spectra, self.densities):
            known.pop(step, None)
        if self.folder is not None:
            self.folder.add(step, {}, events=[self.events[step]], afresh=True)

    def _take_up(self, known: History) -> None:
        """What the folder knows already.

        Raises:
            ValueError: if it holds a run of another kind, or another series.
        """
        if len(known) or known.events:
            for name in ("n", "data_hash", *vars(self.asked)):
                if known.facts.get(name) != self.facts[name]:
                    held = known.facts.get(name, "not known")
                    msg = (
                        f"{self.to} holds another run: its {name} is {held}, not "
                        f"{self.facts[name]}. Choose another folder."
                    )
                    raise ValueError(msg)
        self.spectra = dict(spectra_of(known))
        self.densities = dict(known.results.get("density", {}))
        self.events = {event.step: event for event in known.events}
