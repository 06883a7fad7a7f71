"""hesscope looks at the Hessian of a neural network and says what it sees.

The public names stand in `__init__.pyi`, for type checkers and for this file alike.
"""

from __future__ import annotations

import importlib

__version__ = "0.2.0"


def _homes() -> dict[str, str]:
    """The module of each public name, from the lines `from MODULE import NAME as NAME`."""
    stub = __spec__.loader.get_data(f"{__path__[0]}/__init__.pyi").decode()
    lines = [line.split() for line in stub.splitlines() if line.startswith("from ")]
    return {name: module for _, module, _, name, *_ in lines}


_HOMES = _homes()
_NAMESPACES = sorted(name for name, module in _HOMES.items() if module == "hesscope")
__all__ = [*sorted(_HOMES.keys() - _NAMESPACES), *_NAMESPACES]


def __getattr__(name: str) -> object:
    """Imports a name when it is first used, so that `hesscope --help` does not wait for torch.

    Raises:
        AttributeError: if the name is not a public one.
    """
    if name not in _HOMES:
        msg = f"module 'hesscope' has no attribute {name!r}; dir(hesscope) lists all names."
        raise AttributeError(msg)
    if name in _NAMESPACES:
        return importlib.import_module(f"hesscope.{name}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
