"""A slice shows the loss that the network has at every point, and says what it hides."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.landscape.kept import Kept
from hesscope.landscape.many import fastest
from hesscope.landscape.perceptrons import losses_of, perceptron_in
from hesscope.landscape.ways import Fold, Plane, one_by_one, shared, stacks_of
from tests.oracles import data, hessian, network
from tests.state import state_of

X, Y = data(300, 6, 3)
EPS = torch.finfo(torch.float64).eps


def problem_of(model, inputs=X, labels=Y, loss=F.cross_entropy, **options):
    return hs.Problem(model, loss, (inputs, labels), **options)


def by_hand(problem, inputs, labels, thetas):
    """Losses by torch.func, which share no code with the library."""
    names, shapes = problem.layout.names, problem.layout.shapes
    losses = []
    for theta in thetas:
        pieces = theta.split([shape.numel() for shape in shapes])
        tensors = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        outputs = torch.func.functional_call(problem.model.eval(), tensors, (inputs,))
        losses.append(float(problem.loss_fn(outputs, labels)))
    return torch.tensor(losses, dtype=torch.float64)


class Pictures(nn.Module):
    """Convolutions, a BatchNorm, dropout, and a plain attribute that changes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.out, self.calls = nn.Dropout(0.5), nn.Linear(24, 3), 0

    def forward(self, x):
        self.calls += 1
        h = F.relu(self.norm(self.conv(x.view(-1, 1, 2, 3))))
        return self.out(self.drop(h.flatten(1)))


def models():
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    return {
        "perceptron": network(6, 8, 5, 3),
        "no bias": nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)).double(),
        "one layer": nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double(),
        "pictures": Pictures().double(),
        "attention": nn.Sequential(
            nn.Unflatten(1, (1, 6)), attention, nn.Flatten(), nn.Linear(6, 3)
        ).double(),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("batch_size", [None, 77])
def test_every_way_gives_the_losses_of_the_network(name, batch_size):
    model = models()[name]
    problem = problem_of(model, batch_size=batch_size)
    vectors = torch.randn(problem.n, 2, dtype=torch.float64)
    plane = Plane(problem, problem.theta, vectors)
    points = torch.randn(19, 2, dtype=torch.float64)
    points[3] = 0
    before = state_of(model)
    ways = {"one": one_by_one, "shared": shared, "cut": partial(shared, size=32)}
    ways |= {"stacks": stacks_of(8), "folded": partial(shared, size=77, fold=Fold(last=True))}
    mlp = perceptron_in(problem)
    if mlp is not None:
        ways["perceptron"] = lambda plane, c: losses_of(mlp, plane.origin, plane.vectors, c)
    assert (mlp is None) == (name in ("pictures", "attention"))
    found = {key: way(plane, points) for key, way in ways.items()}
    assert state_of(model) == before
    thetas = problem.theta + points @ vectors.T
    expected = by_hand(problem, X, Y, thetas.detach())
    for key, losses in found.items():
        assert torch.allclose(losses, expected, rtol=1e-11), key


def test_squared_error_has_a_way_of_a_perceptron_and_other_losses_have_not():
    model, targets = network(6, 7, 2), torch.randn(300, 2, dtype=torch.float64)
    problem = problem_of(model, labels=targets, loss=nn.MSELoss())
    plane = Plane(problem, problem.theta, torch.randn(problem.n, 1, dtype=torch.float64))
    points = torch.linspace(-1, 1, 5)[:, None].double()
    found = losses_of(perceptron_in(problem), plane.origin, plane.vectors, points)
    thetas = problem.theta + points @ plane.vectors.T
    assert torch.allclose(found, by_hand(problem, X, targets, thetas), rtol=1e-12)
    for loss, labels in ((nn.CrossEntropyLoss(label_smoothing=0.1), Y), (F.huber_loss, targets)):
        outputs = 3 if labels is Y else 2
        assert perceptron_in(problem_of(network(6, 7, outputs), labels=labels, loss=loss)) is None


def test_a_way_that_mixes_examples_wrongly_is_not_taken():
    """A loss over pairs of examples in a batch is not that of small batches."""

    def contrastive(outputs, labels):
        return torch.cdist(outputs, outputs).square().mean()

    problem = problem_of(network(6, 5, 3), loss=contrastive)
    plane = Plane(problem, problem.theta, torch.randn(problem.n, 2, dtype=torch.float64))
    grid = torch.randn(256, 2, dtype=torch.float64)
    way, name = fastest(plane, grid)
    assert "examples at a time" not in name
    assert torch.allclose(way(plane, grid[:9]), one_by_one(plane, grid[:9]), rtol=1e-11)


def test_a_loss_that_takes_derivatives_goes_one_by_one():
    def with_gradient(model, batch):
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return slope.square().mean()

    problem = hs.Problem.from_closure(network(6, 5, 3), with_gradient, [(X,)])
    found = hs.loss_slice(problem, torch.ones(problem.n), num_points=5, max_matvecs=0)
    assert found.facts["evaluated"] == "one by one"
    assert found.losses[2] == pytest.approx(problem.loss(), rel=1e-12)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus])
def test_along_eigenvectors_the_second_difference_is_the_eigenvalue(activation):
    problem = problem_of(network(6, 8, 3, activation=activation))
    found = hs.loss_slice(problem, "eigen", span=0.05, num_points=21)
    dense = torch.linalg.eigvalsh(hessian(problem, X, Y)).flip(0)[:2]
    assert torch.allclose(found.directions.eigenvalues, dense, rtol=1e-6)
    assert torch.allclose(found.second_differences, dense, rtol=0.01)
    assert torch.allclose(found.curvatures, dense.diag(), rtol=1e-6, atol=1e-5 * float(dense[0]))
    assert float(found.losses[10, 10]) == pytest.approx(found.loss, rel=1e-14)
    assert torch.allclose(found.predicted(1), found.losses[10], rtol=1e-3)


def test_rows_are_the_first_direction_and_columns_the_second():
    f = hs.Problem.from_function(lambda t: 3 * t[0] + 5 * t[1] ** 2, torch.zeros(2).double())
    found = hs.loss_slice(f, torch.eye(2).double(), span=[(0, 2), (-1, 3)], num_points=5)
    a, b = found.axes
    assert torch.allclose(found.losses, 3 * a[:, None] + 5 * b.square(), atol=1e-14)
    table = found.columns()
    assert torch.allclose(
        table["loss"], 3 * table["direction 1"] + 5 * table["direction 2"] ** 2, atol=1e-14
    )


def test_the_shares_of_the_curvature_inside_cover_the_truth():
    problem = problem_of(network(6, 12, 3))
    found = hs.loss_slice(problem, "eigen", span=0.1, num_points=3, max_matvecs=80)
    values = torch.linalg.eigvalsh(hessian(problem, X, Y))
    top = values.flip(0)[:2].sum()
    assert float(top / values.sum()) in found.trace_share.interval(0.9999)
    assert float(top / values.abs().sum()) in found.magnitude_share.interval(0.9999)
    assert "of the trace inside: " in str(found)
    assert "of Σ|λ| inside: " in str(found)
    assert hs.loss_slice(problem, num_points=3, max_matvecs=0).curvatures is None


class Mixed(nn.Module):
    """A layer of each kind that has filters."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.conv, self.up = nn.Conv1d(1, 3, 3), nn.ConvTranspose1d(3, 2, 4)
        self.norm, self.linear = nn.LayerNorm((2, 9)), nn.Linear(18, 3)

    def forward(self, tokens):
        h = self.up(self.conv(self.embedding(tokens)[:, None]))
        return self.linear(self.norm(h).flatten(1))


def test_filters_are_as_long_as_those_of_the_weights():
    torch.manual_seed(0)
    model = Mixed().double()
    problem = problem_of(model, torch.arange(10) % 5, torch.arange(10) % 3)
    drawn = hs.directions(problem, "filter", 2)
    for vector in drawn.vectors.T:
        pieces = dict(zip(problem.layout.names, problem.layout.split(vector), strict=True))
        for name, filters in (("embedding", 0), ("conv", 0), ("up", 1), ("linear", 0)):
            w = model.get_parameter(f"{name}.weight").detach().transpose(0, filters).flatten(1)
            d = pieces[f"{name}.weight"].transpose(0, filters).flatten(1)
            assert torch.allclose(d.norm(dim=1), w.norm(dim=1), rtol=1e-12), name
        for name in ("conv.bias", "up.bias", "linear.bias", "norm.weight", "norm.bias"):
            assert not pieces[name].any(), name
    layers = hs.directions(problem, "layer", 1).vectors[:, 0]
    pieces = dict(zip(problem.layout.names, problem.layout.split(layers), strict=True))
    weight = model.conv.weight.detach()
    assert float(pieces["conv.weight"].norm()) == pytest.approx(float(weight.norm()))


def test_filter_normalised_slices_do_not_see_a_rescaling_of_filters():
    """Li et al.: a ReLU network with a layer scaled by 10 and the next by 1/10 has the picture."""
    model = network(6, 8, 3, activation=nn.ReLU)
    nn.init.zeros_(model[0].bias)
    slices = []
    for factor in (1.0, 10.0):
        with torch.no_grad():
            model[0].weight *= factor
            model[2].weight /= factor
        slices.append(hs.loss_slice(problem_of(model), "filter", num_points=5, max_matvecs=0))
    assert torch.allclose(slices[0].losses, slices[1].losses, rtol=1e-10)


def test_a_trajectory_has_the_principal_directions_of_its_points():
    problem = problem_of(network(6, 4, 3))
    generator = torch.Generator().manual_seed(1)
    U = torch.linalg.qr(torch.randn(problem.n, 3, dtype=torch.float64, generator=generator))[0]
    moves = torch.randn(7, 3, dtype=torch.float64, generator=generator) * torch.tensor([9.0, 3, 1])
    found = hs.directions(problem, "trajectory", thetas=list(problem.theta + moves @ U.T))
    values = torch.from_numpy(np.linalg.svd(moves.numpy(), compute_uv=False)) ** 2
    assert torch.allclose(found.variance, values[:2] / values.sum(), rtol=1e-9)
    assert torch.allclose(found.trajectory.norm(), values[:2].sum().sqrt(), rtol=1e-9)
    shown = hs.loss_slice(problem, found, num_points=3, max_matvecs=0)
    for axis, seen in zip(shown.axes, found.trajectory.T, strict=True):
        assert float(axis[0]) < min(0, float(seen.min()))
        assert float(axis[-1]) > max(0, float(seen.max()))


def test_a_folder_of_checkpoints_is_a_trajectory_in_the_order_of_its_steps(tmp_path):
    model = network(6, 4, 3)
    problem = problem_of(model)
    thetas = []
    for i, step in enumerate((10, 2, 100)):
        thetas.append(problem.theta + i)
        moved = network(6, 4, 3)
        hs.Problem(moved, F.cross_entropy, (X, Y)).write(thetas[-1])
        torch.save(moved.state_dict(), tmp_path / f"step-{step}.pt")
    (tmp_path / "checkpoint-20").mkdir()
    torch.save(network(6, 4, 3).state_dict(), tmp_path / "checkpoint-20" / "model.pt")
    torch.save({}, tmp_path / "checkpoint-20" / "optimizer.pt")
    hs.save(hs.Estimate(1.0, 0.1, 3), tmp_path / "kept-3")
    expected = hs.directions(
        problem, "trajectory", thetas=[thetas[1], thetas[0], network(6, 4, 3), thetas[2]], num=1
    )
    found = hs.directions(problem, "trajectory", thetas=tmp_path, num=1)
    assert torch.equal(found.trajectory, expected.trajectory)
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has 5 files of weights, of which last.pt has no step"):
        hs.directions(problem, "trajectory", thetas=str(tmp_path))
    (tmp_path / "last.pt").rename(tmp_path / "run-2.pt")
    with pytest.raises(ValueError, match="has 5 files of weights, some of the same step; give"):
        hs.directions(problem, "trajectory", thetas=str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no file of weights; give the files"):
        hs.directions(problem, "trajectory", thetas=tmp_path / "empty")


def test_gradient_and_update_stand_side_by_side():
    model = network(6, 4, 3)
    problem, adam = problem_of(model), torch.optim.Adam(model.parameters(), lr=0.01)
    step = hs.directions(problem, "update", optimizer=adam)
    g = problem.gradient()
    assert torch.allclose(step.vectors[:, 0], -0.01 * g.sign(), atol=1e-5)
    found = hs.loss_slice(problem, ["gradient", step], num_points=5, span=0.1)
    assert torch.allclose(found.slopes, torch.stack([g.norm(), step.vectors[:, 0] @ g]), rtol=1e-9)


def test_test_data_and_recomputed_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    problem = problem_of(model)
    other = data(40, 6, 3, seed=7)
    line = hs.directions(problem, "filter", 1)
    found = hs.loss_slice(problem, line, num_points=3, test=other, statistics="recomputed")
    theta = problem.theta + line.vectors[:, 0]
    hidden = X @ theta[:30].view(5, 6).T + theta[30:35]
    mean, var = hidden.mean(0), hidden.var(0)
    inputs = other[0] @ theta[:30].view(5, 6).T + theta[30:35]
    logits = theta[45:60].view(3, 5)
    outputs = ((inputs - mean) / (var + 1e-5).sqrt()) @ logits.T + theta[60:]
    assert float(found.test_losses[-1]) == pytest.approx(float(F.cross_entropy(outputs, other[1])))
    fixed = hs.loss_slice(problem, line, num_points=3, test=other)
    assert float(fixed.test_losses[1]) == pytest.approx(problem_of(model, *other).loss())
    assert (fixed.statistics, found.statistics) == ("fixed", "recomputed")


def test_a_call_that_was_killed_goes_on(tmp_path):
    problem = problem_of(models()["pictures"])
    vectors = hs.directions(problem, "random", 1)
    whole = hs.loss_slice(problem, vectors, num_points=9, max_matvecs=0)

    plane = Plane(problem, problem.theta, vectors.vectors)
    kept = Kept(tmp_path, plane, whole.axes[0][:, None], "loss of a slice fixed")
    kept.add(torch.arange(5), torch.full((5,), 7.0, dtype=torch.float64))
    kept.save()
    other = hs.loss_slice(
        problem_of(models()["pictures"], X + 1), vectors, num_points=9, max_matvecs=0,
        scratch=tmp_path,
    )  # fmt: skip
    assert not (other.losses == 7).any()
    assert kept.file.exists()
    resumed = hs.loss_slice(problem, vectors, num_points=9, max_matvecs=0, scratch=tmp_path)
    assert (resumed.losses[:5] == 7).all()
    assert torch.allclose(resumed.losses[5:], whole.losses[5:], rtol=1e-12)
    assert not kept.file.exists()


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"directions": "hessian"}, "kind='hessian' is none of random, filter, layer, eigen, "),
        ({"directions": 3}, "directions=3; give a kind (random, filter"),
        ({"directions": torch.ones(4)}, "directions of shape (4, 1) do not fit; give (n,), (n, 1)"),
        ({"directions": torch.zeros(83)}, "a direction is zero or not finite (lengths [0.0])."),
        ({"span": (1, -1)}, "span=(1, -1); give s > 0 for -s to s, (low, high), or one pair"),
        ({"span": 0}, "span=0; give s > 0 for -s to s, (low, high), or one pair for each"),
        ({"num_points": 2}, "num_points=2; give 3 or more along each direction."),
        ({"statistics": "interpolated"}, "statistics='interpolated' is neither 'fixed' nor 'reco"),
    ],
)
def test_what_does_not_fit_is_refused(given, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        hs.loss_slice(problem_of(network(6, 8, 3)), **given)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"kind": "trajectory"}, "kind='trajectory' needs thetas: two points of training or more."),
        ({"kind": "update"}, "kind='update' needs the optimizer whose next step it is."),
        ({"num": 3}, "num=3; give one or two directions, of a problem with as many parameters."),
    ],
)
def test_what_a_kind_needs_is_asked_for(given, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        hs.directions(problem_of(network(6, 8, 3)), **given)


def test_a_problem_of_biases_alone_has_no_filters():
    f = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(3))
    with pytest.raises(ValueError, match="moves no parameter: all are biases"):
        hs.directions(f, "filter")
