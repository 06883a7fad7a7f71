"""What the graph of a batch will take in memory, and which product follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hesscope.autodiff.graph import gradient_graph, kept_bytes
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.contents import tensors_in
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples, take
from hesscope.problem.problem import Problem
from hesscope.system.memory import available_bytes, human

PEAK = 1.25  # what building a graph and passing through it take besides, times the graph
COPIES = 5  # of all weights: they, a copy to restore them from, a gradient, v and H v
EACH = 16  # tensors that a graph keeps of every unit at every place, at most


@dataclass(frozen=True)
class Choice:
    """Which product, and the numbers that say so."""

    product: str
    why: str


def choose(graph: float | None, free: float, blocks: int) -> Choice:
    """The lean product where the graph of one batch does not fit, and blocks can be run again.

    Args:
        graph: bytes of the graph of one batch; None where they are not known.
        free: bytes of memory that are free.
        blocks: how many blocks the network has.

    >>> choose(40e9, 24e9, blocks=12).product
    'lean'
    >>> choose(15e9, 24e9, blocks=12).product  # fits, if for one batch at a time
    'reverse-over-reverse'
    """
    if graph is None:
        return Choice("reverse-over-reverse", "")
    sizes = f"about {human(graph)}, of {human(free)} that are free"
    if PEAK * graph <= free:
        return Choice("reverse-over-reverse", f"the graph of a batch takes {sizes}")
    if blocks < 2:
        no = "and the network has no blocks that could be run again"
        return Choice("reverse-over-reverse", f"the graph of a batch would take {sizes}, {no}")
    cost = "up to 4 gradients a product instead of 2 or 3"
    return Choice("lean", f"the graph of a batch would take {sizes}: {cost}")


def choose_weights(model: nn.Module, free: float, blocks: int) -> Choice:
    """The lean product where weights that are cut over processes would not fit whole in one.

    >>> small = nn.Linear(9, 10)  # 400 bytes
    >>> choose_weights(small, 1e6, blocks=2).product, choose_weights(small, 1e3, blocks=2).product
    ('reverse-over-reverse', 'lean')
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    sizes = f"about {human(COPIES * size)} in each process, of {human(free)} that are free"
    if COPIES * size <= free:
        return Choice("reverse-over-reverse", f"whole weights and what is as large take {sizes}")
    if blocks < 2:
        no = "and the network has no blocks that could be brought one at a time"
        return Choice("reverse-over-reverse", f"whole weights would take {sizes}, {no}")
    return Choice("lean", f"whole weights and what is as large would take {sizes}")


def graph_bytes(problem: Problem) -> float | None:
    """Bytes of the graph of the first batch, from those of one and of two of its examples.

    None where examples cannot be told apart or have no loss of their own, or where a wide bound
    says that it is small: there are no more places than the batch has numbers, at each a weight
    (a, b, ...) joins b units to a, and attention has a score for each other place of the example.
    Costs the graphs of three examples.

    Raises:
        RuntimeError: if the loss cannot be differentiated twice.
    """
    batch = next(iter(problem.batches), None)
    if batch is None:  # all the data lies in other processes
        return None
    try:
        size = num_examples(batch.content)
        if batch.whole or _at_most(problem, batch, size) < available_bytes(problem.device):
            return None
        with problem.evaluation() as e:
            one, two = (_bytes(e, batch, number) for number in (1, 2))
    except (ValueError, NonFiniteLossError):  # cannot be told apart, or more are needed
        return None
    return one + (size - 1) * max(0, two - one)


def _at_most(problem: Problem, batch: Batch, size: int) -> int:
    places = sum(tensor.numel() for tensor in tensors_in(batch.content))
    shapes = problem.layout.shapes
    units = sum(sum(shape[:2]) for shape in shapes) + len(shapes) * places // max(size, 1)
    return int(EACH * places * units * problem.dtype.itemsize)


def _bytes(e: Evaluation, batch: Batch, number: int) -> int:
    few = Batch(batch.index, take(batch.content, slice(0, number)), batch.count)
    return kept_bytes(gradient_graph(e, few)[1])
