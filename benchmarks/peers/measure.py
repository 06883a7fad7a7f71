"""Time, memory and error of one way to do a piece of work, in this process.

Time is processor time of one thread in units of one gradient of the same network, which is taken
before and after, so that a busy machine disturbs both. Memory is the highest resident size above
what there was before, with an allocator that gives back at once what is freed, so that whatever a
tool works with counts: torch's tensors, NumPy's arrays, workspaces of libraries; its unit is that
of one gradient, measured likewise. What happens once in a process has happened on a tiny network
before.
"""

from __future__ import annotations

import ctypes
import gc
import math
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers import networks
from benchmarks.peers.networks import Network
from benchmarks.peers.tools import Job, Tool, Way
from benchmarks.peers.work import Answer, Work

SLICE, ROUNDS, FEWEST = 0.05, 9, 5  # seconds of products between two looks at the clock; slices
ENOUGH = 25.0  # seconds after which no other seed is begun
LONG = 20.0  # seconds of a measurement of memory
THRESHOLD = 65_536  # bytes: larger pieces are given back to the system when they are freed
Row = dict[str, Any]


def rows(work: Work, tool: Tool, *, tiny: bool = False) -> Iterator[Row]:
    """One row for each of the tool's ways."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for way in tool.ways[work.name]:
        yield {
            "work": work.name,
            "tool": tool.name,
            "call": way.call,
            "at": way.at,
            "says": way.says,
            **attempted(work, way, tiny=tiny),
        }


def attempted(work: Work, way: Way, *, tiny: bool) -> Row:
    """The numbers of a row, or what was raised."""
    make = networks.tiny if tiny else work.network
    try:
        with silent():
            return measured(work, way, make, tiny=tiny)
    except Exception as raised:
        return {"failed": " ".join(f"{type(raised).__name__}: {raised}".split())[:300]}


def measured(work: Work, way: Way, make: Callable[[], Network], *, tiny: bool) -> Row:
    network, unit = make(), make()
    true = work.known(make(), tiny=tiny)
    if not tiny:
        way.prepare(networks.tiny())(0)
    job = way.prepare(network)
    if work.is_product:
        answers, times = [job(0)], alternating(job, unit, 1 if tiny else ROUNDS)
    else:
        answers, times = answered(job, unit, 1 if tiny else work.seeds)
    errors = [work.error(network, answer, true, seed) for seed, answer in enumerate(answers)]
    stated = [answer.stated for answer in answers if answer.stated is not None]
    return {
        "network": network.name,
        "error": work.combined(errors),
        "stated": max(stated) if stated else None,
        "products": sorted(answer.products for answer in answers),
        "gradients": statistics.median(times),
        "gradient_ms": 1e3 * seconds(unit.gradient, 3),
        "seeds": len(answers),
        **peaks(way, make),
    }


def alternating(job: Job, unit: Network, rounds: int) -> list[float]:
    """Ratios of slices of the job and slices of gradients, one after the other."""
    job(0)
    calls, ratios, began = in_a_slice(unit), [], time.perf_counter()
    while len(ratios) < rounds:
        ratios.append(seconds(lambda: job(0), calls) / seconds(unit.gradient, calls))
        if len(ratios) >= FEWEST and time.perf_counter() - began > ENOUGH / 2:
            break
    return ratios


def answered(job: Job, unit: Network, seeds: int) -> tuple[list[Answer], list[float]]:
    """An answer for each seed, as many as time allows, and how many gradients each took."""
    calls = in_a_slice(unit)
    answers, ratios, began = [], [], time.perf_counter()
    for seed in range(seeds):
        if seed and time.perf_counter() - began > ENOUGH:
            break
        before = seconds(unit.gradient, calls)
        start = time.process_time()
        answers.append(job(seed))
        spent = time.process_time() - start
        ratios.append(2 * spent / (before + seconds(unit.gradient, calls)))
    return answers, ratios


def in_a_slice(unit: Network) -> int:
    """How many gradients a slice holds; no more than are needed to see their time at all."""
    seconds(unit.gradient, 3)
    return min(200, max(1, round(SLICE / max(seconds(unit.gradient, 3), 1e-6))))


def seconds(job: Callable[[], Any], calls: int) -> float:
    """Mean processor time of one call."""
    start = time.process_time()
    for _ in range(calls):
        job()
    return (time.process_time() - start) / calls


def peaks(way: Way, make: Callable[[], Network]) -> Row:
    """The highest memory of the way, from the making of its operator on, in gradients'."""
    if not give_back_at_once():
        return {"memory": None}
    unit, network = make(), make()
    unit.gradient()
    gradient = peak(unit.gradient)[0]
    most, whole = peak(lambda: way.prepare(network)(0))
    return {
        "memory": most / max(gradient, 1),
        "memory_whole": whole,
        "gradient_bytes": gradient,
    }


def peak(job: Callable[[], Any]) -> tuple[int, bool]:
    """Bytes above what is resident before, and whether the job has come to its end."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    rung: list[float] = []
    try:
        with alarm(LONG, rung):
            job()
    except Exception:
        if not rung:  # whatever becomes of it on its way: TorchScript makes an error of its own
            raise
    return resident("VmHWM") - before, not rung


def resident(field: str) -> int:
    """VmRSS: what is resident; VmHWM: the most since the mark was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    msg = f"/proc/self/status has no {field}."
    raise RuntimeError(msg)


def give_back_at_once() -> bool:
    """Asks glibc to give freed pieces back to the system; False where this is not Linux."""
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim, mmap_threshold, mmap_max = -1, -3, -4
    done = [mallopt(mmap_threshold, THRESHOLD), mallopt(trim, THRESHOLD), mallopt(mmap_max, 10**6)]
    return all(done)


@contextmanager
def alarm(limit: float, rung: list[float]) -> Iterator[None]:
    """Raises when time is up, and notes it.

    Raises:
        TimeoutError: then.
    """

    def ring(number: int, frame: Any) -> None:  # noqa: ARG001
        rung.append(limit)
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def silent() -> Iterator[None]:
    """Bars of progress and prints go nowhere."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def is_finite(row: Row) -> bool:
    return "failed" not in row and math.isfinite(row["error"])
