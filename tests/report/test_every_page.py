"""What holds for every page and kind of result: real tables, own addresses, no print."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import hesscope as hs
from hesscope import report
from hesscope.cli import main
from hesscope.report import figures
from hesscope.report.sections import sections
from hesscope.results import html, tables
from hesscope.results.result import Result
from tests.report.pages import faults, parsed
from tests.report.test_run import VERDICTS, history
from tests.report.test_surface import plane
from tests.results.test_record import RESULTS

KINDS = {name: result for name, result in RESULTS.items() if isinstance(result, Result)}
NAMES = ("size", "size!", "<i>", "made", "verdicts", "")


def page_of(results, tmp_path, verdicts=()) -> str:
    path = report.write(tmp_path / "page.html", "a page", verdicts, results, "3 matvecs")
    return path.read_text("utf-8")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_result_is_on_the_page_as_tables(name, tmp_path):
    page = page_of({name: KINDS[name]}, tmp_path)
    assert faults(page) == []
    assert parsed(page).all("table")


@pytest.mark.parametrize("name", KINDS)
def test_a_notebook_shows_the_tables_of_the_page(name):
    shown = [
        html.table(t.columns, t.caption, t.notes) for t in tables.tables(KINDS[name], deep=False)
    ]
    assert shown
    assert KINDS[name]._repr_html_() == KINDS[name].picture() + "".join(shown)


def test_a_page_with_all_kinds_of_results_stays_whole_and_small(tmp_path):
    page = page_of(KINDS, tmp_path, VERDICTS)
    assert faults(page) == []
    assert len(parsed(page).all("table")) > len(KINDS)


def test_kinds_that_nobody_has_thought_of_have_tables():
    fields = [("name", str), ("share", float), ("many", torch.Tensor), ("inner", hs.Estimate)]
    kind = dataclasses.make_dataclass("Unheard", fields, bases=(Result,), frozen=True)
    try:
        (shown,) = tables.tables(kind("x", 0.5, torch.ones(3), hs.Estimate(2.0, 0.1)))
    finally:
        del Result.kinds["Unheard"]
    assert shown.columns["quantity"] == ["name", "share", "many", "inner"]
    assert shown.columns["value"][2] == "3 numbers from 1 to 1"


def test_all_pages_are_without_fault(tmp_path):
    run = report.write_run(tmp_path / "run.html", "a run", history(), VERDICTS)
    surface = report.write_surface(tmp_path / "plane.html", "a plane", plane())
    empty = report.write_run(tmp_path / "empty.html", "nothing", hs.History.of({}))
    for path in (run, surface, empty):
        assert faults(path.read_text("utf-8")) == []


def test_names_that_are_alike_have_addresses_of_their_own(tmp_path):
    pairs = hs.eigsh(torch.diag(torch.arange(9.0)), 2, seed=0)
    verdicts = [hs.Verdict(name or "?", "so it is") for name in NAMES]
    page = page_of({name: pairs for name in NAMES}, tmp_path, verdicts)
    assert faults(page) == []


def test_numbers_stand_on_the_right_and_are_copied_unrounded():
    (table,) = parsed(html.table({"name": ["a"], "value": [1 / 3]}, "t")).all("table")
    (cell,) = table.all("td")
    assert (cell.text, cell.attributes) == ("0.33333", {"class": "n", "data-value": repr(1 / 3)})
    assert [th.attributes["scope"] for th in table.all("th")] == ["col", "col", "row"]


def test_thousands_of_rows_are_cut_and_counted(tmp_path):
    many = hs.Spectrum(torch.arange(100_000.0).double(), 0.0, 3)
    pairs = hs.Eigenpairs(
        torch.arange(5_000.0).double(), torch.zeros(0, 5_000), torch.ones(5_000).double(),
        torch.ones(5_000).bool(), 3, RESULTS["certificate"],
    )  # fmt: skip
    page = page_of({"spectrum": many, **{f"pairs {i}": pairs for i in range(5)}}, tmp_path)
    assert faults(page) == []
    assert "more rows: to_pandas() has all" in page
    dots = page_of({f"pairs {i}": pairs for i in range(5)}, tmp_path)
    assert faults(dots) == []


def test_a_network_of_a_thousand_layers_has_a_small_page(tmp_path):
    num, ones = 1_000, torch.ones(1_000).double()
    names = tuple(f"blocks.{i}.attention.projection" for i in range(num))
    layers = dataclasses.replace(
        KINDS["layer statistics"], layers=names, sizes=(7,) * num, weight_norm=ones,
        gradient_norm=ones, gain=ones, signal=ones, depth=tuple(range(num)), matrix=(True,) * num,
    )  # fmt: skip
    signals = dict.fromkeys(names, (1.0, 2.0, 3.0))
    page = page_of({"layers": layers, "signals": signals, "loss": 0.5}, tmp_path)
    assert faults(page) == []
    assert "output, rms" in page


def test_layers_smoothness_density_and_error_bars_are_read_before_the_rest():
    main, others = sections({name.replace(" ", "_"): r for name, r in KINDS.items()})
    titles = [one.title for one in main]
    wanted = ["Density of eigenvalues", "Condition", "Outliers", "Next step", "Smoothness"]
    assert [title for title in titles if title in wanted] == wanted
    assert "Curvature" in [one.title for one in others]


def test_a_comparison_and_a_saved_result_have_pages_of_their_own(tmp_path, capsys):
    for name, scale in (("before", 2.0), ("after", 5.0)):
        A = torch.diag(torch.tensor([scale, 1.0], dtype=torch.float64))
        hs.save(hs.conditioning(A, seed=0), tmp_path / name)
    folders = [str(tmp_path / name) for name in ("before", "after")]
    page = tmp_path / "page.html"
    assert main(["compare", *folders, "--report", str(page)]) == 0
    text = page.read_text("utf-8")
    assert faults(text) == []
    assert "<h1>Comparison</h1>" in text
    assert "after: differs" in text
    assert main(["show", folders[0], "--report", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "<h1>before</h1>" in text
    assert "<h2>Conditioning</h2>" in text
    capsys.readouterr()


# --- figures


def quadratic(t):
    return 2 * t[0] ** 2 + t[1] ** 2


def test_the_measured_losses_of_a_quadratic_lie_on_its_parabola():
    problem = hs.Problem.from_function(quadratic, torch.tensor([1.0, 1.0]).double())
    look = hs.diagnose(problem, lr=0.1, seed=0).measurements
    (step,) = [one for one in figures.figures(look.values) if one.key == "step"]
    measured, parabola = step.series
    exact = [quadratic((1 - 0.4 * t, 1 - 0.2 * t)) for t in measured.x]
    assert measured.y == pytest.approx(exact, rel=1e-12)
    assert {0.0, 1.0} <= {round(t, 9) for t in measured.x}
    at = [quadratic((1 - 0.4 * t, 1 - 0.2 * t)) for t in parabola.x]
    assert parabola.y == pytest.approx(at, rel=1e-9)


def test_without_smoothness_the_step_itself_is_shown():
    problem = hs.Problem.from_function(quadratic, torch.tensor([1.0, 1.0]).double())
    look = hs.diagnose(problem, lr=0.1, effort="quick", seed=0).measurements
    (step,) = [one for one in figures.figures(look.values) if one.key == "step"]
    assert step.series[0].x == [0.0, 1.0]
    assert step.series[0].y == pytest.approx([3.0, quadratic((0.6, 0.8))])


def test_a_step_that_climbs_far_is_seen_where_it_still_falls():
    step = figures._step_figure(1.0, "the step", [(0.0, 1.0), (0.1, 0.9), (3.0, 80.0)], -1.0, 1.0)
    assert step.view == (0.0, figures.BEYOND)
    assert figures._step_figure(1.0, "it", [(0.0, 1.0), (1.0, 2.0)], 1.0, 0.0).view is None


@pytest.mark.parametrize("name", ["density", "pairs", "spectrum", "empty pairs"])
def test_figures_are_plain_numbers(name):
    drawn = figures.figures({name: RESULTS[name]} if name != "spectrum" else {"s": exact()})
    assert "NaN" not in figures.as_json(drawn)
    assert all(figure.told and figure.caption for figure in drawn)


def exact() -> hs.Spectrum:
    return hs.spectrum(torch.diag(torch.tensor([-1.0, 0.0, 0.0, 1e-3, 2.0, 2.5]).double()))


def test_the_bars_of_a_spectrum_count_every_eigenvalue():
    (drawn,) = figures.figures({"s": exact()})
    bars = [one for one in drawn.series if one.kind == "bars"]
    assert [one.name for one in bars] == ["below zero", "called zero", "above zero"]
    assert [sum(one.y) for one in bars] == [1, 2, 3]
    for one, values in zip(bars, ([-1.0], [0.0, 0.0], [1e-3, 2.0, 2.5]), strict=True):
        held = [sum(a <= v <= b for v in values) for a, b in zip(one.x, one.ends, strict=True)]
        assert held == one.y


def test_bars_of_a_density_hold_their_counts_and_are_unsure_where_there_may_be_none():
    values = torch.cat([torch.linspace(-1, 3, 60), torch.tensor([9.0])]).double()
    density = hs.spectral_density(torch.diag(values), 30, seed=0)
    (drawn,) = figures.figures({"d": density})
    for one in [marks for marks in drawn.series if marks.kind == "bars"]:
        for a, b, low, high, unsure in zip(
            one.x, one.ends, one.low, one.high, one.unsure, strict=True
        ):
            true = int(((values >= a) & (values <= b)).sum())
            assert low <= true <= high
            assert unsure == (low <= 0)


def test_a_pair_that_is_not_finite_leaves_a_gap():
    marks = figures.Marks("a", "dots", [1.0, 2.0], [math.inf, 1.0])
    assert marks.plain()["y"] == [None, 1.0]
