"""Truncated Newton, or Hessian-free optimisation (Martens 2010)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hesscope.curvature.gauss_newton import GaussNewton
from hesscope.curvature.hessian import Hessian
from hesscope.curvature.shared import SharedOperator
from hesscope.krylov.subspace import Subspace
from hesscope.operator import SymmetricOperator, norm
from hesscope.optim.arguments import check_count
from hesscope.optim.newton import Model, Newton
from hesscope.problem.problem import Problem

Curvature = Literal["ggn", "hessian"]
KINDS: dict[str, type[SharedOperator]] = {"ggn": GaussNewton, "hessian": Hessian}
PROGRESS = 5e-4  # of the model's value, per iteration: with less, CG ends
LEAST, SHARE = 10, 0.1  # iterations over which progress is seen, and their share of all


class NewtonCG(Newton):
    """Newton steps solved by conjugate gradients on curvature products (Martens 2010).

        (A + damping I) d = -g,  A = Gauss-Newton matrix (or Hessian) of the problem
        θ ← θ + lr t d

    The gradient g is what `.grad` holds; A, and the loss that judges d, are those of the problem's
    data, or of the `batch` given to `step`, which may be smaller, and should be the same for g and
    A where it is small. From the paper, by sections:

        4.4  CG ends at iteration i when the model's value q(d) has gained less than k 5e-4 of
             itself in the last k = max(10, i/10) iterations, or after `max_matvecs` products.
        4.1  ρ = (L(θ + d) - L(θ))/q(d): below 1/4 damping ← 3/2 damping, above 3/4 2/3 damping;
             q is the undamped model.
        4.5  CG starts from the last d. Here d is a direction of the subspace and the best
             multiple of it is taken, so that no decay of it has to be chosen.
        4.6  d is shortened until L(θ + t d) ≤ L(θ) + 0.01 t g·d. But first d is solved again with
             more damping, up to 5 times: the subspace that was paid for serves any damping, and
             costs no product but one loss each. If nothing lowers the loss, θ stays.

    The subspace is kept, which makes CG in float32 as good as in exact arithmetic: 2 `max_matvecs`
    vectors of length n. There is no preconditioner (4.7). A step costs a gradient, a product per
    iteration (Gauss-Newton: about 1.4 gradients, Hessian: 2) and 2 losses or some more;
    `param_groups[0]` counts: num_steps, num_matvecs, num_losses, num_rejected (θ stayed).

    Where the Hessian has negative curvature in the subspace, CG stops and the d before it is taken,
    as in Dembo and Steihaug (1983); in the first direction d = -g/(|curvature| + damping). So
    "hessian" makes no use of such directions: `SaddleFreeNewton` does.

    Args:
        problem: model, loss, and the data of the curvature. Its θ is the only parameter group.
        lr: scales the step that was accepted; schedulers may change it.
        damping: at the start, in units of the curvature; kept in `param_groups[0]["damping"]`.
        curvature: "ggn", which is positive semidefinite, or "hessian".
        max_matvecs: products a step, at most.

    Gradients and curvature have to be of one function. So: a penalty (weight decay) belongs into
    the problem's loss. Problems run the model in evaluation mode: take gradients in it, too; for
    BatchNorm by the batch make the problem with `training=True` and give `step` the batch that the
    gradients are from. Dropout then has masks of its own: take the gradients in evaluation mode.

    Raises:
        ValueError: if an argument is out of range, the problem cannot be moved, or it has no
            Gauss-Newton matrix (made from a closure: curvature="hessian").

    >>> import torch, hesscope as hs
    >>> from torch.nn import functional as F
    >>> _ = torch.manual_seed(0)
    >>> x, model = torch.randn(20, 2), torch.nn.Linear(2, 1, bias=False)
    >>> y = x @ torch.tensor([[1.0], [2.0]])
    >>> newton = hs.optim.NewtonCG(hs.Problem(model, F.mse_loss, (x, y)), damping=1e-6)
    >>> F.mse_loss(model(x), y).backward()
    >>> newton.step()  # quadratic: one is enough
    >>> model.weight.detach().round(decimals=4)
    tensor([[1., 2.]])
    """

    def __init__(
        self,
        problem: Problem,
        lr: float = 1.0,
        *,
        damping: float = 1.0,
        curvature: Curvature = "ggn",
        max_matvecs: int = 50,
    ) -> None:
        if curvature not in KINDS:
            msg = f"curvature={curvature!r}; choose 'ggn' or 'hessian'."
            raise ValueError(msg)
        self.curvature = curvature
        super().__init__(problem, lr, damping, check_count("max_matvecs", max_matvecs, least=2))

    def _operator(self, problem: Problem) -> SharedOperator:
        """G or H."""
        return KINDS[self.curvature](problem)

    def _curvatures(self, theta: np.ndarray, damping: float) -> np.ndarray:
        """The eigenvalues themselves; |θ| for the one direction that may be all there is."""
        return _positive(theta, damping)

    def _model(self, A: SymmetricOperator, b: Tensor, damping: float) -> Model:
        """The space of conjugate gradients from the last d."""
        space = _Space(A, b, damping)
        last = self._last()
        if last is not None:
            space.add(last)
            if space.indefinite:
                space = _Space(A, b, damping, spent=1)
        values: list[float] = []
        while space.num_matvecs < self.max_matvecs and not space.indefinite:
            y, r = space.solution()
            values.append(-float(space.b @ y) / 2)
            if _settled(values) or not space.add(r, float(np.linalg.norm(y))):
                break
        return space.model()

    def _last(self) -> Tensor | None:
        """d of the last step."""
        pieces = [self.state[p].get("direction") for p in self.param_groups[0]["params"]]
        return None if None in pieces else torch.cat([piece.flatten() for piece in pieces])

    def _remember(self, parameters: list[Tensor], pieces: Sequence[Tensor]) -> None:
        """Where CG starts next."""
        for p, piece in zip(parameters, pieces, strict=True):
            self.state[p]["direction"] = piece.clone()

    def __getstate__(self) -> dict[str, Any]:
        """With the kind of curvature."""
        return {**super().__getstate__(), "curvature": self.curvature}


def _settled(values: list[float]) -> bool:
    """Whether the model's value hardly falls any more (Martens 2010, section 4.4).

    >>> _settled([0.0] + 10 * [-1.0]), _settled([0.0] + 11 * [-1.0])
    (False, True)
    """
    i = len(values) - 1
    k = max(LEAST, math.ceil(SHARE * i))
    return i > k and values[i] < 0 and (values[i] - values[i - k]) / values[i] < k * PROGRESS


def _positive(theta: np.ndarray, damping: float) -> np.ndarray:
    """Eigenvalues; |θ| where θ + damping would be negative, by rounding or in one direction."""
    return np.where(theta + damping > 0, theta, np.abs(theta))


class _Space:
    """The subspace of conjugate gradients, grown by residuals, and the system in it."""

    def __init__(self, A: SymmetricOperator, b: Tensor, damping: float, spent: int = 0) -> None:
        self.space, self.vector, self.damping, self.spent = Subspace(A), b, damping, spent
        self.b = np.zeros(0)
        self.indefinite = False

    @property
    def num_matvecs(self) -> int:
        """Products, with those of a space that was given up."""
        return self.space.num_matvecs + self.spent

    def solution(self) -> tuple[np.ndarray, Tensor]:
        """y with (T + damping I) y = Qᵀb, and the residual b - (A + damping I) Q y."""
        theta, S = np.linalg.eigh(self.space.T)
        y = S @ ((S.T @ self.b) / (_positive(theta, self.damping) + self.damping))
        column = torch.from_numpy(y[:, None])
        image = self.space.AQ.combine(column) + self.damping * self.space.Q.combine(column)
        return y, self.vector - image[:, 0]

    def add(self, v: Tensor, length: float = 0.0) -> bool:
        """Takes in a residual at a d of some length, if it is more than rounding; says whether."""
        A, space = self.space.A, self.space
        noise = A.product_noise(space.scale + self.damping) * length
        if len(space) == A.n or norm(A, v) <= noise or not space.add(v):
            return False
        q = space.Q[len(space) - 1]
        self.b = np.append(self.b, float(A.inner(q[:, None], self.vector[:, None])))
        if A.lower_bound < 0:
            self.indefinite = bool(np.linalg.eigvalsh(space.T)[0] + self.damping <= space.noise)
        return True

    def model(self) -> Model:
        """Without the last direction, if that made it indefinite and is not the only one."""
        m = len(self.b) - int(self.indefinite and len(self.b) > 1)
        return Model.within(self.space, self.b[:m], self.num_matvecs)
