"""Condition: intervals that hold the truth, and no ratio that means nothing."""

from __future__ import annotations

import math
import re

import pytest
import torch

import hesscope as hs
from tests.spectra import FAMILIES, Known, family
from tests.tolerances import most_misses
from tests.trained import NETWORKS, hessian_spectrum

SPECTRA = (*FAMILIES, *NETWORKS)


def values_of(name: str, n: int = 300) -> torch.Tensor:
    return hessian_spectrum(name) if name in NETWORKS else family(name, n)


def quantile(sizes: torch.Tensor, q: float) -> float:
    """The smallest size that at least a share q of the sizes does not exceed."""
    ordered = sizes.sort().values
    return float(ordered[max(math.ceil(q * len(ordered) - 1e-9) - 1, 0)])


def wrong(c: hs.Conditioning, values: torch.Tensor, dampings: list[float]) -> dict[str, bool]:
    """Which statements about these eigenvalues are wrong."""
    sizes = values.abs()
    size, above = float(sizes.max()), sizes[sizes > c.tau]
    found = {
        "ends": float(values.max()) not in c.lambda_max or float(values.min()) not in c.lambda_min,
        "null": int((sizes <= c.tau).sum()) not in c.null,
        "effective rank": float(sizes.sum()) / size not in c.effective_rank.interval(),
        "stable rank": float(values.square().sum()) / size**2 not in c.stable_rank.interval(),
        "ratios": size / float(above.min()) not in c.kappa,
    }
    for q in (0.5, 0.9, 0.99):
        found["ratios"] |= size / quantile(above, q) not in c.ratios[q]
    if c.indefiniteness is not None:
        truth = float(values.max()) / -float(values.min())
        found["ends"] |= truth not in c.indefiniteness
    for damping, kappa in zip(dampings, c.damped.values(), strict=True):
        damped = values + damping
        if kappa is not None:
            found["ends"] |= float(damped.max() / damped.min()) not in kappa
    return found


def assert_covered(values: torch.Tensor, runs: int, num_matvecs: int, label: str) -> None:
    dampings = [float(values.abs().max()), 1e-9]
    total: dict[str, int] = {}
    for seed in range(runs):
        c = hs.conditioning(Known(values), num_matvecs, dampings=dampings, seed=seed)
        for name, missed in wrong(c, values, dampings).items():
            total[name] = total.get(name, 0) + int(missed)
    print(f"{label}, {num_matvecs} matvecs, misses of {runs}: {total}")
    for name, misses in total.items():
        assert misses <= most_misses(runs, 1e-3 if name == "ends" else 0.05), (name, misses)


@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_hold_the_truth(name):
    assert_covered(values_of(name, 200), 12, 20, name)


@pytest.mark.slow
@pytest.mark.parametrize("num_matvecs", [12, 60])
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_hold_the_truth_in_300_runs(name, num_matvecs):
    assert_covered(values_of(name, 600), 300, num_matvecs, name)


# --- exact cases


def exact(*values: float, **options) -> hs.Conditioning:
    return hs.conditioning(hs.as_operator(torch.diag(torch.tensor(values).double())), **options)


def test_a_definite_matrix_has_its_condition_number():
    c = exact(8.0, 4.0, 2.0, dampings=[2.0])
    assert c.definite
    assert not c.singular
    assert c.statement == "κ = 4 to 4"
    assert (c.kappa.low, c.kappa.high) == pytest.approx((4, 4))
    assert [round(c.ratios[q].high, 9) for q in (0.5, 0.9, 0.99)] == [2, 1, 1]
    assert (c.damped[2.0].low, c.damped[2.0].high) == pytest.approx((2.5, 2.5))
    assert (c.effective_rank.value, c.stable_rank.value) == pytest.approx((14 / 8, 84 / 64))
    assert c.critical_step == pytest.approx(0.25)
    assert c.indefiniteness is None


def test_a_singular_matrix_is_called_singular():
    c = exact(4.0, 2.0, 0.0, 0.0, dampings=[1.0])
    assert c.singular
    assert not c.definite
    assert (
        c.statement == "singular: κ = ∞ (2 eigenvalues within ±4.0e-06); on |λ| > 4.0e-06 it is 2"
    )
    assert (c.negative.high, c.null.low, c.positive.low) == (0, 2, 2)
    assert (c.damped[1.0].low, c.damped[1.0].high) == pytest.approx((5, 5))


def test_an_indefinite_matrix_compares_its_ends_and_is_not_called_definite():
    c = exact(6.0, 1.0, -2.0, dampings=[1.0, 4.0])
    assert not c.definite
    assert not c.singular
    assert (c.indefiniteness.low, c.indefiniteness.high) == pytest.approx((3, 3))
    assert c.damped[1.0] is None
    assert (c.damped[4.0].low, c.damped[4.0].high) == pytest.approx((5, 5))
    assert (c.kappa.low, c.kappa.high) == pytest.approx((6, 6))
    assert "A + 1 I: not proven positive definite" in str(c)


def test_a_negative_definite_matrix_has_no_critical_step():
    c = exact(-1.0, -3.0)
    assert c.critical_step is None
    assert c.indefiniteness is None
    assert (c.kappa.low, c.kappa.high) == pytest.approx((3, 3))
    assert c.negative.low == 2


@pytest.mark.parametrize("n", [1, 3, 300])
def test_the_zero_matrix_has_no_condition(n):
    c = hs.conditioning(hs.as_operator(torch.zeros(n, n).double()), 20, dampings=[2.0])
    assert c.singular
    assert c.statement == "zero as far as was seen: no |λ| above 1.0e-300"
    assert (c.damped[2.0].low, c.damped[2.0].high) == (1.0, 1.0)
    assert (c.effective_rank.value, c.critical_step) == (0.0, None)
    assert "quantile" not in str(c)


def test_a_tau_above_everything_leaves_nothing_to_compare():
    c = exact(2.0, 1.0, tau=5.0)
    assert c.statement == "zero as far as was seen: no |λ| above 5.0e+00"
    assert c.null.low == 2


# --- what is said


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("num_matvecs", [8, 30, 80])
@pytest.mark.parametrize("name", ["sing", "late"])
def test_the_ratio_of_the_ends_of_a_singular_matrix_is_never_printed(name, num_matvecs, dtype):
    """λmin of a run is a rounding error or a Ritz value on its way to zero."""
    values = values_of(name).clamp(min=0)
    c = hs.conditioning(Known(values, dtype=dtype), num_matvecs)
    assert not c.definite
    assert re.match(r"(singular: κ = ∞ \(|it is not known whether there are)", c.statement)
    assert not re.search(r"(^|\n) *κ = \d", str(c))
    assert c.kappa.high <= 1.01 * c.lambda_max.high / c.tau


def test_copies_and_low_rank_are_counted_in_the_ranks():
    """Twenty ones among zeros: the run finds one of them, and its mass says how many there are."""
    values = torch.cat([torch.ones(20), torch.zeros(580)]).double()
    misses = 0
    for seed in range(20):
        c = hs.conditioning(Known(values), 40, seed=seed)
        assert c.singular
        misses += 20.0 not in c.effective_rank.interval()
    assert misses <= most_misses(20, 0.05)


def test_given_pairs_with_equal_values_count_once_each():
    values = torch.cat([torch.full((3,), 4.0), torch.linspace(1, 0, 297)]).double()
    pairs = hs.eigsh(Known(values), 3)
    pairs = hs.Eigenpairs(**{**vars(pairs), "eigenvalues": torch.full((3,), 4.0).double()})
    density = hs.spectral_density(Known(values), 60, deflate=pairs)
    c = hs.conditioning(density)
    assert float(values.sum()) / 4 in c.effective_rank.interval(0.9999)
    assert c.num_matvecs == density.num_matvecs


def test_a_known_density_gives_the_same_answer_at_no_cost():
    A = Known(family("nn", 300))
    density = hs.spectral_density(A, 60, seed=2)
    spent = A.columns
    again = hs.conditioning(density, dampings=[1.0])
    assert A.columns == spent
    assert again == hs.conditioning(Known(family("nn", 300)), 60, seed=2, dampings=[1.0])


def test_all_of_it_is_printed():
    c = hs.conditioning(Known(family("nn", 600)), 100, dampings=[1.0, 0.01])
    text = str(c)
    assert text.startswith("condition of 600 eigenvalues, 100 matvecs\n  λmax 10   λmin -0.3\n")
    assert f"\n  {c.statement}\n" in text
    assert re.search(r"tau = 1.0e-05 = 1e-06 of the largest \|λ\|: \S+ below, \S+ within, ", text)
    assert "\n  indefinite: λmax/|λmin| = 33.333\n" in text
    for name in ("50 %", "90 %", "99 %"):
        assert f"\n  largest |λ| / {name} quantile of |λ| above tau: " in text
    assert "\n  effective rank tr|A|/|λ|max = " in text
    assert "\n  A + 1 I: κ = 15.714\n  A + 0.01 I: not proven positive definite\n" in text
    assert text.endswith("\n  2/λmax = 0.2")
    assert str(c.lambda_max).endswith("(99.9 %)")


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_tau_that_is_no_threshold_is_refused(tau):
    message = f"tau={tau} is no threshold; give a positive number, for example 1.0e-05."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.conditioning(Known(family("nn", 300)), 30, tau=tau)


def test_quantiles_and_dampings_are_keys_as_numbers_also_after_saving(tmp_path):
    c = hs.conditioning(Known(family("nn", 300)), 40, dampings=[1e-3, 2, 0.1 + 0.2])
    assert list(c.ratios) == [0.5, 0.9, 0.99]
    assert list(c.damped) == [1e-3, 2.0, 0.1 + 0.2]
    loaded = hs.load(hs.save(c, tmp_path))
    assert loaded == c
    assert [type(key) for key in loaded.damped] == [float] * 3


@pytest.mark.parametrize("damping", [math.nan, math.inf])
def test_a_damping_is_finite(damping):
    message = f"dampings=[{damping}] have to be finite numbers, such as [1e-3]."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.conditioning(Known(family("nn", 80)), dampings=[damping])
