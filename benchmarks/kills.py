"""Random SIGKILLs of runs that keep their products: what is lost, and what comes out.

A run is one measurement (pairs, density, trace of a small network) in one process or two, or in one
and two by turns. It is killed at random moments, in a random process, and begun again until it has
ended. After each kill every file of its folder is read and checked. Resumes: the JSON file has each
run that has ended.

    python benchmarks/kills.py --kills 100     # some minutes; --tiny: 6 kills
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.operator.kept import KeptProducts
from hesscope.system import files

WAYS = {"one process": (1,), "two processes": (2,), "one and two by turns": (1, 2)}
OUT = Path(__file__).parent / "results" / "kills.json"
PATIENCE = 60.0  # seconds that survivors may take to end


def hessian(made: Callable[[], None] = lambda: None) -> hs.SymmetricOperator:
    """Of a small network; `made` is called when a product is finished."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    x = torch.linspace(-1, 1, 480, dtype=torch.float64).sin().reshape(60, 8)
    batches = list(zip(x.split(6), (torch.arange(60) % 3).split(6), strict=True))
    H = hs.Hessian(hs.Problem(net, F.cross_entropy, batches, shard=True))
    product = H.matmat

    def counted(V: torch.Tensor) -> torch.Tensor:
        W = product(V)
        made()
        return W

    H.matmat = counted  # type: ignore[method-assign]
    return H


def measured(A: hs.SymmetricOperator) -> list[torch.Tensor]:
    """Three measurements that follow one another, with seeds that they draw themselves."""
    pairs = hs.eigsh(A, 3, tol=1e-6)
    density = hs.spectral_density(A, 20, deflate=pairs)
    trace = hs.trace(A, pairs=pairs, rtol=None, max_matvecs=10)
    told = torch.tensor([trace.value, trace.stderr], dtype=torch.float64)
    return [pairs.eigenvalues, pairs.eigenvectors, pairs.residuals, density.nodes, told]


def life(rank: int, processes: int, place: Path) -> None:
    """One process of a run; the first notes each product and, in the end, what was found."""
    torch.set_num_threads(1)
    if processes > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{place}/rendezvous",
            rank=rank,
            world_size=processes,
            timeout=timedelta(seconds=PATIENCE),
        )
        (place / f"joined{rank}").touch()
    log = os.open(place / "made", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    A = KeptProducts(hessian(lambda: rank or os.write(log, b".")), place / "kept")
    found = measured(A)
    if rank == 0:
        files.replace(place / "found.pt", lambda file: torch.save(found, file))
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def begun(processes: int, place: Path) -> list[int]:
    """The processes of a run, which say what they have to say in a file."""
    for name in ("rendezvous", "made", "joined0", "joined1"):
        (place / name).unlink(missing_ok=True)
    sys.stdout.flush()
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            with (place / f"said{rank}").open("w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            status = 1
            try:
                life(rank, processes, place)
                status = 0
            except BaseException as error:  # told, and the child ends
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(status)
        children.append(child)
    return children


def ended(children: list[int]) -> list[int]:
    """How they end: exit statuses, or minus the signal; those that do not are killed."""
    statuses: list[int | None] = [None] * len(children)
    end = time.monotonic() + PATIENCE
    while None in statuses:
        for i, child in enumerate(children):
            if statuses[i] is None:
                done, status = os.waitpid(child, os.WNOHANG)
                statuses[i] = os.waitstatus_to_exitcode(status) if done else None
                if not done and time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return [status for status in statuses if status is not None]


def kept_and_whole(folder: Path) -> tuple[int, list[str]]:
    """How many products are kept, and which files are not whole."""
    bad: list[str] = []
    names = [path.name for path in folder.glob("product-*")]
    if not names:
        return 0, []
    A = KeptProducts(hessian(), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in names:
            try:
                A._read(name, torch.empty(A.n, 1, dtype=A.dtype))
            except UserWarning as said:
                bad.append(str(said))
    return len(names), bad


def seconds(processes: int) -> float:
    """How long a run takes that nobody kills, as busy as the machine is now."""
    place, start = Path(tempfile.mkdtemp(prefix="kills")), time.monotonic()
    ended(begun(processes, place))
    shutil.rmtree(place)
    return time.monotonic() - start


def one_run(way: str, draw: random.Random, usual: float) -> dict[str, Any]:
    """A run that is killed several times, and then ends."""
    place = Path(tempfile.mkdtemp(prefix="kills"))
    told: dict[str, Any] = {"way": way, "kills": 0, "lost": [], "half files": 0, "silent": 0}
    kept, most = 0, draw.randint(6, 12)
    while not (place / "found.pt").exists():
        processes = draw.choice(WAYS[way])
        children, who = begun(processes, place), draw.randrange(processes)
        if told["kills"] < most:
            while processes > 1 and len(list(place.glob("joined*"))) < processes:
                time.sleep(0.01)  # who is alone at the door cannot name who does not come
            time.sleep(draw.uniform(0.0, usual / 2))
            os.kill(children[who], signal.SIGKILL)
        statuses = ended(children)
        now, bad = kept_and_whole(place / "kept")
        told["half files"] += len(bad)
        made = (place / "made").stat().st_size if (place / "made").exists() else 0
        if statuses[who] == -signal.SIGKILL:
            told["kills"] += 1
            again = 1 if kept else 0  # that is made to see that the problem is the same
            told["lost"].append(max(0, made - (now - kept) - again))
            others = [status for i, status in enumerate(statuses) if i != who]
            said = [(place / f"said{i}").read_text() for i in range(processes) if i != who]
            named = all(f"process {who}" in text for text in said)
            told["silent"] += not (named and all(status > 0 for status in others))
        elif any(statuses):
            told["failed"] = [(place / f"said{i}").read_text() for i in range(processes)]
            break
        kept = now
    if "failed" not in told:
        told |= compared(way, place)
    shutil.rmtree(place)
    return told


def compared(way: str, place: Path) -> dict[str, Any]:
    """What was found beside a run from the same seeds that nobody has killed."""
    whole = Path(tempfile.mkdtemp(prefix="kills"))
    (whole / "kept").mkdir()
    (whole / "kept" / "products.json").write_bytes((place / "kept" / "products.json").read_bytes())
    ended(begun(WAYS[way][-1], whole))
    found, expected = torch.load(place / "found.pt"), torch.load(whole / "found.pt")
    shutil.rmtree(whole)
    return {
        "same bits": all(map(torch.equal, found, expected)),
        "eigenvalues differ by": float((found[0] / expected[0] - 1).abs().max()),
    }


def main() -> None:
    """Kills until there are enough, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = 6 if options.tiny else options.kills
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    usual = {way: seconds(processes[-1]) for way, processes in WAYS.items()}
    while sum(run["kills"] for run in known) < wanted:
        way = list(WAYS)[len(known) % len(WAYS)]
        known.append(one_run(way, random.Random(len(known)), usual[way]))
        options.out.write_text(json.dumps(known, indent=1) + "\n")
        print(json.dumps(known[-1]), flush=True)
    for way in WAYS:
        runs = [run for run in known if run["way"] == way]
        lost = [number for run in runs for number in run["lost"]]
        print(
            f"{way}: {len(runs)} runs, {sum(r['kills'] for r in runs)} kills, half files "
            f"{sum(r['half files'] for r in runs)}, most lost {max(lost, default=0)}, not named "
            f"{sum(r['silent'] for r in runs)}, same bits {sum(r['same bits'] for r in runs)}, "
            f"eigenvalues within {max(r['eigenvalues differ by'] for r in runs):.1e}"
        )


if __name__ == "__main__":
    main()
