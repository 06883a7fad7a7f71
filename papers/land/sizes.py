"""What a run of the study takes time for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of seeds, examples and steps."""

    seeds: int = 5
    examples: int = 300
    windows: int = 150  # of text
    steps: int = 1500  # full-batch ones, and of the network whose surface is drawn
    brief: int = 800  # of perceptrons in batches
    short: int = 500  # of transformers and convolutions
    points: int = 25  # of a slice, in each direction
    classes: tuple[int, ...] = (2, 4, 7, 10)
    widths: tuple[int, ...] = (4, 32)
    bending: int = 150  # steps of a curve
    ladder: tuple[int, ...] = (5, 10, 20, 40, 80, 160)  # examples
    tested: int = 500
    hidden: int = 12  # units of a perceptron
    channels: tuple[int, int] = (4, 6)  # of the CNN
    d: int = 4  # of the transformer
    networks: int = 4  # of which the spectra are compared over data, or zeros are counted
    kinds: tuple[str, ...] = ()  # of networks and tasks in `bulk`; all of them


TINY = Sizes(
    seeds=1, examples=24, windows=12, steps=8, brief=8, short=4, points=3, classes=(2,),
    widths=(), bending=3, ladder=(4,), tested=20, hidden=3, channels=(1, 2), d=2, networks=2,
    kinds=("perceptron", "cnn", "adam"),
)  # fmt: skip
