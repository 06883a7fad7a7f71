"""Saves and loads any result: record.json and arrays-….safetensors in a folder, never pickle.

The JSON holds the structure, a schema number, where the numbers come from, and a SHA-256 of itself
and of the arrays, whose file is named by its content. The JSON is written last and moved into
place, so a folder holds the old record or the new one at any time. Writers of one folder take
turns; a reader beside a writer reads again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_arrays
from safetensors.torch import save as save_arrays
from torch import Tensor

from hesscope import __version__
from hesscope.results.encoding import UnknownResultError, decode, encode
from hesscope.system import files, interrupts, worktree
from hesscope.system.contexts import public
from hesscope.system.locks import Locked

SCHEMA = 1
WAIT = 30.0  # seconds that another writer of the folder may take
READINGS = 20  # of a folder, while others write into it
RECORD, ARRAYS = "record.json", "arrays-{}.safetensors"
PARTS = {"format", "schema", "provenance", "arrays_sha256", "result", "sha256"}


@public
def save(result: Any, folder: str | Path) -> Path:
    """Writes a result to a folder (made if needed) and returns the folder.

    What the folder held before is replaced, at once or not at all. Whoever saves into the same
    folder at the same time waits, and the last one's result is there in the end. An interrupt waits
    until the result is saved.

    Raises:
        ValueError: if the result, or something inside it, is not data that hesscope can save.
        RuntimeError: if the folder cannot be written, or if another works in it for long; the
            message says who.

    >>> import tempfile, hesscope as hs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hs.load(hs.save(hs.Estimate(1.5, 0.25, 10), folder))
    Estimate(value=1.5, stderr=0.25, num_matvecs=10)
    """
    folder = Path(folder)
    arrays: dict[str, Tensor] = {}
    body = encode(result, arrays, "result")
    blob = save_arrays(arrays)
    record = {
        "format": "hesscope",
        "schema": SCHEMA,
        "provenance": provenance(),
        "arrays_sha256": hashlib.sha256(blob).hexdigest(),
        "result": body,
    }
    record["sha256"] = _digest(record)
    text = _text(record)
    try:
        with interrupts.deferred(), Locked(folder, WAIT) as lock:
            _write(folder, _arrays_file(folder, record), blob, text)
            if lock.exclusive:
                _tidy(folder, _arrays_file(folder, record))
    except OSError as error:
        need = len(blob) + len(text)
        msg = f"cannot write {need} bytes to {folder}: {error.strerror}. Choose another folder."
        raise RuntimeError(msg) from error
    return folder


def _text(record: dict[str, Any]) -> bytes:
    """The record as JSON; in ASCII where its text is no UTF-8, such as names of damaged files."""
    try:
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(record, indent=1, allow_nan=False).encode()


def _write(folder: Path, arrays_file: Path, blob: bytes, text: bytes) -> None:
    """Writes the arrays, then the record, or neither.

    Raises:
        OSError: if they cannot be written.
    """
    there = arrays_file.exists()
    files.replace(arrays_file, lambda file: file.write(blob))
    try:
        files.replace(folder / RECORD, lambda file: file.write(text))
    except OSError:
        if not there:
            arrays_file.unlink(missing_ok=True)
        raise


def _tidy(folder: Path, arrays_file: Path) -> None:
    """Removes the arrays of records that were replaced, and what killed writers have left."""
    for old in folder.glob(ARRAYS.format("*")):
        if old != arrays_file:
            old.unlink(missing_ok=True)
    for name in (ARRAYS.format("*"), RECORD):
        files.remove_orphans(folder, name)


def load(folder: str | Path) -> Any:
    """Reads a result that `save` wrote, after checking that no byte of it has changed.

    Raises:
        ValueError: if the folder holds no record, or one of a newer schema.
        RuntimeError: if the record is damaged, or does not hold what hesscope writes.
    """
    folder = Path(folder)
    record = _read_record(folder)
    for _ in range(READINGS):
        blob = _read_arrays(folder, record)
        if hashlib.sha256(blob).hexdigest() == record["arrays_sha256"]:
            return _decoded(folder, record["result"], blob)
        former, record = record, _read_record(folder)
        if record == former:
            break  # else somebody has saved meanwhile
    msg = (
        f"{_arrays_file(folder, record)} is not the file that was written with {RECORD} (checksum "
        "differs): it is truncated, damaged or of another run. Copy the folder again or save again."
    )
    raise RuntimeError(msg)


def provenance() -> dict[str, str]:
    """The versions, the commit of the user's code in git, and the time of a number."""
    commit = worktree.commit(worktree.folder())
    return {
        **({"code": commit} if commit else {}),
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
    """The record of a folder.

    Raises:
        ValueError: if there is none, or one of a newer schema.
        RuntimeError: if it is damaged or cannot be read.
    """
    path = folder / RECORD
    try:
        record = json.loads(files.read(path).decode())
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"{folder} holds no {RECORD}; give a folder that `hesscope ... --save` has written."
        raise ValueError(msg) from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        msg = f"{path} is damaged ({cause}). Copy the folder again or save again."
        raise RuntimeError(msg) from error
    if not isinstance(record, dict) or record.get("format") != "hesscope":
        msg = f"{path} was not written by hesscope; give a folder that `save` has made."
        raise ValueError(msg)
    if isinstance(record.get("schema"), int) and record["schema"] > SCHEMA:
        msg = (
            f"{folder} has schema {record['schema']}, this hesscope reads up to {SCHEMA}: "
            "upgrade with `pip install -U hesscope`."
        )
        raise ValueError(msg)
    if set(record) != PARTS or _digest(record) != record["sha256"]:
        msg = f"{path} was changed after it was written (checksum differs). Save again."
        raise RuntimeError(msg)
    if not _is_digest(record["arrays_sha256"]) or not isinstance(record["provenance"], dict):
        raise RuntimeError(_forged(path, "its parts are of other types"))
    return record


def _read_arrays(folder: Path, record: dict[str, Any]) -> bytes:
    """The bytes of the arrays that belong to a record; none if there is no such file.

    Raises:
        RuntimeError: if they cannot be read.
    """
    path = _arrays_file(folder, record)
    try:
        return files.read(path)
    except FileNotFoundError:
        return b""
    except (OSError, MemoryError) as error:
        cause = getattr(error, "strerror", None) or "out of memory"
        msg = f"cannot read {path}: {cause}. Copy the folder again or save again."
        raise RuntimeError(msg) from error


def _decoded(folder: Path, body: Any, blob: bytes) -> Any:
    """The result that a record holds.

    Raises:
        UnknownResultError: if it holds a class that is not known.
        RuntimeError: if it was not written by `save`, though its checksums agree.
    """
    try:
        return decode(body, load_arrays(blob))
    except UnknownResultError:
        raise
    except Exception as error:  # whatever a forged record makes a constructor raise
        raise RuntimeError(_forged(folder / RECORD, f"{type(error).__name__}: {error}")) from error


def _forged(path: Path, cause: str) -> str:
    return f"{path} does not hold what hesscope writes ({cause}). Save again."


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


def _arrays_file(folder: Path, record: dict[str, Any]) -> Path:
    return folder / ARRAYS.format(record["arrays_sha256"][:16])


def _digest(record: dict[str, Any]) -> str:
    """SHA-256 of everything in the record but the digest itself."""
    content = {name: part for name, part in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
