"""A study: parts that measure, draw and judge, one command line for all of them, and its page.

A script of this folder says what its study is and calls `run`. What was measured is kept in a run
folder and read again; a part that is not asked for keeps its section of the page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from common.claims import Claim
from common.keeping import NotMeasuredError, Run, console, progress, write_text

ROOT = Path(__file__).parents[2]
DPI = 96
TINY = "**A tiny run, a test of the script. Its numbers mean nothing.**"


@dataclass(frozen=True)
class Section:
    """What a part found: text in Markdown, claims, a figure."""

    text: str
    claims: Sequence[Claim] = ()
    figure: Figure | None = None
    numbers: dict[str, Any] = field(default_factory=dict)  # kept beside the page


@dataclass(frozen=True)
class Part:
    """One question of a study: `measure` gets the run and the sizes of the study."""

    title: str
    measure: Callable[[Run, Any], Section]


@dataclass(frozen=True)
class Study:
    """A script papers/NAME.py and its page docs/papers/NAME.md."""

    name: str
    title: str
    head: str  # what is asked, and what ranges in the tables mean
    parts: dict[str, Part]
    full: Any  # sizes
    tiny: Any
    files: dict[str, str] = field(default_factory=dict)  # of data, by field of the sizes

    @property
    def command(self) -> str:
        """What a reader types."""
        return f"python papers/{self.name}.py"


def run(study: Study, arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, draws, and writes the page."""
    options = _parse(study, arguments)
    torch.set_num_threads(1)  # seconds are those of a processor, and bits those of any machine
    mpl.rcParams["svg.hashsalt"] = "hesscope"
    folder = options.run or ROOT / "build" / (study.name + ("-tiny" if options.tiny else ""))
    out = options.out or (folder / "page" if options.tiny else ROOT / "docs/papers")
    record = out / study.name / "results.json"
    known = json.loads(record.read_text("utf-8"))["parts"] if record.exists() else {}
    kept = Run(folder)
    given = {name: getattr(options, name) for name in study.files if getattr(options, name)}
    sizes = study.tiny if options.tiny else study.full
    sizes = replace(sizes, **given) if given else sizes
    with progress():
        for name, part in study.parts.items():
            found = _part(name, part, kept, sizes, name in options.parts, record.parent)
            if found:
                known[name] = found
    parts = {name: known[name] for name in study.parts if name in known}
    facts = {"command": study.command, "tiny": options.tiny, "parts": parts}
    write_text(record, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    page = out / f"{study.name}.md"
    write_text(page, _page(study, parts, tiny=options.tiny))
    console.print(f"page: {page}")


def _parse(study: Study, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{study.name}.py",
        description=f"{study.title}. Parts: {', '.join(study.parts)}.",
    )
    parser.add_argument("--tiny", action="store_true", help="seconds; its numbers mean nothing")
    parser.add_argument("--parts", default=",".join(study.parts), metavar="A,B", help="some of it")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the page goes")
    for name, help in study.files.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=help)
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if set(options.parts) - set(study.parts):
        parser.error(f"--parts {','.join(options.parts)}: there are {', '.join(study.parts)}")
    return options


def _part(
    name: str, part: Part, kept: Run, sizes: Any, wanted: bool, folder: Path
) -> dict[str, Any] | None:
    """A part as data; None for one that is neither asked for nor in the run folder."""
    kept.begin(only_kept=not wanted)
    if wanted:
        console.print(f"{name}: {part.title}")
    try:
        found = part.measure(kept, sizes)
    except NotMeasuredError as error:
        if wanted:
            console.print(f"{name}: not measured, {error.args[0]}")
        return None
    if found.figure is not None:
        save(found.figure, folder / f"{name}.png")
    plt.close("all")
    facts = [kept.facts(piece) for piece in kept.used]
    return {
        "title": part.title,
        "text": found.text.strip(),
        "claims": [asdict(claim) for claim in found.claims],
        "figure": found.figure is not None,
        "numbers": plain(found.numbers),
        "seconds": round(sum(f["processor_seconds"] for f in facts), 1),
        "made": max((f["created"][:10] for f in facts), default=""),
    }


def save(figure: Figure, file: Path) -> None:
    """Writes a picture, the same bytes for the same figure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, metadata={"Software": None})


def _page(study: Study, parts: dict[str, dict[str, Any]], *, tiny: bool) -> str:
    """The whole page: what was asked, the claims, the parts, and what they cost."""
    command = study.command + (" --tiny" if tiny else "")
    head = [
        f"# {study.title}",
        study.head.strip(),
        f"This page and its figures are written by\n\n```bash\n{command}\n```\n\nwhich resumes "
        f"where it was stopped; [all numbers]({study.name}/results.json).",
    ]
    if tiny:
        head.insert(1, TINY)
    missing = [name for name in study.parts if name not in parts]
    if missing:
        head.append(f"Not measured yet: {', '.join(missing)}.")
    claims = [claim for part in parts.values() for claim in part["claims"]]
    return "\n\n".join([*head, _claims(claims), *_sections(study, parts), _costs(parts)]) + "\n"


def _claims(claims: list[dict[str, Any]]) -> str:
    if not claims:
        return ""
    count: dict[str, int] = {}
    for claim in claims:
        word = claim["holds"].split(" when")[0]
        count[word] = count.get(word, 0) + 1
    total = ", ".join(f"{word} {number}" for word, number in sorted(count.items(), reverse=True))
    rows = [[c["claim"], _with_attempts(c), f"**{c['holds']}**"] for c in claims]
    return f"## Claims: {total}\n\n" + table(["claim", "what was measured", "holds?"], rows)


def _with_attempts(claim: dict[str, Any]) -> str:
    """What was measured, and for a claim that does not hold where it had its best chance."""
    tried = "; ".join(claim["tried"])
    return claim["measured"] + (f". Tried where it had its best chance: {tried}" if tried else "")


def _sections(study: Study, parts: dict[str, dict[str, Any]]) -> list[str]:
    texts = []
    for name, part in parts.items():
        picture = f"![{part['title']}]({study.name}/{name}.png)\n\n" if part["figure"] else ""
        texts.append(f"## {part['title']}\n\n{picture}{part['text']}")
    return texts


def _costs(parts: dict[str, dict[str, Any]]) -> str:
    rows = [[name, f"{part['seconds']:,.0f}", part["made"]] for name, part in parts.items()]
    rows.append(["all", f"{sum(part['seconds'] for part in parts.values()):,.0f}", ""])
    return "## Time\n\n" + table(["part", "processor seconds, one thread", "measured"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a bar inside of a cell stays a bar."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def plain(value: Any) -> Any:
    """Tensors as lists, six digits, None for what is not finite: what JSON knows."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
