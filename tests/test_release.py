"""What a release says of itself: its version, its extras, and the packages that they bring."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import hesscope as hs
from hesscope.cli.outputs import PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "examples").glob("*"),
]


def packages(requirements):
    return {re.split(r"[\[<>=~ ]", one)[0].lower() for one in requirements}


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert versions[0][0] == "Unreleased"
    assert versions[1][0] == hs.__version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", versions[1][1])


def test_an_extra_that_is_named_is_there_and_suffices():
    named = {extra for path in TEXTS for extra in re.findall(r"hesscope\[([\w,]+)\]", text(path))}
    assert {"plot", "report", "demo", "hf"} <= named
    assert {one for extra in named for one in extra.split(",")} <= EXTRAS.keys()
    for extra, needed in PACKAGES.items():
        assert set(needed.values()) == packages(EXTRAS[extra])
    assert packages(EXTRAS["plot"]) <= packages(EXTRAS["report"]) <= packages(EXTRAS["demo"])


def test_what_is_tested_has_a_version():
    pinned = packages((ROOT / "constraints.txt").read_text("utf-8").split())
    wanted = packages([*PROJECT["dependencies"], *EXTRAS["demo"], *EXTRAS["hf"], *EXTRAS["dev"]])
    assert wanted - {"hesscope"} <= pinned


def text(path):
    return path.read_text("utf-8") if path.is_file() else ""
