"""Digits from npz or IDX files, random inputs like them, and Gaussian blobs."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEFAULT = Path(__file__).parents[1] / "data" / "mnist_1k.npz"
IMAGES, LABELS = 0x803, 0x801  # first four bytes of IDX files of unsigned bytes


def digits(file: Path = DEFAULT, examples: int = 1000, pool: int = 1) -> tuple[Tensor, Tensor]:
    """The first examples of a file as rows in [0, 1] in float64, and their labels.

    Squares of `pool` pixels are averaged; 1 leaves images alone.
    """
    if not file.exists():
        msg = f"--data {file}: there is no such file (papers/data/README.md says where to get one)."
        raise SystemExit(msg)
    images, labels = _read_idx(file) if "idx" in file.name else _read_npz(file)
    if len(images) < examples:
        msg = f"{file} holds {len(images)} images; {examples} are needed."
        raise SystemExit(msg)
    X = torch.tensor(images[:examples], dtype=torch.float64)[:, None] / 255
    X = torch.nn.functional.avg_pool2d(X, pool).flatten(1)
    return X, torch.tensor(labels[:examples]).long()


def like(X: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian inputs with the mean and the variance of all entries of X, and random labels.

    By NumPy: the rounding of torch's sums depends on the number of threads, and what was measured
    on one number of threads would not be recognised on another.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(X.shape, generator=generator, dtype=X.dtype)
    mean, std = float(X.numpy().mean()), float(X.numpy().std(ddof=1))
    return mean + std * noise, torch.randint(10, (len(X),), generator=generator)


def blobs(num: int, std: float, *, classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around `classes` centres on the circle of radius √2, the first at (1, 1)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % classes
    angle = math.pi / 4 + 2 * math.pi * labels / classes
    centres = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1).double()
    noise = torch.randn(num, 2, generator=generator, dtype=torch.float64)
    return centres + std * noise, labels


def digest(*arrays: Tensor) -> str:
    """A short fingerprint of data."""
    content = b"".join(array.numpy().tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:12]


def _read_npz(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(file) as archive:
        missing = {"x_train", "y_train"} - set(archive)
        if missing:
            msg = f"{file} has the arrays {sorted(archive)}; x_train and y_train are needed."
            raise SystemExit(msg)
        return archive["x_train"], archive["y_train"]


def _read_idx(file: Path) -> tuple[np.ndarray, np.ndarray]:
    beside = file.with_name(file.name.replace("images-idx3", "labels-idx1"))
    if beside == file or not beside.exists():
        msg = f"{file} needs its labels beside it, in {beside.name} (images-idx3, labels-idx1)."
        raise SystemExit(msg)
    return _idx(file, IMAGES), _idx(beside, LABELS)


def _idx(file: Path, magic: int) -> np.ndarray:
    """An IDX file: big-endian magic number and sizes, then unsigned bytes."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if int.from_bytes(content[:4], "big") != magic:
        msg = f"{file} does not begin with {magic:#x}, as IDX files of this kind do."
        raise SystemExit(msg)
    dims = magic & 0xFF
    shape = np.frombuffer(content, ">u4", dims, 4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)
