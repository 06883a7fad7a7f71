"""Curves of low loss around hills, and units matched that were permuted."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope import probes
from hesscope.landscape.ends import end_of
from hesscope.landscape.matching import match_units
from tests.oracles import data, network
from tests.state import state_of

X, Y = data(60, 5, 3)
ENDS = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)


def ring():
    """Minima on a circle around a hill of height 1."""
    return hs.Problem.from_function(lambda t: (t.square().sum() - 1) ** 2, torch.zeros(2).double())


@pytest.mark.parametrize(("kind", "num_bends"), [("bezier", 2), ("chain", 5)])
def test_a_curve_goes_around_a_hill(kind, num_bends):
    found = hs.loss_path(ring(), *ENDS, kind=kind, num_bends=num_bends, num_steps=600, lr=0.03)
    assert found.line.barrier > 0.3
    assert found.curve.barrier < 0.02
    assert float(found.curve.losses[[0, -1]].max()) < 1e-25  # the ends stay where they are
    arc = torch.acos(torch.tensor(-0.6))
    assert float(arc) * 0.9 < found.curve.distance < float(arc) * 1.3
    assert found.matched is None


def test_an_untrained_curve_is_the_line():
    found = hs.loss_path(ring(), *ENDS, num_steps=0)
    assert torch.allclose(found.curve.losses, found.line.losses, atol=1e-14)
    assert found.curve.distance == pytest.approx(found.line.distance)


def test_the_gradient_is_that_of_the_curve():
    """One step of training on one batch, against autograd through the curve."""
    problem = hs.Problem(network(5, 4, 3), F.cross_entropy, (X, Y))
    a, b = problem.theta, problem.theta.flip(0)
    found = hs.loss_path(problem, a, b, num_steps=1, lr=1e-3, num_points=3)
    t = torch.rand(
        (),
        generator=torch.Generator().manual_seed(probes.key(0, "times on a path")),
        dtype=torch.float64,
    )
    bend = ((a + b) / 2).requires_grad_()
    theta = (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b
    names, shapes = problem.layout.names, problem.layout.shapes
    pieces = theta.split([s.numel() for s in shapes])
    tensors = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
    loss = F.cross_entropy(torch.func.functional_call(problem.model, tensors, (X,)), Y)
    (gradient,) = torch.autograd.grad(loss, bend)
    assert float(found.training[0]) == pytest.approx(float(loss.detach()))
    moved = found.bends[0] - (a + b) / 2  # the first step of Adam is lr times the sign
    assert torch.allclose(moved, -1e-3 * gradient.sign(), rtol=1e-3)


class Residual(nn.Module):
    """A residual stream, whose units are tied, and a block, whose units are free."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.norm = nn.Linear(5, 4), nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.second, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.stem(x)
        return self.out(h + self.second(F.relu(self.norm(self.first(h)))))


def networks():
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 4, (1, 2)), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    return {
        "perceptron": (network(5, 7, 6, 3), {"0 -> 2": 7, "2 -> 4": 6}),
        "convolutions": (conv, {"1 -> 5": 4}),
        "residual": (Residual(), {"first -> second": 6}),
    }


def shuffled(model, groups):
    """The same network with the units of these groups in another order, by hand."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    modules = dict(other.named_modules())
    names = list(modules)
    for group, units in groups.items():
        first, after = group.split(" -> ")
        order = torch.randperm(units, generator=generator)
        between = names[names.index(first) : names.index(after)]
        with torch.no_grad():
            for name in between:
                own = [*modules[name]._parameters.values(), *modules[name]._buffers.values()]
                for tensor in own:
                    if tensor is not None and tensor.ndim:
                        tensor.copy_(tensor[order].clone())
            weight = modules[after].weight
            columns = weight.shape[1] // units
            rows = (order[:, None] * columns + torch.arange(columns)).flatten()
            weight.copy_(weight[:, rows].clone())
    return other


@pytest.mark.parametrize("name", list(networks()))
def test_permuted_units_are_put_back(name):
    model, groups = networks()[name]
    model = model.double()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    other = shuffled(model, groups)
    assert hs.Problem(other, F.cross_entropy, (X, Y)).loss() == pytest.approx(problem.loss())
    before = state_of(model)
    a, b = end_of(problem, model, "a"), end_of(problem, other, "b")
    matched, told = match_units(problem, a, b)
    assert torch.allclose(matched.theta, a.theta, atol=1e-12)
    for key, tensor in a.buffers.items():
        assert torch.equal(matched.buffers[key], tensor)
    assert len(told) == len(groups)
    assert all(f" of {units} units moved" in "".join(told) for units in groups.values())
    found = hs.loss_path(
        problem, model, other, match=True, num_steps=0, num_points=5, statistics="interpolated"
    )
    same = torch.full((5,), problem.loss(), dtype=torch.float64)
    assert torch.allclose(found.matched.losses, same, rtol=1e-10)
    assert not torch.allclose(found.line.losses, same, rtol=1e-4)
    assert "after matching units: no barrier" in str(found)
    assert state_of(model) == before


def test_matching_lowers_the_distance_of_strangers_and_keeps_their_losses():
    a, b = network(5, 8, 3, seed=1), network(5, 8, 3, seed=2)
    problem = hs.Problem(a, F.cross_entropy, (X, Y))
    found = hs.loss_path(problem, a, b, match=True, num_steps=0, num_points=5, test=(X[:9], Y[:9]))
    assert found.matched.distance < found.line.distance
    assert float(found.matched.losses[-1]) == pytest.approx(float(found.line.losses[-1]), rel=1e-12)
    assert "on test data: highest " in str(found)


def test_a_figure_shows_all_three():
    a, b = network(5, 8, 3, seed=1), network(5, 8, 3, seed=2)
    problem = hs.Problem(a, F.cross_entropy, (X, Y))
    ax = hs.plots.path(hs.loss_path(problem, a, b, match=True, num_steps=2, num_points=5))
    labels = [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()]
    assert labels == ["line", "line after matching units", "bezier, 1 bend"]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"kind": "spline"}, "kind='spline' is neither 'bezier' nor 'chain'."),
        ({"num_bends": 0}, "num_bends=0, num_steps=400, lr=0.01; give positive numbers."),
        ({"lr": -1}, "num_bends=1, num_steps=400, lr=-1; give positive numbers."),
    ],
)
def test_what_does_not_fit_is_refused(given, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        hs.loss_path(ring(), *ENDS, **given)
