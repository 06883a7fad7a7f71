"""Densities in pictures: what is not certain has no colour, and pictures lie over one another."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

import hesscope as hs
from hesscope import report
from hesscope.plots.style import NEGATIVE


@pytest.fixture(scope="module")
def found():
    """Twelve negative eigenvalues that 60 products do not tell from zero, a bulk, ten outliers."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([
        -torch.logspace(-5, -4, 12, dtype=torch.float64),
        torch.rand(900, generator=generator, dtype=torch.float64) * 1e-3,
        torch.linspace(1, 5, 10, dtype=torch.float64),
    ])  # fmt: skip
    return hs.spectral_density(torch.diag(values), 60, seed=0)


def test_no_bar_has_a_colour_whose_count_may_be_zero(found):
    ax = hs.plots.density(found)
    assert "there may be none" in [text.get_text() for text in ax.get_legend().get_texts()]
    hatched = [bar for bar in ax.patches if bar.get_hatch()]
    assert hatched
    level = 1 - (1 - 0.95 - found.delta) / 200 - found.delta  # wider than any of the picture
    for bar in ax.patches:
        a, b = bar.get_x(), bar.get_x() + bar.get_width()
        if bar not in hatched and found.count(a, b, level).low == 0:
            assert found.count(a, b, 0.95).low > 0  # no wider one decides for it
        if bar.get_facecolor()[:3] == to_rgba(NEGATIVE)[:3]:
            assert found.count(a, b, 0.95).low > 0


def test_a_curve_has_the_mass_of_its_nodes_and_says_its_width(found):
    ax = hs.plots.density(found, kind="curve", label="here")
    x, y = ax.lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(x * y, x) == pytest.approx(float(found.nodes @ found.weights), rel=1e-2)
    assert ax.get_yscale() == "log"
    width = (float(found.nodes[-1]) - float(found.nodes[0])) / 100
    assert f"{width:.1e}" in ax.get_xlabel()
    narrow = hs.plots.density(found, kind="curve", width=width / 3)
    assert f"{width / 3:.1e}" in narrow.get_xlabel()


@pytest.mark.parametrize("kind", ["counts", "cdf", "curve"])
def test_two_densities_lie_over_one_another(found, kind):
    wider = hs.spectral_density(torch.diag(torch.linspace(-50, 50, 300).double()), 40, seed=0)
    ax = None
    for one, label, color in ((found, "first", "C0"), (wider, "second", "C1")):
        ax = hs.plots.density(one, kind=kind, ax=ax, label=label, color=color)
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any(text.startswith("first") for text in told)
    assert any(text.startswith("second") for text in told)
    low, high = ax.get_xlim()
    assert low < -50
    assert high > 50


def test_what_cannot_be_drawn_is_told(found):
    for bad, match in (
        ({"kind": "bars"}, "'counts', 'cdf' or 'curve'"),
        ({"width": 0.1}, "kernel of kind='curve'"),
        ({"kind": "curve", "width": -1.0}, "above zero"),
        ({"kind": "curve", "law": hs.rmt.Semicircle()}, "kind='counts' or 'cdf'"),
    ):
        with pytest.raises(ValueError, match=match):
            hs.plots.density(found, **bad)


WRONG = {
    "density": (hs.plots.density, "hs.spectral_density"),
    "histogram": (hs.plots.spectrum_histogram, "hs.spectrum"),
    "eigenvalues": (hs.plots.eigenvalues, "hs.eigsh"),
    "line": (hs.plots.line, "hs.loss_slice"),
    "contour": (hs.plots.contour, "hs.loss_slice"),
    "interpolation": (hs.plots.interpolation, "hs.interpolate"),
    "path": (hs.plots.path, "hs.loss_path"),
    "layers": (hs.plots.layer_map, "hs.layer_map"),
    "basin": (hs.plots.basin, "hs.basin"),
    "checkpoints": (hs.plots.eigenvalues_over_checkpoints, "hs.spectra"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_told_what_to_pass(name):
    draw, source = WRONG[name]
    with pytest.raises(TypeError, match=rf"not a Tensor; give the result of {source}"):
        draw(torch.ones(3))


def test_axes_have_to_be_axes(found):
    with pytest.raises(TypeError, match=r"ax is a ndarray; give one Axes"):
        hs.plots.density(found, ax=plt.subplots(1, 2)[1])


def test_a_new_figure_is_the_one_that_pyplot_saves(found, tmp_path):
    ax = hs.plots.density(found)
    assert plt.gcf() is ax.figure
    plt.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_pages_leave_no_figure_open(found, tmp_path):
    report.write(tmp_path / "page.html", "a page", [], {"density": found}, "60 matvecs")
    assert not plt.get_fignums()


def test_a_paper_has_its_own_width_and_letters(found):
    with hs.plots.paper_style("page"):
        ax = hs.plots.density(found)
        assert plt.rcParams["pdf.fonttype"] == 42
    assert ax.figure.get_size_inches()[0] == pytest.approx(6.8)
    assert ax.xaxis.label.get_fontsize() == 8
    assert hs.plots.density(found).figure.get_size_inches()[0] == pytest.approx(7.2)
    for bad in ("wide", 0.0, True, float("nan")):
        with (
            pytest.raises(ValueError, match="'column', 'page' or a number of inches"),
            hs.plots.paper_style(bad),
        ):
            pass
