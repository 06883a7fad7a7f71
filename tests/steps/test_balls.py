"""Muon's ball of steps, its sharpness, and where training with it hovers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.curvature.norm_ball import ball_sharpness
from hesscope.steps.balls import spectral
from hesscope.steps.update import update
from tests.oracles import data

X, Y = data(40, 5, 3)


def made(**options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 7, bias=False), nn.Tanh(), nn.Linear(7, 3, bias=False)
    ).double()
    problem = hs.Problem(model, F.mse_loss, (X, torch.eye(3).double()[Y]))
    return problem, torch.optim.Muon(model.parameters(), **{"weight_decay": 0.0, **options})


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_the_step_is_that_of_the_ball_up_to_newton_schulz(adjust):
    """Singular values between 0.6 and 1.3 of torch's own step where the ball's are one."""
    problem, muon = made(lr=0.1, adjust_lr_fn=adjust)
    g = problem.gradient()
    step = problem.layout.split(update(problem, muon, g).step)
    for piece, taken in zip(problem.layout.split(g), step, strict=True):
        member = spectral(muon.param_groups[0], piece)
        size = torch.linalg.svdvals(member)[0]
        U, _, Vh = torch.linalg.svd(piece, full_matrices=False)
        along = (U.T @ taken @ Vh.T).diagonal() / (-0.1 * size)
        assert bool(((along > 0.5) & (along < 1.3)).all())


def test_the_sharpness_is_the_largest_over_the_ball():
    """No one of 500 random members is sharper."""
    problem, muon = made(lr=0.1)
    found = ball_sharpness(problem, muon, problem.gradient())
    H = hs.Hessian(problem).to_dense()
    torch.manual_seed(1)
    best = 0.0
    for _ in range(500):
        pieces = [torch.randn(s).double() for s in problem.layout.shapes]
        d = torch.cat([spectral(muon.param_groups[0], p).reshape(-1) for p in pieces])
        best = max(best, float(d @ H @ d))
    assert best <= found.sharpness
    assert found.num_matvecs <= 20


def test_steps_in_the_sharpest_direction_descend_below_the_limit_and_climb_above():
    """L = ½ ‖W‖²: from W = c·1, with the gradient W, steps lr·1 descend up to lr = 2 c."""
    model = nn.Linear(3, 3, bias=False).double()
    model.weight.data = 0.4 * torch.eye(3).double()
    problem = hs.Problem.from_closure(model, lambda m, _: m.weight.square().sum() / 2, [(X,)])
    muon = torch.optim.Muon(model.parameters(), lr=0.1)
    found = ball_sharpness(problem, muon, problem.gradient())
    assert found.lr_limit == pytest.approx(0.8, rel=1e-9)


@pytest.mark.parametrize("options", [{"momentum": 0.0, "nesterov": False}, {}])
def test_training_hovers_where_lr_is_at_its_limit(options):
    problem, muon = made(lr=0.05, **options)
    ratios = []
    for t in range(400):
        muon.zero_grad()
        F.mse_loss(problem.model(X), torch.eye(3).double()[Y]).backward()
        muon.step()
        if t >= 200 and t % 20 == 0:
            ratios.append(0.05 / ball_sharpness(problem, muon, problem.gradient()).lr_limit)
    assert 0.7 < sum(ratios) / len(ratios) < 1.5


def test_the_verdict_tells_what_the_gradient_allows():
    problem, muon = made(lr=1e-3)
    verdict = hs.diagnose(problem, muon, effort="quick", check=False).verdict("step_size")
    assert verdict.claim.startswith("lr 0.001 is safe with this gradient: steps descend below")
    muon.param_groups[0]["lr"] = verdict.evidence["stability_limit"]
    verdict = hs.diagnose(problem, muon, effort="quick", check=False).verdict("step_size")
    assert verdict.evidence["lr_over_limit"] == pytest.approx(1.0, rel=1e-6)
    assert not verdict.finding


def test_other_optimisers_have_no_ball():
    problem, _ = made(lr=0.1)
    sgd = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the steps of SGD are no norm ball that is known"):
        ball_sharpness(problem, sgd, problem.gradient())
