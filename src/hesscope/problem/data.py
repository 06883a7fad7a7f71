"""Batches that are the same at every pass: read once, counted, cached, checked against drift."""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hesscope.problem.contents import fingerprint, tensors_in, to_device
from hesscope.problem.turns import LOCK
from hesscope.system import collectives, interrupts
from hesscope.system.agreement import compared, exchange, several, together
from hesscope.system.contexts import as_users

DEFAULT_CACHE = 1 << 30  # bytes of batches that are kept on the device
DATASET_BATCH = 256  # examples per batch when a bare Dataset is given


@dataclass(frozen=True)
class Batch:
    """One batch on the device, and how many items its mean loss averages over."""

    index: int
    content: Any
    count: float
    whole: bool = False  # one item, which is never cut


class Batches:
    """A re-iterable sequence of `Batch` that yields the same values at every pass.

    Up to `cache_bytes` the batches stay on the device. Above, the source is read again at every
    pass, under the same random seed, and a batch that differs from the first pass is an error.
    Batches that are `whole` are one item each, which is never cut.
    """

    def __init__(
        self,
        data: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        count_of: Callable[[Any], float],
        whole: bool = False,
        batch_size: int | None = None,
        cache_bytes: int = DEFAULT_CACHE,
        shard: bool = False,
    ) -> None:
        self.whole, self.sharded = whole, shard
        self.source = _as_iterable(data, batch_size, collectives.num_processes() if shard else 1)
        cut = shard and batch_size is None and isinstance(data, tuple)
        self._uncut = data if cut and isinstance(self.source, list) else None
        self.device, self.dtype, self.count_of = device, dtype, count_of
        self.cache_bytes, self._num_processes = cache_bytes, collectives.num_processes()
        self._fingerprints: list[int] = []
        self._cache: list[Batch] | None = []
        self._borrowed: Batch
        self.total: float = 0.0
        self.skipped: list[int] = []
        self._read_first()

    def __iter__(self) -> Iterator[Batch]:
        yield from self._cache if self._cache is not None else self._stream()

    def __len__(self) -> int:
        own = sum(self._is_own(index) for index in range(len(self._fingerprints)))
        return own - len(self.skipped)

    @property
    def cached(self) -> bool:
        """Whether all batches are kept on the device."""
        return self._cache is not None

    @property
    def fingerprints(self) -> tuple[int, ...]:
        """The checksum of every batch of the first pass, skipped ones included."""
        return tuple(code for i, code in enumerate(self._fingerprints) if self._is_own(i))

    def as_read(self, batch: Batch) -> int:
        """The checksum that a batch had at the first pass."""
        return self._fingerprints[batch.index]

    @property
    def checksum(self) -> int:
        """Of all own batches with their places; those of several processes are to be added.

        Of arrays that were cut into as many parts as there are processes, that of the whole.
        """
        own = [(i, code) for i, code in enumerate(self._fingerprints) if self._is_own(i)]
        if self._uncut is not None:
            whole = (0, fingerprint(to_device(self._uncut, self.device, self.dtype)))
            own = [whole] if collectives.is_first_process() else []
        return sum(int.from_bytes(hashlib.sha256(repr(one).encode()).digest()[:7]) for one in own)

    def counted(self, count_of: Callable[[Any], float]) -> Batches:
        """The same batches, which are not read again, under another rule of counting.

        Raises:
            ValueError: if that counts nothing.
        """
        other = copy.copy(self)
        other.count_of, other.skipped, other.total = count_of, [], 0.0
        other._cache = None if self._cache is None else []
        for batch in self:
            other._add(batch.index, batch.content)
        other._agree()
        return other

    def made_of(self, data: Any, device: torch.device, dtype: torch.dtype) -> Batches:
        """Other data under the same rule of counting."""
        return Batches(data, device=device, dtype=dtype, count_of=self.count_of, whole=self.whole)

    def unshared(self) -> Batches:
        """Those of all processes, read anew by one that is alone.

        Raises:
            RuntimeError: if the data is not what it was.
        """
        found = Batches(
            self._uncut or self.source,
            device=self.device,
            dtype=self.dtype,
            count_of=self.count_of,
            whole=self.whole,
            cache_bytes=self.cache_bytes,
        )
        if self._uncut is None and found._fingerprints != self._fingerprints:
            raise RuntimeError(_drift("another pass found others"))
        return found

    def refuse_other_number(self) -> None:
        """Sees to it that sums are over the processes that the data was shared out over.

        Raises:
            RuntimeError: if they are not.
        """
        num = collectives.num_processes()
        if num != self._num_processes:
            msg = (
                f"this problem shares its data with {self._num_processes} processes, and is looked "
                f"at in {num}. Make it after init_process_group; inside of `with problem.alone() "
                "as own` use own, and what is made of it, and outside problem."
            )
            raise RuntimeError(msg)

    def reread(self, seed: int) -> Iterator[Any]:
        """The contents of a fresh pass over the source under this random seed.

        Random transforms draw from a stream of their own, which nothing that happens between two
        batches can disturb, so every pass under one seed draws the same.
        """
        for index, content in enumerate(self._contents(seed)):
            if self._is_own(index):
                yield content

    def _contents(self, seed: int) -> Iterator[Any]:
        """Those of all processes, where they share the batches out."""
        for content in _under_own_rng(self.source, seed):
            yield to_device(content, self.device, self.dtype)

    def _read_first(self) -> None:
        with together():
            self._read_all()
        if self.sharded:
            self._refuse_other_data()
        self._agree()

    def _read_all(self) -> None:
        size = 0
        for index, content in enumerate(self._contents(seed=0)):
            self._fingerprints.append(fingerprint(content))
            if not self._is_own(index):
                continue
            size += sum(t.element_size() * t.numel() for t in tensors_in(content))
            if size > self.cache_bytes:
                self._cache = None
            self._add(index, content)

    def _is_own(self, index: int) -> bool:
        """Whether a batch of the source is for this process: each takes its turn."""
        return not self.sharded or index % collectives.num_processes() == collectives.rank()

    def _refuse_other_data(self) -> None:
        """Sees to it that all processes read the same, of which each takes its share.

        Raises:
            ValueError: if they do not; the message names the first batch that differs.
        """
        if not several():
            return
        names = [f"batch {i}" for i in range(len(self._fingerprints))]
        found = compared("batches", names, self._fingerprints)
        if found:
            msg = (
                f"shard=True shares out data that is the same in all processes, but {found}. Use "
                "shuffle=False and fixed transforms, or give each process its own share "
                "(DistributedSampler) and leave shard out."
            )
            raise ValueError(msg)

    def _add(self, index: int, content: Any) -> None:
        count = float(as_users(self.count_of, content))
        if not 0 <= count < math.inf:
            msg = (
                f"count gave {count} for batch {index}; a batch counts a finite number of "
                "items, zero or more."
            )
            raise ValueError(msg)
        self.total += count
        if count == 0:
            self.skipped.append(index)
        elif self._cache is not None:
            self._cache.append(Batch(index, content, count, self.whole))

    def _agree(self) -> None:
        """Sees to it that some process has data; those that have none borrow a batch to look at.

        Raises:
            ValueError: if none has.
        """
        own = {"batches": len(self._fingerprints), "items": self.total, "own": len(self)}
        said = exchange(own) if several() else [own]
        if not any(one["batches"] for one in said):
            msg = "the data holds no batch: the loader, list or filter behind it is empty."
            raise ValueError(msg)
        if not any(one["items"] for one in said):
            msg = (
                f"all {own['batches']} batches count zero items (every label is ignored, or the "
                "batches are empty); there is nothing to average. Check `count` and the labels."
            )
            raise ValueError(msg)
        if not all(one["own"] for one in said):
            lender = next(rank for rank, one in enumerate(said) if one["own"])
            first = next(iter(self)) if len(self) else None
            borrowed = collectives.from_process(lender, first)
            self._borrowed = self._arrived(borrowed)

    def _arrived(self, batch: Batch) -> Batch:
        return replace(batch, content=to_device(batch.content, self.device, self.dtype))

    @property
    def first(self) -> Batch:
        """The first batch; that of another process where this one has none: to look at only."""
        return next(iter(self), None) or self._borrowed

    def _stream(self) -> Iterator[Batch]:
        index, known = -1, self._fingerprints
        for index, content in enumerate(self._contents(seed=0)):
            if index >= len(known) or fingerprint(content) != known[index]:
                raise RuntimeError(_drift(f"batch {index} differs from the first pass"))
            if not self._is_own(index):
                continue
            count = float(as_users(self.count_of, content))
            if count > 0:
                yield Batch(index, content, count, self.whole)
        if index + 1 != len(known):
            raise RuntimeError(_drift(f"{index + 1} batches came, the first pass had {len(known)}"))


def _drift(what: str) -> str:
    return (
        f"the data changes between passes: {what}. The loader shuffles or augments with a random "
        "generator of its own. Use shuffle=False and a fixed transform, or pass list(loader)."
    )


def _as_iterable(data: Any, batch_size: int | None, shares: int = 1) -> Iterable[Any]:
    """What can be iterated again and again for batches.

    Raises:
        ValueError: if it can be read only once, or is no data at all, or batch_size no size.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        msg = f"batch_size={batch_size!r}; a batch holds a whole number of examples, one or more."
        raise ValueError(msg)
    if isinstance(data, (Tensor, np.ndarray)):
        msg = (
            f"data is one array of shape {tuple(data.shape)}; give (inputs, targets), a DataLoader "
            "or a list of batches. For a loss without targets use Problem.from_closure."
        )
        raise ValueError(msg)
    if hasattr(data, "edge_index"):  # one graph, which iterates over its attributes
        return [data]
    if isinstance(data, tuple) and data and all(_is_array(item) for item in data):
        return _array_batches(data, batch_size, shares)
    if isinstance(data, Mapping):
        msg = (
            f"data is one dict with keys {sorted(map(str, data))[:5]}; give a list of batches, "
            "[batch], and `unpack` to say which entries are inputs and targets."
        )
        raise ValueError(msg)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=batch_size or DATASET_BATCH)
    if isinstance(data, Iterator):
        msg = (
            f"data is a {type(data).__name__} that can be read only once, but curvature reads the "
            "data many times. Pass list(data), or the loader that it came from."
        )
        raise ValueError(msg)
    if not isinstance(data, Iterable):
        msg = (
            f"data is a {type(data).__name__}; give (inputs, targets), a DataLoader, or any list "
            "of batches."
        )
        raise ValueError(msg)
    return data


def _array_batches(
    arrays: tuple[Any, ...], batch_size: int | None, shares: int
) -> list[tuple[Any, ...]]:
    """Batches of consecutive examples; without a size as many as there are to be shares.

    Raises:
        ValueError: if the arrays differ in their number of examples.
    """
    lengths = {len(array) if array.ndim else 0 for array in arrays}
    if len(lengths) != 1:
        shapes = ", ".join(str(tuple(array.shape)) for array in arrays)
        msg = f"the arrays differ in their number of examples: shapes {shapes}."
        raise ValueError(msg)
    num = lengths.pop()
    step = batch_size or max(-(-num // shares), 1)
    if num == 0:
        return []
    return [tuple(a[i : i + step] for a in arrays) for i in range(0, num, step)]


def _is_array(item: Any) -> bool:
    return isinstance(item, (Tensor, np.ndarray))


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Restores the generators of torch, NumPy and Python on exit; seeds them inside if asked."""
    with LOCK, interrupts.deferred():
        outside = rng_state()
        try:
            if seed is not None:
                seed_generators(seed)
            yield
        finally:
            set_rng_state(outside)


def seed_generators(seed: int) -> None:
    """Seeds torch, NumPy and Python: users' models and transforms draw from all three."""
    torch.default_generator.manual_seed(seed)  # manual_seed would format a call stack each time
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def _under_own_rng(source: Iterable[Any], seed: int) -> Iterator[Any]:
    """The items of `source`, drawn while the generators are those of a stream of its own."""
    with preserved_rng(seed):
        iterator = as_users(iter, source)
        inside = rng_state()
    while True:
        with preserved_rng():
            set_rng_state(inside)
            try:
                item = as_users(next, iterator)
            except StopIteration:
                return
            inside = rng_state()
        yield item


def rng_state() -> tuple[Any, ...]:
    """The states of the generators of torch, NumPy and Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002


def set_rng_state(state: tuple[Any, ...]) -> None:
    """Puts the generators back where they were."""
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002  theirs to restore
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
