"""Finished points of a slice on disk, so that a call that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hesscope.landscape.ways import Plane

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
            plain = tensor.detach().cpu().reshape(-1).clone()
            digest.update(plain.view(torch.uint8).numpy().tobytes())
        digest.update(str(plane.problem.batches.fingerprints).encode())
        self.name = digest.hexdigest()[:32]
        self.file = Path(folder) / f"slice-{self.name}.safetensors"
        if self.file.exists():
            with safe_open(self.file, "pt") as kept:
                self.losses, self.known = kept.get_tensor("losses"), kept.get_tensor("known")

    def missing(self) -> Tensor:
        """The indices of the points whose loss is not known."""
        return (~self.known).nonzero().flatten()

    def add(self, indices: Tensor, losses: Tensor) -> None:
        """Takes in losses, and saves them now and then."""
        self.losses[indices], self.known[indices] = losses.double(), True
        if self.file is not None and time.monotonic() - self.saved > EVERY:
            self.save()

    def save(self) -> None:
        """Writes what is known and moves it into place."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            save_file({"losses": self.losses, "known": self.known}, temporary)
            temporary.replace(self.file)
        finally:
            temporary.unlink(missing_ok=True)
        self.saved = time.monotonic()

    def finish(self) -> None:
        """All points are there: the file is no longer needed."""
        if self.file is not None and bool(self.known.all()):
            self.file.unlink(missing_ok=True)
