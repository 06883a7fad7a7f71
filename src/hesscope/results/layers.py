"""Layer by layer: where the gradient goes, and which units and inputs take no part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hesscope.results.result import Columns, Result

SHOWN = 6  # indices of units that are printed


@dataclass(frozen=True)
class UnitStatistics(Result):
    """The units (features or channels) between a layer and what follows it, over all the data.

    With an activation module their inputs were seen. Without one (`activation` is empty), a unit
    counts as dead when the gradient of all that leads to it and of all that it feeds is zero.
    """

    layer: str  # the layer that feeds them
    activation: str  # kind and name of the activation module, such as "ReLU 1"
    num: int
    dead: tuple[int, ...]  # the output never changes: slope zero (below 1e-3) on all the data
    far_dead: int  # dead units that are further from life than their input's whole range
    always_on: int  # units whose input is positive on all the data: there, a ReLU is linear
    saturated: float  # share of all inputs at which tanh or sigmoid has lost 99 % of its slope
    num_seen: float  # values seen per unit; without a module, items of the mean loss
    hidden: bool  # whether another layer comes after it

    @property
    def share_dead(self) -> float:
        """Dead units per unit."""
        return len(self.dead) / self.num

    def quantities(self) -> dict[str, Any]:
        """How many of the units take no part."""
        return {
            "layer": self.layer or "inputs",
            "activation": self.activation or "none seen",
            "units": self.num,
            "dead": len(self.dead),
            "share dead": self.share_dead,
            "far from life": self.far_dead,
            "always on": self.always_on,
            "share saturated": self.saturated,
        }

    def __str__(self) -> str:
        where = self.layer or "inputs"
        more = ", ..." if len(self.dead) > SHOWN else ""
        shown = ", ".join(map(str, self.dead[:SHOWN])) or "none"
        text = f"{where} units {shown}{more} ({len(self.dead)} of {self.num})"
        return f"{text}, {self.activation}" if self.activation else text


@dataclass(frozen=True)
class LayerStatistics(Result):
    """One row per module that owns parameters, in model order, and what takes no part.

    The gradient is that of the mean loss over all the data. A layer is a matrix layer when its
    module multiplies by a weight: linear, convolution, recurrent, attention; not an embedding.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]  # parameters
    weight_norm: Tensor  # (L,) float64
    gradient_norm: Tensor  # (L,)
    gain: Tensor  # (L,) ‖W‖_F/√outputs: how much a matrix layer amplifies white inputs; else NaN
    signal: Tensor  # (L,) root-mean-square output over the data; NaN where no module was seen
    depth: tuple[int, ...]  # place in the forward pass, from 0; -1 where the module was not called
    matrix: tuple[bool, ...]
    curvature_share: Tensor | None  # (L,) of the squared norm of the top eigenvector
    units: tuple[UnitStatistics, ...]
    num_inputs: int  # features of an example; 0 where the inputs are no floating tensor
    dead_inputs: tuple[int, ...]  # features that are zero in all the data (flat indices)
    zero_gradient: tuple[str, ...]  # parameters whose gradient is exactly zero, the unused included
    unused: tuple[str, ...]  # parameters that the loss does not depend on
    zero_weights: tuple[str, ...]  # weights (not biases) that are exactly zero as a whole
    num_gradients: float = 0.0  # cost, in gradients of the mean loss, at most

    @property
    def gradient_rms(self) -> Tensor:
        """(L,) root-mean-square entry of the gradient."""
        return self.gradient_norm / torch.tensor(self.sizes, dtype=torch.float64).sqrt()

    @property
    def ratio(self) -> Tensor:
        """(L,) gradient norm over weight norm: times lr, the relative change of one step.

        Infinite (NaN without a gradient) where the weights are zero.
        """
        return self.gradient_norm / self.weight_norm

    @property
    def gradient_share(self) -> Tensor:
        """(L,) of the squared gradient norm; zeros where the whole gradient is zero."""
        squares = self.gradient_norm.square()
        total = squares.sum()
        return squares / total if float(total) > 0 else torch.zeros_like(squares)

    def in_depth(self, *, matrices: bool = True) -> tuple[int, ...]:
        """Indices of the (matrix) layers in the order of the forward pass, else of the model.

        Layers that the loss does not use are left out.
        """
        unused = {name.rpartition(".")[0] or name for name in self.unused}
        chosen = [
            i
            for i, name in enumerate(self.layers)
            if name not in unused and (self.matrix[i] or not matrices)
        ]
        if any(self.depth[i] < 0 for i in chosen):  # functional calls: only model order is known
            return tuple(chosen)
        return tuple(sorted(chosen, key=lambda i: self.depth[i]))

    def columns(self) -> Columns:
        """A row for each layer."""
        top = self.curvature_share
        shares = {} if top is None else {"share in the top eigenvector": top}
        return {
            "layer": self.layers,
            "size": self.sizes,
            "weight norm": self.weight_norm,
            "gradient norm": self.gradient_norm,
            "gradient rms": self.gradient_rms,
            "gradient over weight": self.ratio,
            "gain": self.gain,
            "signal": self.signal,
            "share of the squared gradient": self.gradient_share,
            **shares,
        }

    def quantities(self) -> dict[str, Any]:
        """What takes no part."""
        return {
            "features of an input": self.num_inputs,
            "inputs that are always zero": listed(self.dead_inputs) or "none",
            "parameters that the loss does not use": listed(self.unused) or "none",
            "parameters with a gradient of exactly zero": listed(self.zero_gradient) or "none",
            "weights that are exactly zero": listed(self.zero_weights) or "none",
            "cost in gradients, at most": self.num_gradients,
        }

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.layers))
        shares = "" if self.curvature_share is None else f"  {'top vector':>10}"
        lines = [
            f"{'layer':<{width}}  {'size':>9}  {'‖w‖':>10}  {'‖g‖':>10}  {'rms g':>10}  "
            f"{'‖g‖/‖w‖':>10}  {'share g²':>8}{shares}"
        ]
        columns = (self.weight_norm, self.gradient_norm, self.gradient_rms, self.ratio)
        for i, name in enumerate(self.layers):
            numbers = "  ".join(f"{float(column[i]):>10.3g}" for column in columns)
            line = f"{name:<{width}}  {self.sizes[i]:>9}  {numbers}"
            line += f"  {float(self.gradient_share[i]):>8.1%}"
            if self.curvature_share is not None:
                line += f"  {float(self.curvature_share[i]):>10.1%}"
            lines.append(line)
        return "\n".join([*lines, *self._remarks()])

    def _remarks(self) -> list[str]:
        remarks = [f"dead: {units}" for units in self.units if units.dead]
        remarks += [
            f"saturated: {units.saturated:.0%} of {units.activation} after {units.layer}"
            for units in self.units
            if units.saturated > 0
        ]
        if self.dead_inputs:
            remarks.append(f"inputs always zero: {listed(self.dead_inputs)} (of {self.num_inputs})")
        if self.unused:
            remarks.append(f"not used by the loss: {listed(self.unused)}")
        still = tuple(name for name in self.zero_gradient if name not in self.unused)
        if still:
            remarks.append(f"gradient exactly zero: {listed(still)}")
        return remarks


def listed(items: Sequence[object]) -> str:
    """The first few, and how many there are.

    >>> listed([3, 17])
    '3, 17'
    >>> listed(range(100))
    '0, 1, 2, 3, 4, 5, ... (100 in all)'
    """
    shown = ", ".join(map(str, items[:SHOWN]))
    return shown if len(items) <= SHOWN else f"{shown}, ... ({len(items)} in all)"


@dataclass(frozen=True)
class LayerMap(Result):
    """Curvature by layer: diagonal blocks and how layers interact, in one table."""

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    lambda_max: Tensor  # (L,) of each diagonal block
    lambda_max_error: Tensor  # (L,) residuals: an eigenvalue lies within
    trace: Tensor  # (L,)
    trace_error: Tensor  # (L,) standard errors; zero where exact
    interaction: Tensor  # (L, L) Frobenius norms ‖H_lm‖_F
    interaction_error: Tensor  # (L, L) standard errors; zero where exact
    num_matvecs: int
    exact: bool

    @property
    def frobenius(self) -> Tensor:
        """(L,) Frobenius norms of the diagonal blocks."""
        return self.interaction.diagonal()

    def columns(self) -> Columns:
        """A row for each layer."""
        return {
            "layer": self.layers,
            "size": self.sizes,
            "λmax": self.lambda_max,
            "λmax error": self.lambda_max_error,
            "trace": self.trace,
            "trace error": self.trace_error,
        }

    def __str__(self) -> str:
        width = max(len(name) for name in self.layers)
        lines = [f"{'layer':<{width}}  {'size':>8}  {'λmax':>11}  {'trace':>11}  {'‖H_ll‖':>11}"]
        rows = zip(
            self.layers, self.sizes, self.lambda_max, self.trace, self.frobenius, strict=True
        )
        for name, size, top, trace, norm in rows:
            lines.append(
                f"{name:<{width}}  {size:>8}  {float(top):>11.4g}  {float(trace):>11.4g}  "
                f"{float(norm):>11.4g}"
            )
        kind = "exact" if self.exact else "estimated"
        return "\n".join([*lines, f"{kind}, {self.num_matvecs} matvecs"])
