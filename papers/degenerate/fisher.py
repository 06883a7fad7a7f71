"""Where the Fisher information is singular."""

from __future__ import annotations

import torch
from common.claims import NO, PARTLY, YES, Claim, spread
from common.data import digits
from common.keeping import Arrays, Run
from common.study import Section, table
from torch import Tensor, nn

import hesscope as hs
from degenerate.settings import Sizes

ZERO = 1e-10  # of the largest eigenvalue
NEEDED = 2  # units of the teacher
INPUTS = 3


def measure(run: Run, sizes: Sizes) -> Section:
    """Students at the truth and elsewhere, a classifier of digits, and a regular model."""
    key = (sizes.students, sizes.seeds, sizes.iterations)
    found = run.arrays("fisher", key, lambda: _counts(sizes))
    return Section(_text(found), [singular(found)], None, {"zeros": found})


def _counts(sizes: Sizes) -> Arrays:
    """Rows (zeros, n) for each seed of each case."""
    cases: dict[str, list[tuple[int, int]]] = {}
    for seed in range(sizes.seeds):
        cases.setdefault("regression", []).append(zeros(_regression(seed)))
        for width in sizes.students:
            cases.setdefault(f"at the truth, {width} units", []).append(zeros(student(width, seed)))
            away = zeros(student(width, seed, at_truth=False))
            cases.setdefault(f"anywhere, {width} units", []).append(away)
        cases.setdefault("digits", []).append(zeros(_digits(seed, 10 * sizes.iterations)))
    return {name: torch.tensor(rows) for name, rows in cases.items()}


def zeros(problem: hs.Problem) -> tuple[int, int]:
    """(eigenvalues of the Fisher matrix that are zero, all of them)."""
    values = hs.spectrum(hs.Fisher(problem), check=False).eigenvalues
    return int((values <= ZERO * values[-1]).sum()), problem.n


def _normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _regression(seed: int) -> hs.Problem:
    """Linear, as many inputs as have a meaning of their own: regular."""
    X = _normal(seed, 100, INPUTS)
    return hs.Problem(nn.Linear(INPUTS, 1).double(), nn.MSELoss(), (X, X.sum(1, keepdim=True)))


def student(width: int, seed: int, *, at_truth: bool = True) -> hs.Problem:
    """A student of tanh units; at the truth all but the teacher's two weigh nothing."""
    X = _normal(100 + seed, 200, INPUTS)
    net = nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh(), nn.Linear(width, 1)).double()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(_normal(200 + 10 * seed + i, *parameter.shape))
        if at_truth:
            net[2].weight[:, NEEDED:] = 0.0
        T = net(X)
    return hs.Problem(net, nn.MSELoss(), (X, T))


def _digits(seed: int, steps: int) -> hs.Problem:
    """A classifier with ReLU, trained."""
    X, y = digits(examples=200, pool=4)
    net = hs.ensemble.initialise((49, 10, 10), 1, seed=seed).member(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps // 4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
    return hs.Problem(net, nn.CrossEntropyLoss(), (X, y))


def singular(found: Arrays) -> Claim:
    """Yes if singular on digits and at the truth of every student that has more units than needed.

    In part if it is in some of these.
    """
    cases = [name for name in found if name == "digits" or "truth" in name]
    cases = [name for name in cases if f", {NEEDED} units" not in name]
    often = {name: float((found[name][:, 0] > 0).double().mean()) for name in cases}
    holds = YES if min(often.values()) == 1 else PARTLY if max(often.values()) > 0 else NO
    share = torch.cat([found[name][:, 0] / found[name][:, 1] for name in cases])
    exact = f"at the truth, {NEEDED} units"
    alone = (
        f", with no unit too many {int(found[exact][:, 0].max())} zeros" if exact in found else ""
    )
    return Claim(
        "The Fisher information is singular",
        f"zeros are {spread(share)} of its eigenvalues on digits and where a student has more "
        f"units than its teacher{alone}; at random parameters {_elsewhere(found)}, in linear "
        f"regression {spread(found['regression'][:, 0].double())}",
        holds,
        "sagun/singular-fisher",
        tuple(f"{name} {share:.0%}" for name, share in often.items()) if holds == NO else (),
    )


def _elsewhere(found: Arrays) -> str:
    return spread(torch.cat([x[:, 0] for name, x in found.items() if "anywhere" in name]).double())


def _text(found: Arrays) -> str:
    rows = [[name, str(int(x[0, 1])), spread(x[:, 0].double())] for name, x in found.items()]
    return (
        f"Eigenvalues of the Fisher matrix below {ZERO:g} of the largest "
        f"(`hs.spectrum(hs.Fisher(problem))`). Students have {INPUTS} inputs, tanh units and one "
        f"output; their teacher has {NEEDED} units. At the truth the units that are too many weigh "
        f"nothing, so that what goes into them is free: {INPUTS + 1} zeros for each. Anywhere else "
        "the same network is regular, which is why the theory of singular models looks at the "
        "truth (Watanabe 2007). The digits' zeros come from pixels that are always white, scaling "
        "of ReLU units, dead units and softmax.\n\n" + table(["network", "n", "zeros"], rows)
    )
