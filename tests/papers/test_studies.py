"""The studies as scripts: each runs, resumes, and its page in the documentation is a whole one."""

import importlib
import json
import re
from pathlib import Path

import pytest
import statements
import torch
from common import study
from common.claims import NO, YES, Claim
from common.keeping import Run
from matplotlib.figure import Figure

PAPERS = Path(__file__).parents[2] / "papers"
DOCS = PAPERS.parent / "docs/papers"
STUDIES = sorted(
    path.stem
    for path in PAPERS.glob("*.py")
    if "from common.study import" in path.read_text("utf-8")
    and "STUDY = " in path.read_text("utf-8")
)


def never(*_):
    raise AssertionError


@pytest.mark.parametrize("name", STUDIES)
def test_a_tiny_run_draws_writes_and_resumes(name, tmp_path, monkeypatch):
    script = importlib.import_module(name)
    arguments = ["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    study.run(script.STUDY, arguments)
    page = (tmp_path / f"{name}.md").read_text("utf-8")
    assert study.TINY in page
    found = json.loads((tmp_path / name / "results.json").read_text("utf-8"))["parts"]
    assert set(script.STUDY.parts) - set(found) <= set(script.STUDY.files)
    for part, section in found.items():
        assert section["claims"]
        if section["figure"]:
            assert (tmp_path / name / f"{part}.png").stat().st_size > 3_000
    monkeypatch.setattr(Run, "_measure", never)
    study.run(script.STUDY, arguments)
    assert (tmp_path / f"{name}.md").read_text("utf-8") == page


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_in_the_documentation_is_of_a_full_run_and_has_its_pictures(name):
    page = (DOCS / f"{name}.md").read_text("utf-8")
    assert study.TINY not in page
    assert "Not measured yet" not in page
    pictures = re.findall(rf"\(({name}/\S+\.png)\)", page)
    assert sorted(DOCS / picture for picture in pictures) == sorted(DOCS.glob(f"{name}/*.png"))


@pytest.mark.parametrize("name", STUDIES)
def test_each_no_was_tried_where_it_had_its_best_chance(name):
    record = json.loads((DOCS / name / "results.json").read_text("utf-8"))
    claims = [claim for part in record["parts"].values() for claim in part["claims"]]
    assert all(len(claim["tried"]) >= 3 for claim in claims if claim["holds"] == NO)


def test_the_page_of_statements_is_that_of_the_results(tmp_path):
    statements.main(["--out", str(tmp_path)])
    assert (tmp_path / "statements.md").read_text("utf-8") == (DOCS / "statements.md").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("holds", "word"),
    [
        ([YES, YES], YES),
        ([YES, NO], "in part"),
        (["undecided", NO], NO),
        (["only when wide"], "only when"),
        ([], "not measured yet"),
    ],
)
def test_answers_to_one_statement_are_put_together(holds, word):
    assert statements.together(holds) == word


def example(measured):
    def first(run, sizes):
        found = run.arrays("first", sizes, lambda: measured.append(1) or {"x": torch.ones(2)})
        figure = Figure()
        figure.subplots().plot(found["x"])
        claim = Claim("a | b", "c", NO, tried=("one", "two", "three"))
        return study.Section("Text.", [claim], figure, {"x": found["x"], "none": float("nan")})

    def second(run, sizes):
        run.arrays("second", sizes, lambda: {"y": torch.zeros(1)})
        return study.Section("More.", [Claim("d", "e", YES)])

    parts = {"first": study.Part("First", first), "second": study.Part("Second", second)}
    return study.Study("example", "An example", "Head.", parts, 1, 2)


def test_a_part_that_is_not_asked_for_keeps_its_section_in_another_run_folder(tmp_path):
    measured = []
    made = example(measured)
    out = ["--out", str(tmp_path)]
    study.run(made, ["--run", str(tmp_path / "a"), *out, "--parts", "first"])
    page = (tmp_path / "example.md").read_text("utf-8")
    assert "Not measured yet: second." in page
    assert "a \\| b" in page
    assert "best chance: one; two; three" in page
    study.run(made, ["--run", str(tmp_path / "b"), *out, "--parts", "second"])
    page = (tmp_path / "example.md").read_text("utf-8")
    assert "Not measured yet" not in page
    assert "## Claims: yes 1, no 1" in page
    assert "![First](example/first.png)" in page
    assert measured == [1]
    numbers = json.loads((tmp_path / "example/results.json").read_text("utf-8"))["parts"]["first"]
    assert numbers["numbers"] == {"x": [1.0, 1.0], "none": None}


def test_a_fault_while_drawing_is_not_taken_for_something_missing(tmp_path):
    def broken(run, sizes):
        run.arrays("a", sizes, lambda: {"x": torch.ones(1)})
        return {}["gone"]

    made = study.Study("broken", "", "", {"a": study.Part("A", broken)}, 1, 2)
    with pytest.raises(KeyError, match="gone"):
        study.run(made, ["--run", str(tmp_path), "--out", str(tmp_path)])


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        study.run(example([]), ["--parts", "first,third"])
    assert "there are first, second" in capsys.readouterr().err
