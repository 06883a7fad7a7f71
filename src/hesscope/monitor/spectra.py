"""The spectrum over a series of checkpoints: one measurement for each, kept as it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from hesscope.curvature.hessian import Hessian
from hesscope.krylov.eigsh import check_arguments
from hesscope.krylov.wanted import Which
from hesscope.monitor.checkpoints import Checkpoints, Saved, checksum, in_order, name_of
from hesscope.monitor.monitor import data_hash
from hesscope.monitor.series import Series
from hesscope.monitor.series_folder import COMPARED, Known, SeriesFolder, Settings
from hesscope.problem.problem import Problem
from hesscope.results.history import History
from hesscope.system import collectives, interrupts
from hesscope.system.agreement import (
    DisagreementError,
    compared,
    in_step,
    refuse_unlike,
    several,
    together,
)
from hesscope.system.contexts import public
from hesscope.system.sweep import shares, sweeping

Share = Literal["checkpoints", "data"] | None


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
    share: Share = None,
) -> History:
    """The outer eigenvalues of the Hessian over checkpoints, and how far their space turns.

    At each checkpoint `eigsh` finds the pairs; with them taken out, the trace and the density are
    estimated, and from that the share of negative eigenvalues. The space of the k eigenvectors is
    compared with that of the checkpoint before: principal angles, and the mean of their squared
    cosines with its error, which comes from the residuals and the gap to the next eigenvalue. The
    data, and all random vectors, are the same at all checkpoints, so that each is measured as if
    it were the only one. The model is not touched: a copy moves.

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
        share: what several processes share out. "checkpoints": each measures some of them alone, on
            all of the data; the numbers are those of one process to the bit. "data": all measure
            each checkpoint together. By default the checkpoints where all processes were given the
            same data (shard=True), else the data.

    Returns:
        A history with the series `lambda_1` ... `lambda_k`, `trace`, `negative_share`, `overlap`
        and their errors. `history.results["spectrum"]` has a `CheckpointSpectrum` for each step,
        `history.results["density"]` the density. A checkpoint that cannot be measured is an event.
        Interrupted, it returns the checkpoints that are done; of several processes each raises the
        interrupt, and `to` has what was done.

    Costs 40 to 110 matvecs for ten pairs (a perceptron on digits), and those of trace and density,
    a checkpoint. Of several processes that share out checkpoints, each but the first finds the
    pairs of one more.

    Raises:
        ValueError: if no checkpoint can be measured, an argument is out of range, or the folder
            holds another run.
        RuntimeError: if the folder cannot be written, or another process has failed; it is named,
            and its checkpoint.
        KeyboardInterrupt: if it comes before the first checkpoint is done.

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
    apart = _are_shared_out(problem, share)
    with problem.alone() if apart else nullcontext(problem) as own:
        standing = own.frozen_copy()
        facts = {**own.facts(), "data_hash": _data_hash(own), **vars(asked)}
    facts["axis"] = "steps" if are_steps else "places in the list"
    before = interrupts.so_far()
    with _kept(None if to is None else Path(to), facts) as (known, folder):
        series = Series(standing, asked, weights, known, folder)
        if apart and several():
            _measure_apart(series, facts, None if to is None else Path(to))
        else:
            series.measure(list(weights), lambda _: None)
    if known.spectra:
        return known.history(facts)
    if interrupts.so_far() > before:
        raise KeyboardInterrupt
    msg = "no checkpoint has finite parameters and a finite loss."
    raise ValueError(series.causes[0] if series.causes else msg)


def _are_shared_out(problem: Problem, share: Share) -> bool:
    """Whether each process measures checkpoints of its own.

    Raises:
        ValueError: if that is no share.
    """
    if share not in (None, "checkpoints", "data"):
        msg = f'share={share!r}; processes share out "checkpoints" or "data".'
        raise ValueError(msg)
    refuse_unlike("share", share)
    return share == "checkpoints" or (share is None and problem.batches.sharded)


def _data_hash(problem: Problem) -> str:
    """Of the data that is measured on, in all processes that measure together."""
    if not several():
        return data_hash(problem)
    total = collectives.sum_of_integer(problem.batches.checksum)
    return hashlib.sha256(repr(total).encode()).hexdigest()[:16]


@contextmanager
def _kept(to: Path | None, facts: Mapping[str, Any]) -> Iterator[tuple[Known, SeriesFolder | None]]:
    """What a folder knows, told to all processes; and the folder, of the process that writes it."""
    with ExitStack() as stack:
        folder = None
        with together():
            if to is not None and collectives.is_first_process():
                folder = stack.enter_context(SeriesFolder(to, facts))
        known = collectives.from_process(0, None if folder is None else folder.known)
        yield known or Known(), folder


def _measure_apart(series: Series, facts: Mapping[str, Any], to: Path | None) -> None:
    """Each process measures checkpoints of its own, alone; then all know what each has found.

    Until then it keeps what it finds in a part of the folder.

    Raises:
        KeyboardInterrupt: if it is interrupted.
        RuntimeError: if another process has failed, or is not heard any more.
    """
    _refuse_other_series(series.weights, facts)
    rank, num, first = collectives.rank(), collectives.num_processes(), series.folder
    steps = list(series.weights)
    own = shares([step not in series.known.spectra for step in steps], num)[rank]
    with ExitStack() as stack:
        with together():
            if to is not None and rank:
                series.folder = stack.enter_context(SeriesFolder(to, facts, rank))
        before = interrupts.so_far()
        with sweeping() as begin:
            series.measure([steps[i] for i in own], begin)
            if interrupts.so_far() > before:
                raise KeyboardInterrupt
        found = [collectives.from_process(r, (series.new, series.causes)) for r in range(num)]
        series.causes = [cause for _, causes in found for cause in causes]
        with in_step():
            for part, (new, _) in enumerate(found):
                if part != rank:
                    series.known.take(new)
                if part and first is not None:
                    first.take_part(part, new)
        with in_step():
            if rank and series.folder is not None:
                series.folder.forget()


def _refuse_other_series(weights: Mapping[int, Saved], facts: Mapping[str, Any]) -> None:
    """Sees to it that all processes were given the same checkpoints, and asked the same.

    Raises:
        DisagreementError: if they were not.
    """
    refuse_unlike("question", [facts[name] for name in COMPARED])
    names = [name_of(step, saved) for step, saved in weights.items()]
    found = compared("checkpoints", names, [checksum(saved) for saved in weights.values()])
    if found:
        msg = f"checkpoints are shared out, but {found}. Give all processes the same."
        raise DisagreementError(msg)
