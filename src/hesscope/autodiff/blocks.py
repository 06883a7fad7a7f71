"""Which modules of a network are its blocks: those whose inside need not be kept in memory."""

from __future__ import annotations

import itertools
import math

from torch import nn

CONTAINERS = (nn.ModuleList, nn.Sequential)
PARALLEL = ("experts", "heads")  # children that see the same input, not each other's results


class Segment(nn.Sequential):
    """Consecutive layers of a chain, to be looked at as one block."""

    chain: nn.Sequential

    def __init__(self, chain: nn.Sequential, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        vars(self)["chain"] = chain  # no module of its own


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a network, none inside another; empty where it has none.

    The children of containers (ModuleList, Sequential) whose children are of one class and more
    than one operation each; of stages, containers of containers, the innermost. Where there is no
    such container, a single block in one, which a network may call several times; or segments of
    the Sequential with the most parameters.

    >>> block = lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> len(blocks_of(nn.Sequential(nn.Linear(1, 2), nn.Sequential(block(), block()))))
    2
    """
    found = _inside(model) or _inside(model, least=1) or _segments(model)
    return list(dict.fromkeys(found))


def _inside(module: nn.Module, least: int = 2) -> list[nn.Module]:
    """The blocks of the outermost containers, or of those inside their children."""
    children = list(module.children())
    if isinstance(module, CONTAINERS) and _alike(children, least):
        return [block for child in children for block in _of_stage(child)]
    named = [child for name, child in module.named_children() if name not in PARALLEL]
    return [block for child in named for block in _inside(child, least)]


def _of_stage(child: nn.Module) -> list[nn.Module]:
    """The blocks that a stage is made of; a block is its own only one."""
    inner = _inside(child)
    share = sum(map(_size, dict.fromkeys(inner)))
    return inner if 2 * share > _size(child) else [child]


def _alike(children: list[nn.Module], least: int) -> bool:
    """Whether they are blocks: of one class, with parameters, and of several modules each."""
    several = all(any(True for _ in child.children()) for child in children)
    return (
        len(children) >= least
        and several
        and len({type(child) for child in children}) == 1
        and all(_size(child) > 0 for child in children)
    )


def _segments(model: nn.Module) -> list[nn.Module]:
    """The longest chain in √(layers) parts, each beginning with a layer that has parameters.

    The results of all parts and the graph of one are in memory, so both should be few. Layers
    without parameters may write in place into what they are given, and so begin none.
    """
    chains = [m for m in model.modules() if type(m).forward is nn.Sequential.forward]
    chain = max(chains, key=_size, default=None)
    if not isinstance(chain, nn.Sequential):
        return []
    layers = list(chain)
    starts = [i for i, layer in enumerate(layers) if i == 0 or _size(layer) > 0]
    if len(starts) < 2:
        return []
    each = round(math.sqrt(len(starts)))
    bounds = [*starts[::each], len(layers)]
    return [Segment(chain, layers[i:j]) for i, j in itertools.pairwise(bounds)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
