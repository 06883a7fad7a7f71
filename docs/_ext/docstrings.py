"""Docstrings as sphinx needs them: bars of mathematics, comments of fields, public names."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import cached_property

from docutils import nodes
from sphinx.util.nodes import make_refnode

import hesscope

FIELD = re.compile(r"^    (\w+): [^#\n]+?  # (.+)$", re.MULTILINE)
# What annotations name and has its page elsewhere, or in the engine room.
FOREIGN = (
    "torch.",
    "numpy.",
    "scipy.",
    "matplotlib.",
    "pandas.",
    "collections.",
    "contextlib.",
    "pathlib.",
)
ELSEWHERE = {"Axes", "DataFrame", "LinearOperator", "Tensor"}
ENGINE_ROOM = {"Batch", "Evaluation", "Law", "Layout", "Multiplies", "Scores", "ScipyLike"}
PUBLIC = {f"{module}.{name}": name for name, module in hesscope._HOMES.items()}


def readable(_app, _what, _name, obj, _options, lines: list[str]) -> None:
    """|A| is a norm and no substitution; the comments behind the fields of a result are told."""
    if isinstance(obj, (property, cached_property)):  # "2/λmax: the limit" tells no type
        lines[:] = [*(inspect.getdoc(obj) or "").splitlines(), ""]
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = line.replace("|", "\\|")
    if inspect.isclass(obj) and dataclasses.is_dataclass(obj):
        lines += ["", *fields(obj)]


def fields(cls: type) -> list[str]:
    """One line a field that says more than its name."""
    told = FIELD.findall(inspect.getsource(cls))
    return [f":ivar {name}: {comment.replace('|', chr(92) + '|')}" for name, comment in told]


def parsable(
    _app, _what, _name, _obj, _options, signature, returns
) -> tuple[str | None, str | None]:
    """A default that is made anew has no literal."""
    return (signature or "").replace("<factory>", "...") or None, returns


def public_name(app, env, node, contnode) -> nodes.Node | None:
    """A class is referred to by the module it lives in; readers know it by its public name."""
    target = node.get("reftarget", "")
    known = env.get_domain("py").objects
    for name in (f"hesscope.{PUBLIC.get(target, '')}", f"hesscope.{target}"):
        if name in known:
            entry = known[name]
            return make_refnode(
                app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name
            )
    last = target.rpartition(".")[2]
    known_elsewhere = target.startswith(FOREIGN) or last in ELSEWHERE | ENGINE_ROOM
    return contnode if known_elsewhere else None


class Tutorials:
    """The order of the tutorials: from what is most often asked."""

    ORDER = (
        "what_the_numbers_mean",
        "loss_spikes",
        "plateau",
        "diverges",
        "which_learning_rate",
        "curvature_during_training",
        "compare_two_minima",
        "language_model",
        "figure_for_a_paper",
    )

    def __init__(self, _folder: str) -> None: ...

    def __call__(self, file: str) -> int:
        return self.ORDER.index(file.removesuffix(".py"))


def setup(app) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", readable)
    app.connect("autodoc-process-signature", parsable)
    app.connect("missing-reference", public_name)
    return {"parallel_read_safe": True}
