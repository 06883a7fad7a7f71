"""Saves and loads any result: record.json and arrays-….safetensors in a folder, never pickle.

The JSON holds the structure, a schema number, where the numbers come from, and a SHA-256 of itself
and of the arrays, whose file is named by its content. The JSON is written last and moved into
place, so a folder holds the old record or the new one at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import os
import pkgutil
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_arrays
from safetensors.torch import save as save_arrays
from torch import Tensor

from hesscope import __version__, results
from hesscope.results.result import Result

SCHEMA = 1
RECORD, ARRAYS = "record.json", "arrays-{}.safetensors"
PARTS = {"format", "schema", "provenance", "arrays_sha256", "result", "sha256"}


def save(result: Any, folder: str | Path) -> Path:
    """Writes a result to a folder (made if needed) and returns the folder.

    Raises:
        ValueError: if the result, or something inside it, is not data that hesscope can save.
        RuntimeError: if the folder cannot be written.

    >>> import tempfile, hesscope as hs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hs.load(hs.save(hs.Estimate(1.5, 0.25, 10), folder))
    Estimate(value=1.5, stderr=0.25, num_matvecs=10)
    """
    folder = Path(folder)
    arrays: dict[str, Tensor] = {}
    body = _encode(result, arrays, "result")
    blob = save_arrays(arrays)
    record = {
        "format": "hesscope",
        "schema": SCHEMA,
        "provenance": provenance(),
        "arrays_sha256": hashlib.sha256(blob).hexdigest(),
        "result": body,
    }
    record["sha256"] = _digest(record)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    arrays_file = _arrays_file(folder, record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(arrays_file, blob)
        _replace(folder / RECORD, text.encode())
        for old in folder.glob(ARRAYS.format("*")):
            if old != arrays_file:
                old.unlink(missing_ok=True)
    except OSError as error:
        need = len(blob) + len(text)
        msg = f"cannot write {need} bytes to {folder}: {error.strerror}. Choose another folder."
        raise RuntimeError(msg) from error
    return folder


def load(folder: str | Path) -> Any:
    """Reads a result that `save` wrote, after checking that no byte of it has changed.

    Raises:
        ValueError: if the folder holds no record, or one of a newer schema.
        RuntimeError: if the record is damaged.
    """
    folder = Path(folder)
    record = _read_record(folder)
    arrays_file = _arrays_file(folder, record)
    blob = arrays_file.read_bytes() if arrays_file.exists() else b""
    if hashlib.sha256(blob).hexdigest() != record["arrays_sha256"]:
        msg = (
            f"{arrays_file} is not the file that was written with {RECORD} (checksum differs): "
            "it is truncated, damaged or of another run. Copy the folder again or save again."
        )
        raise RuntimeError(msg)
    return _decode(record["result"], load_arrays(blob))


def provenance() -> dict[str, str]:
    """The versions and the time under which a number was made."""
    return {
        "hesscope": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_provenance(folder: str | Path) -> dict[str, str]:
    """The versions and the time that were saved with a result.

    Raises:
        ValueError: if the folder holds no record, or one of a newer schema.
        RuntimeError: if the record is damaged.
    """
    return dict(_read_record(Path(folder))["provenance"])


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{folder} holds no {RECORD}; give a folder that `hesscope ... --save` has written."
        raise ValueError(msg) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{folder / RECORD} is damaged ({error}). Copy the folder again or save again."
        raise RuntimeError(msg) from error
    if not isinstance(record, dict) or record.get("format") != "hesscope":
        msg = f"{folder / RECORD} was not written by hesscope; give a folder that `save` has made."
        raise ValueError(msg)
    if isinstance(record.get("schema"), int) and record["schema"] > SCHEMA:
        msg = (
            f"{folder} has schema {record['schema']}, this hesscope reads up to {SCHEMA}: "
            "upgrade with `pip install -U hesscope`."
        )
        raise ValueError(msg)
    if set(record) != PARTS or _digest(record) != record["sha256"]:
        msg = f"{folder / RECORD} was changed after it was written (checksum differs). Save again."
        raise RuntimeError(msg)
    return record


def _arrays_file(folder: Path, record: dict[str, Any]) -> Path:
    return folder / ARRAYS.format(record["arrays_sha256"][:16])


def _digest(record: dict[str, Any]) -> str:
    """SHA-256 of everything in the record but the digest itself."""
    content = {name: part for name, part in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Writes beside `path` and moves into place, so that a crash leaves the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(value: Any, arrays: dict[str, Tensor], key: str) -> Any:
    """JSON for `value`; tensors go to `arrays` under the path at which they stand.

    Raises:
        ValueError: if the value is not data.
    """
    if isinstance(value, Tensor):
        key = key if key not in arrays else f"{key}#{len(arrays)}"
        arrays[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        items = [_encode(item, arrays, f"{key}.{i}") for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {
            "dict": [[name, _encode(item, arrays, f"{key}.{name}")] for name, item in value.items()]
        }
    if isinstance(value, Result) and dataclasses.is_dataclass(value):
        return {
            "class": type(value).__name__,
            "fields": {name: _encode(x, arrays, f"{key}.{name}") for name, x in _fields(value)},
        }
    msg = f"cannot save {key}, a {type(value).__name__}; results hold numbers, text and tensors."
    raise ValueError(msg)


def _decode(body: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(body, list):
        return [_decode(item, arrays) for item in body]
    if not isinstance(body, dict):
        return body
    if "tensor" in body:
        return arrays[body["tensor"]]
    if "number" in body:
        return float(body["number"])
    if "tuple" in body:
        return tuple(_decode(item, arrays) for item in body["tuple"])
    if "dict" in body:
        return {name: _decode(item, arrays) for name, item in body["dict"]}
    fields = {name: _decode(item, arrays) for name, item in body["fields"].items()}
    return _kind(body["class"])(**fields)


def _kind(name: str) -> type[Result]:
    """The class of results that has this name, wherever in hesscope it lives.

    A fresh process has not imported it yet: those of this room come first, then the public names
    of the package, whose list says where each one lives. Nothing else is ever looked up.

    Raises:
        ValueError: if there is none.
    """
    if name not in Result.kinds:
        for module in pkgutil.iter_modules(results.__path__, f"{results.__name__}."):
            importlib.import_module(module.name)
    package = importlib.import_module(__name__.partition(".")[0])
    if name not in Result.kinds and name in package.__all__:
        getattr(package, name)
    if name not in Result.kinds:
        msg = (
            f"the record holds a {name!r}, which this version of hesscope does not know. If it is "
            "a class of your own, import it before you load."
        )
        raise ValueError(msg)
    return Result.kinds[name]


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
