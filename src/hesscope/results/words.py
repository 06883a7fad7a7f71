"""What fields, kinds and keys are called where people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

NOT_KNOWN = "–"
SHOWN = 8  # of a list of values in one cell
GREEK = {
    "lambda": "λ",
    "tau": "τ",
    "kappa": "κ",
    "theta": "θ",
}
WORDS = {
    "n": "parameters",
    "num_matvecs": "cost in products (matvecs)",
    "num_gradients": "cost in gradients",
    "num_evaluations": "cost in losses",
    "num_losses": "cost in losses",
    "lambda_max": "λmax",
    "lambda_min": "λmin",
    "lambda_max_error": "λmax, its error",
    "lambda_min_error": "λmin, its error",
    "lr": "learning rate",
    "stderr": "standard error",
    "delta": "risk of a certificate",
    "g_dot_g": "g·g",
    "g_dot_Hg": "g·Hg",
    "g_dot_v": "g·v",
    "tol": "tolerance",
    "which": "which end",
    "num": "number",
}


def called(name: str) -> str:
    """A field or a key in words.

    >>> called("num_matvecs"), called("stable_rank"), called("num_parts"), called("lambda_min")
    ('cost in products (matvecs)', 'stable rank', 'number of parts', 'λmin')
    """
    if name in WORDS:
        return WORDS[name]
    words = re.sub("^num_", "number_of_", name).split("_")
    return " ".join(GREEK.get(word, word) for word in words)


def kind_of(kind: type) -> str:
    """The name of a kind of results in words.

    >>> kind_of(type("SamplingError", (), {})), kind_of(type("Check", (), {}))
    ('Sampling error', 'Check')
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__)
    return words.capitalize()


def listed(texts: Sequence[str]) -> str:
    """The first few, and how many there are.

    >>> listed(["a", "b"]), listed(list("abcdefghij"))
    ('a, b', 'a, b, c, d, e, f, g, h, ... (10 in all)')
    """
    shown = ", ".join(texts[:SHOWN])
    return shown if len(texts) <= SHOWN else f"{shown}, ... ({len(texts)} in all)"
