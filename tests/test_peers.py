"""`make bench-peers` where nothing of it is installed, its truth, and the pages that it writes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.peers import chart, networks, pages, table, truth
from benchmarks.peers.tools.registry import TOOLS
from benchmarks.peers.work import WORKS

import hesscope as hs
from tests import state

ROOT = Path(__file__).parents[1]
# The others are the same calls on other networks, which `--tiny` does not have.
KINDS = ["product-mlp", "product-gauss-newton", "product-fisher", "largest-mlp", "largest-40"]
KINDS += ["density", "trace", "surface"]
REPORT = json.loads((ROOT / "benchmarks/results/peers.json").read_text("utf-8"))


@pytest.mark.slow
def test_every_kind_of_work_runs_and_missing_tools_are_told(tmp_path):
    file = tmp_path / "peers.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--tiny", "--only", *KINDS, "--json", file]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = json.loads(file.read_text())["rows"]
    assert {row["work"] for row in rows} == set(KINDS)
    ours = [row for row in rows if row["tool"] == "hesscope"]
    assert [row.get("failed") for row in ours] == [None] * len(ours)
    assert all(row["reached"] and math.isfinite(row["gradients"]) for row in ours)
    assert all(row["error"] < 1e-5 for row in ours if row["work"].startswith("product"))
    others = {row["tool"]: row for row in rows if row["tool"] != "hesscope"}
    assert all("failed" in row or "error" in row for row in others.values())
    assert "not installed" in {row.get("failed") for row in others.values()}
    assert "| hesscope |" in table.full(json.loads(file.read_text()))


@pytest.mark.parametrize("page", pages.PAGES)
def test_the_pages_say_what_was_measured(page):
    text = (ROOT / page).read_text("utf-8")
    assert pages.between(text) == pages.PAGES[page](REPORT)


def test_the_chart_shows_what_was_measured():
    assert f"rows {chart.digest(REPORT)}" in (ROOT / pages.CHART).read_text("utf-8")
    assert chart.svg(REPORT) == chart.svg(REPORT)


def test_no_row_is_left_out():
    found = {(row["work"], row["tool"]) for row in REPORT["rows"]}
    assert found == {(w, t.name) for t in TOOLS.values() for w in t.ways}
    assert {work for work, _ in found} == set(WORKS)
    assert not REPORT["tiny"]


def test_the_truth_is_that_of_dense_matrices():
    network = networks.tiny()
    exact = network.doubled()
    problem = hs.Problem(exact.model, exact.criterion, exact.data)
    v = truth.direction(network.n, 0)
    pairs = {
        hs.Hessian: truth.product(network)(v),
        hs.GaussNewton: truth.gauss_newton(network, v),
        hs.EmpiricalFisher: truth.empirical_fisher(network, v),
    }
    for kind, expected in pairs.items():
        found = kind(problem).to_dense() @ v.double()
        assert float((found - expected).norm() / expected.norm()) < 1e-12
    eigenvalues = torch.linalg.eigvalsh(hs.Hessian(problem).to_dense())
    assert torch.allclose(truth.spectrum(network), eigenvalues, atol=1e-12)
    largest = truth.largest(network, 3)
    assert torch.allclose(largest, eigenvalues[eigenvalues.abs().argsort().flip(0)][:3])


def test_distances_of_measures():
    zero_one = torch.tensor([0.0, 1.0])
    assert truth.wasserstein(zero_one, torch.ones(2), zero_one) == 0
    assert truth.wasserstein(torch.tensor([1.0]), torch.ones(1), zero_one) == 0.5
    assert truth.wasserstein(zero_one, torch.tensor([3.0, 1.0]), zero_one) == 0.25
    assert truth.wasserstein(torch.tensor([0.5]), torch.ones(1), zero_one) == 0.5


def test_errors_and_counts_as_they_are_read():
    found = [table.error(value) for value in (0.0, 6.12e-5, 1e-3, 0.087, 0.95, 40.2)]
    assert found == ["0", "6.1e-5", "1e-3", "8.7 %", "95 %", "40-fold"]
    assert [table.amount(*pair) for pair in ((1.693, 3), (3449.2, 3))] == ["1.69", "3,449"]
    assert table.span([33, 31, 32]) == "31 to 33"
    assert table.cause({"failed": "a | `b` <c>"}) == "a / 'b' (c)"


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="once each"):
        pages.replaced("no marks", "new")
    text = f"a {pages.BEGIN}old{pages.END} b"
    assert pages.between(pages.replaced(text, "new")) == "new"


def test_measuring_leaves_a_model_as_it_was():
    network = networks.tiny()
    before = state.state_of(network.model)
    network.doubled()
    network.gradient()
    truth.largest(network, 3)
    assert state.state_of(network.model) == before
