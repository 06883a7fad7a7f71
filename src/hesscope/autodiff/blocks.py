"""Which modules of a network are its blocks: those whose inside need not be kept in memory."""

from __future__ import annotations

import itertools
import math

from torch import nn

CONTAINERS = (nn.ModuleList, nn.Sequential)
PARALLEL = ("experts", "heads")  # children that see the same input, not each other's results
MANY = 8  # blocks: where there are fewer, those of their own are looked for, as in stages


class Segment(nn.Sequential):
    """Consecutive layers of a chain, to be looked at as one block."""

    chain: nn.Sequential

    def __init__(self, chain: nn.Sequential, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        vars(self)["chain"] = chain  # no module of its own


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a network, none inside another; empty where it has none.

    The children of containers (ModuleList, Sequential) whose children are of one class and more
    than one operation each; if these are few, the blocks that they are made of, as stages are.
    Where there is no such container, the children of one with several classes; a single block in a
    container, which a network may call several times; or segments of the Sequential with the most
    parameters.

    >>> block = lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> len(blocks_of(nn.Sequential(nn.Linear(1, 2), nn.Sequential(block(), block()))))
    2
    """
    found = _inside(model) or _inside(model, kinds=MANY) or _inside(model, least=1)
    while len(found) < MANY:
        finer = [part for block in found for part in _parts(block)]
        if finer == found:
            break
        found = finer
    return list(dict.fromkeys(found)) or _segments(model)


def _inside(module: nn.Module, least: int = 2, kinds: int = 1) -> list[nn.Module]:
    """The children of the outermost containers that hold blocks."""
    children = list(module.children())
    if isinstance(module, CONTAINERS) and _are_blocks(children, least, kinds):
        return [block for child in children for block in _called(child)]
    named = [child for name, child in module.named_children() if name not in PARALLEL]
    return [block for child in named for block in _inside(child, least, kinds)]


def _called(child: nn.Module) -> list[nn.Module]:
    """The child, or what is in it if it is a list, which nobody calls."""
    return [m for c in child for m in _called(c)] if isinstance(child, nn.ModuleList) else [child]


def _parts(block: nn.Module) -> list[nn.Module]:
    """The blocks that a stage is made of; a block is its own only one."""
    inner = _inside(block)
    share = sum(map(_size, dict.fromkeys(inner)))
    return inner if 2 * share > _size(block) else [block]


def _are_blocks(children: list[nn.Module], least: int, kinds: int) -> bool:
    """Whether they are of one class, or of so many, with parameters, and of several modules."""
    return (
        len(children) >= least
        and len({type(child) for child in children}) <= kinds
        and all(_size(child) > 0 and any(True for _ in child.children()) for child in children)
    )


def _segments(model: nn.Module) -> list[nn.Module]:
    """The longest chain in √(layers) parts, each beginning with a layer that has parameters.

    The results of all parts and the graph of one are in memory, so both should be few. Layers
    without parameters may write in place into what they are given, and so begin none.
    """
    sequences = [m for m in model.modules() if isinstance(m, nn.Sequential)]
    chains = [m for m in sequences if type(m).forward is nn.Sequential.forward]
    chain = max(chains, key=_size, default=None)
    if chain is None:
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
