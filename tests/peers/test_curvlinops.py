"""Agreement with curvlinops in float64, in an environment of its own: `make test-peers`.

Its dependencies ask for torchvision, which breaks an environment with torch for CPUs alone, so
neither is part of ours.
"""

import pytest
import torch
from torch import nn

import hesscope as hs
from tests.oracles import data, network

curvlinops = pytest.importorskip("curvlinops", reason="run `make test-peers` to compare")

X, Y = data(24, 5, 3)
REAL = torch.randn(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
PAIRS = {
    "Hessian": (hs.Hessian, "HessianLinearOperator"),
    "GaussNewton": (hs.GaussNewton, "GGNLinearOperator"),
    "EmpiricalFisher": (hs.EmpiricalFisher, "EFLinearOperator"),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("loss", "targets"), [(nn.CrossEntropyLoss(), Y), (nn.MSELoss(), REAL)], ids=["ce", "mse"]
)
@pytest.mark.parametrize("batch", [24, 7])
def test_products_agree(name, loss, targets, batch):
    ours, theirs = PAIRS[name]
    model = network(5, 7, 3)
    batches = list(zip(X.split(batch), targets.split(batch), strict=True))
    problem = hs.Problem(model, loss, batches)
    V = torch.randn(problem.n, 3, dtype=torch.float64)
    peer = getattr(curvlinops, theirs)(model, loss, list(model.parameters()), batches)
    expected, found = peer @ V, ours(problem) @ V
    if name == "EmpiricalFisher" and isinstance(loss, nn.MSELoss):
        expected = expected / 3  # theirs: gradients of |z - t|², over N C, which is C times ours
    assert torch.allclose(found, expected.to(found), rtol=1e-8, atol=1e-12)


def test_kronecker_factors_precondition_linear_systems():
    """G of a linear network is X'X/N (x) I 2/C, a Kronecker product: inverted at once."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(200, 30, dtype=torch.float64, generator=generator)
    inputs *= torch.logspace(-2, 1, 30, dtype=torch.float64)
    targets = torch.randn(200, 3, dtype=torch.float64, generator=generator)
    model, loss = nn.Linear(30, 3, bias=False).double(), nn.MSELoss()
    problem = hs.Problem(model, loss, [(inputs, targets)])
    factors = curvlinops.KFACLinearOperator(
        model, loss, list(model.parameters()), [(inputs, targets)], fisher_type="type-2"
    )
    inverse = curvlinops.KFACInverseLinearOperator(factors, damping=1e-4, use_exact_damping=True)
    A, b = hs.GaussNewton(problem), problem.gradient()
    plain = hs.solve(A, b, 1e-4, tol=1e-8)
    found = hs.solve(A, b, 1e-4, tol=1e-8, preconditioner=inverse)
    exact = torch.linalg.solve(A.to_dense() + 1e-4 * torch.eye(A.n).double(), b)
    assert found.num_matvecs <= 6 < plain.num_matvecs
    assert float((found.x - exact).norm()) <= float(found.errors[0])
