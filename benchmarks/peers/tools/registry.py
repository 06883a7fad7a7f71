"""All tools, in the order of the table."""

from __future__ import annotations

from benchmarks.peers.tools import (
    curvlinops,
    eigenthings,
    landscaper,
    loss_landscapes,
    ours,
    pyhessian,
)

TOOLS = {
    module.TOOL.name: module.TOOL
    for module in (ours, pyhessian, curvlinops, eigenthings, loss_landscapes, landscaper)
}
