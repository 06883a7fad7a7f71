"""Figures of spectra over training count every eigenvalue and say what they call zero."""

import math
import re

import numpy as np
import pytest
import torch

import hesscope as hs

STEPS = [0, 1, 10, 100]


def spectra(num=4, n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num, n, generator=generator).double()
    return (values * 10.0 ** torch.linspace(-9, 2, n)).sort(1).values


def counts(ax):
    """(bins, steps) of a heat map, zeros included."""
    return ax.collections[0].get_array().filled(0)


def zeros(ax):
    """How many eigenvalues each step has in the bin around zero."""
    return counts(ax)[len(counts(ax)) // 2].tolist()


def test_the_cells_of_a_heat_map_count_all_eigenvalues_of_each_step():
    assert counts(hs.plots.spectra_over_training(STEPS, spectra())).sum(0).tolist() == [50] * 4


def test_the_bars_of_ridges_count_all_eigenvalues_of_each_step():
    values = spectra()
    ax = hs.plots.spectra_over_training(STEPS, values, kind="ridge")
    mesh = counts(hs.plots.spectra_over_training(STEPS, values))
    for step, bars in enumerate(ax.containers):
        assert all(bar.get_y() == step for bar in bars)
        heights = np.array([bar.get_height() for bar in bars])
        unit = math.log1p(mesh.max()) / 0.9
        assert np.expm1(heights * unit) == pytest.approx(mesh[:, step])
    middles = [text.get_text() for text in ax.texts]
    assert middles == [str(count) for count in mesh[len(mesh) // 2]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "10", "100"]


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 5),
        -torch.ones(2, 3),
        torch.full((2, 1), 1e12),
        10.0 ** torch.linspace(-12, 0, 40).expand(2, 40),
        torch.full((2, 3), 1e-200).double(),
    ],
    ids=["zeros", "negative", "huge", "twelve decades", "tiny"],
)
@pytest.mark.parametrize("how", [{}, {"relative": 1e-3}, {"tau": 1e-2}, {"kind": "ridge"}])
def test_any_spectrum_can_be_drawn(values, how):
    ax = hs.plots.spectra_over_training([0, 5], values.double(), **how)
    ax.figure.draw_without_rendering()
    if how.get("kind") != "ridge":
        assert counts(ax).sum(0).tolist() == [values.shape[1]] * 2


def test_results_and_their_eigenvalues_give_the_same_picture():
    values = spectra()
    results = [hs.Spectrum(row, 1e-16, len(row)) for row in values]
    assert np.array_equal(
        counts(hs.plots.spectra_over_training(STEPS, results)),
        counts(hs.plots.spectra_over_training(STEPS, values)),
    )


def test_densities_are_drawn_as_the_counts_that_they_expect():
    values = torch.cat([torch.zeros(40), torch.tensor([1.0, 1.0, 8.0])]).double()
    density = hs.spectral_density(hs.as_operator(torch.diag(values)), max_matvecs=12)
    ax = hs.plots.spectra_over_training([0, 5], [density, density])
    shown = ax.collections[0].get_array()
    assert shown.sum(axis=0).tolist() == pytest.approx([43.0, 43.0], rel=1e-6)
    edges = ax.collections[0].get_coordinates()[:, 0, 1]
    assert float(edges[-1]) > 8.0
    inside = density.expected(-0.5, 0.5)  # 40, up to the luck of the start
    assert shown[len(edges) // 2 - 1, 0] == pytest.approx(inside, rel=1e-6)
    assert inside == pytest.approx(40.0, abs=3.0)


def test_absolute_and_relative_thresholds_tell_opposite_stories_of_a_shrinking_spectrum():
    first = torch.tensor([1e-4, 1e-3, 1e-2, 0.1, 1.0]).double()
    shrinking = torch.stack([first, 1e-2 * first, 1e-4 * first])
    absolute = hs.plots.spectra_over_training([0, 1, 2], shrinking, tau=1.5e-3)
    relative = hs.plots.spectra_over_training([0, 1, 2], shrinking, relative=1.5e-3)
    assert zeros(absolute) == [2, 4, 5]  # more and more become zero
    assert zeros(relative) == [2, 2, 2]  # nothing changes
    assert absolute.get_ylabel() == "eigenvalue (called zero\nwithin τ = 0.0015 at all steps)"
    assert relative.get_ylabel() == (
        "eigenvalue / largest |λ| of its step\n(called zero within τ = 0.0015)"
    )


def test_eigenvalues_at_tau_are_within():
    values = torch.tensor([[-1.0, -0.1, 0.0, 0.1, 1.0]], dtype=torch.float64)
    assert zeros(hs.plots.spectra_over_training([0], values, tau=0.1)) == [3]


def test_the_default_tau_is_no_less_than_ten_errors():
    values = torch.tensor([-1e-3, 0.0, 1e-3, 1.0]).double()
    results = [hs.Spectrum(values, 1e-16, 4), hs.Spectrum(values, 2e-4, 4)]
    ax = hs.plots.spectra_over_training([0, 1], results)
    assert zeros(ax) == [3, 3]
    assert "τ = 0.002 " in ax.get_ylabel()


def test_a_step_without_a_finite_spectrum_is_left_blank():
    values = spectra(3)
    values[1, 0] = math.nan
    ax = hs.plots.spectra_over_training([0, 1, 2], values)
    assert counts(ax).sum(0).tolist() == [50, 0, 50]


@pytest.mark.parametrize(("steps", "scale"), [(STEPS, "symlog"), ([0, 50, 100, 150], "linear")])
def test_uneven_steps_get_a_logarithmic_axis(steps, scale):
    ax = hs.plots.spectra_over_training(steps, spectra())
    assert ax.get_xscale() == scale
    low, high = ax.get_xlim()
    assert low < steps[0] < steps[-1] < high


REFUSED = {
    "kind": (
        {"kind": "violin"},
        "kind='violin' is not known; there are 'heatmap' and 'ridge'.",
    ),
    "both thresholds": (
        {"tau": 1e-3, "relative": 1e-6},
        "tau=0.001 and relative=1e-06 are two meanings of zero; draw a figure for each.",
    ),
    "tau": (
        {"tau": 0.0},
        "tau=0.0 must be positive; it is in the units of the eigenvalues, such as 1e-6.",
    ),
    "relative": (
        {"relative": 2.0},
        "relative=2.0 must lie between 0 and 1; it is a fraction of the largest absolute "
        "eigenvalue, such as 1e-6.",
    ),
    "too few steps": (
        {"steps": [0, 1]},
        "2 steps for 4 spectra; give one step for each, at least one.",
    ),
    "no order": (
        {"steps": [0, 2, 1, 3]},
        "steps=[0.0, 2.0, 1.0, 3.0] must ascend without repetition; sort them with their spectra.",
    ),
    "one spectrum": (
        {"spectra": torch.zeros(4)},
        "spectra have shape (4,); give (steps, n), a row per step.",
    ),
    "nothing finite": (
        {"spectra": torch.full((4, 2), math.inf)},
        "none of the spectra is finite; hs.check_problem names the cause.",
    ),
    "too many ridges": (
        {"steps": range(60), "spectra": torch.ones(60, 3), "kind": "ridge"},
        "60 ridges cannot be told apart; draw one of 3, steps[::3] and spectra[::3], or "
        "kind='heatmap'.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused(name):
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.plots.spectra_over_training(**{"steps": STEPS, "spectra": spectra(), **arguments})
