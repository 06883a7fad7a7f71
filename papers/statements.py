"""Every statement of the three texts, with what was measured: docs/papers/statements.md.

python papers/statements.py     reads the results beside the pages of docs/papers; measures nothing
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.claims import NO, PARTLY, UNDECIDED, YES
from common.keeping import console, write_text
from common.study import table

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/papers"
STATEMENTS = Path(__file__).with_suffix(".toml")
SAGUN = "python papers/sagun2016.py"
ONLY = "only when"
HEAD = """# Every statement, with what was measured

hesscope grew from three texts. What they say about networks, and what the figures of the second
show, stands here in our words, a row for each, with the command that measures it, what it found,
and whether that bears the statement out. Several measurements may answer one statement; *in part*
then says that they differ, or that the weaker half of a rule is met. A *no* was tried where the
statement had its best chance, which its row tells. Ranges are median [least, most] over seeds.
`python papers/statements.py` writes this page from the results beside the pages that it names."""


@dataclass(frozen=True)
class Row:
    """One measurement: the statement that it answers, where it stands, what it found."""

    statement: str
    page: str
    command: str
    claim: str
    measured: str
    holds: str


def main(arguments: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PAGES, metavar="FOLDER")
    options = parser.parse_args(arguments)
    page = options.out / "statements.md"
    write_text(page, written(tomllib.loads(STATEMENTS.read_text("utf-8"))))
    console.print(f"page: {page}")


def written(statements: dict[str, dict[str, str]]) -> str:
    """The page."""
    texts = statements.pop("texts")
    rows = list(studied())
    known = {f"{text}/{key}" for text, keys in statements.items() for key in keys}
    unknown = sorted({row.statement for row in rows} - known)
    if unknown:
        msg = f"{STATEMENTS.name} has no statement {', '.join(unknown)}"
        raise SystemExit(msg)
    figures = list(reproduced())
    parts = [HEAD, _summary(statements, rows, figures)]
    for text, keys in statements.items():
        parts.append(f"## {texts[text]}\n\n{_text(text, keys, rows)}")
    title = "## Its figures, claim by claim"
    parts.append(f"{title}\n\n{table(_HEADER, [_cells(row.claim, row) for row in figures])}")
    return "\n\n".join(parts) + "\n"


_HEADER = ["statement", "shown by", "what was measured", "holds?"]


def studied() -> Iterator[Row]:
    """What the studies found, from the results beside their pages."""
    for record in sorted(PAGES.glob("*/results.json")):
        study = json.loads(record.read_text("utf-8"))
        for name, part in study.get("parts", {}).items():
            command = f"{study['command']} --parts {name}"
            for claim in part["claims"]:
                tried = "; ".join(claim["tried"])
                measured = claim["measured"] + (f". Tried: {tried}" if tried else "")
                for statement in filter(None, claim["statement"].split(",")):
                    yield Row(
                        statement.strip(),
                        f"{record.parent.name}.md",
                        command,
                        claim["claim"],
                        measured,
                        claim["holds"],
                    )


def reproduced() -> Iterator[Row]:
    """The table of claims on the page of the second text's figures."""
    page = (PAGES / "sagun2016.md").read_text("utf-8")
    lines = page.split("| figure | claim |")[1].split("\n\n")[0].splitlines()[2:]
    for line in lines:
        cells = [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]
        figure, claim, measured, holds = (cell.replace("\0", "|") for cell in cells)
        command = SAGUN if figure == "agreement" else f"{SAGUN} --figures {figure}"
        yield Row("", "sagun2016.md", command, claim, measured, holds.strip("*"))


def _text(text: str, keys: dict[str, str], rows: list[Row]) -> str:
    """The table of one text: a statement, and below it what else answers it."""
    lines = []
    for key, statement in keys.items():
        answers = [row for row in rows if row.statement == f"{text}/{key}"]
        lines += [_cells(statement if i == 0 else "", row) for i, row in enumerate(answers)]
        if not answers:
            lines.append([statement, "", "not measured yet", ""])
    return table(_HEADER, lines)


def _cells(statement: str, row: Row) -> list[str]:
    measured = row.measured if statement == row.claim else f"*{row.claim}*: {row.measured}"
    return [statement, f"[`{row.command}`]({row.page})", measured, f"**{row.holds}**"]


def _summary(statements: dict[str, dict[str, str]], rows: list[Row], figures: list[Row]) -> str:
    """How many statements hold, hold in part, do not; and how many were not measured."""
    found: dict[str, list[str]] = {
        f"{text}/{key}": [] for text, keys in statements.items() for key in keys
    }
    for row in rows:
        found[row.statement].append(row.holds)
    counts: dict[str, int] = {}
    for holds in [*found.values(), *([row.holds] for row in figures)]:
        word = together(holds)
        counts[word] = counts.get(word, 0) + 1
    order = (YES, PARTLY, ONLY, NO, UNDECIDED, "not measured yet")
    total = ", ".join(f"{word} {counts[word]}" for word in order if word in counts)
    return f"{sum(counts.values())} rows, {len(rows) + len(figures)} measurements: {total}."


def together(holds: list[str]) -> str:
    """One word for the answers to one statement."""
    words = {ONLY if word.startswith(ONLY) else word for word in holds}
    if not words:
        return "not measured yet"
    if len(words) == 1:
        return words.pop()
    words.discard(UNDECIDED)
    return words.pop() if len(words) == 1 else PARTLY


if __name__ == "__main__":
    sys.exit(main())
