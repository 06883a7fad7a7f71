"""A figure of lines shows their losses, chords, ends and barriers."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import hesscope as hs

T = torch.linspace(0, 1, 5).double()


def path(losses, barrier=0.0, at=0.0, rounding=0.0):
    losses = torch.tensor(losses, dtype=torch.float64)
    return hs.LossLine(T, losses, barrier, at, 0.1, rounding, 1.0, 5)


HILL = path([1.0, 2.0, 5.0, 2.0, 3.0], barrier=3.0, at=0.5, rounding=0.1)
VALLEY = path([1.0, 0.5, 0.1, 0.5, 1.0])


def test_a_line_its_ends_and_its_chord_are_drawn_where_they_are():
    line, ends, chord = hs.plots.interpolation(HILL).lines
    assert np.array_equal(line.get_ydata(), HILL.losses)
    assert list(ends.get_ydata()) == [1.0, 3.0]
    assert list(chord.get_ydata()) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert chord.get_linestyle() == "--"


def test_the_barrier_is_an_arrow_from_the_chord_to_the_loss():
    ax = hs.plots.interpolation(HILL)
    arrow, text = ax.texts
    assert (arrow.xy, arrow.xyann) == ((0.5, 5.0), (0.5, 2.0))
    assert text.get_text() == "barrier: 3"


def test_the_losses_on_test_data_are_dotted():
    tested = torch.tensor([2.0, 3.0, math.inf, 3.0, 2.0])
    ax = hs.plots.interpolation(dataclasses.replace(HILL, test_losses=tested))
    (dotted,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert np.array_equal(dotted.get_ydata(), [2, 3, np.nan, 3, 2], equal_nan=True)
    assert ax.get_ylabel() == "mean loss (dotted: test data)"


@pytest.mark.parametrize(
    ("shown", "title"),
    [
        (VALLEY, "barrier: none"),
        (path([1.0, 1.2, 1.0, 1.0, 1.0], 0.2, 0.25, rounding=0.3), "barrier: none"),
        (path([1.0, math.inf, 1.0, 1.0, 1.0], math.inf, 0.25), "barrier: ∞  (▲ infinite loss)"),
        (path([1.0, math.nan, 1.0, 1.0, 1.0], math.nan, math.nan, math.nan), "barrier: unknown"),
    ],
)
def test_what_is_no_height_is_said_above(shown, title):
    ax = hs.plots.interpolation(shown)
    assert ax.get_title(loc="right") == title
    assert not ax.texts


def test_infinite_losses_are_marked_at_the_upper_edge():
    ax = hs.plots.interpolation(path([1.0, math.inf, math.inf, 2.0, 1.0], math.inf, 0.25))
    marks = [line for line in ax.lines if line.get_marker() == "^"]
    assert [list(mark.get_xdata()) for mark in marks] == [[0.25, 0.5]]
    assert np.isnan(ax.lines[0].get_ydata()).tolist() == [False, True, True, False, False]


def test_several_lines_have_labels_with_their_barriers():
    ax = hs.plots.interpolation([VALLEY, HILL], labels=["step 1", "step 9"])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["step 1: none", "step 9: 3"]
    colours = [line.get_color() for line in ax.lines[::3]]
    assert len(set(colours)) == 2
    stroke = ax.collections[0].get_segments()[0].tolist()
    assert stroke == [[0.5, 2.0], [0.5, 5.0]]
    assert ax.get_yscale() == "linear"


def test_losses_that_fall_a_hundredfold_get_a_logarithmic_axis():
    low = path([1e-3, 2e-3, 3e-3, 2e-3, 1e-3], 2e-3, 0.5)
    assert hs.plots.interpolation([HILL, low]).get_yscale() == "log"
    touching_zero = path([0.0, 2e-3, 3e-3, 2e-3, 1e-3], 2e-3, 0.5)
    assert hs.plots.interpolation([HILL, touching_zero]).get_yscale() == "linear"
    assert hs.plots.interpolation(low).get_yscale() == "linear"


def test_a_line_of_nothing_but_infinities_can_be_drawn():
    shown = path([math.inf] * 5, math.nan, math.nan, math.nan)
    hs.plots.interpolation([shown, shown]).figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("lines", "labels", "message"),
    [
        ([], None, "there is no line to draw; give results of hs.interpolate(problem, theta_a, "
         "theta_b)."),
        ([HILL, 3], None, "the list holds a int; give results of hs.interpolate(problem, theta_a, "
         "theta_b)."),
        ([HILL] * 30, None, "30 lines cannot be told apart; draw one of 3, lines[::3]."),
        ([HILL] * 2, ["a"], "1 labels for 2 lines; give one for each."),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(lines, labels, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.plots.interpolation(lines, labels=labels)
