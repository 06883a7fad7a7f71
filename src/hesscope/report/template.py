"""Templates filled, and pages written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hesscope.system import files

RESERVED = {
    "content",
    "verdicts",
    "figures",
    "numbers",
    "glossary",
    "made",
    "headline",
    "figure-data",
}


def rendered(template: str, **parts: Any) -> str:
    """A template of this room, filled.

    Raises:
        RuntimeError: if jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        msg = "the report needs jinja2 and matplotlib: pip install 'hesscope[report]'."
        raise RuntimeError(msg) from error
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    from hesscope.report.glossary import Glossary  # jinja2 brings what it needs

    return environment.get_template(template).render(words=Glossary(), **parts)


def written(path: str | Path, html: str) -> Path:
    """Writes a page and returns its path.

    Raises:
        RuntimeError: if it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, lambda file: file.write(html.encode("utf-8", "backslashreplace")))
    except OSError as error:
        msg = f"cannot write the report to {path}: {error.strerror}. Choose another place."
        raise RuntimeError(msg) from error
    return path


def plain(value: Any) -> str:
    """A fact as it is read."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def anchors(texts: Iterable[str], taken: Iterable[str] = RESERVED) -> list[str]:
    """An address within the page for each name, no two alike.

    >>> anchors(["step size?", "step size", "made"])
    ['step-size', 'step-size-2', 'made-2']
    """
    known, found = set(taken), []
    for text in texts:
        words = re.sub(r"\W+", "-", text).strip("-") or "part"
        first = words
        number = 2
        while words in known:
            words, number = f"{first}-{number}", number + 1
        known.add(words)
        found.append(words)
    return found
