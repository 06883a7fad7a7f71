"""A series in a job of several processes that submitit starts, here without Slurm."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import hesscope as hs
from tests.monitor.test_sweeps import FEW, NUM, measured, told

submitit = pytest.importorskip("submitit", reason="pip install 'hesscope[slurm]'")


def _series(folder: Path) -> Any:
    """As docs/processes.md has it."""
    torch.set_num_threads(1)
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    dist.init_process_group("gloo")
    return dist.get_world_size(), told(measured(to=folder, **FEW))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_job_of_two_processes_gives_the_bits_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    executor = submitit.LocalExecutor(tmp_path / "jobs", python=sys.executable)
    executor.update_parameters(tasks_per_node=2, timeout_min=3)
    job = executor.submit(_series, tmp_path / "kept")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = 2, told(measured(**FEW))
    torch.set_num_threads(before)
    assert job.results() == [expected, expected]
    assert len(hs.load(tmp_path / "kept")) == NUM - 1
