"""A dense matrix on disk while its eigenvalues are computed, so that a killed run can go on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hesscope.operator import SpectralForm, SymmetricOperator
from hesscope.system import progress

SHARE = 20  # times as long as the last saving took, at least, between two savings


@dataclass
class Work:
    """A matrix, what was measured of it before its reduction began, and how far that is."""

    matrix: Tensor
    facts: dict[str, float] = field(default_factory=dict)
    column: int = 0  # the first that has not been reduced yet


class Scratch:
    """Keeps the work on one operator in a folder; another operator's is not taken up."""

    def __init__(self, folder: Path, A: SymmetricOperator, form: SpectralForm) -> None:
        self.file = folder / "matrix.safetensors"
        probe = A @ A.probe(0)
        facts = f"{sorted(map(str, A.facts().items()))} {form.size}"
        content = facts.encode() + probe.double().cpu().numpy().tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.saved, self.took = time.monotonic(), 0.0

    def load(self) -> Work | None:
        """The kept work, if there is any on this operator."""
        if not self.file.exists():
            return None
        with safe_open(self.file, "pt") as kept:
            about = kept.metadata() or {}
            if about.get("fingerprint") != self.fingerprint:
                return None
            progress.report("exact spectrum: kept matrix read again", 0)
            return Work(kept.get_tensor("matrix"), **json.loads(about["work"]))

    def save(self, work: Work) -> None:
        """Writes the work and moves it into place."""
        start = time.monotonic()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        about = {
            "fingerprint": self.fingerprint,
            "work": json.dumps({"facts": work.facts, "column": work.column}),
        }
        try:
            save_file({"matrix": work.matrix.cpu()}, temporary, about)
            temporary.replace(self.file)
        finally:
            temporary.unlink(missing_ok=True)
        self.saved = time.monotonic()
        self.took = self.saved - start

    def save_now_and_then(self, work: Work) -> None:
        """Saves if that takes at most a twentieth of the time, and not more than once a minute."""
        if time.monotonic() - self.saved > max(60.0, SHARE * self.took):
            self.save(work)

    def finish(self) -> None:
        """The eigenvalues are there: the matrix is no longer needed."""
        self.file.unlink(missing_ok=True)
