"""SubspaceSGD splits gradients where the paper does, and each part trains as the paper says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, hessian, network

X, Y = data(60, 6, 3)


def made(k, **options):
    model = network(6, 8, 3)
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    base = torch.optim.SGD(model.parameters(), lr=0.3)
    return model, problem, hs.optim.SubspaceSGD(base, problem, k, **options)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize(("top", "bulk"), [(1.0, 0.0), (0.0, 1.0), (0.25, 2.0)])
def test_the_step_is_that_of_the_paper(top, bulk):
    model, problem, optimizer = made(4, top=top, bulk=bulk, max_matvecs=89)
    before = flat(model.parameters())
    U = torch.linalg.eigh(hessian(problem, X, Y)).eigenvectors[:, -4:]
    F.cross_entropy(model(X), Y).backward()
    g = flat(p.grad for p in model.parameters())
    optimizer.step()
    expected = before - 0.3 * (top * U @ (U.T @ g) + bulk * (g - U @ (U.T @ g)))
    assert float((flat(model.parameters()) - expected).norm()) < 1e-2 * float(0.3 * g.norm())
    assert torch.equal(flat(p.grad for p in model.parameters()), g)
    share = float((U.T @ g).square().sum() / g.square().sum())
    assert optimizer.top_share == pytest.approx(share, rel=1e-2)


def test_equal_factors_are_the_base_optimiser():
    model, _, optimizer = made(3, top=1.0, bulk=1.0)
    plain = network(6, 8, 3)
    other = torch.optim.SGD(plain.parameters(), lr=0.3)
    for net, steps in ((model, optimizer), (plain, other)):
        for _ in range(20):
            steps.zero_grad()
            F.cross_entropy(net(X), Y).backward()
            steps.step()
    assert torch.allclose(flat(model.parameters()), flat(plain.parameters()), rtol=1e-12)


@pytest.mark.slow
def test_the_bulk_trains_and_the_top_alone_stalls():
    """Song et al. 2024: the loss falls as that of SGD without the top, and hardly within it."""
    losses = {}
    for name, top, bulk in (("sgd", 1.0, 1.0), ("top", 1.0, 0.0), ("bulk", 0.0, 1.0)):
        model, problem, optimizer = made(3, top=top, bulk=bulk, every=5)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        losses[name] = problem.loss()
    start = made(3)[1].loss()
    fallen = {name: start - loss for name, loss in losses.items()}
    assert fallen["bulk"] > 0.8 * fallen["sgd"]
    assert fallen["top"] < 0.6 * fallen["sgd"]


def test_directions_are_sought_every_so_many_steps_from_those_before():
    model, _, optimizer = made(3, every=4)
    counts = []
    for _ in range(9):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        counts.append(optimizer.num_matvecs)
    assert counts[0] == counts[3] < counts[4] == counts[7] < counts[8]
    assert counts[0] <= 12 * 3
    assert counts[4] - counts[3] <= counts[0]


def test_parameters_outside_of_the_problem_keep_their_gradient():
    model = network(6, 8, 3)
    problem = hs.Problem(model, F.cross_entropy, (X, Y)).block("0.*")
    base = torch.optim.SGD(model.parameters(), lr=0.3)
    optimizer = hs.optim.SubspaceSGD(base, problem, 2, top=0.0, bulk=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    after = list(model.parameters())
    assert torch.equal(after[0], before[0])
    assert torch.allclose(after[2], before[2] - 0.3 * after[2].grad)


def test_a_model_with_dropout_is_left_in_its_mode_and_its_random_state():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    problem = hs.Problem(model, F.cross_entropy, (X, Y))
    base = torch.optim.SGD(model.parameters(), lr=0.3)
    optimizer = hs.optim.SubspaceSGD(base, problem, 2)
    F.cross_entropy(model(X), Y).backward()
    state = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
