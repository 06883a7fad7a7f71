"""Changes of the parameters that leave a network what it is, whatever the data: its symmetries.

Each multiplies groups of parameters by e^{±t}, or shifts them. Which layer feeds which is guessed
from the order of the modules and then tried: what changes the loss is no symmetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hesscope import probes, rounding
from hesscope.landscape.height import height
from hesscope.problem.problem import Problem

Part = tuple[str, int, int, int]  # parameter, its dimension, entries of it for a unit, sign of t
TRIED = (0.4, -0.7)  # t at which a guess is tried


@dataclass(frozen=True)
class Symmetry:
    """A family of changes with a free number for each unit: W e^{±t_i}, or b + t."""

    name: str
    dimensions: int  # of independent numbers
    parts: tuple[Part, ...]
    shifts: bool = False

    def moved(self, problem: Problem, theta: Tensor, u: Tensor, t: float) -> Tensor:
        """Theta (n,) after a change of t·u, u (dimensions,)."""
        pieces = dict(zip(problem.layout.names, problem.layout.split(theta.clone()), strict=True))
        step = (t * u).to(theta)
        for name, dim, repeats, sign in self.parts:
            along = step.repeat_interleave(repeats)
            shape = [1] * pieces[name].ndim
            shape[dim] = -1
            if self.shifts:
                pieces[name] += sign * along.view(shape)
            else:
                pieces[name] *= torch.exp(sign * along).view(shape)
        return torch.cat([piece.reshape(-1) for piece in pieces.values()])


def symmetries(problem: Problem) -> list[Symmetry]:
    """The families of the problem's network that leave its loss to rounding where it is.

    Costs three losses for each guess: pairs of layers in a row, softmax, attention.
    """
    theta, loss = problem.theta, problem.loss()
    tolerance = rounding.half_the_digits(problem.dtype) * max(abs(loss), 1.0)
    found = []
    for guess in _guesses(problem):
        draws = [_drawn(guess, problem, i) for i in range(len(TRIED))]
        moved = [guess.moved(problem, theta, u, t) for u, t in zip(draws, TRIED, strict=True)]
        if all(torch.equal(there, theta) for there in moved):
            continue  # all of these parameters are zero
        if all(abs(height(problem, there) - loss) <= tolerance for there in moved):
            found.append(guess)
    return found


def _drawn(guess: Symmetry, problem: Problem, seed: int) -> Tensor:
    return probes.gaussian(guess.dimensions, seed, dtype=problem.dtype, device=problem.device)


def _guesses(problem: Problem) -> Iterator[Symmetry]:
    """Every family that the kinds and the order of the modules suggest."""
    known = set(problem.layout.names)
    modules = [(n, m) for n, m in problem.model.named_modules() if is_layer(m) or is_norm(m)]
    weighted = [(i, n, m) for i, (n, m) in enumerate(modules) if is_layer(m)]
    guesses: list[Symmetry | None] = []
    for (i, name, layer), (j, after, following) in pairwise(weighted):
        between = [(n, m) for n, m in modules[i + 1 : j] if is_norm(m)]
        scaled = between[-1] if between else (name, layer)
        guesses.append(_rescaling(scaled, (after, following)))
        if between:
            guesses.append(_before_norm(name, layer, between[0]))
    if weighted:
        guesses += _shifts(*weighted[-1][1:])
    guesses += [g for n, m in problem.model.named_modules() for g in _attention(n, m)]
    for guess in guesses:
        if guess is not None and all(part[0] in known for part in guess.parts):
            yield guess


def _rescaling(scaled: tuple[str, nn.Module], after: tuple[str, nn.Module]) -> Symmetry | None:
    """Units of one layer times c, what the next makes of them over c: exact for ReLU and linear."""
    (name, layer), (other, following) = scaled, after
    units, inputs = num_outputs(layer), num_inputs(following)
    if getattr(following, "groups", 1) != 1 or not units or inputs % units:
        return None
    parts = _own(name, layer)
    parts.append((f"{other}.weight".lstrip("."), input_dim(following), inputs // units, -1))
    return Symmetry(f"rescaling {name} -> {other}", units, tuple(parts))


def _before_norm(name: str, layer: nn.Module, norm: tuple[str, nn.Module]) -> Symmetry | None:
    """Weights before a normalisation times c: undone by it, up to its ε."""
    per_channel = isinstance(norm[1], _BatchNorm)
    units = num_outputs(layer)
    if per_channel:
        return Symmetry(f"scale before {norm[0]}", units, tuple(_own(name, layer)))
    parts = tuple((part, dim, units, sign) for part, dim, _, sign in _own(name, layer))
    return Symmetry(f"scale before {norm[0]}", 1, parts)


def _shifts(name: str, layer: nn.Module) -> list[Symmetry]:
    """The same added to all outputs, constant or linear in the inputs: no softmax sees it."""
    if not isinstance(layer, nn.Linear):
        return []
    weight, bias = (f"{name}.{key}".lstrip(".") for key in ("weight", "bias"))
    label = "softmax shift of"
    found = [Symmetry(f"{label} {weight}", layer.in_features, ((weight, 1, 1, 1),), shifts=True)]
    if layer.bias is not None:
        part = (bias, 0, layer.out_features, 1)
        found.append(Symmetry(f"{label} {bias}", 1, (part,), shifts=True))
    return found


def _attention(name: str, module: nn.Module) -> list[Symmetry]:
    """Queries times c and keys over c; values times c and what is made of them over c."""
    keys = [("q_proj", "k_proj"), ("query", "key"), ("q_lin", "k_lin"), ("v_proj", "out_proj"),
            ("v_proj", "o_proj"), ("v_lin", "out_lin")]  # fmt: skip
    found = []
    for a, b in keys:
        first, second = getattr(module, a, None), getattr(module, b, None)
        if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
            continue
        units = first.out_features
        one, two = (f"{name}.{key}".lstrip(".") for key in (a, b))
        if a.startswith("v"):
            if second.in_features == units:
                parts = (*_own(one, first), (f"{two}.weight", 1, 1, -1))
                found.append(Symmetry(f"attention {one} -> {two}", units, parts))
        elif second.out_features == units:
            theirs = [(part, dim, rep, -sign) for part, dim, rep, sign in _own(two, second)]
            label = f"attention {one} against {two}"
            found.append(Symmetry(label, units, (*_own(one, first), *theirs)))
            whole = tuple((p, d, units, s) for p, d, _, s in (*_own(one, first), *theirs))
            found.append(Symmetry(f"{label}, as a whole", 1, whole))
    return found


def _own(name: str, layer: nn.Module) -> list[Part]:
    """Weight and bias of a layer, a unit at a time, in the direction of t."""
    dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
    parts = [(f"{name}.weight".lstrip("."), dim, 1, 1)]
    if getattr(layer, "bias", None) is not None:
        parts.append((f"{name}.bias".lstrip("."), 0, 1, 1))
    return parts


def is_layer(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution."""
    return isinstance(module, (nn.Linear, _ConvNd))


def is_norm(module: nn.Module) -> bool:
    """Whether it normalises, and has gains."""
    kinds: Sequence[type] = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return isinstance(module, tuple(kinds)) and getattr(module, "weight", None) is not None


def num_outputs(layer: nn.Module) -> int:
    """The units of a layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[1 if isinstance(layer, _ConvTransposeNd) else 0]


def num_inputs(layer: nn.Module) -> int:
    """What it reads."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[input_dim(layer)]


def input_dim(layer: nn.Module) -> int:
    """The dimension of its weight that belongs to what it reads."""
    return 0 if isinstance(layer, _ConvTransposeNd) else 1
