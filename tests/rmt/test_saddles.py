"""The index curve against shifted random matrices whose parameters are known."""

from __future__ import annotations

import math

import pytest
import torch

import hesscope as hs
from hesscope.rmt import index_curve, negative_share

THRESHOLD, SLOPE = 0.4, 1.6


def drawn(n: int, seed: int, losses: torch.Tensor) -> torch.Tensor:
    """Shares of negative eigenvalues of s(L) I + GOE of radius 1, s = 1 - SLOPE (L - THRESHOLD)."""
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for loss in losses.tolist():
        A = torch.randn(n, n, generator=generator, dtype=torch.float64)
        W = (A + A.T) / math.sqrt(8 * n)
        shift = 1 - SLOPE * (loss - THRESHOLD)
        shares.append(float((torch.linalg.eigvalsh(W) + shift < 0).double().mean()))
    return torch.tensor(shares, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_shifted_matrices_give_their_parameters_back(seed):
    n, losses = 120, torch.linspace(0.2, 1.6, 15).double()
    curve = index_curve(losses, drawn(n, seed, losses))
    # counts of eigenvalues are whole and rigid: shares are off by about 1/n, and so is the fit
    assert abs(curve.threshold - THRESHOLD) < 4 * max(curve.threshold_error, 1 / n)
    assert abs(curve.slope - SLOPE) < 4 * max(curve.slope_error, SLOPE / n)
    assert curve.rms_residual < 1.5 / n
    assert curve.rank_correlation > 0.98


def test_the_share_is_half_where_the_centre_is_zero_and_grows_with_power_three_halves():
    assert float(negative_share(THRESHOLD + 1 / SLOPE, THRESHOLD, SLOPE)) == pytest.approx(0.5)
    assert float(negative_share(THRESHOLD - 0.1, THRESHOLD, SLOPE)) == 0
    assert float(negative_share(THRESHOLD + 3 / SLOPE, THRESHOLD, SLOPE)) == 1
    for u in (1e-3, 1e-4):
        law = 4 * math.sqrt(2) / (3 * math.pi) * u**1.5
        share = float(negative_share(THRESHOLD + u / SLOPE, THRESHOLD, SLOPE))
        assert share == pytest.approx(law, rel=u)  # the next term is -3u/20 of it


def test_stated_errors_cover_the_truth():
    losses, inside = torch.linspace(0.3, 1.5, 25).double(), 0
    exact = negative_share(losses, THRESHOLD, SLOPE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        noise = 0.01 * torch.randn(25, generator=generator, dtype=torch.float64)
        curve = index_curve(losses, (exact + noise).clamp(0, 1))
        inside += abs(curve.threshold - THRESHOLD) < 2 * curve.threshold_error
    assert inside >= 85  # 95 expected, for normal errors and a smooth curve


def test_it_prints_its_errors_and_survives_saving(tmp_path):
    losses = torch.linspace(0.6, 1.5, 9).double()
    curve = index_curve(losses, negative_share(losses, 0.5, 1.0))
    text = str(curve)
    assert text.startswith("9 critical points: index against loss has rank correlation 1\n")
    assert "threshold loss 0.5" in text
    assert "not a law for networks" in text
    assert str(hs.load(hs.save(curve, tmp_path))) == text


@pytest.mark.parametrize(
    ("losses", "shares", "message"),
    [
        (
            [0.0, 1.0], [0.1, 0.2],
            "losses of shape (2,) and shares of shape (2,); give one loss and one share for each "
            "of three or more critical points.",
        ),
        (
            [0.0, 1.0, 2.0], [1.0, 4.0, 2.0],
            "losses must be finite and shares in [0, 1]; divide the index by n.",
        ),
        (
            [0.0, 1.0, 2.0], [0.0, 0.0, 0.5],
            "fewer than two losses have a share strictly between 0 and 1, so no curve is "
            "determined; add critical points of other losses.",
        ),
        (
            [0.0, 1.0, 2.0], [0.3, 0.2, 0.1],
            "the share of negative eigenvalues falls with the loss, and this picture has it rise; "
            "look at the points themselves, or give converged critical points.",
        ),
    ],
)  # fmt: skip
def test_points_that_determine_no_curve_are_refused(losses, shares, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared
        index_curve(losses, shares)
    assert str(caught.value) == message
