"""Where all eigenvalues are known, no interval of theirs is shown or judged beside them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import hesscope as hs
from hesscope import report
from hesscope.results.sharper import sharper
from tests.report.pages import parsed

F64 = {"dtype": torch.float64}
PARTS = (
    torch.linspace(-0.5, -0.01, 20, **F64),
    torch.zeros(30, **F64),
    torch.linspace(0.02, 2, 60, **F64),
)
VALUES = torch.cat([*PARTS, torch.tensor([9.0], **F64)])
A = torch.diag(VALUES)
SIZES = VALUES.abs()


@pytest.fixture(scope="module")
def planted() -> dict[str, object]:
    density = hs.spectral_density(A, 15, seed=0)
    condition = hs.conditioning(density, dampings=[1.0])
    assert condition.negative.width > 5  # so that there is something to be sharper than
    return {"density": density, "condition": condition, "exact": hs.spectrum(A),
            "trace": hs.Estimate(float(VALUES.sum()) + 0.3, 0.5, 9)}  # fmt: skip


def test_counts_and_ratios_are_those_of_all_eigenvalues(planted):
    found = sharper(planted)["condition"]
    counts = [found.negative, found.null, found.positive]
    assert [(c.low, c.high) for c in counts] == [(20, 20), (30, 30), (61, 61)]
    assert found.kappa.low <= 9 / 0.01 <= found.kappa.high
    assert found.kappa.width < 1e-6
    assert found.effective_rank.value == pytest.approx(float(SIZES.sum()) / 9, rel=1e-12)
    assert found.stable_rank.value == pytest.approx(float(SIZES.square().sum()) / 81, rel=1e-12)
    above = SIZES[SIZES > 1e-3].sort().values
    for q in (0.5, 0.9, 0.99):
        quantile = float(above[math.ceil(q * len(above)) - 1])
        assert found.ratios[q].low <= 9 / quantile <= found.ratios[q].high
    assert found.damped[1.0].low <= 10 / 0.5 <= found.damped[1.0].high


def test_they_agree_with_a_run_that_has_found_all_eigenvalues(planted):
    run = hs.conditioning(A, 200, dampings=[1.0], seed=0)
    found = sharper(planted)["condition"]
    for name in ("negative", "null", "positive"):
        one, other = getattr(found, name), getattr(run, name)
        assert (one.low, one.high) == (other.low, other.high)
    assert found.kappa.low == pytest.approx(run.kappa.low, rel=1e-9)
    for q, ratio in run.ratios.items():
        assert found.ratios[q].low == pytest.approx(ratio.low, rel=1e-9)
    assert found.stable_rank.value == pytest.approx(run.stable_rank.value, rel=1e-9)


def test_a_density_counts_exactly_wherever_it_is_asked(planted):
    found = sharper(planted)["density"]
    for low, high in ((-1.0, -0.001), (-0.001, 0.001), (0.3, 1.5), (-2.0, 10.0)):
        true = sum(low <= value <= high for value in VALUES.tolist())
        count = found.count(low, high)
        assert (count.low, count.high) == (true, true)
    assert (found.negative().low, found.null().high, found.positive().low) == (20, 30, 61)


def test_the_trace_is_the_sum(planted):
    trace = sharper(planted)["trace"]
    assert (trace.value, trace.stderr) == (pytest.approx(float(VALUES.sum())), 0.0)


@pytest.mark.parametrize("other", [A + torch.eye(len(A)), A[:50, :50], 2 * A])
def test_what_belongs_to_another_operator_stays_as_it_is(other, planted):
    exact = hs.spectrum(other)
    density, condition = planted["density"], planted["condition"]
    mine = {
        "density": density,
        "condition": condition,
        "exact": exact,
        "trace": hs.Estimate(1e3, 0.1),
    }
    found = sharper(mine)
    assert all(found[key] is mine[key] for key in mine)


def test_a_way_out_knows_the_exact_ends(planted):
    problem = hs.Problem.from_function(
        lambda t: 0.5 * (VALUES * t * t).sum(), torch.zeros(len(A), **F64)
    )
    way = hs.escape(problem, seed=0)
    found = sharper({"escape": way, "exact": planted["exact"]})["escape"]
    assert found.certificate.lower == pytest.approx(-0.5)
    assert (found.curvature, found.found) == (way.curvature, way.found)


def test_without_a_spectrum_nothing_changes(planted):
    some = {key: value for key, value in planted.items() if key != "exact"}
    assert all(value is some[key] for key, value in sharper(some).items())


def test_a_page_with_both_says_one_thing(planted, tmp_path):
    page = report.write(tmp_path / "page.html", "both", (), planted, "").read_text("utf-8")
    seen: dict[str, set[str]] = {}
    for table in parsed(page).all("table"):
        for row in table.all("tr"):
            if row.all("td") and row.all("th"):
                seen.setdefault(row.all("th")[0].text, set()).add(row.all("td")[0].text)
    for name in ("eigenvalues below -τ", "eigenvalues within ±τ", "eigenvalues above τ"):
        assert len(seen[name]) == 1, seen[name]
    assert seen["eigenvalues below -τ"] == {"20"}
    assert "95 %" not in "".join(seen["eigenvalues within ±τ"])


def test_a_look_is_judged_by_the_exact_numbers():
    problem = hs.Problem.from_function(
        lambda t: 0.5 * (VALUES * t * t).sum(), torch.ones(len(A)).double()
    )
    examined = hs.diagnose(problem, lr=0.1, max_matvecs=20, seed=0)
    known = {**examined.results, "exact_spectrum": hs.spectrum(hs.Hessian(problem))}
    curvature = sharper(known)["curvature"]
    assert curvature.lambda_max == pytest.approx(9.0, rel=1e-12)
    assert (curvature.lower, curvature.upper) == (pytest.approx(-0.5), pytest.approx(9.0))


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_pairs_are_compared_with_all_eigenvalues(which):
    pairs, exact = hs.eigsh(A, 5, which=which, seed=0), hs.spectrum(A)
    certificate = sharper({"pairs": pairs, "all": exact})["pairs"].certificate
    assert certificate.complete
    assert (certificate.lower, certificate.upper) == (pytest.approx(-0.5), pytest.approx(9.0))
    assert "nothing was skipped" in certificate.statement
    for kept in range(5):  # one of them is skipped
        some = torch.arange(5) != kept
        fewer = replace(
            pairs, eigenvalues=pairs.eigenvalues[some], residuals=pairs.residuals[some],
            eigenvectors=pairs.eigenvectors[:, some], converged=pairs.converged[some],
        )  # fmt: skip
        found = sharper({"pairs": fewer, "all": exact})["pairs"].certificate
        assert found.complete == (set(fewer.eigenvalues.tolist()) == best(which, 4, pairs))


def best(which: str, k: int, pairs: hs.Eigenpairs) -> set[float]:
    """The k most wanted, by their definition."""
    values = sorted(pairs.eigenvalues.tolist())
    ends = {"LA": values[-k:], "SA": values[:k], "LM": sorted(values, key=abs)[-k:]}
    return set(ends.get(which, [*values[: k // 2], *values[-(k - k // 2) :]]))
