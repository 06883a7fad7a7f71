"""The public names: few, documented, lazy, and the same for people and for type checkers."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import hesscope as hs
from hesscope.results.record import provenance
from hesscope.results.result import Result

RESULTS = (  # made by hesscope, not by its users
    "Basin", "BatchStability", "Certificate", "Check", "CheckpointSpectrum", "ClassDecomposition",
    "Compared", "Comparison", "Conditioning",
    "ConvexityProbes", "CriticalStep", "Curvature", "DataSummary",
    "Decomposition", "Descent", "Diagonal",
    "Directions", "Eigenpairs", "Escape", "Estimate", "Event", "Examination", "Finding", "Forecast",
    "Headline", "History", "Interval", "LayerMap", "LayerStatistics", "LearningRate",
    "LossLine", "LossPath",
    "Measurements", "Neighbours", "Outliers", "Overlap", "Postmortem",
    "Predictions", "Result", "SamplingError", "Series",
    "Shares",
    "Sharpness", "SharpnessComparison", "SharpnessMeasure", "Signal", "Slice", "Smoothness",
    "SpectralDensity", "SpectralForm", "SpectralPenalty",
    "Spectrum", "Step", "TimeSignal", "Trained",
    "UnitStatistics", "Verdict", "Walk",
)  # fmt: skip
CALLED = [name for name in hs.__all__ if name not in (*RESULTS, *hs._NAMESPACES)]
HEAVY = ("torch", "matplotlib", "jinja2", "sklearn", "transformers", "numpy", "scipy", "rich")


@pytest.mark.parametrize("name", hs.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    value = getattr(hs, name)
    own = inspect.getdoc(value) or ""
    generated = dataclasses.is_dataclass(value) and own.startswith(f"{name}(")
    assert len(own) > 20
    assert not generated


@pytest.mark.parametrize("name", CALLED)
def test_every_name_that_users_call_has_an_example_that_runs(name):
    value = getattr(hs, name)
    module = sys.modules[value.__module__]
    own = [test for test in doctest.DocTestFinder().find(value, name, module) if test.examples]
    # An example may also stand with the module, as for `listening`, when it shows the name in use.
    shown = [
        test
        for test in doctest.DocTestFinder().find(module)
        if any(name in example.source for example in test.examples)
    ]
    assert own or shown


def test_users_call_at_most_60_names_without_repetition():
    assert len(CALLED) <= 60
    assert len(set(hs.__all__)) == len(hs.__all__)


ENGINE_ROOM = {"Evaluation", "Layout"}  # of a Problem: for operators, which need no annotation
NAMESPACES = {name: getattr(hs, name) for name in hs._NAMESPACES}
ELSEWHERE = {
    "LinearOperator": object,
    "Axes": object,
    "DataFrame": object,
}  # of packages that are not imported here


def own_classes(annotation: object) -> Iterator[type]:
    """The classes of hesscope inside an annotation."""
    for argument in typing.get_args(annotation):
        yield from own_classes(argument)
    if inspect.isclass(annotation) and annotation.__module__.startswith("hesscope."):
        yield annotation


def handed_out(value: object) -> Iterator[type]:
    """The classes that a call, or the methods and fields of an object of this class, give."""
    if not inspect.isclass(value):
        yield from own_classes(typing.get_type_hints(value, localns=ELSEWHERE).get("return"))
        return
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    hints = typing.get_type_hints(value, localns=ELSEWHERE)
    for name in (field.name for field in fields if not field.name.startswith("_")):
        yield from own_classes(hints[name])
    for name, member in inspect.getmembers(value):
        method = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isroutine(method):
            yield from own_classes(typing.get_type_hints(method, localns=ELSEWHERE).get("return"))


def named_in(space: ModuleType) -> dict[str, object]:
    """The classes and functions of hesscope with a public name there."""
    named = {name: getattr(space, name) for name in dir(space)}
    return {
        name: value
        for name, value in named.items()
        if inspect.isroutine(value) or inspect.isclass(value)
        if value.__module__.startswith("hesscope.")
    }


def test_what_is_handed_out_has_a_public_name():
    public = [value for space in (hs, *NAMESPACES.values()) for value in named_in(space).values()]
    given = {kind for value in public for kind in handed_out(value)}
    assert len(given) > 20
    assert {kind.__qualname__ for kind in given if kind not in public} == ENGINE_ROOM


def test_what_is_saved_has_a_public_name():
    public = [value for space in (hs, *NAMESPACES.values()) for value in named_in(space).values()]
    for module in pkgutil.walk_packages(hs.__path__, "hesscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = [kind for kind in Result.kinds.values() if kind.__module__.startswith("hesscope.")]
    assert len(kinds) > 25
    assert {kind.__qualname__ for kind in kinds if kind not in public} == set()


def test_a_thing_has_one_address():
    at_the_top = list(named_in(hs).values())
    for space in NAMESPACES.values():
        inside = named_in(space)
        assert inside
        assert {name for name, value in inside.items() if value in at_the_top} == set()


def test_every_line_of_the_list_of_names_is_read():
    stub = Path(hs.__file__).with_name("__init__.pyi").read_text("utf-8")
    lines = [line for line in stub.splitlines() if line and not line.startswith("#")]
    expected = [f"from {home} import {name} as {name}" for name, home in hs._HOMES.items()]
    assert lines == [*expected, "__version__: str"]


def test_the_version_stands_in_one_place():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"] == {"path": "src/hesscope/__init__.py"}
    command = [sys.executable, "-m", "hesscope", "--version"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout == f"hesscope {hs.__version__}\n"
    assert provenance()["hesscope"] == hs.__version__


@pytest.mark.parametrize("heavy", HEAVY)
def test_importing_hesscope_does_not_import(heavy):
    code = f"import sys, hesscope; dir(hesscope); sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_numerics_do_not_import_optional_packages():
    optional = ("matplotlib", "jinja2", "sklearn", "transformers", "scipy", "pytorch_lightning")
    code = (
        "import sys, hesscope as hs; hs.eigsh; hs.spectrum; hs.Hessian; hs.check_problem; hs.save;"
        f"print([name for name in {optional!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError) as caught:
        hs.hessian  # noqa: B018
    expected = "module 'hesscope' has no attribute 'hessian'; dir(hesscope) lists all names."
    assert str(caught.value) == expected


def test_dir_lists_the_public_names_and_the_version():
    assert dir(hs) == sorted([*hs.__all__, "__version__"])
