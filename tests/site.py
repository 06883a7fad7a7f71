"""The built site: every link arrives, and no page asks for anything from outside.

`python -m tests.site FOLDER` looks at the HTML itself, so nothing is fetched; `make docs` runs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}
OUTSIDE = re.compile(r"^(https?:)?//")
STYLE_LOADS = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]+)""")
KINDS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


class Page(HTMLParser):
    """What a page loads, where it links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)
        self.loads += STYLE_LOADS.findall(text)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        place = LOADS.get(tag)
        is_load = tag != "link" or KINDS & set(given.get("rel", "").split())
        if place in given and is_load:
            self.loads.append(given[place])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


class Site:
    """The pages below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @cached_property
    def pages(self) -> dict[Path, Page]:
        return {path: Page(path.read_text("utf-8")) for path in self.folder.rglob("*.html")}

    def requests(self) -> Iterator[str]:
        """What a page or a style would fetch from elsewhere."""
        for path, page in self.pages.items():
            yield from (
                f"{self._name(path)} loads {url}" for url in page.loads if OUTSIDE.match(url)
            )
        for path in self.folder.rglob("*.css"):
            for url in STYLE_LOADS.findall(path.read_text("utf-8")):
                yield f"{self._name(path)} loads {url}"

    def dead_links(self) -> Iterator[str]:
        """Links and loads to files or anchors that are not there."""
        for path, page in self.pages.items():
            for link in (*page.links, *page.loads):
                parts = urlsplit(link)
                if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                    continue
                to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                there = self.pages.get(to)
                missing = unquote(parts.fragment) not in there.anchors if there else False
                if not to.exists() or (parts.fragment and missing):
                    yield f"{self._name(path)} links to {link}"

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def main(folder: str) -> int:
    site = Site(Path(folder))
    faults = [*site.requests(), *site.dead_links()]
    print("\n".join(faults) or f"{len(site.pages)} pages: every link arrives, nothing is fetched")
    return 1 if faults or not site.pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
