"""What a trained network is like where it stands: λmax, trace and accuracy on test data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from flat.train import Method, Setting, train

COLUMNS = ("loss", "steps", "gradients", "lambda_max", "trace", "accuracy")
EXACT = 5_000  # parameters up to which the trace is that of the whole matrix


def measured(
    setting: Setting, method: Method, seed: int, test: tuple[Tensor, Tensor], looked_at: int
) -> dict[str, Tensor]:
    """A row of `COLUMNS` for each target; NaN where it was not reached."""
    rows = []
    for reached in train(setting, method, seed):
        model = setting.make(seed)
        model.load_state_dict(reached.state)
        found = _curvature(model, setting.X[:looked_at], setting.y[:looked_at])
        settle(model, setting)
        rows.append(
            [reached.loss, reached.steps, reached.gradients, *found, accuracy(model, *test)]
        )
    missing = len(setting.targets) - len(rows)
    rows += [[math.nan] * len(COLUMNS)] * missing
    columns = torch.tensor(rows, dtype=torch.float64).T
    return {name: column.clone() for name, column in zip(COLUMNS, columns, strict=True)}


def _curvature(model: nn.Module, X: Tensor, y: Tensor) -> tuple[float, float]:
    """λmax and trace of the Hessian of the mean loss, BatchNorm by the statistics of these data."""
    problem = hs.Problem(model, F.cross_entropy, (X, y), training=True)
    H = hs.Hessian(problem)
    top = hs.eigsh(H, 1, verify=False, tol=1e-2, max_matvecs=25, seed=0)
    if problem.n <= EXACT:
        return float(top.eigenvalues[0]), float(H.to_dense().trace())
    return float(top.eigenvalues[0]), hs.trace(H, rtol=None, max_matvecs=12, seed=0).value


def settle(model: nn.Module, setting: Setting) -> None:
    """Takes the running statistics of BatchNorm anew, over all training data at these weights."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for x in setting.X.split(setting.chunk):
            model(x)


def accuracy(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """The share of right answers, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        right = [float((model(x).argmax(1) == t).sum()) for x, t in zip(X.split(250), y.split(250), strict=True)]  # fmt: skip  # noqa: E501
    return sum(right) / len(y)
