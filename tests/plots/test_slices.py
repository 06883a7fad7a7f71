"""Figures of slices show their losses where they are, on one scale, with their parabolas."""

import re

import numpy as np
import pytest
import torch

import hesscope as hs
from hesscope.results.slices import Directions, Slice

A, B = torch.linspace(-1, 1, 5).double(), torch.linspace(-2, 2, 7).double()


def plane(scale=1.0, losses=None, trajectory=None):
    found = scale * (1 + A[:, None] ** 2 + 3 * B**2) if losses is None else losses
    drawn = Directions(torch.eye(2), ("a", "b"), "a unit", trajectory=trajectory)
    curvatures = torch.tensor([2.0, 6.0]).double().diag() * scale
    share = hs.Estimate(0.25, 0.01)
    return Slice(
        (A, B), found, scale, drawn, torch.zeros(2).double(), curvatures, share, None, "none", None,
        35, 9,
    )  # fmt: skip


def line(**changes):
    values = {
        "losses": 1 + A**2, "slopes": torch.zeros(1).double(), "test_losses": None, **changes
    }  # fmt: skip
    drawn = Directions(torch.ones(2, 1), ("a",), "a unit")
    return Slice(
        (A,), values["losses"], 1.0, drawn, values["slopes"], 2 * torch.eye(1).double(), None, None,
        "none", values["test_losses"], 5, 1,
    )  # fmt: skip


def test_a_line_its_parabola_and_its_test_losses():
    ax = hs.plots.line(line(test_losses=2 + A**2))
    loss, tested, parabola, theta = ax.lines
    assert np.array_equal(loss.get_ydata(), 1 + A**2)
    assert np.array_equal(tested.get_ydata(), 2 + A**2)
    assert np.allclose(parabola.get_ydata(), 1 + A**2)
    assert (theta.get_xdata(), theta.get_ydata()) == ([0], [1.0])
    assert ax.get_xlabel() == "a\n(1 = a unit)"
    assert hs.plots.line(line(), log=True).get_yscale() == "log"


def test_a_line_through_a_plane_is_its_middle_column():
    assert np.allclose(hs.plots.line(plane()).lines[0].get_ydata(), 1 + A**2)


def test_contours_have_the_first_direction_across_and_say_what_is_hidden():
    tilted = A[:, None] + 0 * B + 2
    ax = hs.plots.contour(plane(losses=tilted))
    low, high = ax.get_xlim()
    assert (low, high) == (-1, 1)
    assert ax.get_ylim() == (-2, 2)
    edges = ax.collections[0].get_paths()[0].vertices  # the lowest band is at the left
    assert edges[:, 0].max() < -0.7
    assert edges[:, 1].min() == -2
    assert ax.get_title(loc="left") == "in this plane: 25 ± 1 % of the trace"
    assert ax.get_xlabel().startswith("a\n")


def test_panels_share_one_scale_of_colours():
    small, large = plane(), plane(scale=10.0)
    for drawn in (small, large):
        norm = hs.plots.contour(drawn, share=[small, large]).collections[0].norm
        assert (norm.vmin, norm.vmax) == pytest.approx((1.0, 140.0))
    assert hs.plots.contour(small).collections[0].norm.vmax == pytest.approx(14.0)


def test_a_trajectory_is_drawn_where_it_went():
    path = torch.tensor([[-1.0, 1.0], [0.5, 0.2], [0.0, 0.0]])
    ax = hs.plots.contour(plane(trajectory=path), log=True)
    assert np.array_equal(ax.lines[0].get_xydata(), path)


def test_a_surface_has_the_losses_as_heights():
    ax = hs.plots.surface(plane())
    assert ax.name == "3d"
    assert ax.get_zlabel() == "mean loss"
    assert len(ax.lines) == 2
    x, y, z = ax.lines[0].get_data_3d()
    assert np.allclose(z, 1 + x**2)
    assert not np.any(y)
    assert hs.plots.surface(plane(), log=True).get_zlabel() == "log10 of the mean loss"


def test_losses_that_are_not_finite_leave_a_gap():
    losses = 1 + A[:, None] ** 2 + 3 * B**2
    losses[0, 0] = torch.inf
    for draw in (hs.plots.contour, hs.plots.surface):
        ax = draw(plane(losses=losses))
        ax.figure.canvas.draw()
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
        if draw is hs.plots.surface:
            assert np.isfinite(ax.get_zlim()).all()


@pytest.mark.parametrize(
    ("draw", "given", "cause"),
    [
        ("contour", {"result": line()}, "the slice has one direction; draw it with hs.plots.line."),
        ("surface", {"result": line()}, "the slice has one direction; draw it with hs.plots.line."),
        (
            "line",
            {"result": line(losses=A * torch.nan)},
            "no loss of the slice is finite; make it with a smaller span.",
        ),
        (
            "contour",
            {"result": plane(losses=0 * plane().losses), "log": True},
            "the lowest loss is 0 and has no logarithm; draw with log=False.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, given, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        getattr(hs.plots, draw)(**given)


def test_flat_axes_are_refused_for_a_surface():
    flat = hs.plots.line(line())
    with pytest.raises(ValueError, match="ax is flat; make it with figure"):
        hs.plots.surface(plane(), ax=flat)
