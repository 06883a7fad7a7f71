"""The page is one file that asks for nothing, runs nothing, and shows what the results say."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope import report


class Reader(HTMLParser):
    """Collects the text, the tags and every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.randn(90, 6), torch.randint(0, 3, (90,))
    examined = hs.diagnose(hs.Problem(model, nn.functional.cross_entropy, data), lr=0.1)
    path = examined.to_html(tmp_path_factory.mktemp("a folder") / "page.html")
    return path.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_anywhere(page):
    reader = Reader()
    reader.feed(page)
    assert all(link.startswith("#") for link in reader.links)
    assert reader.tags.count("script") == 1  # the page's own, which sorts tables
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(page) < 1_000_000


def test_verdicts_evidence_and_provenance_are_on_the_page(page):
    reader = Reader()
    reader.feed(page)
    text = " ".join(reader.text)
    for expected in ("minimum?", "step size", "2/λmax", "matvecs", "torch", "model.eval()"):
        assert expected in text


def test_the_top_of_the_page_says_what_was_looked_at(page):
    head = page[page.index("<header>") : page.index("</header>")]
    for expected in ("Sequential, 2 layers, 83 parameters", "lr 0.1", "on 90 items", "accuracy"):
        assert expected in head


def test_a_page_has_the_name_of_its_run_and_says_when_and_with_which_code(tmp_path):
    facts = {
        "model": "MLP",
        "device": "cpu",
        "provenance": {"code": "abc123", "created": "2026-01-02T03:04:05+00:00"},
    }
    examined = hs.Examination(
        (), hs.Measurements({"loss": 0.5}, {}, {"batch_size": 8}, facts=facts)
    )
    page = examined.to_html(tmp_path / "page.html", "run 7").read_text("utf-8")
    head = page[page.index("<header>") : page.index("</header>")]
    for expected in (
        "<h1>run 7</h1>",
        "MLP",
        "0.5",
        "8 examples each",
        "2 January 2026, 03:04 UTC",
    ):
        assert expected in head
    for name, value in (("code", "abc123"), ("device", "cpu"), ("seed", "0")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    untitled = examined.to_html(tmp_path / "other.html").read_text("utf-8")
    assert "<h1>MLP</h1>" in untitled


def test_what_calls_for_action_stands_first_and_leads_to_its_verdict(tmp_path):
    verdicts = [
        hs.Verdict("minimum?", "no: still descending"),
        hs.Verdict("step size", "too large", finding=True),
    ]
    page = report.write(tmp_path / "p.html", "t", verdicts, {}, "").read_text("utf-8")
    assert page.index("1 of 2 verdicts call for action") < page.index("<h2>Verdicts")
    assert '<a href="#step-size">step size</a>: too large' in page
    assert '<section id="step-size" class="verdict finding">' in page
    calm = report.write(tmp_path / "q.html", "t", verdicts[:1], {}, "").read_text("utf-8")
    assert "Nothing calls for action." in calm


def test_a_name_that_looks_like_markup_stays_text(tmp_path):
    verdict = hs.Verdict("<script>alert(1)</script>", "a <b>bold</b> claim", {"<i>x</i>": 1.0})
    page = report.write(tmp_path / "p.html", "<title>", [verdict], {}, "").read_text("utf-8")
    reader = Reader()
    reader.feed(page)
    assert not {"b", "i"} & set(reader.tags)
    assert reader.tags.count("script") == 1
    assert "<script>alert(1)</script>" in " ".join(reader.text)


def test_an_unwritable_place_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RuntimeError, match=r"^cannot write the report to .*page\.html: .*"):
        report.write(blocked / "page.html", "t", [], {}, "")


def test_the_headline_stands_on_top_with_what_speaks_for_and_against_it(tmp_path):
    verdicts = (
        hs.Verdict("learnt?", "yes", {"share": 0.2}, key="learnt"),
        hs.Verdict("data", "the label leaks <i>", finding=True, cause="leak", advice="leave it"),
        hs.Verdict("layers", "all units are dead", finding=True),
    )
    examined = hs.Examination(verdicts, hs.Measurements({}))
    page = examined.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    top = page[page.index('id="headline"') : page.index("Verdicts</h2>")]
    assert "Most likely cause" in top
    assert "the label leaks &lt;i&gt;" in top
    assert "not explained by it: layers: all units are dead" in top
    assert "the network learns all the same" in top
    assert "What to do next: leave it." in top
    assert "the label leaks &lt;i&gt;" in examined._repr_html_()
    assert examined.to_dict()["headline"]["cause"] == "leak"
    assert hs.load(examined.save(tmp_path / "saved")).headline == examined.headline


def test_at_chance_level_the_page_calls_nothing_good(tmp_path):
    chance = hs.Verdict("learnt?", "nothing yet", key="learnt", cause="chance_level")
    examined = hs.Examination((chance,), hs.Measurements({}))
    page = examined.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Nothing calls for action" not in page
    assert "nothing yet" in page
