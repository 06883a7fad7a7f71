"""Where zero eigenvalues come from: more parameters than data, symmetries; and superposition."""

from __future__ import annotations

import torch
from common.claims import NO, PARTLY, YES, Claim, spread
from common.keeping import Arrays, Run
from common.study import Section, table
from common.style import MARK, NEGATIVE, POSITIVE
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import grad, hessian, vmap

import hesscope as hs
from degenerate.settings import Sizes

INPUTS, OUTPUTS = 6, 2
EXAMPLES = (10, 200)
ACTIVATIONS = "tanh", "relu", "identity"
NAMES = {"identity": "no activation"}
ZERO = 1e-11  # of the largest eigenvalue of the Gauss-Newton matrix
FEATURES = 6
TOYS = (
    (2, 0.0),
    (2, 0.7),
    (2, 0.95),
    (3, 0.0),
    (3, 0.7),
    (3, 0.95),
)  # hidden units, share of zeros
IMPORTANCE = 0.7  # of a feature, times that of the one before
SHOWN = 0.25  # |W_i|² from which a feature is represented
TOY_ZERO = 1e-5  # of the largest eigenvalue: descent ends near a minimum, not on it


def measure(run: Run, sizes: Sizes) -> Section:
    """Counts of zeros for networks and toys."""
    key = (sizes.seeds, sizes.widths, EXAMPLES, ACTIVATIONS)
    found = run.arrays("zeros", key, lambda: _networks(sizes))
    toys = run.arrays(
        "toys", (sizes.toy_seeds, sizes.toy_steps, TOYS, IMPORTANCE), lambda: _toys(sizes)
    )
    claims = [explained(found), superposition(toys)]
    return Section(_text(found, toys), claims, draw(found, toys), {"zeros": found})


def _networks(sizes: Sizes) -> Arrays:
    """Rows (zeros, explained by data, explained by symmetry, n) of each network."""
    found: dict[str, list[list[int]]] = {}
    for activation in ACTIVATIONS:
        for width in sizes.widths:
            for examples in EXAMPLES:
                rows = [_network(activation, width, examples, seed) for seed in range(sizes.seeds)]
                found[f"{activation}, width {width}, {examples} examples"] = rows
    return {name: torch.tensor(rows) for name, rows in found.items()}


def _network(activation: str, width: int, examples: int, seed: int) -> list[int]:
    """The Gauss-Newton matrix is the Hessian at zero loss; its zeros are those of the Jacobian."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(examples, INPUTS, generator=generator, dtype=torch.float64)
    layers = (INPUTS, width, OUTPUTS)
    net = hs.ensemble.initialise(layers, 1, seed=seed, activation=activation).member(0)
    problem = hs.Problem(net, torch.nn.MSELoss(), (X, net(X).detach()))
    values = hs.spectrum(hs.GaussNewton(problem), check=False).eigenvalues
    zeros = int((values <= ZERO * values[-1]).sum())
    alive = width
    if activation == "relu":
        alive = int((net[0](X) > 0).any(0).sum())
        if alive < width:  # a dead unit's weights are free, whatever the symmetries
            return [zeros, -1, -1, problem.n]
    return [zeros, max(problem.n - examples * OUTPUTS, 0), symmetric(activation, width), problem.n]


def symmetric(activation: str, width: int) -> int:
    """Dimensions of the parameters that make one function.

    tanh has signs and permutations alone. A unit of ReLU may be scaled. Without an activation the
    network is one affine map, of rank width at most: all else is free.
    """
    if activation == "tanh":
        return 0
    if activation == "relu":
        return width
    n = width * (INPUTS + 1) + OUTPUTS * (width + 1)
    rank = min(width, INPUTS, OUTPUTS)
    return n - rank * (INPUTS + OUTPUTS - rank) - OUTPUTS


def explained(found: Arrays) -> Claim:
    """Yes if the zeros are max(n - numbers to fit, symmetries) in every network without dead units.

    In part if at least so many in all of them.
    """
    rows = torch.cat(list(found.values()))
    rows = rows[rows[:, 1] >= 0]
    most = torch.maximum(rows[:, 1], rows[:, 2])
    exact, less = rows[:, 0] == most, rows[:, 0] < most
    holds = YES if bool(exact.all()) else PARTLY if not bool(less.any()) else NO
    data = rows[:, 1] > rows[:, 2]
    return Claim(
        "Zero eigenvalues come from symmetries and from more parameters than data",
        "as many zeros as max(parameters less numbers to fit, dimensions of the symmetries) says "
        f"in {int(exact.sum())} of {len(rows)} networks, in {int((exact & data).sum())} of them by "
        f"the data, in {int((exact & ~data).sum())} by the symmetries (none, for tanh); more in "
        f"{int((~exact & ~less).sum())}",
        holds,
        "landscapes/symmetries",
        tuple(found) if holds == NO else (),
    )


def _toys(sizes: Sizes) -> Arrays:
    """(toys, seeds): features that are represented, zeros of H, the gradient that is left."""
    rows = [_toy(hidden, sparse, sizes) for hidden, sparse in TOYS]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _toy(hidden: int, sparse: float, sizes: Sizes) -> Arrays:
    """Elhage et al. 2022: x is to be read from ReLU(WᵀW x + b), with fewer rows than features."""
    generator = torch.Generator().manual_seed(15)
    X = torch.rand(400, FEATURES, generator=generator, dtype=torch.float64)
    X = X * (torch.rand(X.shape, generator=generator) >= sparse)
    importance = IMPORTANCE ** torch.arange(FEATURES, dtype=torch.float64)
    n = hidden * FEATURES + FEATURES
    theta = 0.3 * torch.randn(sizes.toy_seeds, n, generator=generator, dtype=torch.float64)

    def loss(t: Tensor) -> Tensor:
        W, b = t[: hidden * FEATURES].reshape(hidden, FEATURES), t[hidden * FEATURES :]
        return ((torch.relu(X @ W.T @ W + b) - X).square() * importance).mean()

    gradients, hessians = vmap(grad(loss)), vmap(hessian(loss))
    theta = _adam(theta, gradients, sizes.toy_steps)
    values = torch.linalg.eigvalsh(hessians(theta))
    W = theta[:, : hidden * FEATURES].reshape(-1, hidden, FEATURES)
    return {
        "represented": (W.square().sum(1) > SHOWN).sum(1),
        "zeros": (values.abs() <= TOY_ZERO * values.abs().amax(1, keepdim=True)).sum(1),
        "gradient": gradients(theta).norm(dim=1),
        "hidden": torch.full((sizes.toy_seeds,), hidden),
    }


def _adam(theta: Tensor, gradients, steps: int) -> Tensor:
    """The step size falls to zero as a cosine does."""
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        parameter.grad = gradients(parameter.detach())
        optimizer.step()
        schedule.step()
    return parameter.detach()


def superposition(toys: Arrays) -> Claim:
    """Yes if networks in superposition have more zeros than those of as many units that are not.

    In superposition: more features than units are represented. Medians are compared, for every
    number of units for which there are both; no if superposition has no more in any of them.
    """
    more, each = [], []
    for hidden in sorted(set(toys["hidden"].flatten().tolist())):
        of = toys["hidden"] == hidden
        inside = of & (toys["represented"] > hidden)
        outside = of & (toys["represented"] <= hidden)
        if bool(inside.any()) and bool(outside.any()):
            a, b = (toys["zeros"][where].double() for where in (inside, outside))
            more.append(float(a.median()) > float(b.median()))
            each.append(f"{hidden} units: {spread(a)} in superposition, {spread(b)} without")
    holds = "undecided" if not more else YES if all(more) else PARTLY if any(more) else NO
    tried = tuple(
        f"{hidden} units, {sparse:g} zeros in x: {spread(zeros.double())} zero eigenvalues, "
        f"{spread(shown.double())} features of {FEATURES}"
        for (hidden, sparse), zeros, shown in zip(
            TOYS, toys["zeros"], toys["represented"], strict=True
        )
    )
    return Claim(
        "Singularity is a sign of superposition",
        f"eigenvalues that are zero: {'; '.join(each)}",
        holds,
        "landscapes/superposition",
        tried if holds == NO else (),
    )


def draw(found: Arrays, toys: Arrays) -> Figure:
    """Zeros against what explains them, and against superposition."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for activation, colour in zip(ACTIVATIONS, (POSITIVE, NEGATIVE, MARK), strict=True):
        rows = torch.cat([x for name, x in found.items() if name.startswith(activation)])
        rows = rows[rows[:, 1] >= 0]
        left.plot(torch.maximum(rows[:, 1], rows[:, 2]), rows[:, 0], "o", ms=5, color=colour,
                  alpha=0.7, label=NAMES.get(activation, activation))  # fmt: skip
    most = max(int(x[:, 0].max()) for x in found.values())
    left.plot([0, most], [0, most], "k--", lw=0.8)
    left.set_xlabel("zeros that data or symmetries explain")
    left.set_ylabel("zeros")
    left.legend(frameon=False, fontsize=8)
    jitter = torch.linspace(-0.15, 0.15, toys["zeros"].shape[1])
    for row, (hidden, sparse) in enumerate(TOYS):
        beyond = toys["represented"][row] - hidden + jitter
        marker, label = "o" if hidden == 2 else "s", f"{hidden} units, {sparse:g} zeros in x"
        right.plot(beyond, toys["zeros"][row] + jitter, marker, ms=4, alpha=0.7, label=label)
    right.set_ylim(top=1.45 * float(toys["zeros"].max()))
    right.axvline(0.5, color="k", lw=0.8, ls="--")
    right.set_xlabel("features represented beyond the units (dots moved apart)")
    right.set_ylabel("zero eigenvalues")
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _text(found: Arrays, toys: Arrays) -> str:
    rows = []
    for name, x in found.items():
        alive = x[x[:, 1] >= 0]
        why = "dead units" if not len(alive) else f"{int(alive[0, 1])}, {int(alive[0, 2])}"
        rows.append([name, str(int(x[0, 3])), why, spread(x[:, 0].double())])
    cells = [
        [
            f"{hidden} units, {sparse:g} zeros in x",
            spread(toys["represented"][i].double()),
            spread(toys["zeros"][i].double()),
            f"{float(toys['gradient'][i].max()):.0e}",
        ]
        for i, (hidden, sparse) in enumerate(TOYS)
    ]
    first, second = (
        ["network 6-width-2", "n", "data, symmetries", "zeros"],
        ["toy", f"features of {FEATURES} represented", "zeros", "gradient, at most"],
    )
    return (
        "Targets are the network's own outputs, so that the loss is zero and the Hessian is the "
        "Gauss-Newton matrix, at random parameters and random inputs. Data explain n less the "
        "numbers to fit; the symmetries are scaling of ReLU units and, without an activation, all "
        "that leaves the affine map as it is.\n\n"
        + table(first, rows)
        + "\n\nSuperposition: toys that store more features than they have units (Elhage et al. "
        "2022), trained by Adam on 400 examples; a feature is 0.7 times as important as the one "
        "before. Rotations of the units are a symmetry of the toy, of 1 dimension for 2 units and "
        "of 3 for 3, whatever it stores.\n\n" + table(second, cells)
    )
