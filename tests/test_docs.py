"""The documentation names what the code names."""

import re
import tomllib
import typing
from pathlib import Path

from hesscope.diagnosis import headline, judge
from hesscope.diagnosis.course import verdicts as course
from hesscope.results.verdict import Confidence
from tests import fault_table

ROOT = Path(__file__).parents[1]


def test_every_finding_of_check_problem_is_documented():
    sources = (ROOT / "src/hesscope/checks").glob("*.py")
    text = "\n".join(path.read_text("utf-8") for path in sources)
    names = set(re.findall(r'(?:Finding|\.note)\(\s*"(\w+)"', text))
    broken = (ROOT / "src/hesscope/autodiff/broken.py").read_text("utf-8")
    names |= set(re.findall(r'^ {4,8}"([a-z]+_[a-z_]+)",$', broken, re.MULTILINE))
    assert len(names) > 25
    page = (ROOT / "docs/checks.md").read_text("utf-8")
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_no_unfinished_code_is_left():
    words = re.compile(
        r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError|except( Exception)?:\s*pass"
    )
    for folder in ("src", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not words.search(path.read_text("utf-8")), path


def test_every_make_command_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    files = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", ".pre-commit-config.yaml"]
    paths = [*(ROOT / file for file in files), *(ROOT / "docs").rglob("*.md")]
    paths += (ROOT / ".github").rglob("*.yml")
    named = set()
    for path in paths:
        # In prose a command stands at the start of a line of code or in backticks.
        found = re.findall(r"(?:^\s*|`|entry: |run: )make ([a-z-]+)", path.read_text("utf-8"), re.M)
        named |= set(found)
    assert {"check", "lint", "test", "papers"} <= named <= commands


def test_the_rooms_stand_in_the_order_of_the_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    levels = project["tool"]["importlinter"]["contracts"][0]["layers"]
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    table = page.split("## Rooms")[1].split("## ")[0]
    rooms = [
        name.strip("`/").removesuffix(".py")
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in row.split(", ")
    ]
    assert sorted(rooms) == sorted(name for level in levels for name in level.split(" | "))
    where = {name: i for i, level in enumerate(levels) for name in level.split(" | ")}
    assert [where[room] for room in rooms] == sorted(where.values())


def test_the_page_of_faults_is_that_of_its_source_and_its_tests_exist():
    assert [number for number, *_ in fault_table.rows()] == list(range(1, 113))
    assert fault_table.missing() == []
    assert fault_table.PAGE.read_text("utf-8") == fault_table.page()
    untested = {number for number, _, _, tests in fault_table.rows() if not tests}
    assert not untested


def stated(*files: str) -> set[str]:
    """The names that stand alone on a line, or after `cause=`, in files of diagnosis/."""
    folder = ROOT / "src/hesscope/diagnosis"
    text = "\n".join(path.read_text("utf-8") for file in files for path in folder.glob(file))
    lone = re.findall(r'^ +"([a-z_]+)",$', text, re.MULTILINE)
    return {*lone, *re.findall(r'\bcause="([a-z_]+)"', text)}


def test_every_verdict_has_its_anchor_and_none_is_stale():
    looks = {rule.key for rule in judge.RULES} | {"model_fault"}
    runs = {rule.key for rule in course.RULES}
    spikes = stated("postmortem/causes.py") | {"unknown"}
    confidences = set(typing.get_args(Confidence))
    causes = stated("*.py") | set(headline.RANK) | {"memorised"}
    causes -= (looks - {"memorised"}) | confidences | {"zero"}  # of smoothness: no cause
    kinds = {f"verdict-{key}" for key in looks | runs}
    kinds |= {f"cause-{name}" for name in causes} | {f"spike-{name}" for name in spikes - {"cause"}}
    assert len(kinds) > 45
    page = (ROOT / "docs/verdicts.md").read_text("utf-8")
    anchors = re.findall(r'^<a id="([\w-]+)"></a>$', page, re.MULTILINE)
    assert sorted(anchors) == sorted(kind.replace("_", "-") for kind in kinds)
