"""Numbers in, claims out; then planted faults and healthy networks, ten seeds each."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.anatomy.layer_statistics import layer_statistics
from hesscope.diagnosis.layers import layers
from hesscope.results.layers import LayerStatistics, UnitStatistics
from hesscope.results.verdict import Verdict
from tests import clean_models, networks

SEEDS = range(10)


# --- numbers


def statistics_of(gradients: list[float], **known) -> LayerStatistics:
    """Matrix layers a, b, ... of one parameter each, so that norm and rms are the same number."""
    num = len(gradients)
    usual = {
        "layers": tuple("abcdefghijkl"[:num]),
        "sizes": (1,) * num,
        "weight_norm": torch.ones(num).double(),
        "gradient_norm": torch.tensor(gradients, dtype=torch.float64),
        "gain": torch.ones(num).double(),
        "signal": torch.ones(num).double(),
        "depth": tuple(range(num)),
        "matrix": (True,) * num,
        "curvature_share": None,
        "units": (),
        "num_inputs": 0,
        "dead_inputs": (),
        "zero_gradient": (),
        "unused": (),
        "zero_weights": (),
    }
    return LayerStatistics(**{**usual, **known})


def units(dead: int, num: int = 64, **known) -> tuple[UnitStatistics, ...]:
    usual = {
        "layer": "b",
        "activation": "ReLU 1",
        "num": num,
        "dead": tuple(range(dead)),
        "far_dead": dead,
        "always_on": 0,
        "saturated": math.nan,
        "num_seen": 100.0,
        "hidden": True,
    }
    return (UnitStatistics(**{**usual, **known}),)


EVEN = [1.0, 1.0, 1.0]
FIVE = [1.0] * 5


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gradients", "known", "claim", "finding"),
    [
        (EVEN, {}, "all 3 layers learn: gradient entries of 1 in the first ones and 1", False),
        ([2.0], {}, "one layer: nothing to compare", False),
        ([1e-4, 1e-2, 1.0], {}, "all 3 layers learn: gradient entries of 0.0001", False),
        ([1e-8, 1e-4, 1.0], {}, "vanishing gradients: they fall by 10^8.0 from the last", True),
        ([0.0, 1e-9, 1.0], {}, "vanishing gradients: they fall to nothing", True),
        ([0.0, 0.0, 1.0], {"zero_weights": ("c.weight",)}, "1 of 3 layers learn", False),
        (
            [1.0, 1e-3, 1e-5],
            {},
            "exploding: each layer makes its inputs about 1 times larger, grad",
            True,
        ),
        (EVEN, {"signal": vector(1, 1e5, 1)}, "exploding: each layer makes its inputs", True),
        (EVEN, {"signal": vector(1, 1, 1e5)}, "all 3 layers learn", False),
        (EVEN, {"signal": vector(1, 100, 100)}, "all 3 layers learn", False),
        (FIVE, {"gain": vector(5, 5, 5, 5, 5)}, "all 5 layers learn", False),
        (FIVE, {"gain": vector(5, 5, 5, 5, 5), "signal": vector(1, 2, 3, 20, 20)}, "explo", True),
        (
            FIVE,
            {
                "gain": vector(5, 5, 5, 5, 5),
                "units": units(0, activation="Tanh 1", saturated=0.6),
            },
            "exploding",
            True,
        ),
        (EVEN, {"gain": vector(1, 1, 600)}, 'the weights of layer "c" are out of proportion', True),
        (EVEN, {"gain": vector(1e-3, 1e-3, 1)}, "all 3 layers learn", False),
        ([1.0, 5e3, 1.0], {}, 'layer "b" dominates: its gradient entries are 5,000 times', True),
        (
            EVEN,
            {"units": units(64)},
            'all 64 units of layer "b" are dead: their output never ch',
            True,
        ),
        (
            EVEN,
            {"units": units(40)},
            '62% of the units are dead: layer "b": 40 of 64 units never fire (0, 1, 2, 3, 4, 5',
            True,
        ),
        (EVEN, {"units": units(20)}, "all 3 layers learn", False),
        (EVEN, {"units": units(40, always_on=20)}, "all 3 layers learn", False),
        (EVEN, {"units": units(40, far_dead=31)}, "all 3 layers learn", False),
        (FIVE, {"gain": torch.zeros(5)}, "the weights of all 5 layers are exactly zero", True),
        (EVEN, {"units": units(4, 6)}, "all 3 layers learn", False),
        (EVEN, {"units": units(40, num_seen=7)}, "all 3 layers learn", False),
        (
            EVEN,
            {"units": units(0, saturated=0.95)},
            '95% of ReLU 1 after layer "b" is saturated',
            True,
        ),
        (EVEN, {"units": units(0, saturated=0.95, hidden=False)}, "all 3 layers", False),
        ([math.nan, 1.0, 1.0], {}, 'the gradient of layer "a" is not finite', True),
    ],
)
def test_the_claim_follows_from_the_numbers(gradients, known, claim, finding):
    verdict = layers(statistics_of(gradients, **known))
    assert verdict.name == "layers"
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding
    assert bool(verdict.advice) is finding
    assert verdict.confidence == "measured"


def test_a_gradient_of_zero_decides_nothing_and_says_what_would():
    verdict = layers(statistics_of([0.0, 0.0]))
    assert verdict.claim.startswith("undecided: the gradient is exactly zero")
    assert verdict.confidence == "undecided"
    assert not verdict.finding
    assert "on other data the layers can be told apart" in verdict.advice


def test_the_fall_per_layer_is_stated():
    verdict = layers(statistics_of([10.0 ** (2 * k) for k in range(-9, 1)]))
    assert (
        "they fall by 10^14.0 from the last layers to the first, by a factor 0.01 at each layer"
        in (verdict.claim)
    )
    assert verdict.evidence["gradient_growth"] == pytest.approx(1e-2)


def test_what_takes_no_part_is_remarked_upon_without_a_finding():
    verdict = layers(
        statistics_of(
            EVEN,
            unused=("c.weight",),
            zero_gradient=("c.weight",),
            dead_inputs=(0, 7),
            num_inputs=64,
            units=units(1),
        )
    )
    assert not verdict.finding
    assert "the loss does not use c.weight: connect or freeze them" in verdict.claim
    assert "inputs 0, 7 (of 64) are always zero" in verdict.claim
    assert 'layer "b": 1 of 64 units never fire (0)' in verdict.claim


def test_the_layer_of_the_top_eigenvector_is_in_the_evidence():
    verdict = layers(statistics_of(EVEN, curvature_share=vector(0.9, 0.1, 0)))
    assert verdict.evidence["top_vector_share"] == pytest.approx(0.9)


# --- planted faults


def network(*widths: int, act: type[nn.Module] = nn.ReLU, scale: float = 1.0) -> nn.Sequential:
    pieces: list[nn.Module] = []
    for size, after in itertools.pairwise(widths):
        pieces += [nn.Linear(size, after), act()]
    model = nn.Sequential(*pieces[:-1])
    with torch.no_grad():
        for linear in model[::2]:
            linear.weight.mul_(scale)
    return model


class Functional(nn.Module):
    """The same with F.relu, which no hook can see."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(network(*widths)[::2])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts[:-1]:
            x = F.relu(part(x))
        return self.parts[-1](x)


def digits_like(num: int = 200) -> tuple[Tensor, Tensor]:
    return torch.randn(num, 10), torch.randint(0, 3, (num,))


def judge(model: nn.Module, data: tuple[Tensor, Tensor] | None = None) -> Verdict:
    problem = hs.Problem(model, F.cross_entropy, data or digits_like(), batch_size=64)
    return layers(layer_statistics(problem, problem.gradient()))


def silenced(linear: nn.Linear, share: float = 1.0) -> None:
    with torch.no_grad():
        linear.bias[: int(share * len(linear.bias))] = -10


def dead_layer() -> nn.Module:
    model = network(10, 32, 32, 32, 3)
    silenced(model[2])
    return model


def dead_layer_functional() -> nn.Module:
    model = Functional(10, 32, 32, 32, 3)
    silenced(model.parts[1])
    return model


def half_dead() -> nn.Module:
    model = network(10, 64, 64, 3)
    silenced(model[2], 0.5)
    return model


def half_dead_functional() -> nn.Module:
    model = Functional(10, 64, 64, 3)
    silenced(model.parts[1], 0.5)
    return model


def dead_gelu() -> nn.Module:
    model = network(10, 32, 32, 3, act=nn.GELU)
    silenced(model[2])
    return model


def dead_channels() -> nn.Module:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 10)), nn.Conv1d(1, 16, 3), nn.BatchNorm1d(16), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[2].bias.fill_(-10)
    return model


def large_last() -> nn.Module:
    model = network(10, 32, 32, 3)
    with torch.no_grad():
        model[-1].weight.mul_(1e3)
    return model


PLANTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dead layer": (
        dead_layer,
        'all 32 units of layer "2" are dead: their output never changes; 2 of 4',
    ),
    "dead functional": (
        dead_layer_functional,
        'all 32 units of layer "parts.1" are dead: their output',
    ),
    "dead gelu": (dead_gelu, 'all 32 units of layer "2" are dead'),
    "dead channels": (dead_channels, 'all 16 units of layer "1" are dead'),
    "half dead": (
        half_dead,
        r"[56]\d% of the units are dead: layer \"2\": 3\d of 64 units never fire \(0, 1, 2,",
    ),
    "half dead functional": (
        half_dead_functional,
        r"[56]\d% of the units are dead: layer \"parts.1\": 3\d of 64 units never fire \(0, 1,",
    ),
    "vanishing sigmoid": (
        lambda: network(10, *[32] * 19, 3, act=nn.Sigmoid),
        r"vanishing gradients: they fall by 10\^1[1-4]\.",
    ),
    "exploding relu": (
        lambda: network(10, *[32] * 9, 3, scale=10.0),
        "exploding: each layer makes its inputs about 5",
    ),
    "exploding relu 5": (lambda: network(10, *[32] * 4, 3, scale=10.0), "exploding: each layer"),
    "exploding tanh": (
        lambda: network(10, *[32] * 9, 3, act=nn.Tanh, scale=10.0),
        r"exploding: each layer makes its inputs about 5\.[6-9]",
    ),
    "exploding tanh 20": (
        lambda: network(10, *[32] * 19, 3, act=nn.Tanh, scale=10.0),
        r"exploding: each layer makes its inputs about 5\.[6-9]",
    ),
    "large last layer": (
        large_last,
        'the weights of layer "4" are out of proportion: it makes its inputs [56]',
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_the_first_thing_that_is_claimed(name, seed):
    torch.manual_seed(seed)
    make, claim = PLANTED[name]
    verdict = judge(make().eval())
    assert verdict.finding
    assert re.match(claim, verdict.claim), verdict.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_dead_inputs_and_an_unused_head_are_named_and_no_finding(seed):
    torch.manual_seed(seed)
    x, y = digits_like()
    x[:, [0, 3]] = 0
    verdict = judge(network(10, 16, 3), (x, y))
    assert "inputs 0, 3 (of 10) are always zero" in verdict.claim
    assert not verdict.finding
    problem = clean_models.clean_case("unused_head", torch.float64, seed).problem()
    verdict = layers(layer_statistics(problem, problem.gradient()))
    assert "the loss does not use other.weight, other.bias" in verdict.claim
    assert not verdict.finding


# --- healthy networks


@pytest.mark.parametrize("name", clean_models.RECIPES)
def test_clean_models_raise_no_finding(name):
    """But one: six units wide, it has died in training, and its outputs are all the same."""
    for seed in SEEDS if name not in ("gpt2", "bert") else range(3):
        case = clean_models.clean_case(name, (torch.float32, torch.float64)[seed % 2], seed)
        problem = case.problem()
        verdict = layers(layer_statistics(problem, problem.gradient()))
        died = name == "relu_mlp" and bool((case.model(case.data[0]).std(0) == 0).all())
        assert verdict.finding is died, (seed, verdict.claim)
        assert not died or verdict.claim.startswith('all 6 units of layer "6" are dead')


@pytest.mark.parametrize("name", sorted(set(networks.SMOOTH) - set(clean_models.RECIPES)))
def test_smooth_networks_raise_no_finding(name):
    for seed in range(3):
        problem = networks.smooth(name, seed).problem()
        verdict = layers(layer_statistics(problem, problem.gradient()))
        assert not verdict.finding, (seed, verdict.claim)


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_perceptrons_at_torchs_initial_weights_raise_no_finding(act, depth):
    for seed in SEEDS:
        torch.manual_seed(seed)
        verdict = judge(network(10, *[32] * depth, 3, act=act))
        assert not verdict.finding, (seed, verdict.claim)


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("depth", [1, 3])
def test_trained_perceptrons_raise_no_finding(act, depth):
    for seed in range(5):
        torch.manual_seed(seed)
        model, (x, _) = network(10, *[32] * depth, 3, act=act), digits_like(300)
        y = (x[:, 0] > 0).long() + (x[:, 1] * x[:, 2] > 0).long()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(300):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        verdict = judge(model, (x, y))
        assert not verdict.finding, (seed, verdict.claim)
