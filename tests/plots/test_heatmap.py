"""A heat map shows every entry of a matrix, its sign, and where layers meet."""

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import hesscope as hs
from tests.oracles import data, network


def shown(ax):
    """The colours (n, n, 4) of the cells."""
    image = ax.images[0]
    return image.cmap(image.norm(image.get_array()))


def mixed(n=6):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(n, n, generator=generator) * 10.0 ** torch.linspace(-9, 2, n)
    return (A + A.T).double()


def test_every_entry_is_a_cell_on_a_scale_that_is_symmetric_about_zero():
    A = mixed()
    image = hs.plots.heatmap(A).images[0]
    assert np.array_equal(image.get_array(), A.numpy())
    assert image.norm.vmax == -image.norm.vmin == float(A.abs().max())
    assert image.norm(0.0) == pytest.approx(0.5)
    assert np.allclose(image.norm(A.numpy()), 1 - image.norm(-A.numpy()))


def test_colours_tell_signs_apart_down_to_a_ten_thousandth_of_the_largest():
    sizes = 10.0 ** torch.arange(-4.0, 1.0).double()
    colours = shown(hs.plots.heatmap(torch.diag(torch.cat([sizes, -sizes]))))
    red, blue = colours.diagonal()[0], colours.diagonal()[2]
    assert (blue[:5] > red[:5] + 0.05).all()
    assert (red[5:] > blue[5:] + 0.05).all()
    off_diagonal = colours[~np.eye(10, dtype=bool)]
    assert np.allclose(off_diagonal, 1.0, atol=0.01)  # zero is white


@pytest.mark.parametrize("with_ends", [True, False])
def test_lines_are_where_layers_meet_and_names_are_on_both_axes(with_ends):
    problem = hs.Problem(network(3, 4, 2), torch.nn.functional.cross_entropy, data(20, 3, 2))
    slices = problem.layout.slices()
    ends = [part.stop for part in slices.values()]
    boundaries = [0, *ends] if with_ends else ends[:-1]
    H = hs.Hessian(problem).to_dense()
    ax = hs.plots.heatmap(H, names=list(slices), boundaries=boundaries)
    heights = [segment[0][1] for segment in ax.collections[0].get_segments()]
    places = [segment[0][0] for segment in ax.collections[1].get_segments()]
    assert heights == places == ends[:-1]
    names = [text.get_text() for text in ax.texts]
    assert sorted(names) == sorted([*slices, *slices])
    assert ax.get_ylim() == (problem.n, 0)  # the first row is at the top


def test_boundaries_may_be_a_tensor_of_cumulated_sizes():
    ax = hs.plots.heatmap(torch.eye(9), boundaries=torch.tensor([2, 3, 4]).cumsum(0))
    assert [segment[0][1] for segment in ax.collections[0].get_segments()] == [2, 5]


def test_names_of_narrow_blocks_do_not_run_into_each_other():
    sizes = [300, 1, 1, 1, 1, 300, 1, 1, 1]
    names = [f"{i}.bias" for i in range(len(sizes))]
    ax = hs.plots.heatmap(
        torch.eye(sum(sizes)), names=names, boundaries=torch.tensor(sizes).cumsum(0)
    )
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    left = [text for text in ax.texts if text.get_rotation() == 0]
    below = [text for text in ax.texts if text.get_rotation() == 90]
    assert len(left) == len(below) == len(sizes)
    for group in (left, below):  # the letters alone, without the lines to the blocks
        boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in group]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    "matrix", [torch.zeros(5, 5), torch.ones(1, 1), torch.full((2, 2), 1e-300)]
)
def test_a_matrix_of_zeros_or_of_one_entry_can_be_drawn(matrix):
    hs.plots.heatmap(matrix.double()).figure.draw_without_rendering()


def test_axes_that_are_given_are_drawn_on():
    ax = hs.plots.heatmap(torch.eye(2))
    assert hs.plots.heatmap(torch.eye(3), ax=ax) is ax


BAD_MATRICES = {
    "not square": (
        torch.zeros(2, 3),
        "matrix is (2, 3); a heat map needs a square tensor (n, n), such as "
        "hs.Hessian(problem).to_dense().",
    ),
    "no tensor": (
        [[1.0]],
        "matrix is list; a heat map needs a square tensor (n, n), such as "
        "hs.Hessian(problem).to_dense().",
    ),
    "too large": (
        torch.zeros(1, 1).expand(1001, 1001),
        "a matrix of 1001 rows cannot be seen entry by entry; draw 1 to 1000: matrix[:500, :500], "
        "or the Hessian of problem.block('layers.3.*'), or one cell per layer: "
        "hs.plots.layer_map(hs.layer_map(problem)).",
    ),
    "not finite": (
        torch.tensor([[math.nan]]),
        "the matrix has 1 entries that are NaN or infinite; hs.check_problem names the cause.",
    ),
}


@pytest.mark.parametrize("name", BAD_MATRICES)
def test_what_cannot_be_seen_is_refused(name):
    matrix, message = BAD_MATRICES[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.plots.heatmap(matrix)


@pytest.mark.parametrize("boundaries", [[3, 2], [2, 2], [7], [-1]])
def test_boundaries_that_do_not_cut_the_rows_are_refused(boundaries):
    message = (
        f"boundaries={boundaries} do not cut 5 rows into blocks; they must ascend from 0 to 5, as "
        "torch.tensor(sizes).cumsum(0) does."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.plots.heatmap(torch.eye(5), boundaries=boundaries)


@pytest.mark.parametrize(("boundaries", "kind", "num"), [([2], "blocks", 2), (None, "rows", 5)])
def test_names_have_to_be_one_for_each_block_or_row(boundaries, kind, num):
    message = (
        f"3 names for {num} {kind}; give one each, and the rows at which named blocks begin as "
        "boundaries."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.plots.heatmap(torch.eye(5), names=list("abc"), boundaries=boundaries)
