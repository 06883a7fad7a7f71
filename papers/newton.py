"""Optimisers of `hs.optim` that use curvature, beside gradient descent, Adam and torch's L-BFGS.

python papers/newton.py             all of it, figures and page; resumes
python papers/newton.py --tiny      the same in seconds, for tests

SOAP is run too if `pytorch_optimizer` is installed (pip install --no-deps pytorch_optimizer).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from acting import autoencoder, drawing, million, page, saddles
from acting.settings import Settings, tiny
from common.data import DEFAULT
from common.keeping import Run, console, write_text
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing, draws, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="seconds; its numbers mean nothing")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the page goes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # seconds are those of a processor
    s = tiny() if options.tiny else Settings()
    folder = options.run or ROOT / "build" / ("newton-tiny" if options.tiny else "newton")
    out = options.out or (folder / "page" if options.tiny else ROOT / "docs/papers")
    parts = measured(Run(folder), s)
    draw(parts, s, out / "newton")
    command = "python papers/newton.py" + (" --tiny" if options.tiny else "")
    write_text(out / "newton.md", page.written(parts, s, command, tiny=options.tiny))
    console.print(f"page: {out / 'newton.md'}")


def measured(run: Run, s: Settings) -> dict[str, Any]:
    """Everything, from the run folder where it is there."""
    images, labels = digits()
    small = F.avg_pool2d(images[: s.examples, None], 2).flatten(1)
    large = images[: s.images].flatten(1), labels[: s.images]
    return {
        "plane": run.arrays("plane", (s.escapes, s.radii, s.plane_steps), lambda: saddles.plane(s)),
        "own": run.arrays("own", (s.seeds, s.linear_steps), lambda: saddles.own(s)),
        "million": million.measure(run, large, s),
        "autoencoder": autoencoder.measure(run, small, s),
        "best": autoencoder.floor(small),
        "constant": autoencoder.mean_image(small),
    }


def digits() -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels."""
    with np.load(DEFAULT) as archive:
        images, labels = archive["x_train"], archive["y_train"]
    return torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()


def draw(parts: dict[str, Any], s: Settings, folder: Path) -> None:
    """Three figures, the same bytes for the same numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "hesscope"
    figures = {
        "passages": drawing.passages(parts["plane"], parts["own"], s),
        "autoencoder": drawing.autoencoders(parts["autoencoder"], parts["best"], parts["constant"]),
        "million": drawing.steps(parts["million"]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
