"""On paper: eigenpairs of language models from 124M to 70B parameters on 1, 8 and 64 cards.

    python -m benchmarks.scaling [--measure]

Nothing of that size is run. Bytes of each kind of product are counted on small transformers of
three and of six layers and two lengths of a batch (`--measure`, kept in a file), which gives bytes
for each layer, unit and token; the laws of `hs.plan` make memory of them, and the way that fits.
Seconds are operations over an assumed speed of a card, and bytes of the basis over an assumed
speed of where it is. The table goes into docs/processes.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.lean import GPT, Setting
from benchmarks.planner import next_word, num_words

import hesscope as hs
from hesscope.autodiff.footprint import Footprint, Lines, footprint
from hesscope.examination.budget import Size, Way, chosen, phases_of, ways
from hesscope.examination.timing import SWEEPS

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks/results/scaling.json"
PAGE = ROOT / "docs/processes.md"
BEGIN = "<!-- made by benchmarks/scaling.py, not by hand: from here -->"
END = "<!-- to there -->"

WIDTH, LENGTH, LAYERS = 64, 512, (3, 6)  # of the small ones; from 512 words on, tiles
MANY = 64  # examples, by whose number bytes are then ruled
KINDS = ("gradient", "graph", "kept", "rebuilt", "lean")
WORDS, TOKENS, SEQUENCES = 50_000, 2_048, 64  # of the large ones, one sequence to a batch
PAIRS, PRODUCTS = 10, 46  # 2 k + 26
CARD, USABLE = 80e9, 0.92  # bytes of a card, and how much of them is had
SPEED = 150e12  # operations a second, TF32: assumed
HBM, ELSEWHERE = 3e12, 5e9  # bytes a second of the card, and of a disk: assumed
DISK = 4e12  # bytes of it, for each card


@dataclass(frozen=True)
class Model:
    name: str
    layers: int
    width: int

    @property
    def block(self) -> int:
        """Parameters of a layer."""
        return 12 * self.width**2

    @property
    def table(self) -> int:
        """Parameters of the words, which are in no layer."""
        return WORDS * self.width

    @property
    def n(self) -> int:
        return self.layers * self.block + self.table


MODELS = (
    Model("124M", 12, 768),
    Model("1.5B", 48, 1600),
    Model("7B", 32, 4096),
    Model("70B", 80, 8192),
)
CARDS = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="count bytes again")
    if parser.parse_args().measure or not FILE.exists():
        FILE.write_text(json.dumps(measured(), indent=1) + "\n")
    new = table(json.loads(FILE.read_text()))
    text = PAGE.read_text("utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{new}\n\n{END}{after}", "utf-8")
    print(new)


def measured() -> dict[str, dict[str, float]]:
    """Bytes for a parameter, and for each unit of a token, once and by layer, of each kind."""
    prints, sizes = [], []
    for layers in LAYERS:
        torch.manual_seed(0)
        setting = Setting(layers=layers, width=WIDTH, heads=1, length=LENGTH)
        words = torch.randint(256, (8, LENGTH))
        problem = hs.Problem(GPT(setting), next_word, (words, words), count=num_words)
        prints.append(footprint(problem))
        sizes.append(problem.n)
    found = {}
    for kind in KINDS:
        lines = [getattr(each, kind) for each in prints]
        slopes = [line(2 * MANY) / MANY - line(MANY) / MANY for line in lines]
        of_token = [slope / (LENGTH * WIDTH) for slope in slopes]
        by_layer = (of_token[1] - of_token[0]) / (LAYERS[1] - LAYERS[0])
        fixed = [2 * line(MANY) - line(2 * MANY) for line in lines]
        found[kind] = {
            "parameter": (fixed[1] - fixed[0]) / (sizes[1] - sizes[0]),
            "layer": by_layer,
            "once": of_token[0] - LAYERS[0] * by_layer,
        }
    return found


def of(model: Model, laws: dict[str, dict[str, float]], share: float) -> Footprint:
    """The footprint that the laws foretell, with vectors of parameters of which a share is here."""

    def line(kind: str) -> Lines:
        law = laws[kind]
        slope = TOKENS * model.width * (law["once"] + law["layer"] * model.layers)
        return Lines((law["parameter"] * model.n * share + slope,), (slope,))

    return Footprint(*map(line, KINDS))


@dataclass(frozen=True)
class Paper:
    """What it takes in each of so many cards."""

    weights: float
    way: Way | None
    least: Way
    seconds: float


def planned(model: Model, cards: int, laws: dict[str, dict[str, float]], *, cut: bool) -> Paper:
    """By the laws of `hs.plan`; with weights cut over the cards, and a block gathered at a time.

    What is in no block is whole then: weights, vector and product.
    """
    share = 1 / cards if cut else 1.0
    weights = 4.0 * (model.n * share + 3 * model.table * cut)
    here = SEQUENCES / cards
    size = Size(model.n, 4, 1, here, cards, examples=here, block=float(model.block * cut))
    phases = phases_of("eigsh", PRODUCTS, PAIRS, size.n)
    found = list(ways(of(model, laws, share), size, phases))
    if cut:  # other products want whole weights
        found = [way for way in found if way.kind == "lean"]
    way = chosen(found, USABLE * CARD - weights, DISK)
    least = min(found, key=lambda each: each.memory)
    used = way or least
    operations = 6.0 * model.n * TOKENS * SEQUENCES / cards * used.gradients * PRODUCTS
    read = SWEEPS * PRODUCTS**2 / 2 * 4 * size.local
    return Paper(
        weights, way, least, operations / SPEED + read / (ELSEWHERE if used.placed else HBM)
    )


def table(laws: dict[str, dict[str, float]]) -> str:
    """A line for each model and number of cards."""
    lines = [
        "| parameters | cards | weights whole: GB, way | time | weights cut: GB, way | time |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for cards in CARDS:
            whole = planned(model, cards, laws, cut=False)
            cut = planned(model, cards, laws, cut=True) if cards > 1 else None
            cells = [cell for each in (whole, cut) for cell in told(each)]
            lines.append(
                f"| {model.name} ({model.n / 1e9:.3g}e9) | {cards} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def told(paper: Paper | None) -> Iterator[str]:
    """Memory with the way, and time."""
    if paper is None:
        yield from ("", "")
        return
    way = paper.way or paper.least
    there = f" + {gigabytes(way.placed)} on disk" if way.placed else ""
    sizes = f"{gigabytes(paper.weights)} + {gigabytes(way.memory)}{there}"
    yield f"{sizes}, {way.kind}" if paper.way else f"no: {sizes} at least"
    yield span(paper.seconds) if paper.way else ""


def gigabytes(bytes_: float) -> str:
    """Three digits, or all before the point."""
    return f"{bytes_ / 1e9:,.0f}" if bytes_ >= 1e11 else f"{bytes_ / 1e9:.3g}"


def span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
