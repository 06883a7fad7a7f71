"""Finished points of a slice on disk, so that a call that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import time
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hesscope.landscape.ways import Plane
from hesscope.system import files
from hesscope.system.contents import as_bytes

EVERY = 5.0  # seconds between two savings, at least


class Kept:
    """The losses of a grid of points (m, k) and which of them are known.

    A file of other points, parameters, directions or data is not taken up.
    """

    def __init__(self, folder: str | Path | None, plane: Plane, grid: Tensor, label: str) -> None:
        self.losses = torch.full((len(grid),), torch.nan, dtype=torch.float64)
        self.known = torch.zeros(len(grid), dtype=torch.bool)
        self.file, self.saved = None, time.monotonic()
        if folder is None:
            return
        digest = hashlib.sha256(label.encode())
        watched = plane.problem.point.watched()
        for tensor in (*watched, plane.origin, plane.vectors, grid):
            digest.update(as_bytes(tensor).numpy().data)
        digest.update(str(plane.problem.batches.fingerprints).encode())
        self.name = digest.hexdigest()[:32]
        self.file = Path(folder) / f"slice-{self.name}.safetensors"
        if self.file.is_file():
            self._take_up(self.file)

    def _take_up(self, file: Path) -> None:
        """What an earlier call has kept; what is damaged is told, and computed again."""
        try:
            with safe_open(file, "pt") as kept:
                losses, known = kept.get_tensor("losses"), kept.get_tensor("known")
                sound = (kept.metadata() or {}).get("sha256") == _digest(losses, known)
            cause = "" if sound else "its checksum differs"
        except Exception as error:  # whatever damage makes of a file
            cause = f"{type(error).__name__}: {error}"
        if cause:
            msg = f"{file} is damaged ({cause}): its points are computed again"
            warnings.warn(msg, stacklevel=2)
            return
        self.losses, self.known = losses, known

    def missing(self) -> Tensor:
        """The indices of the points whose loss is not known."""
        return (~self.known).nonzero().flatten()

    def add(self, indices: Tensor, losses: Tensor) -> None:
        """Takes in losses, and saves them now and then."""
        self.losses[indices], self.known[indices] = losses.double(), True
        if self.file is not None and time.monotonic() - self.saved > EVERY:
            self.save()

    def save(self) -> None:
        """Writes what is known and moves it into place; a full disk is told, and stops nothing."""
        if self.file is None:
            return
        tensors = {"losses": self.losses, "known": self.known}
        blob = save(tensors, {"sha256": _digest(self.losses, self.known)})
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self.file, lambda file: file.write(blob))
        except OSError as error:
            msg = f"cannot keep the points in {self.file}: {error.strerror}; going on without"
            warnings.warn(msg, stacklevel=2)
        self.saved = time.monotonic()

    def finish(self) -> None:
        """All points are there: the file is no longer needed."""
        if self.file is not None and bool(self.known.all()):
            self.file.unlink(missing_ok=True)


def _digest(losses: Tensor, known: Tensor) -> str:
    content = losses.numpy().tobytes() + known.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()
