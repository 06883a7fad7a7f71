"""The site: its links, in the sources and in what is built, and what it asks the network for."""

import re
from pathlib import Path

import pytest

import hesscope as hs
from tests.site import Site, main

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "benchmarks").glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
]
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub and the site make them, and those given by name."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)"></a>', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_dead_relative_link(page):
    text = page.read_text("utf-8")
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        to = (page.parent / file).resolve() if file else page
        assert to.exists(), link
        assert not anchor or anchor in anchors(to.read_text("utf-8")), link


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b.html#there">x</a><img src="i.png">', ""),
        ('<a href="https://example.org">x</a><a href="#here" id="here">x</a>', ""),
        ('<a href="c.html">x</a>', "a.html links to c.html"),
        ('<a href="b.html#gone">x</a>', "a.html links to b.html#gone"),
        ('<a href="#gone">x</a>', "a.html links to #gone"),
        ('<script src="https://cdn.org/x.js"></script>', "a.html loads https://cdn.org/x.js"),
        ('<link rel="stylesheet" href="//cdn.org/x.css">', "a.html loads //cdn.org/x.css"),
        ("<style>@import 'https://x.org/f.css'</style>", "a.html loads https://x.org/f.css"),
    ],
)
def test_the_check_of_the_built_site_names_each_fault(tmp_path, capsys, body, fault):
    (tmp_path / "a.html").write_text(f"<p>{body}</p>", "utf-8")
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>', "utf-8")
    (tmp_path / "i.png").write_bytes(b"")
    assert main(str(tmp_path)) == (1 if fault else 0)
    told = fault or "2 pages: every link arrives, nothing is fetched"
    assert capsys.readouterr().out.strip() == told


def test_a_style_that_fetches_is_named_and_an_empty_folder_is_no_site(tmp_path):
    assert main(str(tmp_path)) == 1
    (tmp_path / "a.css").write_text("a {background: url('https://x.org/i.png')}", "utf-8")
    assert list(Site(tmp_path).requests()) == ["a.css loads https://x.org/i.png"]


def documented() -> list[str]:
    pages = [path.read_text("utf-8") for path in (ROOT / "docs/reference").glob("*.rst")]
    return re.findall(r"^\.\. auto\w+:: hesscope\.([\w.]+)$", "\n".join(pages), re.MULTILINE)


def public() -> list[str]:
    """Every public name, and those of the namespaces."""
    inside = [
        f"{space}.{name}"
        for space in hs._NAMESPACES
        for name, value in vars(getattr(hs, space)).items()
        if callable(value) and not name.startswith("_")
    ]
    return [*hs.__all__, *inside]


def test_the_reference_has_every_public_name_once():
    names = documented()
    assert len(names) > 150
    assert sorted(names) == sorted(public())


def test_the_picture_of_the_first_page_is_small():
    picture = ROOT / "docs/_static/report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000


def test_every_tutorial_has_its_place_in_the_order():
    order = (ROOT / "docs/_ext/docstrings.py").read_text("utf-8").split("ORDER = (")[1]
    named = re.findall(r'"(\w+)"', order.split(")")[0])
    assert sorted(named) == sorted(path.stem for path in (ROOT / "docs/tutorials").glob("*.py"))
