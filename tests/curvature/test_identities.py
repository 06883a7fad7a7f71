"""Identities that hold for every network, drawn at random."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, network

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)


def problem_of(seed: int, *, activation: type[nn.Module] = nn.Tanh, loss=F.cross_entropy, num=20):
    model = network(4, 6, 5, 3, activation=activation, seed=seed)
    return hs.Problem(model, loss, data(num, 4, 3, seed))


def eigenvalues(problem: hs.Problem) -> torch.Tensor:
    return torch.linalg.eigvalsh(hs.Hessian(problem).to_dense())


@few
@given(seed=SEEDS)
def test_blocks_interlace(seed):
    """λ_i <= μ_i <= λ_{i+n-m} for the eigenvalues μ of an m x m block (Cauchy)."""
    problem = problem_of(seed)
    whole = eigenvalues(problem)
    slack = 1e-13 * float(whole.abs().max())
    for block in problem.blocks().values():
        part = eigenvalues(block)
        assert bool((part >= whole[: block.n] - slack).all())
        assert bool((part <= whole[problem.n - block.n :] + slack).all())


@few
@given(seed=SEEDS, decay=st.floats(0.0, 10.0))
def test_weight_decay_shifts_every_eigenvalue(seed, decay):
    problem = problem_of(seed)

    def decayed(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        penalty = sum(p.square().sum() for p in model.parameters()) / 2
        return F.cross_entropy(model(batch[0]), batch[1]) + decay * penalty

    other = hs.Problem.from_closure(problem.model, decayed, problem.batches.source)
    assert torch.allclose(eigenvalues(other), eigenvalues(problem) + decay, rtol=0, atol=1e-12)


@few
@given(seed=SEEDS, factor=st.floats(0.1, 10.0))
def test_scaling_the_loss_scales_the_spectrum(seed, factor):
    problem = problem_of(seed)
    scaled = problem_of(seed, loss=lambda z, t: factor * F.cross_entropy(z, t))
    assert torch.allclose(
        eigenvalues(scaled), factor * eigenvalues(problem), rtol=1e-11, atol=1e-13
    )


@few
@given(seed=SEEDS)
def test_repeating_the_data_changes_nothing(seed):
    problem = problem_of(seed)
    batch = problem.batches.source[0]
    twice = hs.Problem(problem.model, F.cross_entropy, [batch, batch])
    assert torch.allclose(eigenvalues(twice), eigenvalues(problem), rtol=0, atol=1e-14)


@few
@given(seed=SEEDS)
def test_adding_a_constant_to_all_logits_is_a_null_direction(seed):
    problem = problem_of(seed)
    v = torch.zeros(problem.n, dtype=torch.float64)
    v[-3:] = 1.0  # the last bias
    for operator in (hs.Hessian, hs.GaussNewton, hs.EmpiricalFisher):
        assert float((operator(problem) @ v).abs().max()) < 1e-15


@few
@given(seed=SEEDS)
def test_rescaling_a_relu_layer_is_a_symmetry(seed):
    """L(θ) is constant along (W_1, b_1) e^s, W_2 e^-s: with t its generator, g·t = 0 and Ht = -Dg.

    D is the diagonal of the generator: +1 on layer 1, -1 on the weights of layer 2. Differentiating
    L(e^{sD} θ) = L(θ) in θ and then in s at s = 0 gives both.
    """
    problem = problem_of(seed, activation=nn.ReLU)
    slices = problem.layout.slices()
    D = torch.zeros(problem.n, dtype=torch.float64)
    D[slices["0.weight"]] = D[slices["0.bias"]] = 1.0
    D[slices["2.weight"]] = -1.0
    g, t = problem.gradient(), D * problem.theta
    assert abs(float(g @ t)) < 1e-14
    assert torch.allclose(hs.Hessian(problem) @ t, -D * g, rtol=0, atol=1e-13)


@few
@given(seed=SEEDS)
def test_permuting_hidden_units_keeps_the_spectrum(seed):
    problem = problem_of(seed)
    before = eigenvalues(problem)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    first, second = problem.model[0], problem.model[2]
    with torch.no_grad():
        first.weight.copy_(first.weight[order].clone())
        first.bias.copy_(first.bias[order].clone())
        second.weight.copy_(second.weight[:, order].clone())
    assert torch.allclose(eigenvalues(problem), before, rtol=0, atol=1e-13)


@few
@given(seed=SEEDS)
def test_weyl_bounds_the_top_of_h_by_g_and_r(seed):
    problem = problem_of(seed)
    H, G = hs.Hessian(problem), hs.GaussNewton(problem)
    top = float(torch.linalg.eigvalsh(G.to_dense())[-1])
    rest = float(torch.linalg.matrix_norm((H - G).to_dense(), 2))
    assert float(eigenvalues(problem)[-1]) <= top + rest + 1e-13


@few
@given(seed=SEEDS)
def test_the_spectrum_of_gauss_newton_is_that_of_its_gram_matrix(seed):
    problem = problem_of(seed, num=10)
    expected = torch.linalg.eigvalsh(hs.GaussNewton(problem).to_dense())
    found = hs.gram_spectrum(problem).eigenvalues
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", list(itertools.product((3, 5), (1, 2))))
def test_softmax_regression_at_zero_weights_is_a_kronecker_product(shape):
    """H = (I - 11ᵀ/C)/C ⊗ XᵀX/N: eigenvalues of XᵀX/N over C, each C - 1 times, and zeros."""
    num_classes, dim = shape
    X = torch.randn(30, dim, dtype=torch.float64)
    model = nn.Linear(dim, num_classes, bias=False).double()
    nn.init.zeros_(model.weight)
    problem = hs.Problem(model, F.cross_entropy, (X, torch.arange(30) % num_classes))
    values = torch.linalg.eigvalsh(X.T @ X / 30).repeat_interleave(num_classes - 1) / num_classes
    expected = torch.cat([torch.zeros(dim, dtype=torch.float64), values]).sort().values
    assert torch.allclose(eigenvalues(problem), expected, rtol=0, atol=1e-14)
