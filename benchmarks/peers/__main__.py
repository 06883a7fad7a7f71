"""Beside other tools, measured: `make bench-peers`. Resumes; `--tiny` runs every line in seconds.

    python -m benchmarks.peers [--only largest-mlp] [--tools hesscope] [--fresh] [--json FILE]
    python -m benchmarks.peers --pages        write the table and the chart from the JSON, no more

Every tool does every piece of work in a process of its own, one thread each. What was measured is
kept in build/peers and not measured again; a tool that is not installed, that fails or takes longer
than its time has a row that says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers import pages
from benchmarks.peers.measure import Row, rows
from benchmarks.peers.networks import KEPT
from benchmarks.peers.tools import Tool
from benchmarks.peers.tools.registry import TOOLS
from benchmarks.peers.work import WORKS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
LIMIT = 420.0  # seconds that a tool has for a piece of work, all its ways together


def main() -> None:
    arguments = parse()
    if arguments.one:
        work, tool = arguments.one
        answer(work, tool, arguments.json)
        return
    if not arguments.pages:
        report = measured(arguments)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1, ensure_ascii=False)
        arguments.json.write_text(text + "\n", "utf-8")
    if not arguments.tiny:
        pages.write(json.loads(arguments.json.read_text("utf-8")), ROOT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(WORKS), metavar="WORK")
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), metavar="TOOL")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--fresh", action="store_true", help="measure again what was chosen")
    parser.add_argument("--tiny", action="store_true", help="next to nothing, in this process")
    parser.add_argument("--pages", action="store_true", help="only write table and chart again")
    parser.add_argument("--one", nargs=2, metavar=("WORK", "TOOL"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report: what was measured before, and what this call adds."""
    pairs = [(work, tool) for work in WORKS for tool in TOOLS.values() if work in tool.ways]
    found: list[Row] = []
    for number, (work, tool) in enumerate(pairs, 1):
        chosen = work in (arguments.only or WORKS) and tool.name in (arguments.tools or TOOLS)
        began = time.perf_counter()
        new = list(one(work, tool, chosen, arguments))
        found += new
        spent = time.perf_counter() - began
        if new and spent > 0.1:
            told = "; ".join(row.get("failed", "done")[:60] for row in new)
            print(f"{number}/{len(pairs)} {work}, {tool.name}: {told} ({spent:.0f} s)", flush=True)
    for row in found:
        if "error" in row:
            row["reached"] = WORKS[row["work"]].reached(row["error"])
    return {**machine(tiny=arguments.tiny), "rows": found}


def one(work: str, tool: Tool, chosen: bool, arguments: argparse.Namespace) -> list[Row]:
    """The rows of one tool at one piece of work: those kept, or new ones."""
    if importlib.util.find_spec(tool.module) is None:
        return [failed(work, tool, "not installed")] if chosen else []
    if arguments.tiny:
        return list(rows(WORKS[work], tool, tiny=True)) if chosen else []
    file = KEPT / f"{work}--{tool.name}.json"
    if chosen and (arguments.fresh or not file.exists()):
        file.parent.mkdir(parents=True, exist_ok=True)
        apart(work, tool, file)
    return json.loads(file.read_text("utf-8")) if file.exists() else []


def apart(work: str, tool: Tool, file: Path) -> None:
    """Measures in a process of its own, which ends when its time is up."""
    command = [sys.executable, "-m", "benchmarks.peers", "--one", work, tool.name]
    try:
        run = subprocess.run(
            [*command, "--json", str(file)], cwd=ROOT, timeout=LIMIT, capture_output=True, text=True
        )
        why = "" if run.returncode == 0 else f"exit status {run.returncode}: {run.stderr[-200:]}"
    except subprocess.TimeoutExpired:
        why = f"no answer within {LIMIT:g} s"
    if why:
        done = json.loads(file.read_text("utf-8")) if file.exists() else []
        left = failed(work, tool, why)
        if len(done) < len(tool.ways[work]):
            left |= {"call": tool.ways[work][len(done)].call}
        file.write_text(json.dumps([*done, left]), "utf-8")


def answer(work: str, tool: str, file: Path) -> None:
    """In the process of one tool and one piece of work: each row is written when it is done."""
    done: list[Row] = []
    file.unlink(missing_ok=True)
    for row in rows(WORKS[work], TOOLS[tool]):
        done.append(row)
        file.write_text(json.dumps(done, indent=1), "utf-8")


def failed(work: str, tool: Tool, why: str) -> Row:
    way = tool.ways[work][0]
    row = {"work": work, "tool": tool.name, "call": way.call, "at": way.at, "says": way.says}
    return {**row, "failed": why}


def machine(*, tiny: bool) -> dict[str, Any]:
    """What the figures were measured on, and with which versions."""
    versions = {}
    for tool in TOOLS.values():
        try:
            versions[tool.name] = version(tool.package)
        except PackageNotFoundError:
            versions[tool.name] = None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {processor()}, one thread",
        "torch": torch.__version__,
        "tiny": tiny,
        "versions": versions,
    }


def processor() -> str:
    """The model of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
