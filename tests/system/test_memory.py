"""What is free is read from the host and from the container, and printed for people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hesscope.system import memory
from hesscope.system.memory import available_bytes, human


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (2048, "2 kB"),
        (5.4e7, "54 MB"),
        (29.4e9, "29.4 GB"),
        (2.5e12, "2500 GB"),
    ],
)
def test_sizes_read_as_people_write_them(size, text):
    assert human(size) == text


def test_free_memory_is_positive_and_below_the_hosts():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < available_bytes(torch.device("cpu")) <= total


def files(monkeypatch, contents):
    """Path.read_text answers from `contents`; other files do not exist."""

    def read_text(path, *args, **kwargs):
        if str(path) not in contents:
            raise FileNotFoundError(str(path))
        return contents[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)


MEMINFO = "MemTotal: 8000 kB\nMemFree: 1000 kB\nMemAvailable:    4000 kB\n"


def test_the_containers_limit_counts_when_it_is_smaller(monkeypatch):
    group = {"/sys/fs/cgroup/memory.max": "3000000\n", "/sys/fs/cgroup/memory.current": "1000000\n"}
    files(monkeypatch, {"/proc/meminfo": MEMINFO, **group})
    assert available_bytes(torch.device("cpu")) == 2_000_000


def test_a_container_over_its_limit_has_nothing_free(monkeypatch):
    group = {"/sys/fs/cgroup/memory.max": "1000", "/sys/fs/cgroup/memory.current": "3000"}
    files(monkeypatch, {"/proc/meminfo": MEMINFO, **group})
    assert available_bytes(torch.device("cpu")) == 0


def test_no_limit_or_no_container_leaves_the_hosts_memory(monkeypatch):
    files(monkeypatch, {"/proc/meminfo": MEMINFO})
    assert available_bytes(torch.device("cpu")) == 4_096_000
    group = {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "5"}
    files(monkeypatch, {"/proc/meminfo": MEMINFO, **group})
    assert available_bytes(torch.device("cpu")) == 4_096_000


def test_without_proc_half_of_the_pages_count_as_free(monkeypatch):
    files(monkeypatch, {})
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}.get)
    assert available_bytes(torch.device("cpu")) == 204_800


V1 = "9:name=systemd:/\n4:cpu,memory:/job/step\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "prefix", "names"),
    [
        ("0::/job/step\n", "/sys/fs/cgroup", ("max", "current")),
        (V1, "/sys/fs/cgroup/memory", ("limit_in_bytes", "usage_in_bytes")),
    ],
)
@pytest.mark.parametrize("group", ["", "/job", "/job/step"])
def test_the_narrowest_of_nested_groups_counts(groups, prefix, names, group, monkeypatch):
    content = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": groups}
    for place in ("", "/job", "/job/step"):
        limit = 3_000_000 if place == group else 2**60
        content[f"{prefix}{place}/memory.{names[0]}"] = f"{limit}\n"
        content[f"{prefix}{place}/memory.{names[1]}"] = "1000000\n"
    files(monkeypatch, content)
    assert available_bytes(torch.device("cpu")) == 2_000_000
    content[f"{prefix}{group}/memory.stat"] = "anon 600000\ninactive_file 400000\n"
    assert available_bytes(torch.device("cpu")) == 2_400_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the shell")
def test_limits_of_the_process_count():
    code = "import torch; from hesscope.system.memory import available_bytes as free; "
    code += "import resource as r; used = int(open('/proc/self/statm').read().split()[0]) * 4096; "
    code += "r.setrlimit(r.RLIMIT_AS, (used + 50_000_000, r.RLIM_INFINITY)); "
    code += "print(free(torch.device('cpu')))"
    run = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert 0 < int(run.stdout) <= 50_000_000
