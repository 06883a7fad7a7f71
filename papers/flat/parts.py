"""The parts of the study: what each measures, shows and claims."""

from __future__ import annotations

from functools import partial

import torch
from common import data
from common.keeping import NotMeasuredError
from common.keeping import Run as Kept
from common.study import Section
from torch import Tensor

from flat import chances, claims, edge, figures, networks, page, scaling
from flat.measure import COLUMNS, MEASURES, measured
from flat.settings import Sizes
from flat.train import Method, Setting

PLAIN = "plain SGD"


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
    run: Kept,
    name: str,
    setting: Setting,
    ways: dict[str, Method],
    seeds: int,
    tests: dict[str, tuple[Tensor, Tensor]],
    looked: int,
    sharp: bool = False,
) -> figures.Table:
    """By method, columns of (seeds, targets)."""
    table: dict[str, list[dict[str, Tensor]]] = {way: [] for way in ways}
    same = (setting.lr, setting.momentum, setting.targets, setting.every, setting.most, looked)
    for seed in range(seeds):
        for way, method in ways.items():
            digest = data.digest(setting.X, setting.y)
            key = (method, same, len(setting.y), digest, list(tests), sharp)
            job = partial(measured, setting, method, seed, tests, looked, sharp)
            place = f"{name}/{way.replace(' ', '-').replace(',', '').replace('=-', '')}/{seed}"
            table[way].append(run.arrays(place, key, job))
    columns = [*COLUMNS, *tests, *(MEASURES if sharp else ())]
    return {
        way: {column: torch.stack([row[column] for row in rows]) for column in columns}
        for way, rows in table.items()
    }


def _digits(run: Kept, sizes: Sizes) -> tuple[figures.Table, int, int]:
    """The comparison on digits, and how many there were to train and to test."""
    X, y, test_X, test_y = networks.digits(sizes.train)
    make = partial(networks.perceptron, width=sizes.width)
    setting = Setting(make, X, y, 0.5, 0.0, sizes.targets, 10, sizes.most, len(y))
    tests = {"accuracy": (test_X, test_y), "shifted": (networks.shifted(test_X), test_y)}
    ways = methods(100, 10, 1e-2)
    table = compared(run, "digits", setting, ways, sizes.digits, tests, len(y), sharp=True)
    return table, len(y), len(test_y)


def digits(run: Kept, sizes: Sizes) -> Section:
    """The perceptron on pooled digits, and on the same digits shifted by a pixel."""
    table, num, num_test = _digits(run, sizes)
    what = (
        f"A 49-32-10 perceptron (tanh, 1,930 parameters, float64) on {num} digits of 7 x 7 "
        f"pixels; {num_test} others for the accuracy, and the same shifted to the right by one of "
        "the seven pixels for data from elsewhere. lr 0.5 without momentum, batches of 100 "
        "(small: 10), trace penalty of the Gauss-Newton matrix times 0.01, Entropy-SGD with rounds "
        "of 10 steps, γ = 0.1 and noise 1e-4 (hotter: 0.02). λmax and trace are those of all "
        "training data."
    )
    text = page.comparison(what, table, sizes.targets, PLAIN)
    found = claims.of_comparison(table, sizes.targets, PLAIN, "digits")
    found += claims.elsewhere(table, sizes.targets, PLAIN)
    best = {
        "Small batches test better": (chances.small_batches(run, sizes), True),
        "Entropy-SGD ends in flatter minima": (chances.entropy(run, sizes), False),
        "Flatter minima do better on": (chances.elsewhere(run, sizes), True),
    }
    for start, (settings, points_of) in best.items():
        found = [
            chances.tried(c, settings, points_of=points_of) if c.claim.startswith(start) else c
            for c in found
        ]
    text += chances.text(best, sizes.digits)
    return Section(
        text, found, figures.at_equal_loss(table, sizes.targets, PLAIN), {"table": table}
    )


def measures(run: Kept, sizes: Sizes) -> Section:
    """Rank correlation of each measure of sharpness with accuracy, at the lowest loss."""
    table, _, _ = _digits(run, sizes)
    found = claims.correlations(table)
    claim = claims.flatter_is_better(
        found, next(iter(table.values()))["loss"].shape[0] * len(table)
    )
    figure = figures.correlations(found)
    return Section(page.correlations(found, sizes.targets[-1]), [claim], figure, {"tau": found})


def rescaled(run: Kept, sizes: Sizes) -> Section:
    """A ReLU network whose layers are scaled against each other: the same function."""
    X, y, test_X, test_y = networks.digits(sizes.train)
    key = (sizes.factors, sizes.digits, sizes.width, sizes.steps, data.digest(X, y))
    job = partial(scaling.rescaled, (X, y), (test_X, test_y), sizes)
    found = run.arrays("rescaled", key, job)
    claim = claims.sharpness_is_of_the_weights(found)
    return Section(page.scaling(found), [claim], figures.scaling(found), found)


def edges(run: Kept, sizes: Sizes) -> Section:
    """Full-batch gradient descent and SAM."""
    lr, steps, every = sizes.edge
    X, y, _, _ = networks.digits(sizes.train)
    make = partial(networks.perceptron, width=sizes.width)
    found: dict[float, list[dict[str, Tensor]]] = {}
    for rho in (0.0, 0.05, 0.2):
        one = edge.Run(lr, rho, steps, every)
        found[rho] = [
            run.arrays(
                f"edge/{rho}/{seed}",
                (one, data.digest(X, y)),
                partial(edge.follow, make, X, y, one, seed),
            )
            for seed in range(sizes.edges)
        ]
    what = (
        f"The same network and digits, squared error on one-hot labels, full batch, lr {lr:g}, "
        f"{steps:,} steps."
    )
    text = page.edge_section(found, lr, what)
    claim = claims.at_its_edge(found, lr)
    late = {rho: [figures.late(one) for one in seeds] for rho, seeds in found.items()}
    return Section(text, [claim], figures.edges(found, lr), {"ratio and λmax, late": late})


def cifar(run: Kept, sizes: Sizes) -> Section:
    """ResNet-20 on CIFAR-10, where its file is."""
    if sizes.cifar is None or not sizes.cifar.exists():
        msg = "no file of CIFAR-10 was given (--cifar FILE.npz)"
        raise NotMeasuredError(msg)
    X, y, test_X, test_y = networks.cifar(sizes.cifar, sizes.images, 2)
    batch = 50 if len(y) > 50 else 20
    make = partial(networks.resnet, depth=sizes.depth)
    most, chunk = sizes.epochs * len(y) // batch, min(len(y), 250)
    setting = Setting(make, X, y, 0.05, 0.0, sizes.cifar_targets, 5, most, chunk)
    ways = methods(batch, batch // 5, 3e-4)
    ways.pop("Entropy-SGD, hotter")  # to save time
    tests = {"accuracy": (test_X, test_y)}
    table = compared(run, "cifar", setting, ways, sizes.cifar_seeds, tests, sizes.looked_at)
    return cifar_section(table, sizes, batch, len(y), len(test_y))


def cifar_section(table: figures.Table, sizes: Sizes, batch: int, num: int, test: int) -> Section:
    """The section of CIFAR-10 from its table."""
    what = (
        f"ResNet-{sizes.depth} (BatchNorm) on the first {num:,} images, pooled to 16 x 16 to "
        f"save time; {test:,} test images. lr 0.05 without momentum, batches of {batch} "
        f"(small: {batch // 5}), at most {sizes.epochs * num // batch} steps, trace penalty times "
        "3e-4, Entropy-SGD as above. Looks at the loss are 5 steps apart, between which it falls "
        "by up to a quarter: see its column. BatchNorm's statistics are taken anew before the "
        f"accuracy is. λmax and trace are those of {sizes.looked_at} training images with the "
        "statistics of these."
    )
    text = page.comparison(what, table, sizes.cifar_targets, PLAIN)
    found = claims.of_comparison(table, sizes.cifar_targets, PLAIN, "CIFAR-10, ResNet-20")
    figure = figures.at_equal_loss(table, sizes.cifar_targets, PLAIN)
    return Section(text, found, figure, {"table": table})
