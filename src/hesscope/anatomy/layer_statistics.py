"""Gradients, weights and idle parts of a network, layer by layer, from one forward pass."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from hesscope.anatomy.activity import Activity, count_always_on, count_far, watched
from hesscope.autodiff.graph import variables_behind
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.layers import layer_slices
from hesscope.problem.problem import Problem
from hesscope.results.layers import LayerStatistics, UnitStatistics
from hesscope.system import collectives

COST = 1.0  # gradients at most: a forward pass is a third, its extremes the rest (measured 0.9)


def layer_statistics(
    problem: Problem, gradient: Tensor, top_vector: Tensor | None = None
) -> LayerStatistics:
    """Norms of weights and gradient per layer, and the units, inputs and weights that are idle.

    A layer is a module that owns parameters (`problem.blocks()`). Units are seen by hooks on
    activation modules: dead when their slope is zero on all the data (GELU, SiLU, Mish: below
    1e-3; tanh and sigmoid: saturated on one side); leaky activations never die. Where the
    activation is a plain function (`F.relu`), unit j of a linear or convolution layer counts as
    dead when the gradient of its own weights and bias is exactly zero, and so is that of the
    weights which it feeds in the next layer, while the next layer's bias has a gradient.

    Exact up to rounding. Costs one forward pass and the extremes of what flows through it, together
    less than a gradient; keeps nothing that grows with the data beyond one batch.

    Args:
        problem: any; without modules (`Problem.from_function`) there is one layer.
        gradient: (n,) of the mean loss, `problem.gradient()`.
        top_vector: (n,) the eigenvector of λmax, to share out its squared norm.

    Raises:
        ValueError: if a vector does not have length n, or top_vector is zero.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: (t**2).sum(), torch.tensor([3.0, 4.0]))
    >>> found = layer_statistics(p, p.gradient())  # 2 t
    >>> found.layers, found.sizes, float(found.gradient_norm), float(found.ratio)
    (('theta',), (2,), 10.0, 2.0)
    """
    named = dict(zip(problem.layout.names, problem.layout.split(gradient), strict=True))
    shares = None if top_vector is None else _shares(problem, top_vector)
    places = layer_slices(problem)
    modules = layers_of(problem.model)
    with problem.evaluation() as e, watched(problem.model, modules) as activity:
        unused = _forward(e, activity)
        weights = dict(zip(problem.layout.names, e.leaves, strict=True))
        weights = {name: weight.detach() for name, weight in weights.items()}
        sizes = tuple(sum(place.stop - place.start for place in p) for p in places.values())
        num_inputs, dead_inputs = activity.dead_inputs()
        gains = {name: _gain(problem, name, modules, weights) for name in places}
        return LayerStatistics(
            layers=tuple(places),
            sizes=sizes,
            weight_norm=_norms(torch.cat([w.reshape(-1) for w in weights.values()]), places),
            gradient_norm=_norms(gradient, places),
            gain=torch.tensor(list(gains.values()), dtype=torch.float64),
            signal=torch.tensor([activity.signal(name) for name in places], dtype=torch.float64),
            depth=tuple(_position(activity, name) for name in places),
            matrix=tuple(not math.isnan(gain) for gain in gains.values()),
            curvature_share=shares,
            units=(*activity.units(), *_silent_units(problem, modules, activity, named)),
            num_inputs=num_inputs,
            dead_inputs=dead_inputs,
            zero_gradient=tuple(name for name, g in named.items() if not bool(g.any())),
            unused=unused,
            zero_weights=tuple(
                name for name, w in weights.items() if "bias" not in name and not bool(w.any())
            ),
            num_gradients=COST,
        )


def _forward(e: Evaluation, activity: Activity) -> tuple[str, ...]:
    """One pass over the data; the names of the parameters in no batch's graph."""
    used = torch.zeros(len(e.leaves), dtype=torch.float64, device=e.point.device)
    for batch in e.batches:
        activity.begin()
        reached = variables_behind(e.finite_loss(batch))
        counts = [float(id(leaf) in reached) for leaf in e.leaves]
        used += torch.tensor(counts, dtype=used.dtype, device=used.device)
    used = collectives.sum_over_processes(used)
    return tuple(name for name, u in zip(e.point.layout.names, used, strict=True) if not u)


def layers_of(model: nn.Module) -> dict[str, tuple[nn.Module, bool]]:
    """Every module that owns parameters, or a parametrised one, and whether it is a matrix."""
    found = {}
    for name, module in model.named_modules():
        if ".parametrizations" in f".{name}":
            continue
        own = dict(module.named_parameters(recurse=False))
        inner = getattr(module, "parametrizations", None)
        if inner is not None:
            own |= dict(inner.named_parameters())
        if own:
            found[name] = module, _is_matrix(module, own)
    return found


def _is_matrix(module: nn.Module, own: dict[str, Tensor]) -> bool:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    return any(p.ndim >= 2 and "weight" in name for name, p in own.items())


def _module_name(problem: Problem, layer: str) -> str:
    """The module behind a layer: the parametrised one, or the root for a bare parameter."""
    if layer in problem.layout.names:
        return ""
    return f".{layer}".partition(".parametrizations")[0][1:]


def _gain(
    problem: Problem,
    layer: str,
    modules: dict[str, tuple[nn.Module, bool]],
    weights: dict[str, Tensor],
) -> float:
    """The largest ‖W‖_F/√outputs of the layer's matrices; NaN if it is no matrix layer."""
    name = _module_name(problem, layer)
    if not modules.get(name, (None, False))[1]:
        return math.nan
    root = layer in problem.layout.names
    own = [layer] if root else [n for n in weights if n.rpartition(".")[0] == layer]
    return max(
        (
            float(weights[n].double().norm()) / math.sqrt(len(weights[n]))
            for n in own
            if weights[n].ndim >= 2 and ("weight" in n)
        ),
        default=math.nan,
    )


def _position(activity: Activity, layer: str) -> int:
    name = f".{layer}".partition(".parametrizations")[0][1:]  # a bare parameter has no place
    return activity.order.index(name) if name in activity.order else -1


def _norms(vector: Tensor, places: dict[str, list[slice]]) -> Tensor:
    """(L,) norms of the layers' parts, in float64."""
    rows = [torch.cat([vector[place] for place in p]).double().norm() for p in places.values()]
    return torch.stack(rows).cpu()


def _shares(problem: Problem, vector: Tensor) -> Tensor:
    """(L,) of the squared norm of a vector.

    Raises:
        ValueError: if the vector is zero or does not fit.
    """
    problem.layout.split(vector)
    squares = _norms(vector, layer_slices(problem)).square()
    if not float(squares.sum()) > 0:
        msg = "top_vector is zero; give an eigenvector, such as top.eigenvectors[:, 0]."
        raise ValueError(msg)
    return squares / squares.sum()


def _silent_units(
    problem: Problem,
    modules: dict[str, tuple[nn.Module, bool]],
    activity: Activity,
    gradients: dict[str, Tensor],
) -> list[UnitStatistics]:
    """Units of linear and convolution layers, not seen by a hook, that no gradient passes."""
    seen = {units.layer for units in activity.units()}
    order = [n for n in activity.order if modules[n][1]]
    found = []
    for name, following in itertools.pairwise(order):
        rows = _gradients_of(name, modules[name][0], gradients)
        columns = _gradients_of(following, modules[following][0], gradients)
        if name in seen or rows is None or columns is None or columns[1] is None:
            continue
        units, fed = len(rows[0]), columns[0].shape[1]
        if fed % units or not bool(columns[1].any()):
            continue
        silent = ~rows[0].flatten(1).any(1)
        if rows[1] is not None:
            silent &= ~rows[1].bool()
        by_unit = columns[0].movedim(1, 0).reshape(units, -1)  # a flattened channel feeds several
        silent &= ~by_unit.any(1)
        found.append(_silent(name, silent, activity.outputs(name), problem.num_items))
    return found


def _silent(
    name: str, silent: Tensor, outputs: tuple[Tensor, Tensor] | None, num_seen: float
) -> UnitStatistics:
    """Units without gradient; how far from life they are is told by the layer's own outputs."""
    far, always_on = int(silent.sum()), 0
    if outputs is not None and len(outputs[0]) == len(silent):
        top, bottom = outputs
        negative = top <= 0
        if bool(negative[silent].all()):  # else a normalisation comes between
            far, always_on = count_far(top, bottom, silent), count_always_on(bottom)
    return UnitStatistics(
        layer=name,
        activation="",
        num=len(silent),
        dead=tuple(silent.nonzero().flatten().tolist()),
        far_dead=far,
        always_on=always_on,
        saturated=math.nan,
        num_seen=num_seen,
        hidden=True,
    )


def _gradients_of(
    name: str, module: nn.Module, gradients: dict[str, Tensor]
) -> tuple[Tensor, Tensor | None] | None:
    """The gradients of weight and bias; None where they are not (outputs, inputs, ...)."""
    prefix = f"{name}." if name else ""
    weight, bias = gradients.get(f"{prefix}weight"), gradients.get(f"{prefix}bias")
    plain = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if weight is None or not plain or getattr(module, "groups", 1) != 1:
        return None
    return weight, bias
