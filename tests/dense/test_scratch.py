"""What is kept of a matrix is whole, or computed again; a disk that is full stops nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil
import warnings
from collections import namedtuple

import pytest
import torch

import hesscope as hs
from hesscope.dense import scratch
from hesscope.dense import spectrum as dense
from hesscope.system import files
from hesscope.system.locks import Locked
from tests.dense.test_spectrum import Counted

TRUTH = hs.spectrum(Counted(40)).eigenvalues


def kept(folder, monkeypatch):
    """The bytes of a matrix that was kept when its run was killed."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dense, "_eigenvalues", killed)
        with pytest.raises(KeyboardInterrupt):
            hs.spectrum(Counted(40), scratch=folder)
    return (folder / scratch.FILE).read_bytes()


def gone_on(folder) -> int:
    """How often the matrix is assembled until the right eigenvalues are there."""
    A = Counted(40)
    assert torch.equal(hs.spectrum(A, scratch=folder).eigenvalues, TRUTH)
    assert list(folder.iterdir()) == []
    return A.assembled


DAMAGES = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "garbage": lambda raw: b"x" * 1_000,
    "another work": lambda raw: raw.replace(b"column", b"colunm"),
    "another fact": lambda raw: raw.replace(b"squares", b"sqaures"),
    "no checksum": lambda raw: raw.replace(b"sha256", b"sha255"),
    "longer": lambda raw: raw + b"0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_matrix_is_computed_again(damage, tmp_path, monkeypatch):
    raw = kept(tmp_path, monkeypatch)
    (tmp_path / scratch.FILE).write_bytes(DAMAGES[damage](raw))
    with pytest.warns(UserWarning, match=r"is damaged \(.*\): the matrix is computed again"):
        assert gone_on(tmp_path) == 1


def test_not_one_of_a_hundred_flipped_bits_is_believed(tmp_path, monkeypatch):
    raw, generator = kept(tmp_path, monkeypatch), random.Random(0)
    for _ in range(100):
        bad = bytearray(raw)
        bad[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        tmp_path.mkdir(exist_ok=True)
        (tmp_path / scratch.FILE).write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert gone_on(tmp_path) == 1
    (tmp_path / scratch.FILE).write_bytes(raw)
    assert gone_on(tmp_path) == 0


def test_moments_are_those_of_the_matrix_before_it_was_written(tmp_path, monkeypatch):
    """A matrix that is damaged on its way to the disk does not agree with them."""
    write = files.replace

    def damaging(path, fill):
        write(path, fill)
        raw = bytearray(path.read_bytes())
        raw[-2] ^= 1 << 3
        path.write_bytes(raw)

    monkeypatch.setattr(scratch.files, "replace", damaging)
    monkeypatch.setattr(scratch.Scratch, "_digest", lambda *_: "always")
    kept(tmp_path, monkeypatch)
    A = Counted(40)
    assert max(hs.spectrum(A, scratch=tmp_path).identities.values()) > 1e-6
    assert A.assembled == 0


@pytest.mark.skipif(os.name == "nt", reason="locks are flock's")
def test_another_run_in_the_folder_is_named(tmp_path, monkeypatch):
    taken = Locked(tmp_path)
    taken._key = (taken._key[0], -1)  # as if by another thread
    with taken, pytest.raises(RuntimeError, match=f"is in use by process {os.getpid()} on "):
        hs.spectrum(Counted(40), scratch=tmp_path)
    assert gone_on(tmp_path) == 1


def test_a_disk_without_room_is_noticed_before_the_assembly(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(12_000))
    A = Counted(40)
    with pytest.raises(RuntimeError) as caught:
        hs.spectrum(A, scratch=tmp_path / "s")
    assert str(caught.value) == (
        f"the matrix takes 13 kB on the disk of {tmp_path / 's'}, where 12 kB are free. Choose "
        "another folder."
    )
    assert A.assembled == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_noticed_before_the_assembly(tmp_path):
    (tmp_path / "file").write_text("")
    A = Counted(40)
    with pytest.raises(RuntimeError, match=r"cannot write to .*file/s: Not a directory"):
        hs.spectrum(A, scratch=tmp_path / "file" / "s")
    assert A.assembled == 0


def test_a_disk_that_fills_up_costs_the_kept_matrix_and_nothing_else(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device; going on without"):
        assert gone_on(tmp_path) == 1
