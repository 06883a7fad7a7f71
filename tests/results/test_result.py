"""What every result can do: tables, plain data, and a page for a notebook that runs nothing."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import pytest
import torch

import hesscope as hs
from hesscope.results import html
from hesscope.results.result import Result
from tests.results.test_record import RESULTS

TABLES = {name: r for name, r in RESULTS.items() if isinstance(r, Result) and r.columns()}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    """The tags of a page that are open, and all that were seen."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += [name for name, _ in attributes]
        if tag != "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", [name for name, r in RESULTS.items() if isinstance(r, Result)])
def test_a_notebook_shows_every_result_as_closed_tags_without_script(name):
    page = Tags(RESULTS[name]._repr_html_())
    assert page.open == []
    assert page.seen
    assert not {"script", "iframe", "img", "link"} & set(page.seen)
    assert not [a for a in page.attributes if a.startswith("on") or a in ("href", "src")]


def test_names_from_outside_stay_text():
    verdict = hs.Verdict(HOSTILE, HOSTILE, {HOSTILE: 1.0})
    pages = [
        verdict._repr_html_(),
        html.table({HOSTILE: [HOSTILE]}),
        html.bars([1], (HOSTILE,) * 2),
    ]
    for page in pages:
        assert not {"script", "img"} & set(Tags(page).seen)


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_columns_of_one_length_and_become_data_frames(name):
    frame = TABLES[name].to_pandas()
    assert list(frame.columns) == list(TABLES[name].columns())
    assert {len(column) for column in TABLES[name].columns().values()} == {len(frame)}


def test_a_data_frame_holds_the_numbers():
    pairs = hs.eigsh(hs.as_operator(torch.diag(torch.arange(9.0))), 3)
    assert pairs.to_pandas()["eigenvalue"].tolist() == pairs.eigenvalues.tolist()


def test_what_is_no_table_says_where_its_fields_are():
    with pytest.raises(TypeError, match=r"^an Estimate is no table; its fields are in to_dict\("):
        hs.Estimate(1.0, 0.1).to_pandas()


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RuntimeError, match="pip install pandas"):
        RESULTS["pairs"].to_pandas()


def test_plain_data_holds_every_field():
    plain = RESULTS["pairs"].to_dict()
    assert plain["eigenvectors"] == {"shape": [4, 6]}
    assert plain["which"] == "BE"


def test_bars_are_as_many_as_the_heights_that_are_not_zero():
    assert html.bars([3.0, 0.0, 1.0], ("a", "b")).count("<rect") == 2


def test_a_line_leaves_out_what_is_not_finite():
    drawn = html.line([0.0, 1.0, 2.0], [1.0, float("nan"), 3.0], ("a", "b"))
    assert drawn.split('points="')[1].split('"')[0].count(",") == 2


def test_a_long_table_says_how_many_rows_it_leaves_out():
    assert f"and {5} more rows" in html.table({"x": range(html.MOST_ROWS + 5)})
