"""Ensembles against their members: autograd, torch.optim and eigvalsh, one network at a time."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian
from torch.nn import functional as F

from hesscope import ensemble
from hesscope.derivatives.activations import ACTIVATIONS
from hesscope.system import memory, progress

NUM, N = 3, 7
SHAPES = [(2, 3), (3, 1, 2), (2, 6, 6, 2), (3, 4, 1, 2, 3), (2, 3, 4, 3, 2, 1)]
LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}


def random(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def examples(layers, loss, num=None, seed=0):
    """Inputs and targets; with num, those of `num` networks."""
    lead = (N,) if num is None else (num, N)
    inputs, outputs = random((*lead, layers[0]), seed), random((*lead, layers[-1]), seed + 1)
    return inputs, outputs.argmax(-1) if loss == "cross_entropy" else outputs


def loss_at(model, theta, inputs, targets, loss):
    names, pieces = dict(model.named_parameters()), {}
    for name, piece in zip(names, theta.split([p.numel() for p in names.values()]), strict=True):
        pieces[name] = piece.view_as(names[name])
    return LOSSES[loss](functional_call(model, pieces, (inputs,)), targets)


def by_member(e, inputs, targets, loss, transform=lambda f: f):
    """transform(loss as a function of theta) of every network, by autograd on its module."""
    out = []
    for i in range(len(e)):
        x = inputs[i] if inputs.ndim == 3 else inputs
        own = targets.ndim == (2 if loss == "cross_entropy" else 3)
        t = targets[i] if own else targets
        model = e.member(i)
        out.append(transform(lambda v, m=model, x=x, t=t: loss_at(m, v, x, t, loss))(e.theta[i]))
    return torch.stack(out)


def agree(found, expected, tolerance=1e-12):
    return bool((found - expected).abs().max() <= tolerance * max(1.0, expected.abs().max()))


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own data"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layers", SHAPES, ids=str)
def test_losses_gradients_hessians_and_spectra_are_those_of_autograd(layers, loss, own):
    e = ensemble.initialise(layers, NUM, seed=1)
    data = examples(layers, loss, NUM if own else None)
    dense = by_member(e, *data, loss, hessian)
    assert agree(ensemble.losses(e, *data, loss=loss), by_member(e, *data, loss))
    assert agree(ensemble.gradients(e, *data, loss=loss), by_member(e, *data, loss, grad))
    assert agree(ensemble.hessians(e, *data, loss=loss), dense)
    assert agree(ensemble.spectra(e, *data, loss=loss), torch.linalg.eigvalsh(dense))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_activation_has_its_exact_hessian(activation, loss):
    e = ensemble.initialise((2, 4, 3, 3), NUM, seed=2, radius=6.0, activation=activation)
    data = examples(e.layers, loss)
    assert agree(ensemble.gradients(e, *data, loss=loss), by_member(e, *data, loss, grad))
    assert agree(ensemble.hessians(e, *data, loss=loss), by_member(e, *data, loss, hessian))


def test_softplus_is_linear_far_from_zero_as_in_torch():
    e = ensemble.initialise((1, 2, 1), 2, seed=0, radius=60.0, activation="softplus")
    data = (10 * random((N, 1)), random((N, 1)))
    expected = by_member(e, *data, "mse", hessian)
    assert agree(ensemble.hessians(e, *data, loss="mse"), expected, 1e-12 * expected.abs().max())


@pytest.mark.parametrize("shared", ["inputs", "targets"])
def test_networks_may_share_inputs_and_not_targets_or_the_reverse(shared):
    e = ensemble.initialise((2, 5, 2), NUM, seed=1)
    inputs, targets = examples(e.layers, "cross_entropy", NUM)
    data = (inputs[0], targets) if shared == "inputs" else (inputs, targets[0])
    assert agree(ensemble.hessians(e, *data), by_member(e, *data, "cross_entropy", hessian))


def test_hessians_are_symmetric_to_the_last_bit():
    e = ensemble.initialise((2, 6, 6, 2), NUM, seed=1)
    H = ensemble.hessians(e, *examples(e.layers, "cross_entropy"))
    assert torch.equal(H, H.mT)


def test_float32_networks_get_float32_hessians_and_float64_eigenvalues():
    e = ensemble.initialise((2, 6, 6, 2), NUM, seed=1)
    single = replace(e, theta=e.theta.float())
    data = examples(e.layers, "cross_entropy")
    H = ensemble.hessians(single, *data)
    assert H.dtype == torch.float32
    assert agree(H.double(), ensemble.hessians(e, *data), 1e-5)
    assert ensemble.spectra(single, *data).dtype == torch.float64
    assert ensemble.initialise((2, 3), 2, seed=0, dtype=torch.float32).theta.dtype == torch.float32


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own data"])
@pytest.mark.parametrize("loss", LOSSES)
def test_training_is_torch_sgd_step_for_step(loss, own):
    start = ensemble.initialise((2, 6, 6, 2), NUM, seed=3)
    inputs, targets = examples(start.layers, loss, NUM if own else None)
    trained = ensemble.train(start, inputs, targets, loss=loss, lr=0.3, steps=20, record=range(21))
    for i in range(NUM):
        model = start.member(i)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
        x, t = (inputs[i], targets[i]) if own else (inputs, targets)
        for step in range(21):
            here = nn.utils.parameters_to_vector(model.parameters()).detach()
            assert agree(trained.snapshots[step].theta[i], here)
            value = LOSSES[loss](model(x), t)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        assert agree(trained.losses[i], value.detach())
    final = ensemble.gradients(trained.ensemble, inputs, targets, loss=loss)
    assert torch.equal(trained.ensemble.theta, trained.snapshots[20].theta)
    assert agree(trained.gradient_norms, final.norm(dim=1))
    assert trained.steps.tolist() == [20] * NUM


def test_networks_stop_on_their_own_below_the_tolerance_and_stay_there():
    start = ensemble.initialise((2, 3, 2), 8, seed=0)
    data = examples(start.layers, "mse", 8)
    options = {"loss": "mse", "lr": 0.05, "record": range(0, 401, 50)}
    free = ensemble.train(start, *data, steps=400, **options)
    tolerance = float(free.gradient_norms.quantile(0.4))
    trained = ensemble.train(start, *data, steps=400, tolerance=tolerance, **options)
    stopped = trained.steps < 400
    assert 0 < int(stopped.sum()) < 8
    assert len(trained.steps[stopped].unique()) > 1
    assert bool((trained.gradient_norms[stopped] < tolerance).all())
    assert bool(
        (
            ensemble.gradients(trained.ensemble, *data, loss="mse").norm(dim=1)[stopped] < tolerance
        ).all()
    )
    assert agree(ensemble.losses(trained.ensemble, *data, loss="mse"), trained.losses)
    for step, snapshot in trained.snapshots.items():
        running = trained.steps >= step
        # Other batch sizes may sum in another order: 400 steps of rounding, not one.
        assert agree(snapshot.theta[running], free.snapshots[step].theta[running], 1e-10)
        assert torch.equal(snapshot.theta[~running], trained.ensemble.theta[~running])


def test_a_network_that_starts_below_the_tolerance_takes_no_step():
    start = ensemble.initialise((2, 3, 2), 2, seed=0)
    trained = ensemble.train(
        start,
        *examples(start.layers, "mse"),
        loss="mse",
        lr=1.0,
        steps=5,
        tolerance=1e9,
        record=[3],
    )
    assert trained.steps.tolist() == [0, 0]
    assert torch.equal(trained.ensemble.theta, start.theta)
    assert torch.equal(trained.snapshots[3].theta, start.theta)


def test_training_changes_neither_the_start_nor_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    start = ensemble.initialise((2, 3, 2), 2, seed=0)
    copy = start.theta.clone()
    ensemble.train(start, *examples(start.layers, "mse"), loss="mse", lr=0.1, steps=3)
    start.member(0)
    assert torch.equal(copy, start.theta)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own data"])
def test_chunks_and_the_number_of_networks_change_no_member(own):
    many = ensemble.initialise((2, 6, 6, 2), 11, seed=5)
    few = ensemble.initialise((2, 6, 6, 2), 4, seed=5)
    assert torch.equal(few.theta, many.theta[:4])
    inputs, labels = examples(many.layers, "cross_entropy", 11 if own else None)
    head = (inputs[:4], labels[:4]) if own else (inputs, labels)
    H = ensemble.hessians(many, inputs, labels)
    end = ensemble.train(many, inputs, labels, lr=0.2, steps=30).ensemble.theta
    # Equal bit for bit on one thread; on two, MKL may sum in another order (1e-15 measured).
    for chunk in (1, 3, 4, 100):
        assert agree(ensemble.hessians(many, inputs, labels, chunk=chunk), H, 1e-13)
        chunked = ensemble.train(many, inputs, labels, lr=0.2, steps=30, chunk=chunk)
        assert agree(chunked.ensemble.theta, end, 1e-13)
    assert agree(ensemble.hessians(few, *head), H[:4], 1e-13)
    assert agree(ensemble.train(few, *head, lr=0.2, steps=30).ensemble.theta, end[:4], 1e-13)
    spectra = ensemble.spectra(many, inputs, labels)
    assert agree(ensemble.spectra(many, inputs, labels, chunk=2), spectra, 1e-13)


def test_dead_networks_are_flagged_and_no_others():
    start = ensemble.initialise((2, 4, 4, 2), 5, seed=0)
    inputs, labels = examples(start.layers, "cross_entropy")
    theta = start.theta.clone()
    theta[1, 8:12] = -100.0  # biases of the first layer
    theta[3, 28:32] = -100.0  # biases of the second
    trained = ensemble.train(replace(start, theta=theta), inputs, labels, lr=0.1, steps=2)
    assert trained.dead.tolist() == [False, True, False, True, False]
    for i, is_dead in enumerate(trained.dead):
        outputs = trained.ensemble.member(i)(inputs)
        assert bool((outputs == outputs[0]).all()) == bool(is_dead)
    assert "5 networks (2, 4, 4, 2), 2 dead" in str(trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_a_sphere_have_its_radius_and_no_favourite_direction(dtype):
    e = ensemble.initialise((2, 6, 6, 2), 400, seed=7, radius=3.5, dtype=dtype)
    assert bool((e.theta.double().norm(dim=1) - 3.5).abs().max() <= 7 * torch.finfo(dtype).eps)
    mean = e.theta.double().mean(0)  # each entry has variance radius²/n
    assert float(mean.abs().max()) < 5 * 3.5 / (74 * 400) ** 0.5


def test_initial_weights_fill_the_range_of_torch_linear():
    e = ensemble.initialise((4, 9, 1), 400, seed=0)
    for piece, width in ((e.theta[:, :45], 4), (e.theta[:, 45:], 9)):
        bound = width**-0.5
        assert 0.99 * bound < float(piece.abs().max()) <= bound
        assert abs(float(piece.square().mean()) - bound**2 / 3) < 0.05 * bound**2


def test_networks_and_seeds_have_streams_of_their_own():
    a, b = (ensemble.initialise((2, 6, 6, 2), 50, seed=seed, radius=1.0).theta for seed in (0, 1))
    overlaps = torch.cat([a, b]) @ torch.cat([a, b]).T - torch.eye(100)
    assert float(overlaps.abs().max()) < 6 / 74**0.5


def test_a_member_is_the_module_that_theta_describes():
    e = ensemble.initialise((2, 6, 6, 2), 3, seed=0, activation="tanh")
    model = e.member(-1)
    kinds = [type(module) for module in model]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), e.theta[2])
    assert str(model[0]) == "Linear(in_features=2, out_features=6, bias=True)"
    with torch.no_grad():
        model[0].weight.zero_()
    assert bool((e.theta[2] != 0).all())


def test_a_network_that_diverged_has_nan_eigenvalues_and_leaves_the_others_alone():
    e = ensemble.initialise((2, 3, 2), 3, seed=0)
    data = examples(e.layers, "mse")
    expected = ensemble.spectra(e, *data, loss="mse")
    theta = e.theta.clone()
    theta[1] = torch.nan
    found = ensemble.spectra(replace(e, theta=theta), *data, loss="mse")
    assert bool(found[1].isnan().all())
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_progress_counts_networks():
    e = ensemble.initialise((2, 3, 2), 5, seed=0)
    data, seen = examples(e.layers, "mse"), []
    with progress.listening(lambda *event: seen.append(event)):
        ensemble.train(e, *data, loss="mse", lr=0.1, steps=1, chunk=3)
        ensemble.spectra(e, *data, loss="mse", chunk=4)
        ensemble.hessians(e, *data, loss="mse", chunk=5)
    assert seen == [
        ("training networks", 3, 5),
        ("training networks", 5, 5),
        ("spectra of networks", 4, 5),
        ("spectra of networks", 5, 5),
        ("Hessians of networks", 5, 5),
    ]


def test_hessians_that_do_not_fit_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("hesscope.ensemble.curvature.available_bytes", lambda _: 1000)
    e = ensemble.initialise((2, 3, 2), 5, seed=0)
    message = (
        "the Hessians of 5 networks of 17 parameters need 12 kB of memory and 1 kB are free. "
        "ensemble.spectra keeps their eigenvalues alone."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ensemble.hessians(e, *examples(e.layers, "mse"), loss="mse")
    assert memory.human(1000) == "1 kB"


E23 = ensemble.initialise((2, 3), 4, seed=0)
X, LABELS, VALUES = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long), torch.zeros(5, 3)
KNOWN = "identity, relu, leaky_relu, tanh, sigmoid, softplus, gelu, silu"


def train(**options):
    return ensemble.train(E23, X, LABELS, **{"lr": 0.1, "steps": 3, **options})


REFUSALS = {
    "layers=(2,) are no widths of a network; give at least those of inputs and outputs, all "
    "positive: (2, 6, 6, 2).": lambda: ensemble.initialise((2,), 3, seed=0),
    "layers=(2, 0, 2) are no widths of a network; give at least those of inputs and outputs, all "
    "positive: (2, 6, 6, 2).": lambda: ensemble.Ensemble((2, 0, 2), "relu", torch.zeros(1, 2)),
    "num=0 networks; there must be at least one.": lambda: ensemble.initialise((2, 2), 0, seed=0),
    "radius=-1.0 of the sphere of initial points; it must be positive and finite.": lambda: (
        ensemble.initialise((2, 2), 1, seed=0, radius=-1.0)
    ),
    f"activation='relu6' is not known; there are {KNOWN}.": lambda: ensemble.initialise(
        (2, 2), 1, seed=0, activation="relu6"
    ),
    "theta has shape (4, 8); networks (2, 3) have 9 parameters, so it must be (num, 9).": lambda: (
        replace(E23, theta=torch.zeros(4, 8))
    ),
    "loss='hinge' is not known; there are cross_entropy, mse.": lambda: ensemble.losses(
        E23, X, LABELS, loss="hinge"
    ),
    "inputs have shape (3, 5, 2); 4 networks (2, 3) need (N, 2), or (4, N, 2) for examples of "
    "their own.": lambda: ensemble.gradients(E23, torch.zeros(3, 5, 2), LABELS),
    "targets of cross_entropy have shape (5, 3) and are torch.float32; they must be integer labels "
    "of shape (5,), or (4, 5) for labels of their own.": lambda: ensemble.losses(E23, X, VALUES),
    "labels are 0 to 3; networks (2, 3) with 3 outputs need labels 0 to 2.": lambda: (
        ensemble.spectra(E23, X, torch.tensor([0, 1, 2, 3, 0]))
    ),
    "labels are absent; networks (2, 3) with 3 outputs need labels 0 to 2.": lambda: (
        ensemble.losses(E23, X[:0], LABELS[:0])
    ),
    "targets of mse have shape (5,); networks (2, 3) on 5 examples need (5, 3), or (4, 5, 3) for "
    "targets of their own.": lambda: ensemble.hessians(E23, X, LABELS, loss="mse"),
    "chunk=0 networks at a time; it must be positive, or None to fit the cache.": lambda: train(
        chunk=0
    ),
    "lr=nan; it must be finite and not negative.": lambda: train(lr=float("nan")),
    "tolerance=-1; it must be finite and not negative.": lambda: train(tolerance=-1),
    "steps=-1; it must not be negative.": lambda: train(steps=-1),
    "record has [-1, 4]; networks can be kept after 0 to steps=3 steps.": lambda: train(
        record=[4, 2, -1]
    ),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_bad_arguments_are_refused_with_help(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        REFUSALS[message]()
