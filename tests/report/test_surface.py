"""The page of a plane: small, offline, honest where losses are not finite, alive in a browser."""

import json
import re

import pytest
import torch

import hesscope as hs
from hesscope.report import write_surface
from hesscope.report.stills import svg
from tests.report.test_browser import BROWSER, browse, foreign_hosts


def plane(num_points=9, f=lambda t: 3 * t[0] ** 2 + t[1] ** 2, **options):
    problem = hs.Problem.from_function(f, torch.ones(2).double())
    return hs.loss_slice(problem, torch.eye(2).double(), num_points=num_points, **options)


def data_of(page):
    text = page.read_text("utf-8")
    return json.loads(re.search(r'id="surface">(.*?)</script>', text).group(1))


def test_the_page_holds_the_losses_and_what_the_axes_mean(tmp_path):
    shown = plane(span=[(-1, 1), (0, 4)])
    page = write_surface(tmp_path / "plane.html", "a plane", shown)
    found = data_of(page)
    assert torch.tensor(found["losses"]).double().allclose(shown.losses, rtol=1e-5)
    assert found["axes"][1] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert (found["names"], found["theta"]) == (["direction 1", "direction 2"], 4.0)
    assert "<svg" in page.read_text("utf-8")  # seen without scripts
    assert not re.search(r'(src|href)="?(http|//)', page.read_text("utf-8"))


def test_losses_that_are_not_finite_are_gaps(tmp_path):
    shown = plane(f=lambda t: t[0].sqrt() + t[1], span=2.0, max_matvecs=0)
    found = data_of(write_surface(tmp_path / "plane.html", "a plane", shown))
    holes = torch.tensor([[z is None for z in row] for row in found["losses"]])
    assert bool(holes.any())
    assert torch.equal(holes, ~shown.losses.isfinite())


def test_a_large_plane_stays_below_a_megabyte_and_keeps_its_corners(tmp_path):
    shown = plane(num_points=301, max_matvecs=0)
    page = write_surface(tmp_path / "plane.html", "a plane", shown)
    assert page.stat().st_size < 2**20
    found = data_of(page)
    for i in (0, -1):
        assert found["losses"][i][-1] == pytest.approx(float(shown.losses[i, -1]), rel=1e-5)
    middle = found["axes"][0].index(0.0)
    assert found["losses"][middle][middle] == pytest.approx(4.0)


def test_a_line_is_no_plane(tmp_path):
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2))
    line = hs.loss_slice(problem, torch.ones(2), num_points=3, max_matvecs=0)
    with pytest.raises(ValueError, match="the slice has one direction"):
        write_surface(tmp_path / "line.html", "a line", line)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser_it_is_drawn_without_error_or_request(tmp_path):
    page = write_surface(tmp_path / "plane.html", "<b>a plane</b>", plane())
    document, console, urls = browse(page, tmp_path)
    assert console == ""
    assert foreign_hosts(urls) == set()
    assert "loss 0 to 16" in document  # told by the script when it has drawn


def test_text_on_a_legends_own_box_keeps_its_colour():
    problem = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    thetas = [torch.tensor(t).double() for t in ([0.3, 0.1], [0.1, -0.4], [0.9, 0.2])]
    way = hs.directions(problem, "trajectory", 2, thetas=thetas)
    shown = hs.loss_slice(problem, way, num_points=4, max_matvecs=5)
    drawn = svg(hs.plots.contour(shown))
    (text,) = re.findall(r"<text[^>]*>training</text>", drawn)
    assert "#ffffff" in text  # on dark grey, in light pages and dark ones
    assert "nan" not in str(shown)  # theta lies between the points of this grid
