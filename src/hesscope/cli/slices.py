"""What `hesscope slice` measures and draws."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import hesscope as hs
from hesscope.curvature.shared import shared_seed
from hesscope.plots.style import detached
from hesscope.problem.checkpoints import checkpoints_in, read_weights
from hesscope.system import files

PAGE = ".html"


def measure(problem: hs.Problem, options: argparse.Namespace) -> Any:
    """A slice along directions, or the line between two files of weights.

    Raises:
        ValueError: if a path is asked for that has no ends, or a page of what is no plane.
    """
    _refuse_idle(options)
    page = options.figure is not None and options.figure.suffix == PAGE
    if page and options.between is not None:
        raise ValueError(_no_plane(options.figure))
    options.seed = shared_seed(options.seed)
    if options.between is not None:
        a, b = (read_weights(problem.model, path) for path in options.between)
        if options.path:
            asked = {"num_points": options.points, "match": options.match, "seed": options.seed}
            return hs.loss_path(problem, a, b, **asked)
        return hs.interpolate(problem, a, b, options.points)
    if options.path:
        msg = "--path goes between two files of weights; add --between A.pt B.pt."
        raise ValueError(msg)
    span = 1.0 if options.span is None and not options.trajectory else options.span
    directions = _directions(problem, options)
    if page and len(directions) != 2:
        raise ValueError(_no_plane(options.figure))
    return hs.loss_slice(
        problem,
        directions,
        span,
        options.points,
        seed=options.seed,
        scratch=options.resume or options.scratch,
        workers=options.workers,
    )


def _refuse_idle(options: argparse.Namespace) -> None:
    """Options that mean nothing without another one.

    Raises:
        ValueError: if that is not given.
    """
    if options.match and not options.path:
        msg = "--match permutes units before a path; add --path --between A.pt B.pt."
        raise ValueError(msg)
    if options.log and options.figure is None:
        msg = "--log is about the figure; add --figure FILE.png."
        raise ValueError(msg)


@detached()
def draw(result: Any, path: Path, *, log: bool) -> Path:
    """The figure of such a result, in a file; a page with a surface to turn, if that is .html.

    A file that is there stays until this one is whole.

    Raises:
        RuntimeError: if it cannot be written.
    """
    if path.suffix == PAGE:
        from hesscope.report import write_surface  # needs jinja2

        return write_surface(path, "hesscope: the loss on a plane", result)
    if isinstance(result, hs.Slice):
        many = len(result.axes) == 2
        ax = hs.plots.contour(result, log=log) if many else hs.plots.line(result, log=log)
    else:
        curved = isinstance(result, hs.LossPath)
        ax = hs.plots.path(result) if curved else hs.plots.interpolation(result)
        if log:
            ax.set_yscale("log")
    figure: Any = ax.figure
    form = path.suffix.removeprefix(".")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=form)
    try:
        files.replace(path, lambda file: file.write(drawn.getbuffer()))
    except OSError as error:
        msg = f"cannot write the figure to {path}: {error.strerror}. Choose another place."
        raise RuntimeError(msg) from error
    return path


def _no_plane(path: Path) -> str:
    return f"--figure {path} is a page of a plane, and this is a line; give .png, .svg or .pdf."


def _directions(problem: hs.Problem, options: argparse.Namespace) -> hs.Directions:
    """The directions that were asked for.

    Raises:
        ValueError: if a checkpoint of the trajectory is not there.
    """
    if options.trajectory:
        for path in options.trajectory:
            if not path.exists():
                msg = f"--trajectory {path}: there is no such file or folder of checkpoints."
                raise ValueError(msg)
        one = options.trajectory[0] if len(options.trajectory) == 1 else None
        thetas = checkpoints_in(one) if one is not None and one.is_dir() else options.trajectory
        return hs.directions(problem, "trajectory", min(2, len(thetas)), thetas=thetas)
    if options.gradient:
        return hs.directions(problem, "gradient")
    for kind in ("eigen", "random", "filter"):
        num = getattr(options, kind)
        if num is not None:
            return hs.directions(problem, kind, num, seed=options.seed)
    return hs.directions(problem, "filter", 2, seed=options.seed)
