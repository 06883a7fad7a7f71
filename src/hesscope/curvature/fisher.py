"""Fisher matrices: exact, sampled, and the "empirical" one, which is not a Fisher matrix.

The Fisher matrix averages g gᵀ over targets drawn from the *model*; for softmax cross-entropy and
squared error it equals Gauss-Newton. The empirical Fisher uses the *given* targets. They agree
only where the model is right about the noise in the targets: at a zero-residual fit the empirical
one vanishes while the Fisher and the Hessian need not (Kunstner, Hennig and Balles 2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesscope.curvature.gauss_newton import Metric, OutputMetricOperator
from hesscope.operator import SymmetricOperator
from hesscope.problem.data import Batch
from hesscope.problem.losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from hesscope.problem.problem import Problem


class Fisher(OutputMetricOperator):
    """F = mean over items of E_y[g gᵀ], y drawn from the model's distribution at that item.

    Exact by default: the expectation is the output Hessian for softmax cross-entropy, the logistic
    loss and squared error (a Gaussian of variance C/2 for ℓ = |z - t|²/C). With `samples`, the
    mean over that many draws from `seed`: unbiased, of rank at most items x samples.

    Raises:
        ValueError: if the loss is not a known log-likelihood.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(2, 3)
    >>> data = torch.eye(2), torch.tensor([0, 1])
    >>> p = hs.Problem(model, torch.nn.CrossEntropyLoss(), data)
    >>> torch.allclose(hs.Fisher(p).to_dense(), hs.Hessian(p).to_dense(), atol=1e-6)
    True
    """

    def __init__(
        self,
        problem: Problem,
        samples: int | None = None,
        *,
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        super().__init__(problem, memory=memory)
        if not isinstance(self.loss, (CrossEntropy, SquaredError, BinaryCrossEntropy)):
            self.loss.sampled_gradient(torch.empty(0), torch.Generator())  # says why
        if samples is not None and samples < 1:
            msg = f"samples={samples}: draw at least one, or None for the exact expectation."
            raise ValueError(msg)
        self.samples, self.seed = samples, seed

    def metric(self, outputs: Tensor, targets: Any, batch: Batch) -> Metric:
        """E[c cᵀ] with c = ∂ℓ/∂z at sampled targets; exact: ∂²ℓ/∂z²."""
        if self.samples is None:
            return self.loss.curvature(outputs, targets)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch.index)
        draws = [self.loss.sampled_gradient(outputs, generator) for _ in range(self.samples)]
        total = torch.stack(draws)  # (samples, items, C)
        return lambda U: (total * (total * U).sum(2, keepdim=True)).mean(0)

    def facts(self) -> dict[str, Any]:
        """How the expectation over targets was taken."""
        kind = "exact" if self.samples is None else f"{self.samples} samples, seed {self.seed}"
        return {**super().facts(), "expectation": kind}


class EmpiricalFisher(OutputMetricOperator):
    """E = mean over items of g_n g_nᵀ, with g_n the gradient of item n's own loss at its target.

    Uncentred: E - ḡ ḡᵀ is `GradientCovariance`. A product costs about as much as one of
    `GaussNewton`, because g_n·v = c_n·(J v)_n with c_n = ∂ℓ/∂z. It is no approximation of the
    Hessian: it vanishes where every example is fitted exactly, and scales with squared residuals.

    Raises:
        ValueError: if the problem has no outputs.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> p = hs.Problem(model, torch.nn.MSELoss(), (x, x))  # gradients -2x²: 4 mean(x⁴)
    >>> hs.EmpiricalFisher(p).to_dense()
    tensor([[164.]])
    """

    def metric(self, outputs: Tensor, targets: Any, batch: Batch) -> Metric:  # noqa: ARG002
        """c cᵀ with c = ∂ℓ/∂z at the given targets."""
        c = self.loss.gradient(outputs, targets)
        return lambda U: _rank_one(c, U)


class GradientCovariance(SymmetricOperator):
    """Σ = mean over items of (g_n - ḡ)(g_n - ḡ)ᵀ: the covariance of per-item gradients.

    Costs one product of the empirical Fisher, and one gradient once; the gradient is taken anew
    when the parameters have changed.

    Raises:
        ValueError: if the problem has no outputs.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> p = hs.Problem(model, torch.nn.MSELoss(), (x, x))  # gradients -2 and -18: variance 64
    >>> hs.GradientCovariance(p).to_dense()
    tensor([[64.]])
    """

    positive_semidefinite = True

    def __init__(self, problem: Problem, *, memory: int | None = None) -> None:
        super().__init__(problem.n, dtype=problem.dtype, device=problem.device)
        self.problem = problem
        self.uncentred = EmpiricalFisher(problem, memory=memory)
        self._theta: Tensor | None = None
        self._mean: Tensor | None = None

    def matmat(self, V: Tensor) -> Tensor:
        """(E - ḡ ḡᵀ) V."""
        g = self._gradient()
        along = self.inner(g[:, None], V).to(V.dtype)
        return self.uncentred @ V - g[:, None] * along

    def facts(self) -> dict[str, Any]:
        """The facts of the empirical Fisher under this name."""
        return {**self.uncentred.facts(), **super().facts()}

    def _gradient(self) -> Tensor:
        theta = self.problem.theta
        if self._mean is None or self._theta is None or not torch.equal(theta, self._theta):
            self._theta, self._mean = theta, self.problem.gradient()
        return self._mean


def _rank_one(c: Tensor, U: Tensor) -> Tensor:
    return c * (c * U).sum(1, keepdim=True)
