"""How many large eigenvalues there are, when the number of classes changes."""

from __future__ import annotations

import pydoc_data.topics
from functools import partial
from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim, spread
from common.gpt import LETTERS, gpt, words
from common.keeping import Arrays, Run
from common.study import Section, table
from torch import Tensor, nn

import hesscope as hs
from transforming import figures

MOST = 0.8  # of the seeds
TASKS = {"next symbol": "of C symbols at every place", "topic": "of a piece, one of C"}


def topics(num: int, length: int, classes: int) -> tuple[Tensor, Tensor]:
    """Pieces of C of Python's help texts, as many of each, and which text each is from."""
    texts = pydoc_data.topics.topics
    longest = sorted(texts, key=lambda name: (-len(texts[name]), name))[:classes]
    rows, labels = [], torch.arange(num) % classes
    for i, label in enumerate(labels.tolist()):
        text = "".join(c if c in LETTERS else " " for c in texts[longest[label]][:1500].lower())
        text = " ".join(text.split())
        start = (i // classes) * length
        rows.append([LETTERS.index(c) for c in text[start : start + length]])
    return torch.tensor(rows), labels


def counted(sizes: Any, task: str, classes: int, seed: int) -> Arrays:
    """Outliers of H and of the Gauss-Newton matrix after training, by the largest gap."""
    last = task == "topic"
    if last:
        data = topics(sizes.pieces, sizes.length, classes)
    else:
        data = words(sizes.sequences, sizes.length, classes)
    model = gpt(
        seed,
        symbols=len(LETTERS) if last else classes,
        length=sizes.length,
        width=sizes.wide,
        depth=1,
    )

    def forward(model: nn.Module, text: Tensor) -> Tensor:
        scores = model(text)
        return scores.view(*text.shape, -1)[:, -1, :classes] if last else scores

    loss_fn = nn.functional.cross_entropy
    adam = torch.optim.Adam(model.parameters(), sizes.lr)
    for _ in range(sizes.trained):
        adam.zero_grad()
        loss_fn(forward(model, data[0]), data[1]).backward()
        adam.step()
    problem = hs.Problem(model, loss_fn, [data], forward=forward)
    found = {"loss": torch.tensor(problem.loss(), dtype=torch.float64)}
    for name, A in (("H", hs.Hessian(problem)), ("G", hs.GaussNewton(problem))):
        pairs = hs.eigsh(A, 2 * classes + 2, tol=1e-3, verify=False, seed=0)
        gap = hs.outliers(pairs, num_classes=classes)
        found[f"{name}/count"] = torch.tensor(gap.count)
        found[f"{name}/clear"] = torch.tensor(float(gap.clear))
        found[f"{name}/top"] = pairs.eigenvalues
    return found


def measure(run: Run, sizes: Any) -> Section:
    """Counts over classes, for two tasks."""
    found: dict[str, dict[int, list[Arrays]]] = {}
    for task in TASKS:
        found[task] = {}
        for classes in sizes.classes:
            key = (
                sizes.pieces,
                sizes.sequences,
                sizes.length,
                sizes.wide,
                sizes.lr,
                sizes.trained,
            )
            found[task][classes] = [
                run.arrays(f"classes/{task.replace(' ', '-')}/{classes}/{seed}", key,
                           partial(counted, sizes, task, classes, seed))
                for seed in range(sizes.seeds)
            ]  # fmt: skip
    numbers = {
        task: {str(c): {w: _counts(rows, w) for w in "HG"} for c, rows in by.items()}
        for task, by in found.items()
    }
    claims = [as_many(found, "G"), as_many(found, "H")]
    return Section(_text(found, sizes), claims, figures.classes(found), numbers)


def _counts(rows: list[Arrays], which: str) -> Tensor:
    return torch.stack([row[f"{which}/count"] for row in rows]).double()


def as_many(found: dict[str, dict[int, list[Arrays]]], which: str) -> Claim:
    """Yes if in 4 of 5 seeds the count is C - 1 or C, for all tasks and C; in part for some."""
    hits, words = [], []
    for task, by in found.items():
        for classes, rows in by.items():
            counts = _counts(rows, which)
            right = int(((counts == classes) | (counts == classes - 1)).sum())
            hits.append(right >= MOST * len(rows))
            words.append(f"{task}, C = {classes}: {spread(counts)}, {right} of {len(rows)}")
    holds = YES if all(hits) else PARTLY if any(hits) else NO
    name = {"G": "the Gauss-Newton matrix", "H": "the Hessian"}[which]
    return Claim(
        f"A transformer has as many outliers as classes, C or C - 1: {name}",
        f"eigenvalues before the largest gap, and seeds with C or C - 1: {'; '.join(words)}",
        holds,
        "landscapes/outliers-classes",
        tuple(words) if holds == NO else (),
    )


def _text(found: dict[str, dict[int, list[Arrays]]], sizes: Any) -> str:
    rows = []
    for task, by in found.items():
        for classes, seeds in by.items():
            losses = torch.stack([one["loss"] for one in seeds])
            clear = [int(sum(float(o[f"{w}/clear"]) for o in seeds)) for w in "GH"]
            cells = [spread(_counts(seeds, w)) for w in "GH"]
            rows.append([task, str(classes), spread(losses), *cells, f"{clear[0]}, {clear[1]}"])
    head = ["task", "classes C", "loss", "outliers of G", "of H", "clear gaps, G and H"]
    what = "; ".join(f"*{task}*: {words}" for task, words in TASKS.items())
    return f"""\
Two tasks ({what}) for a transformer of one block of width {sizes.wide},
trained for {sizes.trained} steps of Adam. `hs.outliers` counts the eigenvalues before the largest
ratio of one to the next, among the first 2C + 2.

{table(head, rows)}"""
