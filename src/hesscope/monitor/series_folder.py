"""Where a series of spectra is kept as it grows: a run folder, and parts of it for a while."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hesscope import store
from hesscope.krylov.wanted import Which
from hesscope.results import record
from hesscope.results.checkpoint_spectrum import KEY, CheckpointSpectrum, spectra_of
from hesscope.results.history import Event, History
from hesscope.results.result import Result
from hesscope.results.spectrum import Eigenpairs
from hesscope.system.closing import Closing
from hesscope.system.locks import Locked

NEIGHBOUR = "neighbour"  # the folder of the last eigenvectors
PARTS = "parts"  # of processes that measure other checkpoints than the first
DENSITY = "density"


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
class Found:
    """What was found at a checkpoint: its spectrum, and its density if asked for, or an event."""

    spectrum: CheckpointSpectrum | None = None
    density: Result | None = None
    event: Event | None = None


@dataclass
class Known:
    """What is known of a series, by step."""

    spectra: dict[int, CheckpointSpectrum] = field(default_factory=dict)
    densities: dict[int, Result] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)

    @classmethod
    def of(cls, history: History) -> Known:
        """What a run folder has told."""
        densities = dict(history.results.get(DENSITY, {}))
        return cls(dict(spectra_of(history)), densities, {e.step: e for e in history.events})

    def put(self, step: int, found: Found) -> None:
        """In place of what was known of a step."""
        one: tuple[tuple[dict[int, Any], Any], ...] = (
            (self.spectra, found.spectrum),
            (self.densities, found.density),
            (self.events, found.event),
        )
        for known, new in one:
            known.pop(step, None)
            if new is not None:
                known[step] = new

    def take(self, new: Mapping[int, Found]) -> None:
        """In place of what was known of these steps."""
        for step, found in new.items():
            self.put(step, found)

    def history(self, facts: Mapping[str, Any]) -> History:
        """As series of numbers, with the results beside them."""
        numbers: dict[str, dict[int, float]] = {}
        spectra, densities = (
            dict(sorted(self.spectra.items())),
            dict(sorted(self.densities.items())),
        )
        for step, one in spectra.items():
            for key, value in one.numbers(facts["which"]).items():
                numbers.setdefault(key, {})[step] = value
        results: dict[str, dict[int, Result]] = {KEY: dict(spectra)}
        if densities:
            results[DENSITY] = densities
        events = tuple(self.events[step] for step in sorted(self.events))
        told = {**facts, "provenance": record.provenance()}
        return History.of(numbers, events=events, facts=told, results=results)

    def found(self) -> Iterator[tuple[int, Found]]:
        """Each step, and what was found there."""
        for step, one in self.spectra.items():
            yield step, Found(one, self.densities.get(step))
        for step, event in self.events.items():
            yield step, Found(event=event)


COMPARED = ("n", "data_hash", *(setting.name for setting in fields(Settings)))


class SeriesFolder(Closing):
    """A run folder of spectra over checkpoints, or a part of one that another process fills.

    Args:
        to: the folder of the series.
        facts: what is measured: settings, size and data have to be those of the folder.
        part: 0, or the number of a process that is not the first.

    Raises:
        ValueError: if it holds another run.
        RuntimeError: if it cannot be written.
    """

    def __init__(self, to: Path, facts: Mapping[str, Any], part: int = 0) -> None:
        self.to, self.part = to, part
        self.path = to / PARTS / str(part) if part else to
        self.facts = facts
        known = self._read(self.path) if part == 0 else Known()
        self._run = store.RunFolder(self.path)
        self._run.tell(facts)
        self.known = known
        if part == 0:
            self._take_in_parts()

    def close(self) -> None:
        """Lets go of the folder."""
        self._run.close()

    def add(self, step: int, found: Found) -> None:
        """Writes what was found at a step, in place of what was known of it."""
        if found.spectrum is None:
            events = [] if found.event is None else [found.event]
            self._run.add(step, {}, events=events, afresh=True)
            return
        results: dict[str, Result] = {KEY: found.spectrum}
        if found.density is not None:
            results[DENSITY] = found.density
        numbers = found.spectrum.numbers(self.facts["which"])
        self._run.add(step, numbers, results=results, afresh=True)

    def keep_neighbour(self, pairs: Eigenpairs) -> None:
        """Keeps the eigenvectors of the last checkpoint in place of those of another."""
        record.save(pairs, self.path / NEIGHBOUR)

    def neighbour(self) -> Eigenpairs | None:
        """The eigenvectors that are kept; None where they are damaged or not there."""
        return _neighbour(self.path)

    def take_part(self, part: int, new: Mapping[int, Found]) -> None:
        """Takes what another process has found, and the eigenvectors that it has kept."""
        for step, found in new.items():
            self.add(step, found)
        kept = _neighbour(self.to / PARTS / str(part))
        if kept is not None:
            self.keep_neighbour(kept)

    def forget(self) -> None:
        """Removes a part whose content is elsewhere now, the run before what lies beside it."""
        self.close()
        _remove(self.path)

    def _take_in_parts(self) -> None:
        """Writes what processes of a run that was killed have left behind."""
        for path in sorted((self.to / PARTS).glob("*")):
            with Locked(path):  # its process may live on
                for step, found in self._read(path).found():
                    self.known.put(step, found)
                    self.add(step, found)
                _remove(path)

    def _read(self, path: Path) -> Known:
        """What a folder holds.

        Raises:
            ValueError: if it holds a run of another kind, or another series.
        """
        if not store.holds_run(path):
            return Known()
        known = store.read(path)
        if not (len(known) or known.events):
            return Known()
        for name in COMPARED:
            if known.facts.get(name) != self.facts[name]:
                held = known.facts.get(name, "not known")
                msg = (
                    f"{path} holds another run: its {name} is {held}, not {self.facts[name]}. "
                    "Choose another folder."
                )
                raise ValueError(msg)
        return Known.of(known)


def _neighbour(path: Path) -> Eigenpairs | None:
    try:
        kept = record.load(path / NEIGHBOUR)
    except (ValueError, RuntimeError):
        return None
    return kept if isinstance(kept, Eigenpairs) else None


def _remove(path: Path) -> None:
    """Removes a part; one that is half removed is none."""
    with contextlib.suppress(OSError):
        (path / store.FILE).unlink(missing_ok=True)
        shutil.rmtree(path)
        path.parent.rmdir()  # if that was the last one
