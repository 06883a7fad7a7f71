"""Traces of functions against dense values: intervals that cover, refusals that are right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import hesscope as hs
from tests.spectra import FAMILIES, Known, family, random_eigenvalues
from tests.tolerances import most_misses
from tests.trained import NETWORKS, hessian_spectrum

SPECTRA = (*FAMILIES, *NETWORKS)
FAR = 1000  # seeds so far apart share no probe


class Semidefinite(Known):
    """Known, and says that it has no negative eigenvalues."""

    positive_semidefinite = True


def values_of(name: str, n: int = 600) -> torch.Tensor:
    return hessian_spectrum(name) if name in NETWORKS else family(name, n)


Question = tuple[Callable[..., hs.Estimate], torch.Tensor, float]


def question(kind: str, values: torch.Tensor) -> Question:
    """What to ask with a seed, the operator's eigenvalues, and the answer from all of them."""
    if kind in {"logdet", "dimension"}:
        positive = values.clamp(min=0)
        damping = 1e-3 * float(values[0])
        damped = positive + damping
        if kind == "logdet":
            return (
                (lambda **o: hs.logdet(Semidefinite(positive), damping, **o)),
                positive,
                float(damped.log().sum()),
            )
        truth = float((positive / damped).sum())
        return (
            (lambda **o: hs.effective_dimension(Semidefinite(positive), damping, **o)),
            positive,
            truth,
        )
    if kind == "indefinite logdet":
        damping = 1.5 * abs(float(values[-1]))
        truth = float((values + damping).log().sum())
        return (lambda **o: hs.logdet(Known(values), damping, **o)), values, truth
    f = {"exp": torch.exp, "tanh": torch.tanh, "square": torch.square, "abs": torch.abs}[kind]
    return (lambda **o: hs.trace_function(Known(values), f, **o)), values, float(f(values).sum())


def assert_covered(kind: str, values: torch.Tensor, runs: int, label: str, **options) -> None:
    ask, _, truth = question(kind, values)
    found = [ask(seed=FAR * seed, **options) for seed in range(runs)]
    misses = sum(truth not in estimate.interval() for estimate in found)
    cost = np.mean([estimate.num_matvecs for estimate in found])
    half = np.mean([estimate.interval().width for estimate in found]) / 2 / abs(truth)
    print(f"{label}, {kind}: misses {misses} of {runs}, {cost:.0f} matvecs, half-width {half:.1e}")
    assert misses <= most_misses(runs, 0.05)
    assert max(estimate.num_matvecs for estimate in found) <= 500


# --- intervals

CASES = [
    ("nn", "logdet"), ("late", "logdet"), ("nn", "indefinite logdet"), ("late", "dimension"),
    ("early", "indefinite logdet"), ("sing", "exp"), ("nn", "tanh"), ("nn", "square"),
    ("late", "abs"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_intervals_cover_the_dense_value(name, kind):
    rtol = {"rtol": 0.02} if "logdet" in kind else {"rtol": 0.1}
    assert_covered(kind, values_of(name, 150), 12, name, **rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_of_logdet_cover_in_500_runs(name):
    assert_covered("logdet", values_of(name), 500, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("late", "dimension"), ("early", "dimension"), ("nn", "indefinite logdet"), ("nn", "exp"),
     ("nn", "tanh"), ("late", "square"), ("late", "abs"), ("sing", "abs")],
)  # fmt: skip
def test_intervals_of_other_functions_cover_in_500_runs(name, kind):
    assert_covered(kind, values_of(name), 500, name)


@pytest.mark.parametrize("tol", [1e-3, 0.1])
@pytest.mark.parametrize("kind", ["logdet", "dimension", "square"])
def test_given_pairs_converged_or_not_keep_the_interval_honest(kind, tol):
    values = values_of("late")
    _, positive, _ = question(kind, values)
    pairs = hs.eigsh(Known(positive), 10, tol=tol, verify=False)
    assert_covered(kind, values, 12, f"pairs to {tol}", rtol=0.05, pairs=pairs)


def test_given_pairs_save_products():
    ask, positive, _ = question("logdet", values_of("late"))
    pairs = hs.eigsh(Known(positive), 12)
    assert ask(pairs=pairs).num_matvecs < ask().num_matvecs


def test_the_tolerance_is_met_where_products_suffice():
    for kind, rtol in (("logdet", 0.01), ("indefinite logdet", 0.01), ("tanh", 0.05)):
        ask, _, truth = question(kind, values_of("nn"))
        estimate = ask()
        assert estimate.num_matvecs < 300
        assert estimate.interval().width / 2 <= 1.5 * rtol * abs(truth)


@pytest.mark.parametrize("max_matvecs", [24, 25, 31, 60, 150])
@pytest.mark.parametrize("kind", ["logdet", "dimension", "indefinite logdet", "exp", "abs"])
def test_max_matvecs_is_never_exceeded_and_the_interval_then_is_wide_enough(kind, max_matvecs):
    values = values_of("mult", 300)
    ask, _, truth = question(kind, values)
    refused = []
    for seed in range(3):
        try:
            estimate = ask(seed=FAR * seed, rtol=1e-4, max_matvecs=max_matvecs)
        except ValueError as refusal:
            refused.append(str(refusal))
            continue
        assert estimate.num_matvecs <= max_matvecs
        assert max_matvecs < 60 or truth in estimate.interval(0.9999)
    assert all("is certain as a lower end" in message for message in refused)  # too few to prove it
    assert not refused or kind == "indefinite logdet"


def test_products_are_counted():
    for ask in (
        lambda A: hs.logdet(A, 1.0),
        lambda A: hs.effective_dimension(A, 1.0),
        lambda A: hs.trace_function(A, torch.exp),
        lambda A: hs.trace_function(A, torch.exp, pairs=hs.eigsh(Known(A.eigenvalues), 3)),
    ):
        A = Known(family("nn", 200))
        assert ask(A).num_matvecs == A.columns


# --- exact cases


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_small_operators_are_exact(n, dtype):
    values = random_eigenvalues(n, n).abs().to(dtype).double() + 0.5
    A = Known(values, dtype=dtype, rotate=1)
    noise = 1e-3 if dtype == torch.float32 else 1e-9
    for estimate, truth in (
        (hs.logdet(A, 0.1), (values + 0.1).log().sum()),
        (hs.logdet(A, 0.0), values.log().sum()),
        (hs.effective_dimension(A, 0.1), (values / (values + 0.1)).sum()),
        (hs.trace_function(A, torch.exp), values.exp().sum()),
        (hs.trace_function(A, torch.square), values.square().sum()),
    ):
        assert estimate.value == pytest.approx(float(truth), rel=noise, abs=noise)
        assert estimate.interval().width <= noise * (1 + abs(float(truth)))


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_low_rank_operators_are_exact(rank):
    values = torch.zeros(300).double()
    values[:rank] = torch.arange(rank, 0, -1.0).double()
    for kind in (Known, Semidefinite):
        A = kind(values, rotate=1)
        log = float((values + 0.5).log().sum())
        assert hs.logdet(A, 0.5).value == pytest.approx(log, rel=1e-9)
        dimension = float((values / (values + 0.5)).sum())
        assert hs.effective_dimension(A, 0.5).value == pytest.approx(dimension, abs=1e-9)
        assert hs.trace_function(A, torch.exp).value == pytest.approx(float(values.exp().sum()))


def test_exact_zeros_of_a_semidefinite_operator_are_no_obstacle_to_the_rule_at_zero():
    """Here the Gauss-Radau node lies on a Ritz value."""
    values = torch.cat([torch.logspace(1, -3, 60), torch.zeros(540)]).double()
    A = Semidefinite(values)
    for damping in (1e-1, 1e-3):
        truth = float((values + damping).log().sum())
        assert truth in hs.logdet(A, damping).interval(0.9999)
        truth = float((values / (values + damping)).sum())
        assert truth in hs.effective_dimension(A, damping).interval(0.9999)


# --- refusals


@pytest.mark.parametrize("ask", [hs.logdet, hs.effective_dimension])
def test_a_damping_below_a_negative_outlier_is_refused_with_a_proof(ask):
    for n in (3, 600):  # all eigenvalues are known, or only outliers
        values = torch.cat([torch.linspace(2, 0, n - 1), torch.tensor([-1.0])]).double()
        message = (
            rf"{ask.__name__} needs all eigenvalues above -damping = -0\.5, but -[\d.]+ is an "
            r"upper bound of the smallest; raise the damping, or look at "
            r"hs\.eigsh\(A, 1, which='SA'\)\."
        )
        with pytest.raises(ValueError, match=f"^{message}$"):
            ask(Known(values), 0.5)


def test_a_damping_below_the_edge_of_a_bulk_is_refused_with_a_proof():
    values = torch.linspace(1, -1, 600).double()
    message = (
        r"logdet needs all eigenvalues above -damping = -0\.5, but -[\d.]+ is an upper bound of "
        r"the smallest; raise the damping, or look at hs\.eigsh\(A, 1, which='SA'\)\."
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        hs.logdet(Known(values), 0.5)


def test_what_cannot_be_proven_in_time_is_refused_as_not_certain():
    values = torch.linspace(1, -1, 5000).double()
    message = (
        r"logdet needs all eigenvalues above -damping = -1\.001, but only -1\.\d+ is certain as a "
        r"lower end; raise the damping, or look at hs\.eigsh\(A, 1, which='SA'\)\."
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        hs.logdet(Known(values), 1.001, max_matvecs=40)


def test_a_pair_that_is_given_proves_a_negative_eigenvalue_too():
    values = family("nn", 300)
    pairs = hs.eigsh(Known(values), 2, which="SA")
    with pytest.raises(ValueError, match=r"but -0\.3 is an upper bound of the smallest"):
        hs.logdet(Known(values), 0.2, pairs=pairs)


def test_a_semidefinite_operator_is_taken_at_its_word_but_zero_damping_needs_a_proof():
    values = torch.cat([torch.logspace(1, -3, 60), torch.zeros(240)]).double()
    assert hs.logdet(Semidefinite(values), 1e-6).num_matvecs <= 500
    with pytest.raises(ValueError, match=r"^logdet needs all eigenvalues above -damping = 0, but"):
        hs.logdet(Semidefinite(values), 0.0)


def small() -> Known:
    return Known(family("nn", 100))


REFUSED = [
    (lambda: hs.effective_dimension(small(), 0.0),
     "damping=0.0 must be positive, in the units of the eigenvalues."),
    (lambda: hs.effective_dimension(small(), math.nan),
     "damping=nan must be positive, in the units of the eigenvalues."),
    (lambda: hs.trace_function(small(), torch.exp, rtol=0.0),
     "rtol=0.0 must be positive and max_matvecs=500 at least 24."),
    (lambda: hs.logdet(small(), 1.0, max_matvecs=23),
     "rtol=0.01 must be positive and max_matvecs=23 at least 24."),
    (lambda: hs.logdet(small(), 1.0, pairs=hs.eigsh(Known(family("nn", 80)), 2)),
     "the eigenpairs have 80 entries, A has n=100."),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "message"), REFUSED)
def test_questions_without_an_answer_are_refused(ask, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask()


@pytest.mark.parametrize("f", [torch.log, lambda x: x.sum(), lambda x: x / 0])
def test_functions_that_are_not_finite_or_not_elementwise_are_refused(f):
    message = "f must return one finite number per eigenvalue, also for those near zero."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        hs.trace_function(small(), f)
