"""What a trained network is like where it stands: λmax, trace and accuracy on test data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from flat.train import Method, Setting, train

COLUMNS = ("loss", "steps", "gradients", "lambda_max", "trace")
MEASURES = (
    "Keskar box", "Keskar subspace", "worst in ball", "average in ball", "SAM", "ASAM", "λmax",
    "trace of H", "critical",
)  # fmt: skip
EXACT = 5_000  # parameters up to which the trace is that of the whole matrix


def measured(
    setting: Setting,
    method: Method,
    seed: int,
    tests: dict[str, tuple[Tensor, Tensor]],
    looked_at: int,
    sharp: bool,
) -> dict[str, Tensor]:
    """`COLUMNS` and the accuracy on each test set, (targets,); NaN where one was not reached.

    And if `sharp`, all measures of `hs.sharpness` at the last target.
    """
    rows, sharpness = [], [math.nan] * len(MEASURES)
    for reached in train(setting, method, seed):
        model = setting.make(seed)
        model.load_state_dict(reached.state)
        found = _curvature(model, setting.X[:looked_at], setting.y[:looked_at])
        if sharp and len(rows) == len(setting.targets) - 1:
            sharpness = _sharpness(model, setting)
        settle(model, setting)
        right = [accuracy(model, *test) for test in tests.values()]
        rows.append([reached.loss, reached.steps, reached.gradients, *found, *right])
    names = [*COLUMNS, *tests]
    rows += [[math.nan] * len(names)] * (len(setting.targets) - len(rows))
    columns = torch.tensor(rows, dtype=torch.float64).T
    result = {name: column.clone() for name, column in zip(names, columns, strict=True)}
    if sharp:
        result |= {
            name: torch.tensor([value]).double()
            for name, value in zip(MEASURES, sharpness, strict=True)
        }
    return result


def _sharpness(model: nn.Module, setting: Setting) -> list[float]:
    found = hs.sharpness(hs.Problem(model, F.cross_entropy, (setting.X, setting.y)))
    return [found[name.removesuffix(" of H")].value for name in MEASURES]


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
