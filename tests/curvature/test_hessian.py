"""Hessian-vector products against oracles that share no code with hesscope, and closed forms."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.faults import FAULTS
from tests.networks import (
    SMOOTH,
    Case,
    dense_hessian,
    difference_product,
    make,
    mlp,
    plain_gradient,
    relative_error,
    resnet,
    smooth,
    theta_of,
    vectors,
)

ORACLE = 1e-12  # both sides are float64 derivatives without truncation: about 1e-15 is seen
DIFFERENCES = 1e-8  # of sixth order at h = 3e-4: about 1e-12 is seen, 2e-10 on GPT-2
NO_FORWARD_MODE = {"mlp_silu_mse", "tied", "checkpoint", "distances"}  # torch has no rule there


def probe(n: int, k: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator, dtype=torch.float64)


# Against the oracles


@pytest.mark.parametrize("name", SMOOTH)
def test_the_dense_hessian_is_the_one_of_torch_autograd(name):
    case = smooth(name)
    assert relative_error(hs.Hessian(case.problem()).to_dense(), dense_hessian(case)) < ORACLE


@pytest.mark.parametrize("name", SMOOTH)
def test_products_agree_with_differences_of_plain_gradients(name):
    case = smooth(name, seed=1)
    problem = case.problem()
    v = probe(problem.n, 1)[:, 0]
    assert relative_error(hs.Hessian(problem) @ v, difference_product(case, v)) < DIFFERENCES


@pytest.mark.parametrize("name", SMOOTH)
def test_a_rebuilt_graph_gives_the_products_of_a_kept_one(name):
    problem = smooth(name).problem(batch_size=3)
    V = probe(problem.n)
    kept, rebuilt = hs.Hessian(problem), hs.Hessian(problem, memory=0)
    assert relative_error(rebuilt @ V, kept @ V) < ORACLE
    assert (kept.facts()["graph"], rebuilt.facts()["graph"]) == ("graph kept", "graph rebuilt")


@pytest.mark.parametrize("name", sorted(set(SMOOTH) - NO_FORWARD_MODE))
def test_forward_over_reverse_agrees_with_reverse_over_reverse(name):
    problem = smooth(name).problem(batch_size=3)
    V = probe(problem.n, 2)
    forward = hs.Hessian(problem, "forward-over-reverse")
    assert relative_error(forward @ V, hs.Hessian(problem) @ V) < ORACLE


@pytest.mark.parametrize("name", sorted(NO_FORWARD_MODE))
def test_forward_over_reverse_fails_aloud_where_torch_has_no_rule(name):
    problem = smooth(name).problem()
    with pytest.raises((RuntimeError, ValueError)):
        hs.Hessian(problem, "forward-over-reverse") @ probe(problem.n, 1)


def test_what_torch_says_in_forward_mode_is_explained():
    model, data = torch.nn.Linear(2, 2), (torch.ones(3, 2), torch.ones(3, 2))
    problem = hs.Problem(model, torch.nn.functional.mse_loss, data)
    with pytest.raises(RuntimeError, match=r"use the default product, .* torch says: ZeroTensors"):
        hs.Hessian(problem, "forward-over-reverse") @ torch.ones(6)


@pytest.mark.parametrize("name", SMOOTH)
def test_finite_differences_keep_to_their_stated_error(name):
    problem = smooth(name).problem()
    approximate = hs.Hessian(problem, "finite-difference")
    v = problem.gradient()
    error = relative_error(approximate @ v, hs.Hessian(problem) @ v)
    stated = approximate.facts()["relative_error"]
    assert error <= 10 * stated
    assert stated < 1e-4


@pytest.mark.parametrize("name", SMOOTH)
def test_float32_products_are_right_to_a_few_digits_of_float32(name):
    single, double = make(SMOOTH[name], torch.float32), make(SMOOTH[name])
    with torch.no_grad():
        for p, q in zip(single.model.parameters(), double.model.parameters(), strict=True):
            q.copy_(p)
        for p, q in zip(single.model.buffers(), double.model.buffers(), strict=True):
            q.copy_(p)
    V = probe(single.problem().n)
    exact = hs.Hessian(Case(double.model, double.loss_fn, _as(double.data, single.data)).problem())
    assert relative_error((hs.Hessian(single.problem()) @ V).double(), exact @ V) < 2e-5


def _as(double, single):
    """The data of the float32 case in float64, so that both problems are the same."""
    return tuple(s.double() if s.is_floating_point() else s for s in single)


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh])
def test_networks_with_kinks_have_the_hessian_of_their_smooth_pieces(act):
    case = make(lambda: (resnet(act), F.cross_entropy, (torch.randn(7, 2, 6, 6), vectors()[1])))
    assert relative_error(hs.Hessian(case.problem()).to_dense(), dense_hessian(case)) < ORACLE


def test_batch_statistics_leave_the_kept_graph_and_the_running_statistics_alone():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = vectors(12)
    case = Case(model.train(), F.cross_entropy, (x.double(), y))
    truth = torch.autograd.functional.hessian(
        lambda theta: F.cross_entropy(_functional_train(model, theta, case.data[0]), y),
        theta_of(model),
    )
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for engine in ("reverse-over-reverse", "forward-over-reverse"):
        H = hs.Hessian(case.problem(training=True), engine)
        for _ in range(2):
            assert relative_error(H.to_dense(), truth) < ORACLE
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())


def _functional_train(model, theta, x):
    """The network with batch statistics, written out."""
    W, b, gamma, beta, U, c = (
        piece.view(p.shape)
        for piece, p in zip(theta.split([20, 5, 5, 5, 15, 3]), model.parameters(), strict=True)
    )
    z = x @ W.T + b
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
    return torch.tanh(z * gamma + beta) @ U.T + c


def test_dropout_in_training_mode_has_one_hessian_per_seed():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3)).double()
    x, y = vectors(12)
    problem = hs.Problem(model, F.cross_entropy, (x.double(), y), training=True, batch_size=5)
    V = probe(problem.n)
    kept, rebuilt = hs.Hessian(problem), hs.Hessian(problem, memory=0)
    assert relative_error(rebuilt @ V, kept @ V) < ORACLE
    assert hs.check_operator(kept).ok


# Closed forms


def test_linear_regression_has_twice_the_second_moment_of_its_inputs():
    X, y = torch.randn(20, 4).double(), torch.randn(20, 1).double()
    problem = hs.Problem(nn.Linear(4, 1, bias=False).double(), F.mse_loss, (X, y), batch_size=6)
    torch.testing.assert_close(hs.Hessian(problem).to_dense(), 2 * X.T @ X / 20)


def test_softmax_regression_at_zero_has_a_kronecker_product():
    X, y, C = torch.randn(20, 4).double(), torch.randint(0, 3, (20,)), 3
    model = nn.Linear(4, C, bias=False).double()
    nn.init.zeros_(model.weight)
    S = (torch.eye(C) - torch.ones(C, C) / C).double() / C
    H = hs.Hessian(hs.Problem(model, F.cross_entropy, (X, y), batch_size=7)).to_dense()
    torch.testing.assert_close(H, torch.kron(S, X.T @ X / 20))


def test_logistic_regression_at_zero_has_a_quarter_of_the_second_moment():
    X, y = torch.randn(20, 4).double(), torch.rand(20, 1).double()
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    problem = hs.Problem(model, F.binary_cross_entropy_with_logits, (X, y))
    torch.testing.assert_close(hs.Hessian(problem).to_dense(), X.T @ X / 80)


@pytest.mark.parametrize(("a", "b", "y"), [(1.0, 1.0, 1.0), (0.5, -2.0, 3.0), (0.0, 0.0, 1.0)])
def test_two_layer_scalar_net_has_its_known_hessian(a, b, y):
    problem = hs.Problem.from_function(
        lambda t: (t[0] * t[1] - y) ** 2 / 2, torch.tensor([a, b]).double()
    )
    known = torch.tensor([[b * b, 2 * a * b - y], [2 * a * b - y, a * a]]).double()
    torch.testing.assert_close(hs.Hessian(problem).to_dense(), known)


@pytest.mark.parametrize("engine", ["reverse-over-reverse", "forward-over-reverse", "fd"])
def test_a_quadratic_has_its_own_matrix_everywhere(engine):
    A = probe(6, 6)
    A = A + A.T
    for theta in probe(6, 3).unbind(1):
        problem = hs.Problem.from_function(lambda t: t @ A @ t / 2, theta)
        torch.testing.assert_close(hs.Hessian(problem, engine).to_dense(), A, rtol=1e-8, atol=1e-8)


def test_a_loss_that_is_linear_in_its_parameters_has_no_curvature():
    problem = hs.Problem.from_function(lambda t: t.sum(), torch.ones(3))
    assert torch.equal(hs.Hessian(problem).to_dense(), torch.zeros(3, 3))


# Laws


@pytest.mark.parametrize("name", ["mlp", "tied", "lstm", "gpt2"])
def test_a_block_of_vectors_gives_the_columns_one_by_one(name):
    H = hs.Hessian(smooth(name).problem(batch_size=3))
    V = probe(H.n)
    columns = torch.stack([H @ v for v in V.unbind(1)], 1)
    torch.testing.assert_close(H @ V, columns, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["mlp", "unused", "lstm", "gpt2", "resnet_batchnorm"])
def test_a_block_of_parameters_has_a_submatrix(name):
    problem = smooth(name).problem()
    dense, slices = hs.Hessian(problem).to_dense(), problem.layout.slices()
    for owner, block in problem.blocks().items():
        rows = torch.cat([torch.arange(problem.n)[slices[n]] for n in block.layout.names])
        part = hs.Hessian(block).to_dense()
        error = (part - dense[rows][:, rows]).norm()
        assert error <= 1e-13 * dense.norm(), owner


@pytest.mark.parametrize("name", ["mlp", "resnet_batchnorm", "gpt2"])
def test_every_engine_is_deterministic_linear_and_symmetric(name):
    problem = smooth(name).problem(batch_size=3)
    for H in (hs.Hessian(problem), hs.Hessian(problem, memory=0), hs.Hessian(problem, "for")):
        check = hs.check_operator(H)
        assert check.ok, check


def test_the_hessian_scales_with_the_loss():
    case = smooth("mlp")
    scaled = hs.Problem(case.model, lambda o, y: 3 * F.cross_entropy(o, y), case.data)
    V = probe(scaled.n)
    torch.testing.assert_close(hs.Hessian(scaled) @ V, 3 * (hs.Hessian(case.problem()) @ V))


# The kept graph


def _add(case, how):
    """Changes the model behind the back of a kept graph, in one of the ways that people use."""
    last = list(case.model.parameters())[-2]
    if how == "in place":
        with torch.no_grad():
            last.mul_(1.5)
    elif how == "data":
        last.data.mul_(1.5)
    elif how == "other storage":
        last.data = last.data * 1.5
    elif how == "there and back":
        with torch.no_grad():
            last.add_(1.0).sub_(1.0)
    elif how == "buffer":
        next(b for n, b in case.model.named_buffers() if "running_var" in n).mul_(2.0)
    elif how == "buffer data":
        next(b for n, b in case.model.named_buffers() if "running_mean" in n).data.add_(1.0)
    elif how == "state dict":
        case.model.load_state_dict({n: 1.1 * t for n, t in case.model.state_dict().items()})
    elif how == "optimizer":
        case.loss().backward()
        torch.optim.SGD(case.model.parameters(), 0.1).step()


@pytest.mark.parametrize(
    "how",
    [
        "in place", "data", "other storage", "there and back", "buffer", "buffer data",
        "state dict", "optimizer",
    ],
)  # fmt: skip
def test_a_kept_graph_notices_every_change_of_the_model(how):
    case = smooth("resnet_batchnorm")
    H, V = hs.Hessian(case.problem()), probe(243, 2)
    H @ V
    _add(case, how)
    fresh = hs.Hessian(case.problem()) @ V
    assert torch.equal(H @ V, fresh)


def test_a_kept_graph_of_a_block_notices_a_change_outside_the_block():
    case = smooth("mlp")
    H = hs.Hessian(case.problem().block("0.*"))
    old = H.to_dense()
    case.model[2].weight.data.mul_(2.0)
    assert torch.equal(H.to_dense(), hs.Hessian(case.problem().block("0.*")).to_dense())
    assert not torch.allclose(H.to_dense(), old)


@pytest.mark.parametrize("name", ["mlp", "tied", "lstm", "checkpoint", "spectral_norm", "gpt2"])
def test_the_hessian_at_other_parameters_is_that_of_a_model_with_these_parameters(name):
    case, other = smooth(name), smooth(name)
    theta = 0.8 * theta_of(case.model) + 0.01
    nn.utils.vector_to_parameters(theta, [p for p in other.model.parameters() if p.requires_grad])
    V = probe(len(theta))
    for memory in (None, 0):
        moved = hs.Hessian(case.problem().at(theta), memory=memory) @ V
        assert relative_error(moved, hs.Hessian(other.problem()) @ V) < ORACLE
    assert torch.equal(theta_of(case.model), theta_of(smooth(name).model))


# Doors


REFUSED = {
    "once_differentiable": (
        "its gradient passes through a Function marked @once_differentiable; autograd skips it, "
        "and the Hessian-vector product would be wrong without an error"
    ),
    "weight_norm in a checkpoint": (
        "it uses weight_norm, whose second derivative is wrong in torch 2.13 (30 to 50 %)"
    ),
    "gradient scaled by frequency": (
        "an embedding with scale_grad_by_freq=True divides the gradient of each row by how often "
        "the row is used: it is the gradient of no loss, and has no symmetric derivative"
    ),
    "values of a sparse tensor": (
        "it builds a sparse tensor from values that are differentiated, and torch drops the graph "
        "of their gradient without an error"
    ),
    "CTC": "its gradient passes through an operation whose backward has no derivative",
    "reentrant checkpoint": (
        "it checkpoints activations with use_reentrant=True, and autograd leaves out what is "
        "inside without an error"
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_model_without_a_trustworthy_second_derivative_is_refused_with_its_reason(fault):
    problem = FAULTS[fault][1]()
    text = f"^this model has no trustworthy second derivative: {re.escape(REFUSED[fault])} \\(at "
    with pytest.raises(RuntimeError, match=text) as error:
        hs.Hessian(problem) @ torch.ones(problem.n)
    assert str(error.value).endswith("Hessian(problem, product='finite-difference').")


@pytest.mark.parametrize(
    ("fault", "backward"),
    [("EmbeddingBag", "_embedding_bag_backward"), ("small cdist", "_cdist_backward")],
)
def test_a_missing_second_derivative_is_named(fault, backward):
    text = (
        f"this model has no second derivative in torch: the derivative for '{backward}' is not "
        "implemented. Either replace the operation named there by its elementary form, or accept "
        "an approximation: Hessian(problem, product='finite-difference')."
    )
    problem = FAULTS[fault][1]()
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        hs.Hessian(problem) @ torch.ones(problem.n)


@pytest.mark.parametrize("fault", ["EmbeddingBag", "weight_norm in a checkpoint"])
def test_finite_differences_work_where_autograd_is_refused(fault):
    problem = FAULTS[fault][1]()
    problem.model.double()
    data = [tuple(t.double() if t.is_floating_point() else t for t in b.content)
            for b in problem.batches]  # fmt: skip
    case = Case(problem.model, F.cross_entropy, data[0])
    v = probe(problem.n, 1)[:, 0]
    H = hs.Hessian(case.problem(), hs.CentralDifference(step=1e-4))
    assert relative_error(H @ v, difference_product(case, v)) < 1e-6
    assert H.facts()["step"] == 1e-4


def test_an_unknown_engine_is_refused():
    text = (
        "product='reverse-over-forward' is not an engine; choose 'auto', 'reverse-over-reverse', "
        "'lean', 'forward-over-reverse', 'finite-difference' or CentralDifference(step=...). "
        "Reverse-over-forward is not offered because torch computes it wrongly."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        hs.Hessian(smooth("mlp").problem(), "reverse-over-forward")


def test_a_vector_of_the_wrong_length_is_refused():
    text = (
        "cannot multiply an operator of size 43 x 43 with a tensor of shape (42,); "
        "give shape (43,) or (43, k)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        hs.Hessian(smooth("mlp").problem()) @ torch.ones(42)


def test_facts_say_what_was_switched_and_how_products_are_made():
    H = hs.Hessian(smooth("gpt2").problem())
    assert H.facts()["graph"] == "not used yet"
    H @ torch.ones(H.n)
    facts = H.facts()
    assert facts["switched"][:3] == ["math attention", "MHA fast path off", "autocast off"]
    assert facts["operator"] == "Hessian"
    assert facts["product"] == "reverse-over-reverse"
    assert facts["graph"] == "graph kept"
    assert facts["graph_bytes"] > 0
    assert (facts["model"], facts["mode"], facts["items"]) == ("CausalText", "model.eval()", 7)


def test_autocast_around_a_measurement_changes_nothing():
    case = make(lambda: (mlp(), F.cross_entropy, vectors()), torch.float32)
    H, V = hs.Hessian(case.problem()), probe(43)
    plain = H @ V
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hs.Hessian(case.problem()) @ V, plain)


@pytest.mark.parametrize("name", ["mlp", "gpt2", "lstm", "tied", "unused"])
def test_the_gradient_is_that_of_plain_torch(name):
    case = smooth(name)
    gradient = plain_gradient(case, theta_of(case.model))
    assert relative_error(case.problem(batch_size=3).gradient(), gradient) < ORACLE
