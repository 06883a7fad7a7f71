"""A dense matrix on disk while its eigenvalues are computed, so that a killed run can go on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import safe_open
from torch import Tensor

from hesscope.dense.banded import WIDTH
from hesscope.operator import SpectralForm, SymmetricOperator
from hesscope.system import files, progress
from hesscope.system.locks import Locked
from hesscope.system.memory import human

FILE = "matrix.safetensors"
SHARE = 20  # times as long as the last saving took, at least, between two savings
ROWS = 2_048  # that are written, or added to the checksum, at a time


@dataclass
class Work:
    """A matrix, what was measured of it before its reduction began, and how far that is."""

    matrix: Tensor  # float64
    facts: dict[str, float] = field(default_factory=dict)
    column: int = 0  # the first that has not been reduced yet
    width: int = WIDTH  # of the band that it is reduced to, wherever the run goes on

    def about(self) -> dict[str, Any]:
        """All but the matrix."""
        return {"facts": self.facts, "column": self.column, "width": self.width}


class Scratch:
    """Keeps the work on one operator in a folder; another operator's is not taken up."""

    def __init__(self, folder: Path, A: SymmetricOperator, form: SpectralForm) -> None:
        self.file = folder / FILE
        probe = A @ A.probe(0)
        facts = f"{sorted(map(str, A.facts().items()))} {form.size}"
        content = facts.encode() + probe.double().cpu().numpy().tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.device = A.device
        self.saved, self.took = time.monotonic(), 0.0

    def load(self) -> Work | None:
        """The kept work, if there is any on this operator; what is damaged is told and left."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as kept:
                about = kept.metadata() or {}
                if about.get("fingerprint") != self.fingerprint:
                    return None
                progress.report("exact spectrum: kept matrix read again", 0)
                matrix = kept.get_tensor("matrix").to(self.device)
                work = Work(matrix, **json.loads(about["work"]))
            whole = self._digest(work) == about["sha256"]
            cause = "" if whole else "its checksum differs"
        except Exception as error:  # whatever damage makes of a file
            cause = f"{type(error).__name__}: {error}"
        if cause:
            msg = f"{self.file} is damaged ({cause}): the matrix is computed again"
            warnings.warn(msg, stacklevel=2)
            return None
        return work

    def save(self, work: Work) -> None:
        """Writes the work and moves it into place; a disk that is full is told, and stops nothing.

        The eigenvalues do not depend on it: a run that is killed then begins where the last
        saving left it.
        """
        start = time.monotonic()
        try:
            files.replace(self.file, lambda file: self._write(file, work))
        except OSError as error:
            msg = f"cannot keep the matrix in {self.file}: {error.strerror}; going on without"
            warnings.warn(msg, stacklevel=2)
        self.saved = time.monotonic()
        self.took = self.saved - start

    def save_now_and_then(self, work: Work) -> None:
        """Saves if that takes at most a twentieth of the time, and not more than once a minute."""
        if time.monotonic() - self.saved > max(60.0, SHARE * self.took):
            self.save(work)

    def finish(self) -> None:
        """The eigenvalues are there: the matrix is no longer needed."""
        self.file.unlink(missing_ok=True)

    def _write(self, file: BinaryIO, work: Work) -> None:
        """A safetensors file, row by row: there need not be room for the matrix twice."""
        about = {
            "fingerprint": self.fingerprint,
            "work": json.dumps(work.about()),
            "sha256": self._digest(work),
        }
        matrix = work.matrix
        entry = {"dtype": "F64", "shape": [*matrix.shape], "data_offsets": [0, matrix.nbytes]}
        header = json.dumps({"__metadata__": about, "matrix": entry}).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        for rows in _rows(matrix):
            file.write(rows)

    def _digest(self, work: Work) -> str:
        """SHA-256 of all that is kept."""
        digest = hashlib.sha256(f"{self.fingerprint}{json.dumps(work.about())}".encode())
        for rows in _rows(work.matrix):
            digest.update(rows)
        return digest.hexdigest()


@contextmanager
def keeping(folder: Path, A: SymmetricOperator, form: SpectralForm) -> Iterator[Scratch]:
    """A scratch that nobody else uses meanwhile.

    Raises:
        RuntimeError: if another run works in the folder, if it cannot be written, or if there is
            no room for the matrix.
    """
    try:
        with Locked(folder):
            need, free = 8 * form.size**2, shutil.disk_usage(folder).free
            if need > free:
                msg = (
                    f"the matrix takes {human(need)} on the disk of {folder}, where {human(free)} "
                    "are free. Choose another folder."
                )
                raise RuntimeError(msg)
            yield Scratch(folder, A, form)
    except OSError as error:
        msg = f"cannot write to {folder}: {error.strerror}. Choose another folder."
        raise RuntimeError(msg) from error


def _rows(matrix: Tensor) -> Iterator[memoryview]:
    for rows in matrix.split(ROWS):
        if rows.numel():
            yield rows.contiguous().cpu().numpy().data.cast("B")
