"""Are quasi-Newton methods drawn to saddles? Where they end, beside Newton's method and descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common.claims import NO, PARTLY, YES, Claim
from common.keeping import Arrays, Run
from common.study import Section, table
from scipy.optimize import minimize
from torch import Tensor

from stationary import finder, leaving
from stationary.networks import Setting, setting
from stationary.settings import Sizes

ENDED = 1e-6  # gradient norm
BESIDE = 1e-3  # distance from a saddle, of the second kind of start
METHODS = "BFGS", "L-BFGS"
STARTS = "random", "beside a saddle", "all units alike"


def measure(run: Run, sizes: Sizes) -> Section:
    """Every network with one hidden layer."""
    names = [name for name in sizes.networks if setting(name).activation != "identity"]
    found = {name: _of(run, sizes, name) for name in names}
    return Section(_text(found), [drawn(found)], numbers={"ends": found})


def _of(run: Run, sizes: Sizes, name: str) -> Arrays:
    """For each method and start: shares that end, and that end at a strict saddle: (starts, 2)."""
    on, num = setting(name), sizes.runs
    saddles = leaving.chosen(run, sizes, name)["theta"]
    key = (on.words, saddles.norm(dim=1).tolist(), num, sizes.quasi_steps, ENDED, BESIDE)

    def job() -> Arrays:
        starts = [on.starts(num, seed=4), _beside(saddles, num), alike(on, on.starts(num, seed=5))]
        ways: dict[str, Any] = {
            "BFGS": lambda t: _bfgs(on, t, sizes.quasi_steps),
            "L-BFGS": lambda t: _lbfgs(on, t, sizes.quasi_steps),
            "gradient descent": lambda t: on.trained(t, sizes.quasi_steps * 20).ensemble.theta,
            "Newton": lambda t: newton(on, t, min(100, sizes.quasi_steps)),
        }
        return {
            name: torch.stack([torch.stack(ended(on, way(start))) for start in starts])
            for name, way in ways.items()
        }

    return run.arrays(f"quasi/{name}", key, job)


def _beside(saddles: Tensor, num: int) -> Tensor:
    """At random points around saddles."""
    rows = saddles[torch.arange(num) % len(saddles)]
    generator = torch.Generator().manual_seed(13)
    z = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    return rows + BESIDE * z / z.norm(dim=1, keepdim=True)


def alike(on: Setting, theta: Tensor) -> Tensor:
    """Every hidden unit like the first: what gradients, and sums of them, leave so."""
    d, h, o = on.layers
    W, b, V, c = theta.split([d * h, h, h * o, o], dim=1)
    W = W.reshape(-1, h, d)[:, :1].expand(-1, h, d).flatten(1)
    V = V.reshape(-1, o, h)[:, :, :1].expand(-1, o, h).flatten(1)
    return torch.cat([W, b[:, :1].expand(-1, h), V, c], dim=1)


def _bfgs(on: Setting, starts: Tensor, most: int) -> Tensor:
    """SciPy's, with a line search of Wolfe's conditions."""
    options = {"maxiter": most, "gtol": ENDED / 100}
    both = with_gradient(on)
    ends = [minimize(both, t.numpy(), jac=True, method="BFGS", options=options).x for t in starts]
    return torch.stack([torch.from_numpy(end) for end in ends])


def _lbfgs(on: Setting, starts: Tensor, most: int) -> Tensor:
    """torch's, with its line search of Wolfe's conditions."""
    both, ends = with_gradient(on), []
    for start in starts:
        theta = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.LBFGS(
            [theta], max_iter=most, max_eval=3 * most, tolerance_grad=ENDED / 100,
            tolerance_change=0.0, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure(theta: Tensor = theta) -> Tensor:
            loss, gradient = both(theta.detach().numpy())
            theta.grad = torch.from_numpy(gradient)
            return torch.tensor(loss, dtype=torch.float64)

        optimizer.step(closure)
        ends.append(theta.detach())
    return torch.stack(ends)


def with_gradient(on: Setting) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The loss of one network with its gradient, by NumPy: small networks are called often."""
    d, h, o = on.layers
    X, T = on.X.numpy(), on.T.numpy()
    cuts = np.cumsum([d * h, h, h * o])

    def both(theta: np.ndarray) -> tuple[float, np.ndarray]:
        W, b, V, c = np.split(theta, cuts)
        W, V = W.reshape(h, d), V.reshape(o, h)
        A = np.tanh(X @ W.T + b)
        R = A @ V.T + c - T
        G = 2 * R / R.size
        D = (G @ V) * (1 - A * A)
        parts = (D.T @ X).ravel(), D.sum(0), (G.T @ A).ravel(), G.sum(0)
        return float((R * R).mean()), np.concatenate(parts)

    return both


def newton(on: Setting, theta: Tensor, steps: int) -> Tensor:
    """θ - H⁺ g with full steps: to whatever critical point is near."""
    for _ in range(steps):
        H, g = on.hessians(theta), on.gradients(theta)
        finite = theta.isfinite().all(1) & (theta.norm(dim=1) < 1e6)
        H = torch.where(finite[:, None, None], H, 0.0)
        step = (torch.linalg.pinv(H, rtol=1e-10, hermitian=True) @ g[:, :, None])[:, :, 0]
        theta = torch.where(finite[:, None], theta - step, theta)
    return theta


def ended(on: Setting, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of runs that ended at a critical point, and at a strict saddle."""
    there = (on.gradients(theta).norm(dim=1) < ENDED) & (theta.norm(dim=1) < 1e3)
    H = torch.where(there[:, None, None], on.hessians(theta), 0.0)
    saddle = there & (finder.index(torch.linalg.eigvalsh(H)) > 0)
    return there.double().mean(), saddle.double().mean()


def drawn(found: dict[str, Arrays]) -> Claim:
    """Yes if half of the runs from random starts end at saddles, with both methods and everywhere.

    No if, from no kind of start, they do so in more than 10 points more runs than gradient descent
    does (shares over all settings); else in part.
    """
    shares = {
        way: torch.stack([f[way][:, 1] for f in found.values()]).mean(0)
        for way in (*METHODS, "gradient descent", "Newton")
    }
    random = torch.stack([f[way][0, 1] for f in found.values() for way in METHODS])
    worst = torch.maximum(shares["BFGS"], shares["L-BFGS"])
    if float(random.min()) >= 0.5:
        holds = YES
    else:
        holds = NO if bool((worst <= shares["gradient descent"] + 0.1).all()) else PARTLY
    each = tuple(
        f"{start}: " + ", ".join(f"{way} {float(share[i]):.0%}" for way, share in shares.items())
        for i, start in enumerate(STARTS)
    )
    return Claim(
        "Quasi-Newton methods are drawn to saddle points",
        "share of runs that end at a strict saddle, gradient norm below 1e-6"
        + (", no more than of gradient descent" if holds == NO else f", {'; '.join(each)}"),
        holds,
        "landscapes/quasi-newton",
        each if holds == NO else (),
    )


def _text(found: dict[str, Arrays]) -> str:
    rows = []
    for name, f in found.items():
        for way in (*METHODS, "gradient descent", "Newton"):
            cells = [f"{float(s):.0%} of {float(e):.0%}" for e, s in f[way].tolist()]
            rows.append([name, way, *cells])
    return (
        "Shares of runs that end at a strict saddle, of those that end (gradient norm below "
        f"{ENDED:g}), both of all runs. BFGS (SciPy's) and L-BFGS (torch's) keep their matrices "
        "positive definite, so that each step goes down, and a saddle repels them as it repels "
        "descent. Newton takes full steps -H⁻¹g, which go to critical points of every kind. From "
        "units that are all alike no gradient tells them apart, and every method stays among such "
        "networks, "
        "whose minima are saddles of the whole.\n\n" + table(["setting", "method", *STARTS], rows)
    )
