"""Flat minima by SAM, small batches, a trace penalty and Entropy-SGD, at equal training loss.

python papers/flatness.py                       digits, edges, and CIFAR-10 where it is; resumes
python papers/flatness.py --tiny                the same in seconds, for tests
python papers/flatness.py --cifar FILE.npz      x_train, y_train, x_test, y_test as of CIFAR-10
python papers/flatness.py --parts digits,edge   some of it; the page keeps the others
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from common import data
from common.keeping import NotMeasuredError, Run, console
from common.study import save
from flat import edge, figures, networks, page
from flat.measure import COLUMNS, measured
from flat.train import Method, Setting
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
PARTS = ("digits", "edge", "cifar")
PLAIN = "plain SGD"


@dataclass(frozen=True)
class Sizes:
    """What a run takes time for."""

    digits: int = 6  # seeds
    train: int = 700  # digits
    targets: tuple[float, ...] = (0.3, 0.1, 0.03)
    most: int = 40_000
    edges: int = 5  # seeds
    edge: tuple[float, int, int] = (2.0, 3_000, 150)  # lr, steps, steps between looks
    cifar: int = 5  # seeds
    images: int = 500
    looked_at: int = 50  # images of which the curvature is taken
    depth: int = 20
    cifar_targets: tuple[float, ...] = (1.0,)
    epochs: int = 80


TINY = Sizes(
    digits=2, train=60, targets=(2.2,), most=400, edges=2, edge=(2.0, 20, 5),
    cifar=2, images=40, looked_at=20, depth=8, cifar_targets=(2.4,), epochs=4,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A section of the page and its numbers."""

    text: str
    numbers: dict[str, object] = field(default_factory=dict)


def methods(batch: int, small: int, strength: float) -> dict[str, Method]:
    """Six ways of training, Entropy-SGD with the noise of its paper and with more."""
    return {
        PLAIN: Method(batch),
        "small batch": Method(small),
        "SAM, ρ = 0.05": Method(batch, rho=0.05),
        "SAM, ρ = 0.2": Method(batch, rho=0.2),
        "trace penalty": Method(batch, strength=strength),
        "Entropy-SGD": Method(batch, gamma=0.1, noise=1e-4),
        "Entropy-SGD, hotter": Method(batch, gamma=0.1, noise=0.02),
    }


def compared(
    run: Run,
    name: str,
    setting: Setting,
    ways: dict[str, Method],
    seeds: int,
    test: tuple,
    looked: int,
) -> figures.Table:
    """By method, columns of (seeds, targets)."""
    table: dict[str, list[dict[str, torch.Tensor]]] = {way: [] for way in ways}
    same = (setting.lr, setting.momentum, setting.targets, setting.every, setting.most, looked)
    for seed in range(seeds):
        for way, method in ways.items():
            key = (method, same, len(setting.y), data.digest(setting.X, setting.y))
            job = partial(measured, setting, method, seed, test, looked)
            place = f"{name}/{way.replace(' ', '-').replace(',', '').replace('=-', '')}/{seed}"
            table[way].append(run.arrays(place, key, job))
    return {
        way: {column: torch.stack([row[column] for row in rows]) for column in COLUMNS}
        for way, rows in table.items()
    }


def digits(run: Run, sizes: Sizes, out: Path, options: argparse.Namespace) -> Part:
    """The perceptron on pooled digits."""
    X, y, test_X, test_y = networks.digits(options.data, sizes.train)
    setting = Setting(networks.perceptron, X, y, 0.5, 0.0, sizes.targets, 10, sizes.most, len(y))
    ways = methods(100, 10, 1e-2)
    table = compared(run, "digits", setting, ways, sizes.digits, (test_X, test_y), len(y))
    save(figures.at_equal_loss(table, sizes.targets, PLAIN), out / "flatness/digits.png")
    what = (
        f"A 49-32-10 perceptron (tanh, 1,930 parameters, float64) on {len(y)} digits of 7 x 7 "
        f"pixels; {len(test_y)} others for the accuracy. lr 0.5 without momentum, batches of 100 "
        "(small: 10), trace penalty of the Gauss-Newton matrix times 0.01, Entropy-SGD with rounds "
        "of 10 steps, γ = 0.1 and noise 1e-4 (hotter: 0.02). λmax and trace are those of all "
        "training data."
    )
    title = "Digits, 49-32-10"
    text = page.comparison(title, what, "digits", table, sizes.targets, PLAIN)
    return Part(text, {"digits": table})


def edges(run: Run, sizes: Sizes, out: Path, options: argparse.Namespace) -> Part:
    """Full-batch gradient descent and SAM."""
    lr, steps, every = sizes.edge
    X, y, _, _ = networks.digits(options.data, sizes.train)
    found: dict[float, list[dict[str, torch.Tensor]]] = {}
    for rho in (0.0, 0.05, 0.2):
        one = edge.Run(lr, rho, steps, every)
        found[rho] = [
            run.arrays(
                f"edge/{rho}/{seed}",
                (one, data.digest(X, y)),
                partial(edge.follow, networks.perceptron, X, y, one, seed),
            )
            for seed in range(sizes.edges)
        ]
    save(figures.edges(found, lr), out / "flatness/edge.png")
    what = (
        f"The same network and digits, squared error on one-hot labels, full batch, lr {lr:g}, "
        f"{steps:,} steps."
    )
    return Part(page.edge_section(found, lr, what), {"edge": found})


def cifar(run: Run, sizes: Sizes, out: Path, options: argparse.Namespace) -> Part:
    """ResNet-20 on CIFAR-10, where its file is."""
    title = "CIFAR-10, ResNet-20"
    if options.cifar is None or not options.cifar.exists():
        return Part(f"## {title}\n\nNot run: no file of CIFAR-10 was given (`--cifar FILE.npz`).\n")
    X, y, test_X, test_y = networks.cifar(options.cifar, sizes.images, 2)
    batch = 50 if len(y) > 50 else 20
    make = partial(networks.resnet, depth=sizes.depth)
    most, chunk = sizes.epochs * len(y) // batch, min(len(y), 250)
    setting = Setting(make, X, y, 0.05, 0.0, sizes.cifar_targets, 5, most, chunk)
    ways = methods(batch, batch // 5, 3e-4)
    ways.pop("Entropy-SGD, hotter")  # to save time
    test = test_X, test_y
    table = compared(run, "cifar", setting, ways, sizes.cifar, test, sizes.looked_at)
    save(figures.at_equal_loss(table, sizes.cifar_targets, PLAIN), out / "flatness/cifar.png")
    what = (
        f"ResNet-{sizes.depth} (BatchNorm) on the first {len(y):,} images, pooled to 16 x 16 to "
        f"save time; {len(test_y):,} test images. lr 0.05 without momentum, batches of {batch} "
        f"(small: {batch // 5}), at most {most} steps, trace penalty times 3e-4, Entropy-SGD as "
        "above. Looks at the loss are 5 steps apart, between which it falls by up to a quarter: "
        "see its column. BatchNorm's statistics are taken anew before the accuracy is. λmax and "
        f"trace are those of {sizes.looked_at} training images with the statistics of these."
    )
    text = page.comparison(title, what, "cifar", table, sizes.cifar_targets, PLAIN)
    return Part(text, {"cifar": table})


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing, draws, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="seconds; its numbers mean nothing")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="digits,edge,cifar")
    parser.add_argument("--data", type=Path, default=data.DEFAULT, metavar="FILE")
    parser.add_argument("--cifar", type=Path, metavar="FILE")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the page goes")
    options = parser.parse_args(arguments)
    wanted = options.parts.split(",")
    if set(wanted) - set(PARTS):
        parser.error(f"--parts {options.parts}: there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    sizes = TINY if options.tiny else Sizes()
    folder = options.run or ROOT / "build" / ("flatness-tiny" if options.tiny else "flatness")
    out = options.out or (folder / "page" if options.tiny else ROOT / "docs/papers")
    run, sections, numbers = Run(folder), [], {}
    for name, part in zip(PARTS, (digits, edges, cifar), strict=True):
        run.begin(only_kept=name not in wanted)
        try:
            found = part(run, sizes, out, options)
        except NotMeasuredError as error:
            found = Part(f"## {name}\n\nNot run: {error.args[0]}; add --parts {name}.\n")
        sections.append(found.text)
        numbers |= found.numbers
        plt.close("all")
    note = ["**A tiny run: its numbers mean nothing.**\n"] if options.tiny else []
    command = "python papers/flatness.py" + (" --tiny" if options.tiny else "")
    command += "" if options.cifar is None else f" --cifar {options.cifar.name}"
    written = page.write(out, command, [*note, *sections], numbers)
    console.print(f"page: {written}")


if __name__ == "__main__":
    sys.exit(main())
