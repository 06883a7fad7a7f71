"""A folded convolution gives what the layers give, and is folded only where nobody sees it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.landscape.convolutions import DivergedError, convolutions_in, folded
from hesscope.landscape.many import FOLDED, fastest
from hesscope.landscape.ways import Fold, Plane, one_by_one, shared
from tests.state import state_of


def pictures(num=24, channels=3, size=6, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(num, channels, size, size, dtype=dtype, generator=generator)
    return x, torch.arange(num) % classes


def settled(model, x):
    """With running statistics, gains and biases that are not those of the beginning."""
    generator = torch.Generator().manual_seed(5)
    model.train()
    for _ in range(3):
        model(x)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine:
            norm.weight.data += torch.rand(norm.weight.shape, generator=generator)
            norm.bias.data += torch.rand(norm.bias.shape, generator=generator)
    return model.eval()


class Block(nn.Module):
    """x + BN(conv(relu(BN(conv(x))))), and a pooled linear layer."""

    def __init__(self, bias=False, affine=True, twice=False, padding="zeros"):
        super().__init__()
        options = {"padding": 1, "bias": bias, "padding_mode": padding}
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, **options), nn.Conv2d(8, 8, 3, **options)
        self.bn1, self.bn2 = nn.BatchNorm2d(8, affine=affine), nn.BatchNorm2d(8, affine=affine)
        self.out, self.twice = nn.Linear(8, 3), twice

    def forward(self, x):
        h = self.conv1(x)
        g = self.bn1(h)
        h = F.relu(h + g if self.twice else g, inplace=True)
        h = F.relu(self.bn2(self.conv2(h)) + h)
        return self.out(h.mean((2, 3)))


def plane_of(model, batches):
    problem = hs.Problem(model, F.cross_entropy, batches)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(problem.n, 2, dtype=problem.dtype, generator=generator)
    return Plane(problem, problem.theta, vectors / vectors.norm(dim=0))


def found_in(problem):
    with problem.evaluation() as e, e.values() as value:
        batch = next(iter(e.batches))
        return convolutions_in(e.model, partial(value, batch), lambda *_: False)


POINTS = torch.tensor([[0.0, 0.0], [1.0, -0.5], [-0.3, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"affine": False}, {"bias": True, "padding": "circular"}],
)
def test_folded_convolutions_give_the_losses_of_the_layers(options):
    torch.manual_seed(0)
    x, y = pictures()
    model = settled(Block(**options).double(), x)
    plane = plane_of(model, [(x[:10], y[:10]), (x[10:], y[10:])])
    assert [one.norm for one in found_in(plane.problem)] == [model.bn1, model.bn2]
    before, expected = state_of(model), one_by_one(plane, POINTS)
    for size in (None, 4):
        for last in (True, False):
            losses = shared(plane, POINTS, size=size, fold=Fold(last=last))
            assert torch.allclose(losses, expected, rtol=1e-12, atol=0)
    assert state_of(model) == before


@pytest.mark.parametrize("dimensions", [1, 3])
def test_all_dimensions_fold(dimensions):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions](2, 4, 3, groups=2, stride=2)
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dimensions](4)
    x = torch.randn(9, 2, *[7] * dimensions, dtype=torch.float64)
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    model = nn.Sequential(conv, norm, nn.Tanh(), head).double()
    settled(model, x)
    plane = plane_of(model, [(x, torch.arange(9) % 3)])
    assert len(found_in(plane.problem)) == 1
    losses = shared(plane, POINTS, fold=Fold(last=True))
    assert torch.allclose(losses, one_by_one(plane, POINTS), rtol=1e-12, atol=0)


def test_in_single_precision_channels_come_last_and_the_losses_are_the_same_to_rounding():
    torch.manual_seed(0)
    x, y = pictures(dtype=torch.float32)
    model = settled(Block(), x)
    plane = plane_of(model, [(x, y)])
    exact = plane_of(model.double(), [(x.double(), y)])
    exact = Plane(exact.problem, plane.origin.double(), plane.vectors.double())
    expected = one_by_one(exact, POINTS)
    model.float()
    seen = []
    with plane.problem.evaluation() as e:
        one = found_in(plane.problem)[0]
        with folded(e.model, [one], last=True):
            handle = e.model.out.register_forward_pre_hook(lambda *_: None)
            seen.append(e.model.conv1(x).is_contiguous(memory_format=torch.channels_last))
            handle.remove()
    assert seen == [True]
    losses = shared(plane, POINTS, fold=Fold(last=True))
    assert torch.allclose(losses, expected, rtol=1e-5, atol=0)


def test_what_is_seen_by_others_is_not_folded():
    x, y = pictures()
    torch.manual_seed(0)
    used_twice = settled(Block(twice=True).double(), x)
    hooked = settled(Block().double(), x)
    seen = []
    hooked.bn1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].sum()))
    for model, norms in ((used_twice, [None, used_twice.bn2]), (hooked, [None, hooked.bn2])):
        problem = hs.Problem(model, F.cross_entropy, [(x, y)])
        assert [one.norm for one in found_in(problem)] == norms
        plane = plane_of(model, [(x, y)])
        losses = shared(plane, POINTS, fold=Fold(last=True))
        assert torch.allclose(losses, one_by_one(plane, POINTS), rtol=1e-12, atol=0)


def test_a_convolution_that_runs_twice_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(self.conv(x))).mean((2, 3))

    x, y = pictures()
    model = settled(Twice().double(), x)
    assert found_in(hs.Problem(model, F.cross_entropy, [(x, y)])) == []


class Fickle(Block):
    """Leaves its BatchNorm out where the weights are large."""

    def forward(self, x):
        h = self.conv1(x)
        return self.out((self.bn1(h) if self.out.bias.sum() < 5 else h * 2).mean((2, 3)))


def test_a_model_that_goes_another_way_elsewhere_is_noticed_and_measured_as_it_is():
    torch.manual_seed(0)
    x, y = pictures()
    model = settled(Fickle().double(), x)
    problem = hs.Problem(model, F.cross_entropy, [(x, y)])
    direction = torch.zeros(problem.n, dtype=torch.float64)
    direction[problem.layout.slices()["out.bias"]] = 1
    plane = Plane(problem, problem.theta, direction[:, None])
    far = torch.linspace(0, 4, 5, dtype=torch.float64)[:, None]
    with pytest.raises(DivergedError):
        shared(plane, far, fold=Fold(last=True))
    found = hs.loss_slice(problem, direction, span=(0, 4), num_points=5, max_matvecs=0)
    assert torch.allclose(found.losses, one_by_one(plane, far), rtol=1e-12, atol=0)


def test_views_that_count_on_the_order_of_entries_are_served():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.out = nn.Linear(64, 3)

        def forward(self, x):
            return self.out(self.norm(self.conv(x)).view(len(x), -1))

    torch.manual_seed(0)
    x, y = pictures(num=80, dtype=torch.float32)
    plane = plane_of(settled(Flat(), x), [(x, y)])
    grid = torch.rand(600, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="view"):
        shared(plane, POINTS, fold=Fold(last=True))
    losses = shared(plane, POINTS, fold=Fold(last=False))
    assert torch.allclose(losses, one_by_one(plane, POINTS), rtol=1e-5, atol=0)
    way, _ = fastest(plane, grid)
    assert torch.allclose(way(plane, POINTS), one_by_one(plane, POINTS), rtol=1e-5, atol=0)


def test_pictures_on_a_large_grid_may_take_the_folded_way():
    torch.manual_seed(0)
    x, y = pictures(num=64, dtype=torch.float32)
    plane = plane_of(settled(Block(), x), [(x, y)])
    way, name = fastest(plane, torch.rand(100, 2, dtype=torch.float64))
    assert FOLDED in name or name.startswith(("shared", "one by one"))
    assert torch.allclose(way(plane, POINTS), one_by_one(plane, POINTS), rtol=1e-5, atol=0)
