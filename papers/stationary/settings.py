"""How large the study of saddles is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of a run."""

    networks: tuple[str, ...] = ("teacher", "noise", "linear", "digits")
    seeds: int = 5  # of paths, in each setting
    steps: tuple[int, ...] = (0, 30, 100, 300, 1_000, 10_000)  # at which a path is left
    shifts: tuple[float, ...] = (0.0, 0.3, 1.0)  # off the path, in units of |θ|
    path_steps: tuple[int, ...] = (0, 3, 10, 20, 40, 80, 150, 300, 600, 1_200, 2_500, 5_000, 10_000)
    iterations: int = 200  # of the search
    spins: tuple[int, int] = (40, 60)  # of the control: dimension, starts
    widths: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # of the teacher's students
    width_starts: int = 150
    width_steps: tuple[int, int] = (1_000, 10_000)
    descents: int = 40  # to minima, in each setting
    paths: tuple[str, ...] = (
        "teacher",
        "noise",
        "linear",
        "digits",
        "teacher, small",
        "linear, small",
    )
    random_points: int = 200
    saddles: int = 24  # that are left by every method, in each setting
    escape_steps: int = 3_000
    kicks: int = 10
    quasi_steps: int = 500
    runs: int = 10  # of each quasi-Newton method, from each kind of start
    plateau_steps: int = 15_000
    plateau_seeds: int = 5
    looks: int = 60  # along a path


def tiny() -> Sizes:
    """Seconds."""
    return Sizes(
        networks=("teacher", "linear"),
        seeds=2,
        steps=(0, 30),
        shifts=(0.0, 1.0),
        path_steps=(0, 30),
        iterations=60,
        spins=(10, 12),
        widths=(2,),
        width_starts=12,
        width_steps=(10, 30),
        descents=4,
        paths=("teacher", "linear, small"),
        random_points=10,
        saddles=3,
        escape_steps=100,
        kicks=2,
        quasi_steps=4,
        runs=2,
        plateau_steps=60,
        plateau_seeds=2,
        looks=4,
    )
