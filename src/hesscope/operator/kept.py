"""Products kept on disk, so that a measurement that was killed goes on where it was.

A measurement from one seed asks for the same vectors again when it begins again. Each product is a
file of its own, named by its vector, so a run is given what an earlier one has paid for, bit for
bit, until it comes to the first product that is not there. No algorithm needs to know of it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hesscope import rounding
from hesscope.operator.derived import StandIn
from hesscope.operator.place import Place
from hesscope.operator.symmetric import SpectralForm, SymmetricOperator
from hesscope.system import files
from hesscope.system.contents import as_bytes

ABOUT, PRODUCT = "products.json", "product-{}.safetensors"
FORMAT = "hesscope products 1"


class KeptProducts(StandIn):
    """A, whose products are kept in a folder and taken from there where they are known.

    Args:
        A: the operator.
        folder: made if needed; holds one vector for each product.

    Raises:
        ValueError: if the folder keeps products of something else; the message names what differs.
        RuntimeError: if it cannot be written, or is damaged; at a product, if the first of those
            that are kept is not what A gives now.
    """

    def __init__(self, A: SymmetricOperator, folder: str | Path) -> None:
        super().__init__(A)
        self.folder = Path(folder)
        made = {"torch": torch.__version__, "threads": str(torch.get_num_threads())} | A.made_of()
        self._about = A.of_one(lambda: _begun(self.folder, made))
        self._seeds = iter(list(self._about["seeds"]))
        self._of_this_run: set[str] = set()
        self._checked = self._full = False

    @property
    def num_kept(self) -> int:
        """How many products the folder holds."""
        return len(list(self.folder.glob(PRODUCT.format("*"))))

    def in_pieces(self, made_of_it: SymmetricOperator | None = None) -> SymmetricOperator:
        """As A has it; what is kept is whole."""
        return self.A.in_pieces(made_of_it or self)

    def spectral_form(self) -> SpectralForm:
        """That of A, of which nothing is kept here."""
        return self.A.spectral_form()

    def _free_bytes(self, place: Place) -> int:
        """What was free when the folder was begun: the size of a basis depends on it."""
        name = "free_bytes" if place.name == Place.name else f"free_bytes {place.name}"
        return int(self.remembered(name, self.A._free_bytes(place)))

    def fresh_seed(self) -> int:
        """The seed that the first run drew at this place, or one that nobody has known before."""
        known = next(self._seeds, None)
        if known is None:
            known = self.A.fresh_seed()
            self._about["seeds"].append(known)
            self._tell()
        return int(known)

    def remembered(self, name: str, value: Any) -> Any:
        """What the first run has given under this name; this value if it has given none."""
        if name not in self._about:
            self._about[name] = value
            self._tell()
        return self._about[name]

    def seed_of_run(self, given: int | None) -> int | None:
        """The seed that the first run was given, which goes on; None if it drew seeds itself.

        Raises:
            ValueError: if another one is given now.
        """
        first = self.remembered("seed", given)
        if given not in (None, first):
            of = "seeds that it drew itself" if first is None else f"seed {first}"
            msg = (
                f"{self.folder} keeps a run with {of}, not {given}. Leave the seed out to go on "
                "with it, or choose another folder."
            )
            raise ValueError(msg)
        return None if first is None else int(first)

    def matmat(self, V: Tensor) -> Tensor:
        """A V, from the folder if it is there.

        The first that is taken from an earlier run is also computed, and compared.
        """
        name = PRODUCT.format(_digest(V))
        known = self.of_one(lambda: self._read(name, V))
        if known is None:
            known = _laid_out(self.A @ V)
            self._write(name, known)
            self._of_this_run.add(name)
        elif not self._checked and name not in self._of_this_run:
            self._check(V, known)
            self._checked = True
        return known

    def forget(self) -> None:
        """Removes what is kept, when the numbers are told; an empty folder, too."""
        if not self.writes:
            return
        for path in [*self.folder.glob(PRODUCT.format("*")), self.folder / ABOUT]:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _read(self, name: str, V: Tensor) -> Tensor | None:
        """A kept product; None if it is not there, or damaged, which is told."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as kept:
                flat, about = kept.get_tensor("product"), kept.metadata() or {}
            stride = json.loads(about["stride"])
            if about["sha256"] == _checksum(name, stride, flat):
                W = torch.empty_strided(V.shape, stride, dtype=V.dtype, device=V.device)
                _in_memory(W).copy_(flat.view(V.dtype).reshape(_in_memory(W).shape))
                return W
            cause = "its checksum differs"
        except Exception as error:  # whatever damage makes of a file
            cause = f"{type(error).__name__}: {error}"
        warnings.warn(f"{path} is damaged ({cause}): that product is made again", stacklevel=2)
        return None

    def _write(self, name: str, W: Tensor) -> None:
        """Keeps a product; a full disk is told once, and stops nothing.

        One with an entry that is no number is not kept: it ends the run, and its cause may go away.
        """
        if self._full or not self.writes or not bool(torch.isfinite(W).all()):
            return
        flat = as_bytes(_in_memory(W))
        stride = list(W.stride())
        about = {"stride": json.dumps(stride), "sha256": _checksum(name, stride, flat)}
        blob = save({"product": flat}, about)
        self._put(name, blob)

    def _put(self, name: str, content: bytes) -> None:
        """Writes a file, whole or not at all; where the disk is full that is told, once."""
        if self._full or not self.writes:
            return
        try:
            files.replace(self.folder / name, lambda file: file.write(content))
        except OSError as error:
            self._full = True
            msg = f"cannot keep products in {self.folder}: {error.strerror}; going on without"
            warnings.warn(msg, stacklevel=2)

    def _check(self, V: Tensor, known: Tensor) -> None:
        """Whether A still gives what is kept: of code that has changed there is no checksum.

        Raises:
            RuntimeError: if it gives something else.
        """
        own = self.A @ V
        difference, size = float((own - known).norm()), float(known.norm())
        if difference > rounding.half_the_digits(self.precision) * size:
            msg = (
                f"{self.folder} keeps products of another problem: weights and data are the same, "
                f"but a product differs by {difference / (size or 1.0):.1%} of its length, so the "
                "loss or the model's code has changed. Choose another folder, or remove this one."
            )
            raise RuntimeError(msg)

    def _tell(self) -> None:
        self._put(ABOUT, _as_json(self._about))


def _begun(folder: Path, made_of: dict[str, str]) -> dict[str, Any]:
    """What the folder says of its products; begun if there is nothing yet.

    Raises:
        ValueError: if they are products of something else.
        RuntimeError: if that cannot be read or written.
    """
    path = folder / ABOUT
    if not path.exists():
        about: dict[str, Any] = {"format": FORMAT, "made_of": made_of, "seeds": []}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.replace(path, lambda file: file.write(_as_json(about)))
        except OSError as error:
            msg = f"cannot write to {folder}: {error.strerror}. Choose another folder."
            raise RuntimeError(msg) from error
        return about
    try:
        about = json.loads(files.read(path).decode())
        told = about.pop("sha256")
        if about["format"] != FORMAT or told != _digest_of(about):
            raise ValueError("its checksum differs")  # noqa: EM101  told below
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        msg = f"{path} is damaged ({cause}). Remove {folder}, or choose another folder."
        raise RuntimeError(msg) from error
    differing = [_difference(name, about["made_of"], made_of) for name in made_of]
    differing = [text for text in differing if text]
    if differing:
        msg = (
            f"{folder} keeps products of something else: {'; '.join(differing)}. Go on as it was "
            "begun, or choose another folder."
        )
        raise ValueError(msg)
    return dict(about)


def threads_of(folder: str | Path) -> int | None:
    """With how many threads its products were made; None where that cannot be told."""
    try:
        return int(json.loads(files.read(Path(folder) / ABOUT).decode())["made_of"]["threads"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # whoever takes it up says what is wrong


def _difference(name: str, kept: dict[str, str], own: dict[str, str]) -> str:
    """In what two descriptions differ under a name, in words; nothing if it is ""."""
    there, here = kept.get(name, "not known"), own[name]
    if there == here:
        return ""
    are_checksums = len(there) == len(here) == 64
    return f"the {name} differ" if are_checksums else f"{name} was {there}, and is {here} now"


def _as_json(about: dict[str, Any]) -> bytes:
    return json.dumps({**about, "sha256": _digest_of(about)}, indent=1).encode()


def _digest_of(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _laid_out(W: Tensor) -> Tensor:
    """A product as the folder gives it back: in memory of its own, in the same order of entries.

    Sums over it then take their terms alike in a run that is given it and in one that made it.
    """
    plain = W if W.is_contiguous() or W.T.is_contiguous() else W.contiguous()
    fresh = torch.empty_strided(plain.shape, plain.stride(), dtype=W.dtype, device=W.device)
    return fresh.copy_(plain)


def _in_memory(W: Tensor) -> Tensor:
    """The entries in the order of memory."""
    return W if W.is_contiguous() else W.T


def _digest(V: Tensor) -> str:
    head = f"{tuple(V.shape)} {V.dtype} "
    return hashlib.sha256(head.encode() + as_bytes(V).numpy().tobytes()).hexdigest()[:32]


def _checksum(name: str, stride: list[int], flat: Tensor) -> str:
    return hashlib.sha256(f"{name} {stride} ".encode() + flat.numpy().tobytes()).hexdigest()
