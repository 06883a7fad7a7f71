"""Directions in which a loss is looked at: random, eigenvectors, steps, trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.optim import Optimizer

from hesscope import probes
from hesscope.curvature.hessian import Hessian
from hesscope.krylov.eigsh import eigsh
from hesscope.landscape.ends import EndLike, end_of
from hesscope.problem.checkpoints import checkpoints_in
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.results.slices import Directions
from hesscope.results.spectrum import Eigenpairs
from hesscope.steps.update import update
from hesscope.system.contexts import public

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
KINDS = ("random", "filter", "layer", "eigen", "gradient", "update", "trajectory")
LENGTH = "length 1 in parameter space"
RELATIVE = "the length of the weights, {} by {}"


@public
def directions(
    problem: Problem,
    kind: str = "filter",
    num: int = 2,
    *,
    seed: int = 0,
    pairs: Eigenpairs | None = None,
    optimizer: Optimizer | None = None,
    thetas: Sequence[EndLike] | str | Path | None = None,
) -> Directions:
    """One or two directions at theta, with what a step of 1 along them means.

    - "random": Gaussian, of length 1. In n dimensions it meets the mean curvature tr H/n and
      hardly ever an outlier.
    - "filter": Gaussian, with each filter as long as the weights' own (Li et al. 2018, section 4):
      rows of linear layers and embeddings, output channels of convolutions. Biases and
      normalisation layers stay. 1 is a relative step of 100 %, the same for networks that differ by
      a rescaling of filters that the network undoes.
    - "layer": the same for whole tensors.
    - "eigen": eigenvectors of the Hessian of the largest eigenvalues (or the first of `pairs`), of
      length 1, never rescaled: the curvature drawn is the eigenvalue.
    - "gradient": of length 1.
    - "update": the optimiser's own next step, in its own length: 1 is that step.
    - "trajectory": principal directions of points of training, seen from theta, of length 1, with
      the share of the variance along each (Li et al. 2018, section 7). Two directions of a random
      walk hold most of its variance, too (Antognini and Sohl-Dickstein 2018).

    Args:
        problem: with its model where the picture is to be taken.
        kind: one of the above.
        num: 1 or 2; gradient and update have one.
        seed: of random directions.
        pairs: of `hs.eigsh`, which else is called.
        optimizer: for "update".
        thetas: for "trajectory": vectors, networks, problems, state dicts or files of weights, two
            at least, or a folder of such files with the step in their names.

    Raises:
        ValueError: if the kind is unknown, or what it needs is not given or does not fit.

    >>> import torch, hesscope as hs
    >>> bowl = hs.Problem.from_function(lambda t: 3 * t[0] ** 2 + t[1] ** 2, torch.ones(2).double())
    >>> hs.directions(bowl, "eigen", 1).eigenvalues
    tensor([6.], dtype=torch.float64)
    """
    if kind not in KINDS:
        msg = f"kind={kind!r} is none of {', '.join(KINDS)}."
        raise ValueError(msg)
    most = 1 if kind in ("gradient", "update") else 2
    if num not in (1, 2) or problem.n < num:
        msg = f"num={num}; give one or two directions, of a problem with as many parameters."
        raise ValueError(msg)
    num = min(num, most)
    if kind in ("random", "filter", "layer"):
        return _random(problem, kind, num, seed)
    if kind == "eigen":
        return _eigen(problem, num, pairs)
    if kind == "trajectory":
        return _trajectory(problem, num, thetas)
    return _downhill(problem, kind, optimizer)


def as_directions(problem: Problem, given: Any, seed: int) -> Directions:
    """What was given as directions of a slice.

    Raises:
        ValueError: if it is nothing of the kind.
    """
    if isinstance(given, Directions):
        found = given
    elif isinstance(given, str):
        found = directions(problem, given, seed=seed)
    elif isinstance(given, Eigenpairs):
        found = directions(problem, "eigen", min(2, len(given)), pairs=given)
    elif isinstance(given, Tensor):
        vectors = given[:, None] if given.ndim == 1 else given
        names = tuple(f"direction {i + 1}" for i in range(vectors.shape[-1]))
        found = Directions(vectors.detach(), names, "the given vector")
    else:
        found = _side_by_side(
            [
                as_directions(problem, g, probes.key(seed, "directions", i))
                for i, g in enumerate(_listed(given))
            ]
        )
    V = found.vectors
    if V.ndim != 2 or V.shape[0] != problem.n or V.shape[1] not in (1, 2):
        msg = (
            f"directions of shape {tuple(V.shape)} do not fit; give (n,), (n, 1) or (n, 2) with "
            f"n={problem.n}, a kind ({', '.join(KINDS)}), two of those, or eigenpairs."
        )
        raise ValueError(msg)
    if not bool(V.isfinite().all()) or not bool((found.lengths > 0).all()):
        msg = f"a direction is zero or not finite (lengths {found.lengths.tolist()})."
        raise ValueError(msg)
    return found


def _listed(given: Any) -> Sequence[Any]:
    if isinstance(given, (list, tuple)) and 1 <= len(given) <= 2:
        return given
    msg = f"directions={given!r}; give a kind ({', '.join(KINDS)}), one or two of them, or vectors."
    raise ValueError(msg)


def _side_by_side(parts: list[Directions]) -> Directions:
    """The first direction of each."""
    eigenvalues = [p.eigenvalues[:1] if p.eigenvalues is not None else None for p in parts]
    known = any(e is not None for e in eigenvalues)
    nothing = torch.tensor([torch.nan], dtype=torch.float64)
    return Directions(
        torch.stack([p.vectors[:, 0] for p in parts], dim=1),
        tuple(p.names[0] for p in parts),
        "; ".join(dict.fromkeys(p.unit for p in parts)),
        torch.cat([nothing if e is None else e for e in eigenvalues]) if known else None,
        num_matvecs=sum(p.num_matvecs for p in parts),
    )


def _random(problem: Problem, kind: str, num: int, seed: int) -> Directions:
    columns = []
    for i in range(num):
        drawn = probes.gaussian(
            problem.n,
            probes.key(seed, "random direction", i),
            dtype=problem.dtype,
            device=problem.device,
        )
        columns.append(drawn / drawn.norm() if kind == "random" else _scaled(problem, kind, drawn))
    vectors = torch.stack(columns, dim=1)
    if not bool((vectors.norm(dim=0) > 0).all()):
        msg = (
            f"kind={kind!r} moves no parameter: all are biases, belong to normalisation layers or "
            "are zero. Use kind='random'."
        )
        raise ValueError(msg)
    unit = LENGTH if kind == "random" else RELATIVE.format(kind, kind)
    label = "random" if kind == "random" else f"{kind}-normalised"
    names = tuple(f"{label} {i + 1}" if num > 1 else label for i in range(num))
    return Directions(vectors, names, unit)


def _scaled(problem: Problem, kind: str, drawn: Tensor) -> Tensor:
    """Each filter, or tensor, as long as that of the weights; biases and norms zero."""
    owners = _owners(problem.model)
    split = problem.layout.split
    pieces = []
    for name, d, w in zip(problem.layout.names, split(drawn), split(problem.theta), strict=True):
        owner = owners.get(name)
        if w.ndim < 2 or isinstance(owner, NORMS):
            pieces.append(torch.zeros_like(d))
        elif kind == "layer":
            pieces.append(d * (w.norm() / d.norm()))
        else:
            filters = 1 if isinstance(owner, _ConvTransposeNd) else 0
            rest = [i for i in range(w.ndim) if i != filters]
            sizes = torch.linalg.vector_norm(w, dim=rest, keepdim=True)
            pieces.append(d * (sizes / torch.linalg.vector_norm(d, dim=rest, keepdim=True)))
    return flatten(pieces)


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The module that holds each parameter, by the parameter's name."""
    return {
        f"{prefix}.{key}".lstrip("."): module
        for prefix, module in model.named_modules()
        for key in module._parameters
    }


def _eigen(problem: Problem, num: int, pairs: Eigenpairs | None) -> Directions:
    spent = 0
    if pairs is None:
        pairs = eigsh(Hessian(problem), k=num)
        spent = pairs.num_matvecs
    if len(pairs) < num or len(pairs.eigenvectors) != problem.n:
        msg = (
            f"pairs holds {len(pairs)} eigenvectors of length {len(pairs.eigenvectors)}; needed "
            f"are {num} of length {problem.n}."
        )
        raise ValueError(msg)
    vectors = pairs.eigenvectors[:, :num].to(problem.device, problem.dtype)
    values = pairs.eigenvalues[:num].double().cpu()
    names = tuple(f"eigenvector {i + 1} (λ = {v:.4g})" for i, v in enumerate(values.tolist()))
    return Directions(vectors, names, LENGTH, values, num_matvecs=spent)


def _trajectory(
    problem: Problem, num: int, thetas: Sequence[EndLike] | str | Path | None
) -> Directions:
    if isinstance(thetas, (str, Path)):
        thetas = checkpoints_in(thetas)
    if thetas is None or len(thetas) < 2:
        msg = "kind='trajectory' needs thetas: two points of training or more."
        raise ValueError(msg)
    origin = problem.theta
    moves = torch.stack(
        [end_of(problem, t, f"thetas[{i}]").theta - origin for i, t in enumerate(thetas)]
    )
    gram = (moves @ moves.T).double()
    values, rows = torch.linalg.eigh(gram)
    values, rows = values.flip(0).clamp(min=0), rows.flip(1)[:, :num]
    if float(values[0]) == 0 or float(values[num - 1]) <= 1e-12 * float(values[0]):
        msg = f"the trajectory spans fewer than {num} directions; ask for num=1, or more points."
        raise ValueError(msg)
    vectors = moves.T @ rows.to(moves)
    vectors = vectors / vectors.norm(dim=0)
    shares = values[:num] / values.sum()
    names = tuple(f"trajectory {i + 1} ({s:.0%})" for i, s in enumerate(shares.tolist()))
    seen = (moves @ vectors).double().cpu()
    return Directions(vectors, names, LENGTH, None, shares.cpu(), seen)


def _downhill(problem: Problem, kind: str, optimizer: Optimizer | None) -> Directions:
    g = problem.gradient()
    if kind == "gradient":
        if float(g.norm()) == 0:
            msg = "the gradient is zero here, and points nowhere; choose another kind."
            raise ValueError(msg)
        return Directions((g / g.norm())[:, None], ("gradient",), LENGTH)
    if optimizer is None:
        msg = "kind='update' needs the optimizer whose next step it is."
        raise ValueError(msg)
    step = update(problem, optimizer, g).step
    name = f"next step of {type(optimizer).__name__}"
    return Directions(step[:, None], (name,), "the step itself")
