"""One series of spectra: checkpoint after checkpoint, each by itself but for its neighbour."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hesscope.curvature.hessian import Hessian
from hesscope.estimators.density import spectral_density
from hesscope.estimators.trace import trace as trace_of
from hesscope.krylov.eigsh import eigsh
from hesscope.krylov.overlap import outermost, overlap, space_error
from hesscope.monitor.checkpoints import Saved, digest, move_to, name_of
from hesscope.monitor.series_folder import Found, Known, SeriesFolder, Settings
from hesscope.problem.problem import Problem
from hesscope.results.checkpoint_spectrum import CheckpointSpectrum
from hesscope.results.history import Event
from hesscope.results.result import Result
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import interrupts
from hesscope.system.absence import is_absence
from hesscope.system.progress import report

NEGATIVE = 1e-3  # of λmax: eigenvalues below minus this are counted as negative curvature
log = logging.getLogger("hesscope")


@dataclass(frozen=True)
class Neighbour:
    """The checkpoint before; its eigenvectors where they are known."""

    step: int
    name: str
    digest: str
    vectors: Tensor | None = None  # (n, k)
    error: float = math.inf  # of the space of its eigenvectors


class Series:
    """Checkpoints that are being measured, all of a series or some that follow one another.

    What is found at one rests on its weights alone, but for the overlap with the one before. So it
    is the same to the bit wherever one begins.

    Args:
        problem: whose model moves from checkpoint to checkpoint.
        asked: what is measured.
        weights: all of the series by step, ascending.
        known: what was measured before.
        folder: takes what is found as it is found.
    """

    def __init__(
        self,
        problem: Problem,
        asked: Settings,
        weights: Mapping[int, Saved],
        known: Known,
        folder: SeriesFolder | None,
    ) -> None:
        self.standing, self.asked, self.weights = problem, asked, weights
        self.known, self.folder = known, folder
        self.new: dict[int, Found] = {}
        self.causes: list[str] = []  # of those that could not be measured
        self.last: Neighbour | None = None

    def measure(self, steps: Sequence[int], begin: Callable[[str], None]) -> None:
        """Some that follow one another, those aside that are known; until an interrupt.

        Args:
            steps: of these.
            begin: is called with the name of each before it is looked at.
        """
        before = interrupts.so_far()
        for i, step in enumerate(steps):
            report("checkpoints", i, len(steps))
            name = name_of(step, self.weights[step])
            begin(name)
            try:
                if i == 0:
                    self._step_back(step)
                self._one(step, name)
            except KeyboardInterrupt:
                interrupts.note()
            except (ValueError, RuntimeError) as error:
                self._fail(step, name, error)
            if interrupts.so_far() > before:
                return

    def _fail(self, step: int, name: str, error: Exception) -> None:
        """Notes why a checkpoint could not be measured, unless it is no fault of the checkpoint.

        Raises:
            RuntimeError: if another process did not come, for then the next would fail, too.
        """
        if is_absence(error):
            raise error
        self.causes.append(f"{name}: {error}")
        self._event(step, "not measured", f"not measured: {self.causes[-1]}")

    def _one(self, step: int, name: str) -> None:
        """Measures a checkpoint, unless it is known; one that diverged is an event."""
        own = self._move_to(step)
        if self._is_known(step, own):
            self.last = Neighbour(step, name, own)
            return
        loss = self._finite_loss()
        if loss is None:
            self._event(step, "not finite", f"{name}: parameters or loss are NaN or infinite")
            return
        seen, here = interrupts.so_far(), self.last
        before = self._before()
        if before is not here:
            self._move_to(step)
            if self._is_known(step, own):  # by one further back, where the nearest has no pairs
                self.last = Neighbour(step, name, own)
                return
        H = Hessian(self.standing)
        found, pairs = self._spectrum(H, name, own, loss, before)
        outer, gap = outermost(pairs, self.asked.k, self.asked.which)
        self.last = Neighbour(step, name, own, outer.eigenvectors, space_error(outer, gap))
        found, density = self._estimated(H, found, pairs)
        if interrupts.so_far() > seen:
            return  # what an interrupt has left is no measurement like the others
        self._put(step, Found(found, density))
        if self.folder is not None:
            self.folder.keep_neighbour(replace(pairs, facts={"digest": own}))

    def _spectrum(
        self, H: Hessian, name: str, own: str, loss: float, before: Neighbour | None
    ) -> tuple[CheckpointSpectrum, Eigenpairs]:
        """The wanted pairs at a checkpoint, and how far they have turned."""
        pairs = self._pairs(H)
        outer, gap = outermost(pairs, self.asked.k, self.asked.which)
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
        if before is None or before.vectors is None:
            return found, pairs
        errors = before.error, space_error(outer, gap)
        turned = overlap(H, before.vectors, outer.eigenvectors, errors)
        found = replace(found, overlap=turned, before=before.name, digest_before=before.digest)
        return found, pairs

    def _estimated(
        self, H: Hessian, found: CheckpointSpectrum, pairs: Eigenpairs
    ) -> tuple[CheckpointSpectrum, Result | None]:
        """The same with what is estimated besides."""
        asked = self.asked
        if asked.trace_matvecs:
            estimate = trace_of(
                H, rtol=None, max_matvecs=asked.trace_matvecs, pairs=pairs, seed=asked.seed
            )
            spent = found.num_matvecs + estimate.num_matvecs
            found = replace(found, trace=estimate, num_matvecs=spent)
        if not asked.density_matvecs:
            return found, None
        density = spectral_density(H, asked.density_matvecs, deflate=pairs, seed=asked.seed)
        negative = density.count(-math.inf, -NEGATIVE * density.size)
        spent = found.num_matvecs + density.num_matvecs
        return replace(found, negative=negative, num_matvecs=spent), density

    def _pairs(self, H: Hessian) -> Eigenpairs:
        """The wanted pairs, and those after them that tell the gap.

        From random starts: those of the checkpoint before save no products, and tie each to all
        that were measured before it.
        """
        asked = self.asked
        beyond = 2 if asked.which == "BE" else 1
        return eigsh(
            H,
            min(asked.k + beyond, H.n),
            asked.which,
            tol=asked.tol,
            verify=asked.verify,
            max_matvecs=asked.max_matvecs,
            seed=asked.seed,
            delta=asked.delta,
        )

    def _before(self) -> Neighbour | None:
        """The checkpoint before with its eigenvectors, found again where they were not kept.

        One that has none is passed over, as it was when its turn came.
        """
        while self.last is not None and self.last.vectors is None:
            last = self.last
            H = Hessian(self.standing)
            kept = H.of_one(lambda: None if self.folder is None else self.folder.neighbour())
            try:
                if kept is None or kept.facts.get("digest") != last.digest:
                    self._move_to(last.step)
                    kept = self._pairs(H)
            except (ValueError, RuntimeError):
                self._step_back(last.step)
                continue
            outer, gap = outermost(kept, self.asked.k, self.asked.which)
            error = space_error(outer, gap)
            self.last = replace(last, vectors=outer.eigenvectors, error=error)
        return self.last

    def _step_back(self, step: int) -> None:
        """Takes the nearest checkpoint before a step that can be looked at for the neighbour."""
        self.last = None
        for earlier in reversed([known for known in self.weights if known < step]):
            try:
                own = self._move_to(earlier)
                if self._finite_loss() is None:
                    continue
            except (ValueError, RuntimeError):
                continue
            self.last = Neighbour(earlier, name_of(earlier, self.weights[earlier]), own)
            return

    def _move_to(self, step: int) -> str:
        """Moves the model to a checkpoint; the digest of what it is then.

        Raises:
            ValueError: if it cannot be read, or does not fit.
        """
        move_to(self.standing.model, self.weights[step])
        return digest(self.standing.model)

    def _finite_loss(self) -> float | None:
        """The loss where the model is; None where it or a parameter is NaN or infinite."""
        loss = self.standing.loss_at(self.standing.theta)
        finite = math.isfinite(loss) and bool(torch.isfinite(self.standing.theta).all())
        return loss if finite else None

    def _is_known(self, step: int, own: str) -> bool:
        """Whether this very checkpoint was measured after the one that comes before it now."""
        known = self.known.spectra.get(step)
        before = "" if self.last is None else self.last.digest
        return known is not None and (known.digest, known.digest_before) == (own, before)

    def _put(self, step: int, found: Found) -> None:
        self.new[step] = found
        self.known.put(step, found)
        if self.folder is not None:
            self.folder.add(step, found)

    def _event(self, step: int, kind: str, text: str) -> None:
        log.warning("step %d: %s", step, text)
        self._put(step, Found(event=Event(step, kind, text)))
