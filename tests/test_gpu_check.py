"""`make gpu-check` on the CPU: where there is no GPU, its own lines at least have run."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu"


def test_every_part_runs_and_holds(tmp_path):
    file = tmp_path / "gpu.json"
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny", "--json", file]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    parts = json.loads(file.read_text())["parts"]
    assert list(parts) == ["products", "public", "language", "dense"]
    assert all(len(part["rows"]) >= 5 for part in parts.values())


def test_what_does_not_hold_is_told(tmp_path):
    """A device that is not there: each part says so, and the exit status is 1."""
    command = [sys.executable, SCRIPT, "--device", "meta", "--tiny", "--only", "dense"]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.count("stopped") == 3
