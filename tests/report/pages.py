"""A page as a browser's parser reads it, for tests that need none."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "line", "rect", "use", "circle"}


@dataclass
class Node:
    """A tag with its attributes, what is inside, and its own text."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    inside: list[Node] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    def walk(self):
        yield self
        for node in self.inside:
            yield from node.walk()

    def all(self, tag: str) -> list[Node]:
        return [node for node in self.walk() if node.tag == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(node.own) for node in self.walk()).strip()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("page")
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].inside.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open[-1].tag == tag, (tag, [node.tag for node in self.open])
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].own.append(data)


def parsed(page: str) -> Node:
    parser = _Parser()
    parser.feed(page)
    assert [node.tag for node in parser.open] == ["page"]
    return parser.root


def ids(root: Node) -> list[str]:
    return [node.attributes["id"] for node in root.walk() if "id" in node.attributes]


def faults(page: str) -> list[str]:
    """What is wrong with a page, whatever is on it."""
    root = parsed(page)
    known = ids(root)
    found = [f"id {one} twice" for one in set(known) if known.count(one) > 1]
    for node in root.walk():
        link = node.attributes.get("href") or node.attributes.get("xlink:href") or ""
        if link.startswith("#") and link[1:] not in known:
            found.append(f"{link} leads nowhere")
        loaded = [node.attributes.get(key, "") for key in ("src", "data", "action", "srcset")]
        if node.tag in ("link", "iframe", "object", "embed") or any(
            one and not one.startswith("data:image/png") for one in loaded
        ):
            found.append(f"<{node.tag}> loads {loaded}")
        named = [node.attributes.get(key, "") for key in ("aria-labelledby", "aria-describedby")]
        found += [f"{one} names nothing" for one in named if one and one not in known]
        if node.tag == "svg" and not node.attributes.get("aria-label"):
            found.append("a picture without words")
    for table in root.all("table"):
        if not (table.inside and table.inside[0].tag == "caption" and table.inside[0].text):
            found.append("a table without a caption")
        found += ["a head without scope" for th in table.all("th") if "scope" not in th.attributes]
    found += ["printed text" for _ in root.all("pre")]
    headings = [int(n.tag[1]) for n in root.walk() if n.tag in ("h1", "h2", "h3", "h4")]
    pairs = itertools.pairwise(headings)
    found += [f"h{b} after h{a}" for a, b in pairs if b > a + 1]
    return [*found, *([] if len(page.encode()) < 1_000_000 else ["a page of a megabyte"])]
