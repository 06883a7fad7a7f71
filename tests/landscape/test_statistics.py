"""Each point of a line has running statistics of its own, as torch itself gathers them."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim.swa_utils import update_bn

import hesscope as hs
from hesscope.landscape.statistics import running_statistics
from tests.oracles import data, network
from tests.state import state_of

X, Y = data(60, 6, 3)


def normalised(seed, steps=60, *, width=7):
    """A trained network with two BatchNorms, and its own statistics."""
    torch.manual_seed(seed)
    layers = [nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)]
    model = nn.Sequential(*layers, nn.Linear(width, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimiser.step()
    return model


def own_loss(model, inputs=X, labels=Y):
    with torch.no_grad():
        return float(F.cross_entropy(copy.deepcopy(model).eval()(inputs), labels))


def halfway(a, b):
    """The mean of the parameters, by hand."""
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(middle.parameters(), b.parameters(), strict=True):
            p.copy_((p + q) / 2)
    return middle


def gathered(model):
    """The network with statistics that torch gathers over the data in one batch, dropout off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    update_bn([X], model)
    return model


A, B = normalised(1), normalised(2)
PROBLEM = hs.Problem(A, F.cross_entropy, (X, Y))


@pytest.mark.parametrize("statistics", ["recomputed", "interpolated"])
def test_the_ends_have_the_loss_that_their_networks_have(statistics):
    line = hs.interpolate(PROBLEM, A, B, 5, statistics=statistics)
    assert float(line.losses[0]) == pytest.approx(own_loss(A), rel=1e-12)
    assert float(line.losses[-1]) == pytest.approx(own_loss(B), rel=1e-12)
    assert line.statistics == statistics


def test_fixed_statistics_are_those_of_the_problem_at_every_point():
    line = hs.interpolate(PROBLEM, A, B, 3, statistics="fixed")
    foreign = copy.deepcopy(B)
    foreign.load_state_dict({**B.state_dict(), **dict(A.named_buffers())})
    assert float(line.losses[-1]) == pytest.approx(own_loss(foreign), rel=1e-12)
    assert line.jumps == ()


def test_recomputed_statistics_are_those_that_torch_gathers():
    line = hs.interpolate(PROBLEM, A, B, 3)
    middle = gathered(halfway(A, B))
    assert float(line.losses[1]) == pytest.approx(own_loss(middle), rel=1e-12)
    for model, jump in zip((A, B), line.jumps, strict=True):
        expected = own_loss(gathered(copy.deepcopy(model))) - own_loss(model)
        assert jump == pytest.approx(expected, rel=1e-9)
    assert line.num_evaluations == 3 * 2 + 4
    assert "running statistics: recomputed; recomputed at the ends too" in str(line)


def test_interpolated_statistics_are_halfway():
    middle = halfway(A, B)
    state = middle.state_dict()
    for (name, p), q in zip(A.named_buffers(), B.buffers(), strict=True):
        state[name] = (p + q) / 2 if p.is_floating_point() else p
    middle.load_state_dict(state)
    line = hs.interpolate(PROBLEM, A, B, 3, statistics="interpolated")
    assert float(line.losses[1]) == pytest.approx(own_loss(middle), rel=1e-12)


def test_a_vector_knows_its_statistics_only_where_the_problem_stands():
    theta_b = hs.Problem(B, F.cross_entropy, (X, Y)).theta
    line = hs.interpolate(PROBLEM, PROBLEM.theta, theta_b, 3)
    assert float(line.losses[0]) == pytest.approx(own_loss(A), rel=1e-12)
    assert float(line.losses[-1]) == pytest.approx(own_loss(gathered(copy.deepcopy(B))), rel=1e-12)
    cause = "statistics='interpolated' needs those of both ends, and a vector carries none: "
    with pytest.raises(ValueError, match=re.escape(cause)):
        hs.interpolate(PROBLEM, PROBLEM.theta, theta_b, 3, statistics="interpolated")


@pytest.mark.parametrize("form", ["model", "problem", "state dict", "compiled name"])
def test_an_end_may_be_given_in_any_form_that_has_its_statistics(form):
    given = {
        "model": B,
        "problem": hs.Problem(B, F.cross_entropy, (X[:4], Y[:4])),
        "state dict": B.state_dict(),
        "compiled name": nn.DataParallel(B),
    }[form]
    line = hs.interpolate(PROBLEM, A, given, 3)
    assert torch.equal(line.losses, hs.interpolate(PROBLEM, A, B, 3).losses)


@pytest.mark.parametrize("sizes", [[60], [31, 29], [50, 7, 3]])
def test_the_first_layer_gathers_the_same_from_any_split(sizes):
    """Mean and unbiased variance of what the first linear layer gives, over all examples."""
    parts = list(zip(X.split(sizes), Y.split(sizes), strict=True))
    found = running_statistics(hs.Problem(A, F.cross_entropy, parts))
    inputs = A[0](X).detach()
    assert torch.allclose(found["1.running_mean"], inputs.mean(0), rtol=1e-12, atol=1e-14)
    assert torch.allclose(found["1.running_var"], inputs.var(0), rtol=1e-12)


def test_convolutions_and_instances_gather_what_torch_gathers():
    torch.manual_seed(0)
    images = torch.randn(9, 2, 4, 4, dtype=torch.float64)
    norms = [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)]
    model = nn.Sequential(nn.Conv2d(2, 3, 3), norms[0], nn.Conv2d(3, 3, 1), norms[1], nn.Flatten())
    model = model.double().eval()
    problem = hs.Problem(model, F.cross_entropy, (images, torch.arange(9) % 12))
    found = running_statistics(problem)
    reference = copy.deepcopy(model)
    for module in reference:
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    reference.train()(images)
    for name in ("1.running_mean", "1.running_var", "3.running_mean", "3.running_var"):
        assert torch.allclose(found[name], reference.state_dict()[name], rtol=1e-10, atol=1e-14)


def test_the_model_comes_back_as_it_was():
    before = state_of(A)
    hs.interpolate(PROBLEM, A, B, 3, test=(X[:9], Y[:9]))
    assert state_of(A) == before
    assert not any(module._forward_pre_hooks for module in A.modules())


def test_batches_are_normalised_by_themselves_in_training_mode():
    problem = hs.Problem(A, F.cross_entropy, (X, Y), training=True)
    assert hs.interpolate(problem, A, B, 3).statistics == "none"


def test_test_data_is_measured_with_the_statistics_of_the_training_data():
    other, labels = data(20, 6, 3, seed=5)
    line = hs.interpolate(PROBLEM, A, B, 3, test=(other, labels))
    middle = gathered(halfway(A, B))
    expected = [own_loss(model, other, labels) for model in (A, middle, B)]
    assert line.test_losses.tolist() == pytest.approx(expected, rel=1e-12)
    assert "on test data: ends" in str(line)
    assert list(line.columns()) == ["t", "loss", "test loss"]


def test_networks_pruned_by_different_masks_are_met_in_the_weights_that_act():
    a, b = network(6, 8, 3, seed=1), network(6, 8, 3, seed=2)
    for model, amount in ((a, 0.5), (b, 0.25)):
        prune.l1_unstructured(model[0], "weight", amount)
        with torch.no_grad():
            model(X)
    problem = hs.Problem(a, F.cross_entropy, (X, Y))
    line = hs.interpolate(problem, a, b, 3)
    acting = [[model[0].weight, model[0].bias, *model[2].parameters()] for model in (a, b)]
    W, c, V, d = (((p + q) / 2).detach() for p, q in zip(*acting, strict=True))
    middle = F.cross_entropy(torch.tanh(X @ W.T + c) @ V.T + d, Y)
    expected = [own_loss(a), float(middle), own_loss(b)]
    assert line.losses.tolist() == pytest.approx(expected, rel=1e-12)
    assert copy.deepcopy(a)[0].weight.equal(a[0].weight)  # no graph is left behind in the model


def test_what_does_not_fit_is_refused():
    state = B.state_dict()
    del state["0.bias"]
    with pytest.raises(ValueError, match=re.escape("theta_b does not fit the problem's model: ")):
        hs.interpolate(PROBLEM, A, state, 3)
    with pytest.raises(ValueError, match=re.escape("0.weight (9, 6) in place of (7, 6)")):
        hs.interpolate(PROBLEM, A, normalised(1, 0, width=9), 3)
    with pytest.raises(ValueError, match=re.escape("statistics='own' is none of 'recomputed', ")):
        hs.interpolate(PROBLEM, A, B, 3, statistics="own")
