"""No model waits for the garbage collector: what looked at it lets it go."""

import gc
import weakref

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs

LOOKS = {
    "check": hs.check_problem,
    "Hessian": lambda p: hs.Hessian(p) @ p.theta,
    "rebuilt": lambda p: hs.Hessian(p, memory=0) @ p.theta,
    "eigsh": lambda p: hs.eigsh(hs.Hessian(p), 2),
    "Gauss-Newton": lambda p: hs.GaussNewton(p) @ p.theta,
    "Fisher": lambda p: hs.Fisher(p) @ p.theta,
    "tangent kernel": lambda p: hs.TangentKernel(p).to_dense(),
    "spectrum": lambda p: hs.spectrum(hs.Hessian(p)),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_model_is_gone_with_its_last_name(look):
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    alive = weakref.ref(model)
    inputs = torch.linspace(-9, 9, 160).reshape(40, 4).sin()
    problem = hs.Problem(model, F.cross_entropy, (inputs, torch.arange(40) % 3))
    gc.collect()
    gc.disable()
    try:
        result = LOOKS[look](problem)
        del model, problem
        assert alive() is None
        assert result is not None
    finally:
        gc.enable()
