"""Numbers in, claims out; and on real networks, the gains that He and Glorot derived."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.anatomy.signals import signals
from hesscope.diagnosis.initialisation import initialisation

LAST = {"last": (9.0, 9.0, 9.0)}


def geometric(num, forward, backward=1.0, gain=1.0):
    sizes = {str(i): (forward**i, backward ** (num - 1 - i), gain) for i in range(num)}
    return {**sizes, **LAST}


@pytest.mark.parametrize(
    ("sizes", "claim", "advice"),
    [
        (
            geometric(5, 1.0),
            "signals keep their size: each layer multiplies outputs by 1 and gradients by 1",
            "",
        ),
        (
            geometric(5, 0.25, 1.0, 0.5),
            "signals do not keep their size over 5 hidden layers: each layer multiplies",
            "weights larger by a factor 4 keep the signals: a gain (std times √inputs) ",
        ),
        (geometric(5, 4.0), "signals do not keep", "weights smaller by a factor 4 keep the"),
        (geometric(5, 1.0, 0.1), "signals do not keep", "a normalisation layer or skip"),
        (geometric(2, 0.0), "no signal arrives", "draw the weights at random"),
        (geometric(1, 1.0), "undecided: 1 hidden layers are too few", ""),
        ({}, "undecided: 0 hidden layers are too few", ""),
    ],
)
def test_the_claim_follows_from_the_numbers(sizes, claim, advice):
    verdict = initialisation(sizes)
    assert verdict.claim.startswith(claim)
    assert verdict.advice.startswith(advice)
    assert not verdict.finding
    assert (verdict.confidence == "undecided") is claim.startswith("undecided")


def test_evidence_is_what_the_layers_did():
    evidence = initialisation(geometric(4, 0.5, 2.0, 0.7)).evidence
    assert evidence["forward_factor"] == pytest.approx(0.5)
    assert evidence["backward_factor"] == pytest.approx(2.0)
    assert evidence["kept_gain"] == pytest.approx(1.4)


def perceptron(activation, draw, depth=10, width=256):
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    for layer in layers:
        draw(layer.weight)
    hidden = [m for layer in layers for m in (layer, activation())]
    model = nn.Sequential(*hidden, nn.Linear(width, 3))
    return hs.Problem(
        model, nn.functional.cross_entropy, (torch.randn(200, width), torch.arange(200) % 3)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.ReLU(inplace=True)])
def test_hes_gain_is_found_whatever_the_weights_are_scaled_by(seed, activation):
    """At width 256 the geometric mean over ten ReLU layers is within 10 % of the limit √2."""
    torch.manual_seed(seed)
    for scale in (0.3, 1.0, 3.0):
        problem = perceptron(activation, lambda w, s=scale: nn.init.normal_(w, std=s / 16))
        evidence = initialisation(signals(problem)).evidence
        assert evidence["kept_gain"] == pytest.approx(math.sqrt(2), rel=0.1)
        assert evidence["gain"] == pytest.approx(scale, rel=0.02)


def test_he_keeps_relu_and_torchs_default_does_not():
    he = initialisation(signals(perceptron(nn.ReLU, lambda w: nn.init.kaiming_normal_(w))))
    plain = initialisation(
        signals(perceptron(nn.ReLU, lambda w: nn.init.kaiming_uniform_(w, 5**0.5)))
    )
    assert he.claim.startswith("signals keep their size")
    assert plain.claim.startswith("signals do not keep their size")
    assert plain.evidence["forward_factor"] == pytest.approx(1 / math.sqrt(6), rel=0.1)


def test_glorot_keeps_linear_networks_both_ways():
    problem = perceptron(nn.Identity, lambda w: nn.init.xavier_normal_(w))
    evidence = initialisation(signals(problem)).evidence
    assert evidence["forward_factor"] == pytest.approx(1, rel=0.05)
    assert evidence["backward_factor"] == pytest.approx(1, rel=0.05)


def test_measuring_leaves_the_model_as_it_was():
    problem = perceptron(nn.Tanh, lambda w: nn.init.xavier_normal_(w), depth=3, width=8)
    before = problem.theta
    signals(problem)
    assert torch.equal(problem.theta, before)
    assert all(not m._forward_hooks for m in problem.model.modules())
    assert all(p.grad is None for p in problem.model.parameters())
