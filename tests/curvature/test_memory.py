"""No model waits for the garbage collector: what looked at it lets it go."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from tests.public_calls import CALLS, RESULTS, Stage

LOOKS = {
    "check": hs.check_problem,
    "Hessian": lambda p: hs.Hessian(p) @ p.theta,
    "rebuilt": lambda p: hs.Hessian(p, memory=0) @ p.theta,
    "lean": lambda p: hs.Hessian(p, product="lean") @ p.theta,
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


SLOW = {"basin", "batch_stability", "diagnose, an lr", "sharpness"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in CALLS
        if name not in RESULTS
    ],
)
def test_no_public_call_leaves_a_model_to_the_garbage_collector(name):
    assert goes_with_the_call(name) or goes_with_the_call(name)  # the first may import something


@pytest.fixture(autouse=True, scope="module")
def only_what_is_new_is_collected():
    """Else each look walks through all that a whole run of tests has left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def goes_with_the_call(name):
    stage = Stage()
    alive = weakref.ref(stage.model)
    gc.collect()
    gc.disable()
    try:
        CALLS[name](stage)
        del stage
        return alive() is None
    finally:
        gc.enable()


FIRST = """
import gc, torch, weakref, hesscope as hs

def call():
    model = torch.nn.Linear(2, 2)
    data = torch.ones(3, 2), torch.tensor([0, 1, 1])
    problem = hs.Problem(model, torch.nn.functional.cross_entropy, data)
    hs.Hessian(problem, "forward-over-reverse") @ torch.ones(6)
    return weakref.ref(model)

gc.disable()
assert call()() is None
"""


def test_the_first_product_in_forward_mode_does_not_either():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST], check=True)
