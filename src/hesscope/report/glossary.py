"""Words that a reader may not know: each once, in plain words, linked from where it is used."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

from hesscope.report.template import anchors


@dataclass(frozen=True)
class Term:
    """A word, the forms in which texts use it, what it means, and where the docs say more."""

    name: str
    forms: tuple[str, ...]
    meaning: str
    docs: str = ""


def _read() -> tuple[Term, ...]:
    """Those of the file beside this one, in alphabetical order."""
    text = (Path(__file__).parent / "terms.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text).items()
    return tuple(Term(n, tuple(t["forms"]), t["meaning"], t["docs"]) for n, t in found)


TERMS = _read()
BY_FORM = {form.lower(): term for term in TERMS for form in term.forms}
ADDRESS = dict(
    zip((term.name for term in TERMS), anchors(f"term {term.name}" for term in TERMS), strict=True)
)


@cache
def _pattern() -> re.Pattern[str]:
    forms = "|".join(re.escape(form) for form in sorted(BY_FORM, key=len, reverse=True))
    return re.compile(rf"(?<![\w/|·#&.;-])(?:{forms})(?![\w/·-])", re.IGNORECASE)


class Glossary:
    """Links words to their meanings, the first time in each section, and knows which were used.

    >>> words = Glossary()
    >>> print(words("a high loss, a low loss"))
    a high <a class="term" href="#term-loss">loss</a>, a low loss
    >>> [entry["name"] for entry in words.entries()]
    ['loss']
    """

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._seen: set[str] = set()

    def begin(self) -> str:
        """A new section, in which words are linked again."""
        self._seen = set()
        return ""

    def __call__(self, text: object) -> Markup:
        """The text with its words linked; whatever markup it holds stays text."""
        return Markup(_pattern().sub(self._link, str(escape(text))))

    def in_rows(self, table: str) -> Markup:
        """A table whose row heads are linked."""
        heads = re.compile(r'(?<=<th scope="row">)[^<]*(?=</th>)')
        return Markup(heads.sub(lambda head: _pattern().sub(self._link, head[0]), table))

    def entries(self) -> list[dict[str, object]]:
        """The words that were used, and those that their meanings use, in order."""
        made: dict[str, Markup] = {}
        while left := self._used - set(made):
            for name in left:
                self._seen = {name}
                made[name] = self(next(t.meaning for t in TERMS if t.name == name))
        return [
            {"name": t.name, "anchor": ADDRESS[t.name], "meaning": made[t.name], "docs": t.docs}
            for t in TERMS
            if t.name in made
        ]

    def _link(self, found: re.Match[str]) -> str:
        term = BY_FORM[found[0].lower()]
        if term.name in self._seen:
            return found[0]
        self._seen.add(term.name)
        self._used.add(term.name)
        return f'<a class="term" href="#{ADDRESS[term.name]}">{found[0]}</a>'
