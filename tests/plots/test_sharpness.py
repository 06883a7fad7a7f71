"""Sharpness is drawn as multiples of the first network's, at equal losses only."""

import re

import pytest

import hesscope as hs
from hesscope.results.sharpness import SharpnessMeasure


def found(loss, value):
    def measure(name, kind):
        return SharpnessMeasure(name, value, 0.1, kind, "unit", "nothing")

    measures = (measure("λmax", "exact"), measure("worst in ball", "bound"))
    return hs.Sharpness(loss, measures, 0.0, 1, 1, 1)


def test_values_are_multiples_of_the_first():
    ax = hs.plots.sharpness([found(0.1, 2.0), found(0.1, 5.0)], labels=["small", "large"])
    first, second = ax.containers
    assert list(first[0].get_xdata()) == [1.0, 1.0]
    assert list(second[0].get_xdata()) == [2.5, 2.5]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["λmax", "worst in ball"]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["small (loss 0.1)", "large (loss 0.1)"]


def test_unequal_losses_are_refused():
    cause = "not compared: the training losses are 0.1 and 0.2, which differ by 67%"
    with pytest.raises(ValueError, match=re.escape(cause)):
        hs.plots.sharpness([found(0.1, 2.0), found(0.2, 5.0)])
    with pytest.raises(ValueError, match="1 results and 0 labels; give two or more"):
        hs.plots.sharpness([found(0.1, 2.0)])
