"""One core for each test process, and the same random numbers whatever ran before.

At the root, so that it holds for the examples in the docstrings and in the docs, too.
"""

from __future__ import annotations

import os
import sys

# What the site is made of is run by `make docs`, and has no examples to collect.
collect_ignore_glob = ["docs/*.py", "docs/*/*.py"]

WORKER = "PYTEST_XDIST_WORKER_COUNT" in os.environ
if WORKER:  # before torch is imported, so that pools of its size are made; children inherit it
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

if WORKER:  # where a plugin imported torch before
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_figure_is_left_open():
    """matplotlib warns of twenty open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_addoption(parser):
    """`pytest --fresh-seed K`: the same tests under another luck."""
    parser.addoption("--fresh-seed", type=int, default=0, help="what every fresh seed draws")


@pytest.fixture(autouse=True)
def _fresh_seeds_that_repeat(monkeypatch, request):
    """What draws a fresh seed draws one number: an interval at 95 % fails in no test by luck."""
    drawn = request.config.getoption("--fresh-seed")
    monkeypatch.setattr("hesscope.probes.secrets.randbits", lambda _: drawn)
