"""The page: every figure with what made it, and the table of claims. Nothing on it is typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.claims import NO, PARTLY, UNDECIDED, YES, Claim
from common.keeping import Run, write_text

from sagun.settings import Settings

ORDER = [*(str(i) for i in range(1, 11)), "agreement"]


@dataclass(frozen=True)
class Done:
    """A figure that was made, or the reason why it was not."""

    name: str
    title: str
    caption: str = ""
    claims: list[Claim] = field(default_factory=list)
    pieces: dict[str, dict[str, Any]] = field(default_factory=dict)  # facts by name
    missing: str = ""

    @property
    def heading(self) -> str:
        """Its number in the paper."""
        return f"Figure {self.name}" if self.name.isdigit() else "Beyond the paper"

    @property
    def file(self) -> str:
        """The name of its picture."""
        return f"figure_{int(self.name):02d}.png" if self.name.isdigit() else f"{self.name}.png"


def pieces(run: Run) -> dict[str, dict[str, Any]]:
    """What the present figure was made from, with the time and memory of each."""
    return {name: run.facts(name) for name in run.used}


def write(folder: Path, done: list[Done], settings: Settings, command: str) -> Path:
    """Writes sagun2016.md into the folder."""
    done = sorted(done, key=lambda d: ORDER.index(d.name))
    parts = [_head(settings, command), _claims(done), _times(done)]
    parts += [_figure(d) for d in done]
    page = folder / "sagun2016.md"
    write_text(page, "\n\n".join(parts) + "\n")
    return page


def _head(s: Settings, command: str) -> str:
    d, b = s.digits, s.blobs
    warning = (
        "\n\n**A tiny run: a test of the script. Its numbers mean nothing.**" if s.tiny else ""
    )
    return f"""# Sagun, Bottou and LeCun 2016, figure by figure{warning}

"Eigenvalues of the Hessian in Deep Learning: Singularity and Beyond" (arXiv:1611.07476), all ten
figures and the claims, measured with the public API of hesscope alone. This page and its figures
are written by

```bash
{command}
```

which resumes where it was stopped. The paper does not state its step sizes, the radius of its
initial points, or how many points of which standard deviation the blobs have; chosen here:

| | digits | blobs |
|---|---|---|
| data | {d.examples:,} training images of MNIST, pixels in [0, 1] | {b.points} points, \
standard deviation {b.std:g} |
| starts | on the sphere of radius {d.sigma:g} √n | on the sphere of radius {b.sigma:g} √n |
| gradient descent | lr = {d.lr:g}, all examples; \
{d.random_lr:g} on random inputs, {d.small_lr:g} for 784-2-10 | lr = {b.lr:g}, all examples; \
{b.mse_lr:g} for mean-square loss |
| until | gradient norm {d.tolerance:g}, at most {d.steps:,} steps | gradient norm \
{b.tolerance:g}, at most {b.steps:,} steps |

Everything is in float64 and losses are means over examples. Spectra are exact, every eigenvalue
from the assembled Hessian, unless said otherwise. "Near zero" always names its
threshold. Other images, npz or IDX, go with `--data FILE`;
[the note on the data](../../papers/data/README.md) shows how `fetch_openml` brings the whole set.
`--report digits-{s.widths[0]}`, `--report blobs-74` and so on print what `hs.diagnose` says of a
trained network and write it as a page. [Driven further](critical.md), with 70 hidden units
exactly, has what this page leaves open."""


def _claims(done: list[Done]) -> str:
    verdicts = [c.holds for d in done for c in d.claims]
    words = [word for word in (YES, PARTLY, NO, UNDECIDED) if word in verdicts]
    total = ", ".join(f"{word} {verdicts.count(word)}" for word in words)
    lines = [
        f"## Claims: {total}",
        "",
        "Ranges are median [least, most] over seeds. *Holds?* is decided by a rule for each claim,",
        "which the docstrings of `papers/sagun/claims.py` state; *in part* says that the weaker",
        "half of the rule is met, *undecided* that the numbers cannot tell.",
        "",
        "| figure | claim | what we measured | holds? |",
        "|---|---|---|---|",
    ]
    for d in done:
        for c in d.claims:
            row = (d.name, c.claim, c.measured, f"**{c.holds}**")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        if d.missing:
            lines.append(f"| {d.name} | | not run: {d.missing} | |")
    return "\n".join(lines)


def _times(done: list[Done]) -> str:
    lines = [
        "## Time and memory",
        "",
        "A piece that several figures share counts for the first of them. Memory is the peak of",
        "the whole process, torch included. Where the machine was shared, processor seconds, which",
        "count all threads, tell more than seconds.",
        "",
        "| figure | seconds | processor seconds | peak memory | made |",
        "|---|---|---|---|---|",
    ]
    counted: dict[str, dict[str, Any]] = {}
    for d in done:
        new = {name: facts for name, facts in d.pieces.items() if name not in counted}
        counted |= new
        if not d.missing:
            lines.append(_cost(d.name, list(new.values())))
    lines.append(_cost("all", list(counted.values())))
    return "\n".join(lines)


def _cost(what: str, facts: list[dict[str, Any]]) -> str:
    """A row: sums of times, the highest peak, and when on which machine."""
    if not facts:
        return f"| {what} | | | | nothing of its own |"
    spent = " | ".join(
        f"{sum(f[name] for f in facts):,.0f}" for name in ("seconds", "processor_seconds")
    )
    peak = max(f["peak_bytes"] for f in facts) / 1e9
    days = sorted({f["created"][:10] for f in facts})
    threads = sorted({f["threads"] for f in facts})
    loads = [f["load"] for f in facts]
    return (
        f"| {what} | {spent} | {peak:.2f} GB | {' to '.join(dict.fromkeys([days[0], days[-1]]))}, "
        f"{' or '.join(map(str, threads))} thread{'s' if threads != [1] else ''}, "
        f"load of the machine {min(loads):.0f} to {max(loads):.0f} on {facts[0]['cores']} cores |"
    )


def _figure(d: Done) -> str:
    title = f"## {d.heading}: {d.title}"
    if d.missing:
        return f"{title}\n\nNot run: {d.missing}"
    return f"{title}\n\n![{d.heading}](sagun2016/{d.file})\n\n{d.caption}"
