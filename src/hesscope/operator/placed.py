"""An operator whose algorithms keep their vectors in a place that was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hesscope.operator.derived import StandIn
from hesscope.operator.place import Disk, Host, Place
from hesscope.operator.symmetric import SymmetricOperator
from hesscope.system.mapped import folder_on_disk

PlaceLike = Literal["auto", "memory", "host", "disk"] | Path


class Placed(StandIn):
    """A itself, with the vectors of algorithms in a place of their own."""

    def __init__(self, A: SymmetricOperator, place: Place) -> None:
        super().__init__(A)
        self._chosen = place

    def matmat(self, V: Tensor) -> Tensor:
        """A V."""
        return self.A.matmat(V)

    @property
    def _place(self) -> Place:
        """The one that was chosen."""
        return self._chosen

    def facts(self) -> dict[str, Any]:
        """The facts of A, and where vectors are."""
        return {**self.A.facts(), "basis": self._chosen.name}


def placed(A: SymmetricOperator, basis: PlaceLike, need: float) -> SymmetricOperator:
    """A with its vectors where the user wants them, or in the first place with `need` bytes free.

    Where no place has as many, they stay on the device, whose memory can be had again and again.

    Raises:
        ValueError: for a word or a folder that names no place.
    """
    own, host = Place(), Host()
    if isinstance(basis, Path):
        if not basis.is_dir():
            msg = f"basis={str(basis)!r} is no folder; make it first, or say basis='disk'."
            raise ValueError(msg)
        return Placed(A, Disk(basis))
    if basis not in ("auto", "memory", "host", "disk"):
        msg = f"basis={basis!r}; choose one of 'auto', 'memory', 'host', 'disk', or give a Path."
        raise ValueError(msg)
    if basis in ("host", "disk"):
        return Placed(A, host if basis == "host" else Disk(folder_on_disk()))
    if basis == "memory" or A.free_bytes() >= need:
        return A
    others = [Disk(folder_on_disk())] if A.device.type == "cpu" else [host, Disk(folder_on_disk())]
    fit = (place for place in others if A._free_bytes(place) >= need)
    place = next(fit, own)
    return A if place is own else Placed(A, place)
