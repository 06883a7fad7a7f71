"""The page of a run: small whatever the run, offline, and every number where it was measured."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

import hesscope as hs
from hesscope import store
from hesscope.cli import main
from hesscope.report import charts, write_run
from hesscope.results.history import Event, History, Series
from tests.report.test_browser import BROWSER, browse, foreign_hosts
from tests.report.test_page import Reader

HOSTILE = "</script><script>document.title = 'run'</script>"
STEPS = range(0, 200, 10)


def density(scale: float) -> hs.SpectralDensity:
    values = torch.cat([torch.linspace(-1, 1, 45), torch.tensor([5.0, 8.0])]).double()
    return hs.spectral_density(hs.as_operator(torch.diag(scale * values)), max_matvecs=20)


def history(**numbers: dict[int, float]) -> History:
    table = {
        "loss": {step: 2.0 / (1 + step) for step in STEPS},
        "lambda_max": {step: 1.0 + step / 40 for step in STEPS},
        "step_sharpness": {step: 0.1 + step / 400 for step in STEPS},
        "sharpness_over_limit": {step: 0.05 + step / 800 for step in STEPS},
        "lr": dict.fromkeys(STEPS, 0.1),
        "check_seconds": dict.fromkeys(STEPS, 0.5),
        "lambda_max_age": dict.fromkeys(STEPS, 1.0),
        **numbers,
    }
    return History.of(
        table,
        events=(Event(30, "switched off", f"no longer measured: mine ({HOSTILE})"),),
        facts={"optimizer": "SGD", "n": 47, "provenance": {"torch": torch.__version__}},
        results={"density": {0: density(1.0), 100: density(2.0)}},
    )


VERDICTS = (
    hs.Verdict(
        "divergence", f"it diverges {HOSTILE}", {"first_step": 100, "last_step": 150}, finding=True
    ),
    hs.Verdict("sharpening", "λmax rises", {"first_step": 0, "last_step": 190}),
    hs.Verdict("plateau", "undecided: few checks", confidence="undecided"),
)


def data(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', page)
    assert found is not None
    told: dict[str, object] = json.loads(found[1])
    return told


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    extra = {f"layer/{HOSTILE}/lambda_max": {0: 1.0, 10: 2.0}, "mine": {0: math.nan, 5: 3.0}}
    return write_run(folder / "run.html", "a run", history(**extra), VERDICTS)


def test_every_number_stands_at_its_step(page: Path) -> None:
    told = data(page.read_text("utf-8"))
    assert told["span"] == [0, 190]
    assert told["marks"] == [30]
    assert told["bands"] == [[100, 150]]
    curves = {c["label"]: c for chart in told["charts"] for c in chart["curves"]}
    assert curves["λmax"]["x"] == list(STEPS)
    assert curves["λmax"]["y"] == pytest.approx([1.0 + step / 40 for step in STEPS])
    assert curves["limit"]["y"] == [1.0, 1.0]
    assert curves["mine"]["x"] == [5]
    assert curves["over its limit"]["y"][-1] == pytest.approx(0.2875)
    assert not {"check_seconds", "lambda_max_age", "step_sharpness"} & set(curves)


def test_the_limit_of_lambda_max_is_drawn_beside_it() -> None:
    drawn = {chart.title: chart for chart in charts.charts(history())}
    limit = drawn["Sharpness"].curves[1]
    assert (limit.label, limit.style) == ("limit", "dashed")
    assert limit.series.values.tolist() == pytest.approx([20.0] * len(STEPS))
    assert drawn["Loss"].is_logarithmic
    assert not drawn["Sharpness"].is_logarithmic


def test_nothing_that_came_in_as_text_is_run(page: Path) -> None:
    reader = Reader()
    text = page.read_text("utf-8")
    reader.feed(text)
    assert reader.tags.count("script") == 2  # the numbers, and what draws them
    assert all(link.startswith(("#", "data:image/png")) for link in reader.links)
    assert not re.search(r"@import|url\((?!#)", text)


def test_verdicts_stand_on_the_axis_of_steps(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.index("<h2>When</h2>") < text.index("1 of 3 verdicts call for action")
    assert 'class="band finding" style="left:52.63%;width:26.32%"' in text
    assert 'class="band" style="left:0.00%;width:100.00%"' in text
    assert (
        text.count('class="lane"') == 3
    )  # the third is the axis: a verdict without steps has none
    assert text.count("<section id=") == 3
    assert "steps 0 to 190; 20 checks, 10 s in all" in text


def test_the_page_of_a_long_run_stays_below_a_megabyte(tmp_path: Path) -> None:
    numbers = torch.rand(400_000, generator=torch.Generator().manual_seed(0)).double()
    numbers[123_456] = 77.5
    run = history(**{f"layer/{i}/lambda_max": {0: 1.0, 190: float(i)} for i in range(300)})
    long = {"train_loss": Series(torch.arange(400_000), numbers)}
    long |= {f"quantity {i}": Series(torch.arange(100_000), torch.rand(100_000)) for i in range(30)}
    events = tuple(Event(i, "x", "y" * 1000) for i in range(5000))
    whole = History({**run.series, **long}, events, run.facts, run.results)
    page = write_run(tmp_path / "run.html", "t", whole)
    assert page.stat().st_size < 1_000_000
    told = data(page.read_text("utf-8"))
    curves = {c["label"]: c for chart in told["charts"] for c in chart["curves"]}
    at = curves["training"]["y"].index(77.5)
    assert curves["training"]["x"][at] == 123_456
    assert "6 largest; 294 others stay below" in page.read_text("utf-8")
    assert "4900 earlier events" in page.read_text("utf-8")


def test_a_run_without_anything_has_a_page(tmp_path: Path) -> None:
    with store.RunFolder(tmp_path / "run"):
        pass
    assert main(["report", str(tmp_path / "run"), "--to", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "Nothing has been written yet." in text
    assert "hesscope: run" in text


@pytest.mark.parametrize("command", [["report", "--to"], ["show", "--report"]])
def test_the_command_line_writes_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with store.RunFolder(tmp_path / "run") as run:
        run.add(3, {"loss": 1.5}, results={"density": density(1.0)})
    name, option = command
    page = tmp_path / "page.html"
    assert main([name, str(tmp_path / "run"), option, str(page)]) == 0
    assert f"report: {page}" in capsys.readouterr().out
    assert "Spectrum over training" in page.read_text("utf-8")
    assert main([name, str(tmp_path / "run"), option, str(tmp_path)]) == 2


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser_a_cursor_reads_all_charts_at_one_step(page: Path, tmp_path: Path) -> None:
    at = "charts[1].seen.places.find((p) => p.s.x[p.i] === 50)"
    move = f"<script>charts[1].point({at})</script>"
    hovered = tmp_path / "hovered.html"
    hovered.write_text(page.read_text("utf-8").replace("</body>", move + "</body>"), "utf-8")
    document, console, urls = browse(hovered, tmp_path)
    assert console == ""
    assert foreign_hosts(urls) == set()
    assert "<title>a run</title>" in document
    legends = re.findall(r'<ul class="legend">.*?</ul>', document)
    told = data(page.read_text("utf-8"))
    assert len(legends) == len(told["charts"])
    read = [re.sub(r"<[^>]*>", " ", legend).split() for legend in legends]
    assert [words[1] for words in read] == ["50"] * 4 + ["10", "5"]  # two have nothing nearer
    assert "2.25" in read[1]  # λmax there


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser_the_legend_says_the_last_values(page: Path, tmp_path: Path) -> None:
    document, _, _ = browse(page, tmp_path)
    legends = re.findall(r'<ul class="legend">.*?</ul>', document)
    words = re.sub(r"<[^>]*>", " ", legends[1]).split()
    assert words[:2] == ["step", "190"]
    assert "5.75" in words
