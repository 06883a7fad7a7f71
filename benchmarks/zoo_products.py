"""What a Hessian-vector product costs beside plain double backward, on 175 small real models.

    python -m benchmarks.zoo_products [--only Bert] [--rounds 9] [--json FILE] [--fresh]

The models are classes of transformers in tiny configurations (tests/zoo), so small that what is
not arithmetic shows: checks, surroundings, bookkeeping. Both sides have a graph of the gradient
that they keep, and make one vector of one vector; plain double backward is what one writes by hand,
inside torch's mathematical attention. Slices of both alternate, one thread, processor time, and the
median ratio of a model is kept. Each model has a process and a time limit of its own, and is
written down when it is done: a second call measures what is missing. When all are done, results and
the table in benchmarks/README.md are those of this run. `--tiny` takes three models.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers import pages
from tests.zoo.examine import door
from tests.zoo.reference import flat, surroundings, trainable
from tests.zoo.senses import SENSES
from tests.zoo.specimen import Specimen
from tests.zoo.text import TEXT
from torch import Tensor

import hesscope as hs

SPECIMENS = {specimen.name: specimen for specimen in (*TEXT, *SENSES)}
TINY = ("BertForSequenceClassification", "GPT2LMHeadModel", "ViTForImageClassification")
FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results" / "zoo_products.json", FOLDER / "README.md"
UNDER_WAY = FOLDER.parent / "build" / "zoo_products.json"
TARGETS = {"median": 1.05, "90 %": 1.15}
SLICE, ROUNDS, LIMIT = 0.03, 9, 60.0  # seconds of products, slices of each side, seconds a model
AGREE = 1e-4  # both are the same derivative, in float32

Row = dict[str, Any]
Job = Callable[[], Any]


def main() -> None:
    arguments = parse()
    rows = {} if arguments.fresh or not arguments.json.exists() else kept(arguments.json)
    names = TINY if arguments.tiny else SPECIMENS
    names = [n for n in names if not arguments.only or any(o in n for o in arguments.only)]
    for number, name in enumerate(names, 1):
        if name not in rows:
            rows[name] = apart(name, arguments.rounds)
            write(arguments.json, rows)
            print(f"{number}/{len(names)} {name}: {said(rows[name])}", flush=True)
    print(block(report(rows)))
    if rows.keys() >= SPECIMENS.keys():
        write(RESULTS, rows)
        page = pages.replaced(PAGE.read_text("utf-8"), block(report(rows)))
        PAGE.write_text(page, "utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="PART", help="models with this in their name")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, default=UNDER_WAY, metavar="FILE")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--tiny", action="store_true", help="three models")
    return parser.parse_args()


def kept(file: Path) -> dict[str, Row]:
    return {row["model"]: row for row in json.loads(file.read_text("utf-8"))["rows"]}


def write(file: Path, rows: dict[str, Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report(rows), indent=1, ensure_ascii=False)
    file.write_text(text + "\n", "utf-8")


def report(rows: dict[str, Row]) -> Row:
    facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    facts |= {"hesscope": hs.__version__, "targets": TARGETS}
    return {**facts, **summary(rows), "rows": list(rows.values())}


def apart(name: str, rounds: int) -> Row:
    """The row of a model, measured in a process of its own, which ends when its time is up."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name, rounds))
    process.start()
    sender.close()
    row: Row = {"model": name, "failed": f"no answer within {LIMIT:g} s"}
    if receiver.poll(LIMIT):
        try:
            row = receiver.recv()
        except EOFError:
            row["failed"] = "the process has died"
    process.kill()
    process.join()
    return row


def _send(sender: Any, name: str, rounds: int) -> None:
    sender.send(attempted(name, rounds))


def attempted(name: str, rounds: int) -> Row:
    """A row; where either side cannot be had, what was raised."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        return measure(SPECIMENS[name], rounds)
    except Exception as raised:
        words = " ".join(f"{type(raised).__name__}: {raised}".split())
        return {"model": name, "failed": words[:200]}


def measure(specimen: Specimen, rounds: int) -> Row:
    """hesscope's time for one product over that of plain double backward, on graphs kept."""
    batch = specimen.batches(1, torch.float32)
    H = hs.Hessian(door(specimen, specimen.make(False), batch))
    plain = plain_product(specimen, specimen.batches(1, torch.float32)[0])
    v = torch.randn(H.n, generator=torch.Generator().manual_seed(3))
    found, expected = H @ v, plain(v)
    apart = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    times = alternating({"ours": lambda: H @ v, "plain": lambda: plain(v)}, rounds)
    ratios = [ours / theirs for ours, theirs in zip(times["ours"], times["plain"], strict=True)]
    return {
        "model": specimen.name,
        "family": specimen.family,
        "n": H.n,
        "tensors": len(list(H.problem.model.parameters())),
        "ratio": statistics.median(ratios),
        "plain_ms": 1e3 * statistics.median(times["plain"]),
        "apart": apart,
        "agree": apart <= AGREE,
        "graph": H.facts()["graph"],
    }


def plain_product(specimen: Specimen, batch: Any) -> Callable[[Tensor], Tensor]:
    """v -> H v from a graph of the gradient, as one writes it by hand."""
    model = specimen.make(False).eval()
    parameters = trainable(model)
    sizes = [p.numel() for p in parameters]
    torch.manual_seed(0)
    with surroundings(lifted=False):
        loss = specimen.loss(model, batch)
        gradient = torch.autograd.grad(
            loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
    active = [i for i, g in enumerate(gradient) if g.requires_grad]

    def product(v: Tensor) -> Tensor:
        pieces = v.split(sizes)
        with surroundings(lifted=False):
            return flat(
                torch.autograd.grad(
                    [gradient[i] for i in active],
                    parameters,
                    [pieces[i].view_as(parameters[i]) for i in active],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )

    return product


def alternating(jobs: dict[str, Job], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of one call, of each job in turn."""
    once = max(min(seconds(job, 2) for _ in range(2)) for job in jobs.values())
    calls = max(1, round(SLICE / once))
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(seconds(job, calls))
    return found


def seconds(job: Job, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        job()
    return (time.process_time() - start) / calls


def summary(rows: dict[str, Row]) -> Row:
    """How many were measured, and the median and the 90 % quantile of their ratios."""
    ratios = sorted(row["ratio"] for row in rows.values() if "ratio" in row)
    out: Row = {"measured": len(ratios), "failed": len(rows) - len(ratios)}
    if len(ratios) > 1:
        quantiles = statistics.quantiles(ratios, n=10, method="inclusive")
        out |= {"median": statistics.median(ratios), "90 %": quantiles[-1]}
    return out


def said(row: Row) -> str:
    if "failed" in row:
        return row["failed"]
    other = "" if row["agree"] else f", {row['apart']:.0e} apart"
    return f"{row['ratio']:.2f} of {row['plain_ms']:.2f} ms{other}"


def block(report: Row) -> str:
    """The ratios by family, as Markdown."""
    measured = [row for row in report["rows"] if "ratio" in row]
    lines = ["| family | models | median | 90 % | worst |", "|---|---|---|---|---|"]
    for family in (*dict.fromkeys(row["family"] for row in measured), "all"):
        own = {r["model"]: r for r in measured if family in (r["family"], "all")}
        worst = max((r["ratio"] for r in own.values()), default=float("nan"))
        numbers = [summary(own).get(key, worst) for key in ("median", "90 %")]
        cells = (family, str(len(own)), *(f"{number:.2f}" for number in (*numbers, worst)))
        lines.append(f"| {' | '.join(cells)} |")
    apart = sum(not row["agree"] for row in measured)
    said = f"{report['failed']} more had no product on one of both sides"
    facts = (
        f"{report['date']}, torch {report['torch']}; {said}; {apart} differ by more than {AGREE:g}."
    )
    return "\n".join([*lines, "", facts])


if __name__ == "__main__":
    main()
