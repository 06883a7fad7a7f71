"""Files are replaced whole or not at all, and what is no file is not waited for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hesscope.system import files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and modes of POSIX")


@pytest.fixture(autouse=True)
def ctrl_c():
    """SIGINT raises, also where the tests run as a job in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_file_is_what_it_was_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(b"old")
    path.chmod(0o640)

    def fails(file):
        file.write(b"half")
        assert path.read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.replace(path, fails)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == b"old"
    files.replace(path, lambda file: file.write(b"new"))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    files.replace(link, lambda file: file.write(b"1"))
    assert link.is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"1"


def test_names_of_the_greatest_length_are_written(tmp_path):
    path = tmp_path / ("ä" * 120)
    files.replace(path, lambda file: file.write(b"1"))
    assert path.read_bytes() == b"1"


def test_a_device_is_written_to(tmp_path):
    files.replace(tmp_path / "../../../../../../../dev/null", lambda file: file.write(b"1"))
    assert Path(os.devnull).is_char_device()  # and not replaced by a file


def test_orphans_go_and_what_is_being_written_stays(tmp_path):
    path = tmp_path / "file"
    (tmp_path / f".file.{'0' * 16}.tmp").write_bytes(b"half")
    (tmp_path / f".other.{'0' * 16}.tmp").write_bytes(b"half")

    def meanwhile(file):
        files.remove_orphans(tmp_path, "file")  # as another writer would
        assert len(list(tmp_path.glob(".file.*.tmp"))) == 1
        file.write(b"1")

    files.replace(path, meanwhile)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".other.{'0' * 16}.tmp", "file"]


def test_an_interrupt_waits_until_the_file_is_in_its_place(tmp_path):
    path = tmp_path / "file"

    def interrupted(file):
        signal.raise_signal(signal.SIGINT)
        file.write(b"all")

    with pytest.raises(KeyboardInterrupt):
        files.replace(path, interrupted)
    assert path.read_bytes() == b"all"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(make, tmp_path):
    make(tmp_path / "it")
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        files.read(tmp_path / "it")
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "none")
