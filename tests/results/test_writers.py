"""Writers and readers of one folder at once: nothing is unreadable, nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import hesscope as hs
from hesscope.results import record
from hesscope.system.locks import NAME, Locked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks are flock's")


def value(tag: int, size: int = 2_000) -> dict:
    return {"tag": tag, "values": torch.full((size,), float(tag), dtype=torch.float64)}


def is_whole(found: dict) -> bool:
    return bool((found["values"] == found["tag"]).all())


def write(folder: Path, rounds: int, barrier, tag: int, size: int) -> None:
    torch.set_num_threads(1)
    for i in range(rounds):
        barrier.wait()
        hs.save(value(10 * i + tag, size), folder / str(i))


def read(folder: Path, rounds: int, barrier, told) -> None:
    wrong = []
    for i in range(rounds):
        barrier.wait()
        until = time.monotonic() + 0.01
        while time.monotonic() < until:
            try:
                if not is_whole(hs.load(folder / str(i))):
                    wrong.append(f"round {i}: a mixture")
            except ValueError:  # nothing was saved yet
                continue
            except RuntimeError as error:
                wrong.append(str(error))
    told.put(wrong)


def race(folder: Path, rounds: int, size: int) -> list[str]:
    """What a reader beside two writers finds wrong, and what is wrong afterwards."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(3), context.Queue()
    others = [
        *(context.Process(target=write, args=(folder, rounds, barrier, t, size)) for t in (1, 2)),
        context.Process(target=read, args=(folder, rounds, barrier, told)),
    ]
    for process in others:
        process.start()
    wrong = told.get(timeout=300)
    for process in others:
        process.join()
    for i in range(rounds):
        found = hs.load(folder / str(i))
        if not is_whole(found) or found["tag"] not in (10 * i + 1, 10 * i + 2):
            wrong.append(f"round {i}: {found['tag']}")
        if len(list((folder / str(i)).iterdir())) != 2:
            wrong.append(f"round {i}: {sorted(p.name for p in (folder / str(i)).iterdir())}")
    return wrong


def test_two_writers_and_a_reader_of_one_folder(tmp_path):
    assert race(tmp_path, 15, 2_000) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 20_000])
def test_600_pairs_of_writers_leave_whole_records(size, tmp_path):
    assert race(tmp_path, 300, size) == []


def test_threads_take_turns_too(tmp_path):
    def work(tag):
        for i in range(30):
            hs.save(value(100 * tag + i), tmp_path)

    threads = [threading.Thread(target=work, args=(tag,)) for tag in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_whole(hs.load(tmp_path))
    assert hs.load(tmp_path)["tag"] in (129, 229, 329)
    assert len(list(tmp_path.iterdir())) == 2


def test_who_holds_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "WAIT", 0.05)
    hs.save(value(1), tmp_path)
    held, done = threading.Event(), threading.Event()

    def hold():
        with Locked(tmp_path):
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    with pytest.raises(RuntimeError) as caught:
        hs.save(value(2), tmp_path)
    done.set()
    holder.join()
    told = f"{tmp_path} is in use by process {os.getpid()} on "
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith("Wait until that has ended, or choose another folder.")
    assert hs.load(tmp_path)["tag"] == 1
    assert hs.load(hs.save(value(2), tmp_path))["tag"] == 2


def test_the_holder_itself_saves(tmp_path):
    with Locked(tmp_path / "new"), Locked(tmp_path / "new"):
        hs.save(value(3), tmp_path / "new")
        assert (tmp_path / "new" / NAME).exists()
    assert hs.load(tmp_path / "new")["tag"] == 3
    assert not (tmp_path / "new" / NAME).exists()


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with Locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_nothing_of_others_is_removed(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    hs.save(value(1), tmp_path)
    monkeypatch.setattr("fcntl.flock", none)
    hs.save(value(2), tmp_path)
    assert hs.load(tmp_path)["tag"] == 2
    assert len(list(tmp_path.glob("arrays-*"))) == 2


KILL = """
import os, random, signal, sys, time, torch, hesscope as hs
from pathlib import Path

torch.set_num_threads(1)
folder, generator, left = Path(sys.argv[1]), random.Random(0), 0
for i in range(int(sys.argv[2])):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for k in range(10**6):
            values = torch.full((200_000,), float(k), dtype=torch.float64)
            hs.save({"tag": k, "values": values}, folder)
            os.write(writer, b".")
    os.read(reader, 1)  # one is saved
    time.sleep(generator.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader), os.close(writer)
    found = hs.load(folder)
    assert bool((found["values"] == found["tag"]).all())
    left += len(list(folder.iterdir())) > 2
print(left)
"""


def kill_writers(folder: Path, times: int) -> int:
    """Kills writers at random moments; after how many there was something to tidy."""
    command = [sys.executable, "-c", KILL, str(folder), str(times)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path):
    kill_writers(tmp_path, 5)
    (tmp_path / f".{record.RECORD}.{'0' * 16}.tmp").write_text("half")
    (tmp_path / f".arrays-{'1' * 16}.safetensors.{'2' * 16}.tmp").write_text("half")
    (tmp_path / NAME).write_text("process 1 on nowhere")
    (tmp_path / ".mine.tmp").write_text("of another program")
    hs.save(value(7), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == ".mine.tmp"
    assert len(names) == 3


@pytest.mark.slow
def test_200_killed_writers_lose_nothing(tmp_path):
    """Some leave half a file, until the next save."""
    assert kill_writers(tmp_path, 200) > 0
    hs.save(value(7), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
