"""Places for the many vectors of an algorithm: with the operator, on the host, on a disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from hesscope.system.mapped import free_on_disk, mapped
from hesscope.system.memory import available_bytes


class Place:
    """The memory of the device of the operator itself."""

    name: ClassVar[str] = "memory"

    def free_bytes(self, device: torch.device) -> int:
        """Bytes that can still be had here for an operator on this device."""
        return available_bytes(device)

    def block(self, num: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for `num` vectors of n numbers, of any content, (num, n)."""
        return torch.empty(num, n, dtype=dtype, device=device)


@dataclass(frozen=True)
class Host(Place):
    """The memory of the computer that the device of an operator is in."""

    name: ClassVar[str] = "host"

    def free_bytes(self, device: torch.device) -> int:  # noqa: ARG002  wherever products are made
        """What is free on the host."""
        return available_bytes(torch.device("cpu"))

    def block(self, num: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:  # noqa: ARG002
        """Room on the host."""
        return torch.empty(num, n, dtype=dtype)


@dataclass(frozen=True)
class Disk(Place):
    """Files in a folder, mapped into memory, that are gone with the vectors."""

    folder: Path
    name: ClassVar[str] = "disk"

    def free_bytes(self, device: torch.device) -> int:  # noqa: ARG002  wherever products are made
        """What is free in the folder."""
        return free_on_disk(self.folder)

    def block(self, num: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:  # noqa: ARG002
        """Room in a file.

        Raises:
            MemoryError: if the disk has none.
        """
        return mapped(self.folder, (num, n), dtype)
