"""Numbers in, claims out: the gradient and λmax against the luck of the draw."""

import math

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.diagnosis.noise import critical_batch_size, noise
from hesscope.sampling.gradient import gradient_with_noise


def sampled(mixing: float = 0.01) -> hs.SamplingError:
    one = torch.ones(1).double()
    return hs.SamplingError(10 * one, one, 0.5 * one, mixing * one, 1000.0, 33, 3)


@pytest.mark.parametrize(
    ("gradient", "error", "batch", "claim", "confidence"),
    [
        (1.0, math.nan, 8, "undecided: the gradient's noise over the data is not", "undecided"),
        (1.0, 0.0, 8, "none: all examples have the same gradient", "measured"),
        (0.0, 0.0, None, "none: all examples have the same gradient", "measured"),
        (0.8, 1.0, 8, "the gradient is smaller than its sampling noise (0.8 times", "measured"),
        (1.9, 1.0, 8, "undecided: on all 1000 examples the gradient is 1.9 times", "undecided"),
        (5.0, 1.0, None, "the gradient is 5 times its sampling noise on all 1000 exam", "measured"),
        (5.0, 1.0, 1, "your batch of 1 examples is too small to see this", "measured"),
        (5.0, 1.0, 32, "the gradient is 5 times its sampling noise on all 1000 exam", "measured"),
        (
            50.0,
            1.0,
            500,
            "the gradient is 50 times its sampling noise on all 1000 exam",
            "measured",
        ),
    ],
)
def test_the_claim_follows_from_gradient_noise_and_batch(gradient, error, batch, claim, confidence):
    verdict = noise(gradient, error, 1000, batch)
    assert verdict.claim.startswith(claim)
    assert verdict.confidence == confidence
    assert verdict.finding is False
    assert (confidence == "undecided") <= bool(verdict.advice)


def test_a_batch_far_above_the_noise_scale_is_called_so():
    assert (
        "your batch of 500 examples is far larger than it takes to see it (about 1 example)"
        in noise(50.0, 1.0, 1000, 500).claim
    )


def test_the_error_of_the_sharpness_and_what_a_batch_reads_are_told():
    """λ 10 ± 1 with bias 0.5 of 1000 examples: a batch of 250 reads 9.5 + 4 · 0.5, ± √4."""
    verdict = noise(5.0, 1.0, 1000, 250, sampled())
    assert "the sharpest curvature (λmax) would lie between 7.46 and 11.5 (95 %)" in verdict.claim
    assert "a batch of 250 examples would show 11.5 ± 2" in verdict.claim
    assert verdict.evidence["batch_lambda_max"] == 11.5


def test_where_perturbation_theory_ends_nothing_is_read():
    assert "another direction would be the sharpest" in noise(5.0, 1.0, 1000, 5, sampled()).claim
    assert "is not known: other data" in noise(5.0, 1.0, 1000, 250, sampled(0.5)).claim


@pytest.mark.parametrize("seed", range(10))
def test_the_critical_batch_size_of_a_known_gradient_distribution(seed):
    """Gradients x ~ N(μ, I) in 20 dimensions: B = 20/|μ|². noise² has 31 · 20 degrees of freedom
    and |g|² a relative error below 2/√(N |μ|²), so B is within 5 (√(2/620) + 2/√2000) = 0.51 of it.
    """
    generator = torch.Generator().manual_seed(seed)
    x = 1 / math.sqrt(20) + torch.randn(2000, 20, generator=generator, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False).double()
    problem = hs.Problem(model, lambda output, targets: output.mean(), (x, x[:, :1]))
    gradient, error = gradient_with_noise(problem)
    B = critical_batch_size(float(gradient.norm()), error, 2000)
    assert abs(B / 20.0 - 1) <= 0.51
    assert "too small to see this" not in noise(float(gradient.norm()), error, 2000, 16).claim


@pytest.mark.parametrize("seed", range(3))
def test_batches_of_sequences_are_counted_in_sequences(seed):
    """Losses average over tokens, batches are drawn as sequences: B against brute force.

    400 batches of 16 sequences give the noise to 1/√800 along one direction at worst, the parts of
    the data to 1/√62; both are squared, so five standard errors are 2 · 5 · √(1/800 + 1/62) of B.
    """
    torch.manual_seed(seed)
    sequences = torch.randint(0, 12, (256, 1)).expand(256, 20).clone()
    flipped = torch.rand(256, 20) < 0.3
    sequences[flipped] = torch.randint(0, 20, (int(flipped.sum()),))
    network = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    problem = hs.Problem(
        network,
        loss,
        (sequences, sequences),
        batch_size=32,
        count=lambda targets: targets[:, 1:].numel(),
    )
    verdict = hs.diagnose(problem, effort="quick", batch_size=16).verdict("noise")
    assert "on all 256 examples" in verdict.claim
    gradients = []
    for _ in range(400):
        some = sequences[torch.randperm(256)[:16]]
        gradient = torch.autograd.grad(loss(network(some), some), list(network.parameters()))
        gradients.append(torch.cat([g.reshape(-1) for g in gradient]))
    whole = problem.gradient().double()
    deviations = (torch.stack(gradients).double() - whole).square().sum(1).mean()
    critical = 16 * float(deviations) / (1 - 16 / 256) / float(whole.square().sum())
    allowed = 10 * math.sqrt(1 / 800 + 1 / 62)
    assert verdict.evidence["critical_batch_size"] == pytest.approx(critical, rel=allowed)
