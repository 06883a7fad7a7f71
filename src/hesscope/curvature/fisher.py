"""Fisher matrices: exact, sampled, and the "empirical" one, which is not a Fisher matrix.

All are second moments of item gradients under the weights with which the loss averages items:
L = Σ_n w_n ℓ_n with Σ_n w_n = 1 over all batches, and Σ_n w_n E[∇ℓ_n ∇ℓ_nᵀ], so that they do not
depend on how the data is cut. The Fisher matrix takes the expectation over targets that the
*model* draws; for softmax cross-entropy and squared error it equals Gauss-Newton. The empirical
Fisher uses the *given* targets. They agree only where the model is right about the noise in the
targets: at a zero-residual fit the empirical one vanishes while the Fisher and the Hessian need
not (Kunstner, Hennig and Balles 2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesscope import probes
from hesscope.curvature.gauss_newton import Metric, OutputMetricOperator
from hesscope.curvature.shared import SharedOperator
from hesscope.problem.data import Batch
from hesscope.problem.examples import num_examples, take
from hesscope.problem.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Differentiated,
    SquaredError,
)
from hesscope.problem.problem import Problem


class Fisher(OutputMetricOperator):
    """F = Σ_n w_n m_n E_y[s sᵀ], s = ∂ log p(y|x_n)/∂theta, y drawn from the model at item n.

    w_n is the item's share of the mean loss: equal, or by the class weight of its label. m_n is how
    many targets its loss is worth: 1, unless soft targets, smoothing or `pos_weight` give the
    item's target distribution a mass of its own; m targets drawn independently have m times the
    Fisher matrix of one. Units: those of the loss per squared parameter.

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
            none = torch.empty(0, dtype=torch.float64)
            self.loss.sampled_gradient(none, torch.Generator())  # says why
        if samples is not None and (not isinstance(samples, int) or samples < 1):
            msg = f"samples={samples}: draw at least one, or None for the exact expectation."
            raise ValueError(msg)
        self.samples, self.seed = samples, seed

    def metric(self, outputs: Tensor, targets: Any, batch: Batch) -> Metric:
        """m E[c cᵀ] with c = -∂ log p(y|z)/∂z at sampled targets y; exact: ∂²ℓ/∂z²."""
        if self.samples is None:
            return self.loss.curvature(outputs, targets)
        generator = torch.Generator().manual_seed(
            probes.key(self.seed, "sampled Fisher", batch.index)
        )
        draws = [self.loss.sampled_gradient(outputs, generator) for _ in range(self.samples)]
        total = torch.stack(draws)  # (samples, items, C)
        mass = self.loss.mass(outputs, targets)[:, None]
        return lambda U: mass * (total * (total * U).sum(2, keepdim=True)).mean(0)

    def facts(self) -> dict[str, Any]:
        """How the expectation over targets was taken."""
        kind = "exact" if self.samples is None else f"{self.samples} samples, seed {self.seed}"
        return {**super().facts(), "expectation": kind}


class EmpiricalFisher(OutputMetricOperator):
    """E = Σ_n w_n g_n g_nᵀ, with g_n the gradient of item n's own loss ℓ_n at its given target.

    w_n is the item's share of the mean loss L = Σ_n w_n ℓ_n, Σ_n w_n = 1: equal over the targets
    that count, or by the class weight of the target. Items of a loss that hesscope does not know
    are the examples; w_n is then what `count` counts in example n over what it counts in all, and
    ℓ_n the loss of that example alone (of a text, the mean over its tokens). Units: the loss
    squared per squared parameter.

    Uncentred: E - ḡ ḡᵀ is `GradientCovariance`. A product costs about as much as one of
    `GaussNewton`, because g_n·v = c_n·(J v)_n with c_n = ∂ℓ/∂z. It is no approximation of the
    Hessian: it vanishes where every example is fitted exactly, and scales with squared residuals.

    Raises:
        ValueError: if the problem has no outputs; at the first product, if the loss is not a known
            one and `count` does not tell how much each example counts.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> p = hs.Problem(model, torch.nn.MSELoss(), (x, x))  # gradients -2x²: 4 mean(x⁴)
    >>> hs.EmpiricalFisher(p).to_dense()
    tensor([[164.]])
    """

    def __init__(self, problem: Problem, *, memory: int | None = None) -> None:
        super().__init__(problem, memory=memory)
        self._shares: dict[int, Tensor] = {}

    def metric(self, outputs: Tensor, targets: Any, batch: Batch) -> Metric:
        """c cᵀ with c = ∂ℓ/∂z at the given targets.

        An unknown loss has c for equal shares 1/N; the own share s of an example makes it c/(N s),
        and s c cᵀ/(N s)² = 1/N · c cᵀ/(N s).
        """
        c = self.loss.gradient(outputs, targets)
        if not isinstance(self.loss, Differentiated):
            return lambda U: _rank_one(c, U)
        if batch.index not in self._shares:
            self._shares[batch.index] = shares_of_examples(self.problem, batch, len(outputs))
        relative = len(outputs) * self._shares[batch.index].to(c)[:, None]
        counted = relative > 0  # what counts nothing has no gradient
        factor = torch.where(counted, 1 / relative.where(counted, 1.0), 0.0)
        return lambda U: factor * _rank_one(c, U)


class GradientCovariance(SharedOperator):
    """Σ = Σ_n w_n (g_n - ḡ)(g_n - ḡ)ᵀ: the covariance of per-item gradients, ḡ = Σ_n w_n g_n.

    Items, weights w_n, gradients g_n and units are those of `EmpiricalFisher`: it is the covariance
    of the gradient of one item that is drawn with its weight. Costs one product of the empirical
    Fisher, and one gradient once; the gradient is taken anew when the parameters have changed.

    Raises:
        ValueError: as for `EmpiricalFisher`.

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
        super().__init__(problem)
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


def shares_of_examples(problem: Problem, batch: Batch, num: int) -> Tensor:
    """What `count` counts in each of the num examples of a batch over what it counts in all.

    Raises:
        ValueError: if the batch cannot be cut into num examples, or the counts do not add up.
    """
    counts = torch.ones(num, dtype=torch.float64)
    if _examples(batch) == num:
        each = (take(batch.content, slice(i, i + 1)) for i in range(num))
        counts = counts.new_tensor([float(problem.batches.count_of(one)) for one in each])
    if abs(float(counts.sum()) - batch.count) > 1e-5 * batch.count:
        msg = (
            f"`count` gives {batch.count:g} for batch {batch.index} and {float(counts.sum()):g} "
            f"for its {num} output rows one by one, so nobody can tell how much each counts. Give "
            "a `count` that adds up over examples, or a loss that counts its own items "
            "(F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits)."
        )
        raise ValueError(msg)
    return counts / counts.sum()


def _examples(batch: Batch) -> int | None:
    try:
        return num_examples(batch.content)
    except ValueError:  # they cannot be told apart: each output row must count one
        return None


def _rank_one(c: Tensor, U: Tensor) -> Tensor:
    return c * (c * U).sum(1, keepdim=True)
