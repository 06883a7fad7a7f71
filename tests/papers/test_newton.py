"""The comparison of optimisers as a script: it runs, resumes, and the page is of a full run."""

import re
import subprocess
import sys
from pathlib import Path

import newton
import pytest
import torch
from acting import courses, million, saddles

PAPERS = Path(__file__).parents[2] / "papers"
FIGURES = ["newton/autoencoder.svg", "newton/million.svg", "newton/passages.svg"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Where a tiny run has left its results and its page."""
    folder = tmp_path_factory.mktemp("newton")
    command = [sys.executable, PAPERS / "newton.py", "--tiny", "--run", folder, "--out", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


def test_a_tiny_run_draws_all_figures_and_writes_the_page(tiny):
    page = (tiny / "newton.md").read_text("utf-8")
    assert sorted(re.findall(r"\((newton/\S+\.svg)\)", page)) == FIGURES
    assert all((tiny / picture).stat().st_size > 3_000 for picture in FIGURES)
    assert "Its numbers mean nothing" in page
    assert "NewtonCG needs" in page


def test_a_second_run_measures_nothing_and_writes_the_same(tiny, tmp_path, monkeypatch):
    for name in ("plane", "own"):
        monkeypatch.setattr(saddles, name, None)
    monkeypatch.setattr(courses.Course, "run", None)
    newton.main(["--tiny", "--run", str(tiny), "--out", str(tmp_path)])
    for name in ["newton.md", *FIGURES]:
        assert (tmp_path / name).read_bytes() == (tiny / name).read_bytes()


def test_the_page_in_the_documentation_is_of_a_full_run_and_has_its_figures():
    folder = PAPERS.parent / "docs/papers"
    page = (folder / "newton.md").read_text("utf-8")
    assert "Its numbers mean nothing" not in page
    assert sorted(re.findall(r"\((newton/\S+\.svg)\)", page)) == FIGURES
    assert all((folder / picture).exists() for picture in FIGURES)


def test_losses_between_two_looks_lie_on_a_line_in_their_logarithm():
    course = {"gradients": torch.tensor([0.0, 2.0]), "loss": torch.tensor([1.0, 0.01])}
    assert courses.at(course, "gradients", 1.0) == pytest.approx(0.1, rel=1e-6)


def test_what_is_not_reached_is_infinitely_far():
    def course(*losses):
        return {"loss": torch.tensor(losses), "steps": torch.arange(float(len(losses)))}

    found = {"Adam": 2 * [course(3.0, 1.0)], "other": [course(2.0, 1.0, 0.5), course(2.0, 1.5)]}
    assert million.to_adams(found, "other", "steps") == [1.0, torch.inf]


def test_the_median_number_of_steps_is_fitted_by_a_line():
    start, slope = saddles.line((1.0, 0.1), torch.tensor([[5, 5, 9], [10, 7, 5]]))
    assert start == pytest.approx(5)
    assert slope == pytest.approx(2 / torch.tensor(10.0).log().item())
