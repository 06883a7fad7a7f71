"""Files of weights behind names, patterns and folders."""

from __future__ import annotations

from glob import glob
from pathlib import Path

WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
OF_A_MODEL = ("model.safetensors", "pytorch_model.bin")  # beside other files of a checkpoint


def checkpoint_files(patterns: list[str]) -> list[Path]:
    """The files of names, patterns and folders, each once.

    A folder stands for the files of weights in it, or for the model where it is a checkpoint of
    several files.

    Raises:
        ValueError: if one stands for none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        named = [Path(pattern)] if Path(pattern).is_dir() else [Path(p) for p in glob(pattern)]  # noqa: PTH207  absolute patterns, too
        paths = [path for one in named for path in (_inside(one) if one.is_dir() else [one])]
        if not paths:
            msg = f"{pattern} is no file, pattern or folder of checkpoints that is there."
            raise ValueError(msg)
        found |= dict.fromkeys(sorted(paths))
    return list(found)


def _inside(folder: Path) -> list[Path]:
    for name in OF_A_MODEL:
        if (folder / name).is_file():
            return [folder / name]
    return [path for path in folder.iterdir() if path.suffix in WEIGHTS]
