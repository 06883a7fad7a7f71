"""Every file that hesscope reads, damaged or forged: one sentence that names it, no waiting."""

from __future__ import annotations

import json
import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hesscope as hs
from hesscope.problem.checkpoints import load_weights
from hesscope.results import record
from hesscope.steps.state import load_optimizer
from tests.dense.test_scratch import gone_on, kept
from tests.results.test_record import RESULTS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="alarms and pipes of POSIX")

SECONDS = 20  # in which a reader has to come back
ODD = [None, True, -1, 2**70, 1e400, "", "x", [], {}, [[]], {"tensor": "none"}, {"class": "Check"}]


def mangled(raw: bytes, generator: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, put in, cut off, or overwritten."""
    content = bytearray(raw)
    for _ in range(generator.choice((1, 1, 2, 8))):
        at, size = generator.randrange(len(content) + 1), generator.choice((1, 4, 64, 700))
        match generator.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << generator.randrange(8)
            case 1:
                del content[at : at + size]
            case 2:
                content[at:at] = content[at : at + size]
            case 3:
                content[at:at] = generator.randbytes(size)
            case 4:
                del content[at:]
            case _:
                content[at : at + 8] = generator.choice((b"\xff" * 8, b"\0" * 8, b"9" * 8))
    return bytes(content)


def forged(body: object, generator: random.Random) -> object:
    """JSON with one part replaced, taken away or moved."""
    places: list[tuple] = []

    def walk(item):
        keys = item if isinstance(item, dict) else range(len(item))
        for key in list(keys):
            places.append((item, key))
            if isinstance(item[key], (dict, list)):
                walk(item[key])

    copy = json.loads(json.dumps(body))
    walk(copy)
    holder, key = generator.choice(places)
    if generator.random() < 0.3:
        del holder[key]
    elif generator.random() < 0.3:
        other, there = generator.choice(places)
        holder[key] = json.loads(json.dumps(other[there]))
    else:
        holder[key] = generator.choice(ODD)
    return copy


def complaint(read: Callable[[], object], names: tuple[str, ...]) -> str:
    """What is wrong with how a reader took a file; empty if it read it or refused it well."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        read()
    except (ValueError, RuntimeError) as error:
        kind = type(error).__name__
        if kind not in ("ValueError", "RuntimeError", "UnknownResultError"):
            return f"{kind}: {error}"
        named = any(name in str(error) for name in names) or kind == "UnknownResultError"
        return "" if named else f"names no file: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ""


def records(folder: Path, times: int, generator: random.Random) -> list[str]:
    """Damaged and forged records, forged ones with digests that fit."""
    found, names = [], list(RESULTS)
    for i in range(times):
        here = folder / str(i)
        hs.save(RESULTS[names[i % len(names)]], here)
        path = generator.choice(sorted(here.iterdir()))
        if i % 3 == 0:
            path.write_bytes(mangled(path.read_bytes(), generator))
        else:
            content = json.loads((here / record.RECORD).read_text("utf-8"))
            part = generator.choice(("result", "result", "result", "provenance", "schema"))
            if part == "schema":
                content[generator.choice(("schema", "arrays_sha256"))] = generator.choice(ODD)
            else:
                content[part] = forged({"it": content[part]}, generator).get("it")
            content["sha256"] = record._digest(content)
            (here / record.RECORD).write_text(json.dumps(content), "utf-8")
        found.append(complaint(lambda here=here: hs.load(here), (str(here),)))
        for file in here.iterdir():
            file.unlink()
    return found


def files_of(
    good: Path, read: Callable[[Path], object], times: int, generator: random.Random
) -> list[str]:
    raw, bad = good.read_bytes(), good.with_name(f"bad{good.suffix}")
    found = []
    for _ in range(times):
        bad.write_bytes(mangled(raw, generator))
        found.append(complaint(lambda: read(bad), (bad.name,)))
    return found


def weights(folder: Path, times: int, generator: random.Random) -> list[str]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state, found = model.state_dict(), []
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "a.pt")
    torch.save({"model": state}, folder / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pt", "old.pth"):
        before = {n: t.clone() for n, t in state.items()}
        found += files_of(folder / name, lambda p: load_weights(model, p), times // 3, generator)
        model.load_state_dict(before)
    return found


def optimisers(folder: Path, times: int, generator: random.Random) -> list[str]:
    model = torch.nn.Linear(3, 4)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), folder / "optimiser.pt")
    return files_of(folder / "optimiser.pt", lambda p: load_optimizer(model, p), times, generator)


@pytest.mark.parametrize("times", [30, pytest.param(2_500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [records, weights, optimisers])
def test_damaged_files_end_in_a_sentence(kind, times, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, for old formats
        found = kind(tmp_path, times, random.Random(0))
    assert len(found) >= times - 2
    assert sorted({text for text in found if text}) == []


@pytest.mark.parametrize("times", [10, pytest.param(2_500, marks=pytest.mark.slow)])
def test_damaged_kept_matrices_are_computed_again(times, tmp_path, monkeypatch):
    raw, generator = kept(tmp_path, monkeypatch), random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(times):
            (tmp_path / "matrix.safetensors").write_bytes(mangled(raw, generator))
            gone_on(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_folders_are_not_waited_for(make, tmp_path):
    make(tmp_path / record.RECORD)
    model = torch.nn.Linear(1, 1)
    for suffix in (".pt", ".safetensors"):
        make(tmp_path / f"it{suffix}")
        assert not complaint(lambda s=suffix: load_weights(model, tmp_path / f"it{s}"), ("it",))
    assert not complaint(lambda: load_optimizer(model, tmp_path / "it.pt"), ("it.pt",))
    assert not complaint(lambda: hs.load(tmp_path), (str(tmp_path),))
    with pytest.raises(RuntimeError, match="is damaged"):
        hs.load(tmp_path)
