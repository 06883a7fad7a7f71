"""Every word is explained once, linked where a section first uses it, and leads into the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope import report
from hesscope.report.glossary import BY_FORM, TERMS, Glossary
from tests.report.pages import faults, parsed

DOCS = Path(__file__).parents[2] / "docs"


def headings(page: Path) -> set[str]:
    """The addresses within a page of the docs, as its readers make them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(90, 6), torch.randint(0, 3, (90,))
    problem = hs.Problem(model, nn.functional.cross_entropy, data)
    examined = hs.diagnose(problem, lr=0.1, batch_size=8, seed=0)
    return examined.to_html(tmp_path_factory.mktemp("page") / "p.html").read_text("utf-8")


def test_every_link_leads_to_its_meaning(page):
    root = parsed(page)
    assert faults(page) == []
    links = [node for node in root.all("a") if node.attributes.get("class") == "term"]
    assert len(links) > 40
    meanings = {d.attributes["id"]: d.text for d in root.all("dt") if "id" in d.attributes}
    for link in links:
        name = meanings[link.attributes["href"][1:]]
        assert BY_FORM[link.text.lower()].name == name


def test_every_word_that_is_used_is_explained_once(page):
    explained = [dt.text for dt in parsed(page).all("dt") if "id" in dt.attributes]
    assert len(explained) == len(set(explained)) > 15
    body = page[page.index("<main") : page.index('id="glossary"')]
    for form in ("eigenvalues", "curvature", "loss", "gradient", "products"):
        assert re.search(rf'<a class="term"[^>]*>{form}</a>', body)


def test_a_section_links_a_word_the_first_time_only(page):
    cards = [n for n in parsed(page).walk() if "verdict" in n.attributes.get("class", "").split()]
    assert len(cards) > 8
    for card in cards:
        links = [a.attributes["href"] for a in card.all("a") if a.attributes.get("class") == "term"]
        assert len(links) == len(set(links))


def test_no_link_stands_inside_a_button_or_another_link(page):
    for outer in ("a", "button", "summary"):
        assert all(len(node.all("a")) <= (outer == "a") for node in parsed(page).all(outer))


def test_markup_and_words_inside_of_words_stay_as_they_are():
    words = Glossary()
    assert words("<b>closs</b> glossy") == "&lt;b&gt;closs&lt;/b&gt; glossy"
    assert words('lossless "2/λmax" trace-back') == "lossless &#34;2/λmax&#34; trace-back"
    assert words.entries() == []
    assert words("λmax is large").startswith('<a class="term"')


def test_words_of_meanings_are_explained_too():
    words = Glossary()
    words("the trace")
    names = [entry["name"] for entry in words.entries()]
    assert "trace" in names
    assert {"eigenvalue", "curvature", "loss"} <= set(names)


def test_forms_belong_to_one_word_each_and_the_docs_say_more():
    forms = [form.lower() for term in TERMS for form in term.forms]
    assert len(forms) == len(set(forms))
    for term in TERMS:
        name, _, place = term.docs.partition("#")
        assert (DOCS / name).is_file(), term
        assert not place or place in headings(DOCS / name), term


def test_every_verdict_leads_to_a_place_in_the_docs(page):
    places = re.findall(r"docs/verdicts\.md#([\w-]+)", page[: page.index('id="glossary"')])
    assert len(places) > 8
    assert set(places) <= headings(DOCS / "verdicts.md")


def test_a_page_without_such_words_says_so(tmp_path):
    path = report.write(tmp_path / "p.html", "t", [hs.Verdict("a", "b")], {}, "")
    assert "None that needs to be said more of." in path.read_text("utf-8")
