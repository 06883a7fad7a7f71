"""What `hs.diagnose` says of any trained network of the figures, as text, record and page."""

from __future__ import annotations

from pathlib import Path

from common import data
from common.keeping import console, progress

import hesscope as hs
from sagun import networks, simple
from sagun.context import Context


def write(c: Context, network: str, out: Path) -> None:
    """Trains the network unless it is kept, examines it, and prints and writes what was found."""
    problem, lr = _problem(c, network)
    with progress():
        found = hs.diagnose(problem, lr=lr)
    print(found)
    folder = hs.save(found, out / f"diagnosis-{network}")
    page = found.to_html(out / f"diagnosis-{network}.html")
    console.print(f"kept in {folder}, page in {page}")


def names(c: Context) -> list[str]:
    """Every network that can be asked for."""
    widths = [*c.settings.widths, *c.settings.densities]
    digits = [f"digits-{k}" for k in (2, *widths)]
    return [*digits, f"random-{widths[0]}", *(f"blobs-{n}" for n in _blobs(c)), "blobs-mse"]


def _blobs(c: Context) -> dict[int, tuple[int, ...]]:
    """The layers by the number of parameters."""
    layers = [(2, k, k, 2) for k in c.settings.blobs.widths]
    return {networks.num_parameters(each): each for each in layers}


def _problem(c: Context, network: str) -> tuple[hs.Problem, float]:
    """The trained network with its data, and the step size of its training."""
    if network not in names(c):
        msg = f"--report {network}: there are {', '.join(names(c))}."
        raise SystemExit(msg)
    kind, _, size = network.partition("-")
    if kind == "blobs":
        return _on_blobs(c, size)
    s, d = c.settings.digits, c.X.shape[1]
    layers = (d, 2, 10) if size == "2" else c.layers(int(size))
    X, y = c.noise if kind == "random" else (c.X, c.y)
    if kind == "random":
        s = s.gentle(s.random_lr)
    elif size == "2":
        s = s.gentle(s.small_lr)
    return c.trained(network, layers, X, y, s)[1], s.lr


def _on_blobs(c: Context, size: str) -> tuple[hs.Problem, float]:
    """The first network of its size that is not dead."""
    s = c.settings.blobs
    X, y = data.blobs(s.points, s.std)
    mse = size == "mse"
    loss, lr = ("mse", s.mse_lr) if mse else ("cross_entropy", s.lr)
    layers = list(_blobs(c).values())[1] if mse else _blobs(c)[int(size)]
    found = simple.trained(
        c, f"blobs/{size}", layers, (X, y), loss=loss, num=s.mse_seeds if mse else None
    )
    e = hs.ensemble.Ensemble(layers, "relu", found["theta"])
    targets = networks.one_hot(y) if mse else y
    return networks.problem(e, simple.first(found), X, targets, loss), lr
