"""The rounds of one search: Lanczos until converged, lock, then again in the complement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, Start, at_a_time, mixed_start, random_start
from hesscope.krylov.missed import (
    allowance,
    finished,
    first_allowance,
    new_values,
    risk,
    window,
)
from hesscope.krylov.rounds import Found, Request, Round
from hesscope.krylov.rows import Rows
from hesscope.krylov.spare import Spare, spare
from hesscope.krylov.wanted import Wanted, Which
from hesscope.system import interrupts, progress
from hesscope.system.memory import is_out_of_memory

HOPELESS = 0.3  # risk left by a round in the complement: near 1/e and above further ones add none


@dataclass(frozen=True)
class Verified:
    """Whether nothing is missing among the wanted pairs, and whether further copies are not."""

    complete: bool
    copies: bool


def search(request: Request) -> Found:
    """Rounds of Lanczos, each in the complement of what is locked, until nothing is new."""
    found = Found(Basis(request.A), Rows(request.A), np.zeros(0), np.zeros(0))
    while not _settled(request, found):
        found = _with_another_round(request, found)
    return found


def verified(request: Request, found: Found) -> Verified:
    """What the rounds have proven about the list of pairs."""
    if len(found.values) == request.A.n:
        return Verified(complete=True, copies=True)
    if found.stopped or len(found.values) < request.wanted.k:
        return Verified(complete=False, copies=False)
    if not request.verify:
        first = found.rounds[0]
        left = risk(request, found.values, first.ritz, first.recurrence, found.noise)
        return Verified(complete=left <= first_allowance(request), copies=False)
    certified = _certified(request, found)
    return Verified(complete=certified, copies=certified)


def _settled(request: Request, found: Found) -> bool:
    """Whether another round would be of no use, or is not allowed."""
    if not found.rounds:
        return False
    if found.stopped or len(found.values) == request.A.n:
        return True
    if len(found.values) < request.wanted.k:
        return False
    last = found.rounds[-1]
    hopeless = last.num_new == 0 and last.risk > HOPELESS
    return not request.verify or hopeless or _certified(request, found)


def _certified(request: Request, found: Found) -> bool:
    """Whether the rounds since the last find prove together that there is nothing to find."""
    if found.rounds[-1].num_new:
        return False
    return certificate.combined(found.risks) <= allowance(request, len(found.rounds) - 1)


def _with_another_round(request: Request, found: Found) -> Found:
    """A run in the complement, and what it has found locked."""
    run = Lanczos(request.A, _start(request, found), found.locked, known_scale=found.scale)
    spent, stopped = _grow(request, found, run)
    theta, _, residuals = run.ritz()
    new = _to_lock(request, found, run, theta)
    left = 1.0
    if not len(new):
        left = risk(request, found.values, theta, run.recurrence, run.noise, found.shift)
    done = Round(run.recurrence, theta, run.asymmetry, len(new), left, spent, stopped)
    found = replace(found, rounds=(*found.rounds, done))
    others = _to_spare(request, found, run, new)
    found = _with_locked(found, run, np.concatenate([new, others.indices]), residuals)
    last = len(found.values)
    spare = (*found.spare, *range(last - len(others.indices), last))
    return replace(found, spare=spare, shift=found.shift + others.shift)


def _with_locked(found: Found, run: Lanczos, which: np.ndarray, estimates: np.ndarray) -> Found:
    """These pairs of a run locked, with their residual vectors."""
    if len(which) == 0:
        return found
    theta, S, _ = run.ritz()
    lost: list[float] = []
    for some in at_a_time(which):
        off, more = run.residual_vectors(theta[some], S[:, some])
        lost += more.tolist()
        for r in off.unbind(1):
            found.residuals.append(r)
        del off
        found.locked.extend(run.vectors(S[:, some]))
    return replace(
        found,
        values=np.concatenate([found.values, theta[which]]),
        estimates=np.concatenate([found.estimates, estimates[which]]),
        lost=(*found.lost, *lost),
    )


def _to_spare(request: Request, found: Found, run: Lanczos, new: np.ndarray) -> Spare:
    """Pairs of the first run that are locked, too, where a second one is to prove something."""
    none = Spare(np.arange(0))
    if not request.verify or len(found.rounds) > 1 or run.exhausted or found.stopped:
        return none
    if len(new) < request.wanted.k:
        return none
    theta, _, residuals = run.ritz()
    chosen = theta[request.wanted.choose(theta)]
    region, around = request.wanted.region(chosen), window(chosen, run.noise)
    return spare(theta, residuals + run.noise, region, around)


def _start(request: Request, found: Found) -> Start:
    if request.start is not None and not found.rounds:
        return mixed_start(request.A, request.start, request.start_key(0))
    return random_start(request.A, found.locked, request.start_key(len(found.rounds)))


def _grow(request: Request, found: Found, run: Lanczos) -> tuple[int, str]:
    """Steps of one run until it is finished; their number, and why it had to stop before.

    Raises:
        MemoryError: if memory runs out before anything of use is known.
        RuntimeError: likewise, or what a step raises.
    """
    before, steps = found.num_matvecs, 0
    try:
        while not run.exhausted:
            if before + steps >= request.limit:
                return steps, "limit"
            run.step()
            steps += 1
            spent = before + steps
            progress.report("eigenpairs: matvecs", spent, request.forecast(spent))
            if _due(run) and finished(request, found, run):
                break
            if run.num_steps >= request.max_rows and not run.exhausted:
                run.restart(_kept(request.wanted, run))
    except KeyboardInterrupt:
        interrupts.note()
        return steps, "interrupted"
    except (RuntimeError, MemoryError) as error:  # what was found until then is of use
        if not is_out_of_memory(error) or run.num_steps < request.wanted.k:
            raise
        return steps, "out of memory"
    return steps, ""


def _due(run: Lanczos) -> bool:
    """Looking at T costs m³: at every step while it is small, then every fourth."""
    return run.num_steps <= 64 or run.num_steps % 4 == 0


def _to_lock(request: Request, found: Found, run: Lanczos, theta: np.ndarray) -> np.ndarray:
    """Indices of the wanted pairs of a run; all of them, if it broke down too early."""
    if run.exhausted and len(found.values) + len(theta) < request.wanted.k:
        return np.arange(len(theta))
    if len(theta) == 0:
        return np.arange(0)
    return new_values(request, found, theta, run.noise)


def _kept(wanted: Wanted, run: Lanczos) -> np.ndarray:
    """Ritz vectors to keep at a thick restart: the wanted ones and half of the rest."""
    theta, _, _ = run.ritz()
    need = min(wanted.k, len(theta) // 2)
    count = need + (len(theta) - need) // 2
    which: Which = "LM" if wanted.which == "BE" else wanted.which
    best = Wanted(count, which).choose(theta)
    if wanted.which == "BE":
        best = np.union1d(best[: count - need], wanted.choose(theta))
    return np.sort(best)
