"""The public names: few, documented, lazy, and the same for people and for type checkers."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hesscope as hs

RESULTS = (  # made by hesscope, not by its users
    "Certificate", "Check", "Conditioning", "Eigenpairs", "Escape", "Examination", "Finding",
    "Forecast", "Interval", "LossLine", "Outliers", "SamplingError", "SpectralDensity", "Spectrum",
    "Verdict",
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


def test_users_call_at_most_45_names_without_repetition():
    assert len(CALLED) <= 45
    assert len(set(hs.__all__)) == len(hs.__all__)


def test_type_checkers_see_the_names_that_python_finds():
    tree = ast.parse(Path(hs.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {
        (f"hesscope.{module}", name, name) for module, names in hs._HOMES.items() for name in names
    }
    assert {item for item in seen if item[1] not in hs._NAMESPACES} == homes


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
