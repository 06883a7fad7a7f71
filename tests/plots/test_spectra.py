"""Figures show every eigenvalue, whatever the spectrum looks like."""

import numpy as np
import pytest
import torch

import hesscope as hs

SPECTRA = {
    "bulk and outliers": torch.cat([torch.randn(200) * 1e-4, torch.tensor([1.0, 3.0, -0.2])]),
    "zeros only": torch.zeros(5),
    "one value": torch.tensor([2.0]),
    "negative only": -torch.linspace(0.1, 2.0, 30),
    "twelve decades": 10.0 ** torch.linspace(-12, 0, 60),
    "huge": 1e12 * torch.linspace(1, 2, 9),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_bars_of_a_histogram_count_all_eigenvalues(name):
    values = SPECTRA[name].double().sort().values
    ax = hs.plots.spectrum_histogram(hs.Spectrum(values, 1e-16, len(values)))
    assert sum(bar.get_height() for bar in ax.patches) == len(values)
    low, high = ax.get_xlim()
    assert low < values.min()
    assert high > values.max()


def test_the_middle_bar_counts_what_tau_calls_zero():
    values = torch.tensor([-1.0, -1e-9, 0.0, 1e-9, 1.0]).double()
    ax = hs.plots.spectrum_histogram(hs.Spectrum(values, 1e-16, 5), tau=1e-6)
    middle = [bar for bar in ax.patches if bar.get_x() < 0 < bar.get_x() + bar.get_width()]
    assert [bar.get_height() for bar in middle] == [3]


def test_given_eigenpairs_are_marked_at_their_values():
    A = hs.as_operator(torch.diag(torch.linspace(-1, 5, 40).double()))
    pairs = hs.eigsh(A, k=4)
    ax = hs.plots.spectrum_histogram(hs.spectrum(A), pairs)
    assert np.array_equal(ax.lines[0].get_xdata(), pairs.eigenvalues.numpy())


def test_eigenvalues_are_drawn_with_their_residuals():
    pairs = hs.eigsh(
        hs.as_operator(torch.diag(torch.linspace(-1, 5, 40).double())), k=4, which="BE"
    )
    ax = hs.plots.eigenvalues(pairs)
    heights = [y for container in ax.containers for y in container.lines[0].get_ydata()]
    assert sorted(heights) == sorted(pairs.eigenvalues.tolist())


def test_spectra_lie_over_one_another_in_colours_of_their_own():
    ax = None
    for size, color in ((1.0, "C0"), (80.0, "C1")):
        spectrum = hs.Spectrum(size * torch.linspace(-1, 2, 30).double(), 1e-16, 30)
        ax = hs.plots.spectrum_histogram(spectrum, tau=1e-3, ax=ax, color=color, label=color)
    assert sum(float(step.get_data().values.sum()) for step in ax.patches) == 60
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["C0", "C1"]
    assert ax.get_xlim()[0] < -80
    assert ax.get_xlim()[1] > 160


def test_pairs_lie_over_one_another_in_colours_of_their_own():
    pairs = hs.eigsh(torch.diag(torch.linspace(-1, 5, 40).double()), k=4, which="BE")
    ax = hs.plots.eigenvalues(pairs, label="before")
    hs.plots.eigenvalues(pairs, label="after", color="C1", ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]
