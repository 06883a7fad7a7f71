"""Results of our kernels are written to in place where torch's own can be."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs

X = torch.linspace(-1, 2, 96, dtype=torch.float64).sin()
W = torch.linspace(-1, 1, 4, dtype=torch.float64).cos()
LAYERS = {
    "group_norm": lambda x: F.group_norm(x.view(6, 4, 4), 2, W, W),
    "group_norm of rows": lambda x: F.group_norm(x.view(24, 4), 2, W, W),
    "layer_norm": lambda x: F.layer_norm(x.view(24, 4), (4,), W, W),
    "rms_norm": lambda x: F.rms_norm(x.view(24, 4), (4,), W),
    "batch_norm": lambda x: F.batch_norm(x.view(24, 4), W, W.abs() + 1, W, W),
    "conv": lambda x: F.conv1d(x.view(6, 4, 4), W.view(1, 4, 1).expand(3, 4, 1).contiguous()),
    "gelu": lambda x: F.gelu(x.view(24, 4)),
    "silu": lambda x: F.silu(x.view(24, 4)),
}


def loss_of(layer, theta):
    y = layer(theta * X + 0.1)
    y.mul_(1.5)
    y[0] += 1.0
    return (y.sin() * y).mean()


@pytest.mark.parametrize("name", LAYERS)
def test_a_result_may_be_written_to(name):
    theta, v = X.cos().requires_grad_(), X.exp()
    problem = hs.Problem.from_function(partial(loss_of, LAYERS[name]), theta)
    (gradient,) = torch.autograd.grad(loss_of(LAYERS[name], theta), theta, create_graph=True)
    (expected,) = torch.autograd.grad(gradient, theta, v)
    torch.testing.assert_close(hs.Hessian(problem) @ v, expected, rtol=1e-10, atol=1e-12)
