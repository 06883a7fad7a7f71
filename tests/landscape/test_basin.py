"""Orbits of symmetries are flat to rounding and named; widths are those of known valleys."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.landscape.symmetries import symmetries
from tests.oracles import data, network
from tests.state import state_of

X, Y = data(50, 5, 3)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for key in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, key, nn.Linear(5, 5))

    def forward(self, x):
        h = torch.stack([x, x.flip(1), x.sin()], dim=1)
        scores = self.q_proj(h) @ self.k_proj(h).transpose(1, 2)
        return self.out_proj(scores.softmax(-1) @ self.v_proj(h)).mean(1)


def shift(name, inputs):
    return {f"softmax shift of {name}.weight": inputs, f"softmax shift of {name}.bias": 1}


def models():
    torch.manual_seed(0)
    images = nn.Unflatten(1, (1, 1, 5))
    return {
        "relu": (network(5, 6, 4, 3, activation=nn.ReLU), {"rescaling 0 -> 2": 6,
                 "rescaling 2 -> 4": 4, **shift("4", 4)}),
        "tanh": (network(5, 6, 3), shift("2", 6)),
        "convolutions": (
            nn.Sequential(
                images, nn.Conv2d(1, 2, (1, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
            ),
            {"rescaling 1 -> 4": 2, **shift("4", 6)},
        ),
        "norm": (
            nn.Sequential(nn.Linear(5, 6, bias=False), nn.LayerNorm(6, eps=0.0), nn.Linear(6, 3)),
            {"rescaling 1 -> 2": 6, "scale before 1": 1, **shift("2", 6)},
        ),
        "attention": (
            Attention(),
            {"attention q_proj against k_proj": 5, "attention v_proj -> out_proj": 5,
             "attention q_proj against k_proj, as a whole": 1, **shift("out_proj", 5)},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(models()))
def test_symmetries_are_found_named_and_counted(name):
    model, expected = models()[name]
    problem = hs.Problem(model.double(), F.cross_entropy, (X, Y))
    found = {s.name: s.dimensions for s in symmetries(problem)}
    rest = {k: v for k, v in found.items() if not k.startswith("rescaling v_proj")}
    assert rest == expected


@pytest.mark.parametrize("name", ["relu", "convolutions", "attention"])
def test_orbits_are_flat_to_rounding_at_any_distance(name):
    model, _ = models()[name]
    model = model.double()
    before = state_of(model)
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    found = hs.basin(problem, radius=20.0, num_directions=3, max_matvecs=30)
    assert state_of(model) == before
    for walk in found.of_kind("symmetry"):
        assert float(walk.rises.abs().max()) < 1e-9 * found.loss, walk.name
        assert walk.width == math.inf


def test_the_hessian_at_a_critical_point_has_a_zero_for_each_dimension():
    """A ReLU network fitted to its own outputs is at a minimum: H = J'J, and J kills orbits."""
    model = network(5, 4, 2, activation=nn.ReLU)
    targets = model(X).detach()
    problem = hs.Problem(model, nn.MSELoss(), (X, targets))
    found = hs.basin(problem, num_directions=1, max_matvecs=40, tau=1e-9)
    values = hs.spectrum(hs.Hessian(problem)).eigenvalues
    zeros = int((values.abs() < 1e-9).sum())
    assert found.symmetry_dimensions == 4
    assert found.num_flat.low <= zeros <= found.num_flat.high
    assert zeros >= found.symmetry_dimensions
    assert "symmetries explain 4 of the others" in str(found)


def test_widths_are_those_of_a_known_valley():
    """L = a x²/2 + b y⁴ with a flat z: the width along x is sqrt(2 rise/a), along z infinite."""
    f = hs.Problem.from_function(lambda t: 2 * t[0] ** 2 + t[1] ** 4, torch.zeros(3).double())
    found = hs.basin(f, rise=0.5, radius=4.0, num_directions=2, max_matvecs=10)
    for walk in found.of_kind("flat"):
        assert walk.residual < 1e-12
        v_quartic = (walk.rises[-1, 0] / 4.0**4) ** 0.25  # |v_y|
        if v_quartic > 0.2:
            assert abs(walk.width - 0.5**0.25 / float(v_quartic)) <= walk.width_error * 1.01
    for walk in found.of_kind("random"):
        assert walk.width < math.inf
        at = torch.tensor(walk.width)
        assert walk.curvature > 0
        assert float(at) <= (2 * 0.5 / walk.curvature) ** 0.5 + walk.width_error
    pairs = hs.eigsh(hs.Hessian(f), k=3)
    along = hs.basin(f, pairs, rise=0.5, radius=4.0, num_directions=1).of_kind("flat")[0]
    assert along.residual < 1e-9


def test_flat_directions_of_a_network_are_certified_by_a_fresh_product():
    problem = hs.Problem(network(5, 8, 3), F.cross_entropy, (X[:6], Y[:6]))
    found = hs.basin(problem, num_directions=2, max_matvecs=60, radius=3.0)
    top = float(hs.eigsh(hs.Hessian(problem), k=1).eigenvalues[0])
    for flat, random in zip(found.of_kind("flat"), found.of_kind("random"), strict=True):
        assert flat.residual < 1e-3 * top
        assert flat.residual < 0.05 * random.residual


@pytest.mark.parametrize("given", [{"radius": 0}, {"rise": -1}, {"num_directions": 0}])
def test_what_is_not_positive_is_refused(given):
    (name, value), *_ = given.items()
    f = hs.Problem.from_function(lambda t: t.square().sum(), torch.zeros(2))
    with pytest.raises(ValueError, match=re.escape(f"{name}={value}; give a positive number.")):
        hs.basin(f, **given)


def test_a_figure_has_a_line_for_each_walk():
    f = hs.Problem.from_function(lambda t: t[0] ** 2, torch.zeros(2).double())
    found = hs.basin(f, num_directions=2, max_matvecs=10)
    ax = hs.plots.basin(found)
    assert len(ax.lines) == len(found.walks) + 2
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    ax.figure.canvas.draw()
