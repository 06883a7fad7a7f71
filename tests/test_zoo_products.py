"""The figure of small real models: how it is measured, and what becomes of a model that fails."""

import json

import pytest
from benchmarks import zoo_products as zoo
from benchmarks.peers import pages

from tests.zoo.blocks import BLOCKS

PLAIN = next(block for block in BLOCKS if block.name == "TransformerEncoder")


def test_there_are_at_least_as_many_models_as_in_the_first_series():
    assert len(zoo.SPECIMENS) >= 129
    assert set(zoo.TINY) <= set(zoo.SPECIMENS)


@pytest.mark.filterwarnings("ignore")
def test_both_sides_multiply_by_the_same_matrix(monkeypatch):
    monkeypatch.setattr(zoo, "SLICE", 1e-3)
    row = zoo.measure(PLAIN, rounds=3)
    assert row["agree"]
    assert row["graph"] == "graph kept"
    assert 0.3 < row["ratio"] < 30


def test_what_fails_is_told_and_counted(monkeypatch):
    monkeypatch.setitem(zoo.SPECIMENS, "none", None)
    row = zoo.attempted("none", 1)
    assert row["failed"].startswith("AttributeError: ")
    rows = {"none": row, "one": {"family": "a", "ratio": 1.0}, "two": {"family": "a", "ratio": 2.0}}
    found = zoo.summary(rows)
    assert (found["measured"], found["failed"]) == (2, 1)
    assert found["median"] == 1.5
    assert found["90 %"] == pytest.approx(1.9)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_model_whose_time_is_up_has_a_row_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "LIMIT", 0.0)
    rows = {"slow": zoo.apart("BertForSequenceClassification", 1)}
    assert rows["slow"]["failed"] == "no answer within 0 s"
    file = tmp_path / "zoo.json"
    zoo.write(file, rows)
    assert list(zoo.kept(file)) == ["BertForSequenceClassification"]
    assert json.loads(file.read_text())["failed"] == 1


def test_the_page_says_what_was_measured():
    report = json.loads(zoo.RESULTS.read_text("utf-8"))
    assert pages.between(zoo.PAGE.read_text("utf-8")) == zoo.block(report)
