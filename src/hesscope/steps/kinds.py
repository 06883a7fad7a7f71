"""The kinds of optimisers whose steps are known, in one table, and which of them one is.

A kind holds for a class of torch.optim and for its subclasses, as long as these do not override
`step`. Wrappers that carry the optimiser as their attribute `optimizer`, such as those of
Accelerate and Lightning, are seen through.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope.steps import balls, gains, preconditioner
from hesscope.steps.gains import Group, State
from hesscope.steps.guests import guest
from hesscope.steps.kind import Kind

COHEN_2021 = "Cohen, Kaur, Li, Kolter and Talwalkar 2021, appendix B"
COHEN_2022 = "Cohen, Ghorbani, Krishnan et al. 2022, section 3"


# A subclass stands before its parent.
KINDS: tuple[Kind, ...] = (
    Kind(
        torch.optim.SGD,
        gain=gains.heavy_ball,
        source=COHEN_2021,
        rate=gains.dampened_rate,
        signs=("momentum", "dampening", "nesterov"),
    ),
    Kind(
        torch.optim.ASGD,  # descent; the average of its points is kept beside it
        gain=gains.descent,
        source=f"{COHEN_2021}, for the iteration of Polyak and Juditsky 1992",
        rate=gains.asgd_rate,
        decay=gains.asgd_decay,
        signs=("lambd", "alpha", "t0"),
    ),
    Kind(
        torch.optim.RMSprop,
        gain=gains.heavy_ball,
        source=COHEN_2022,
        preconditioner=preconditioner.rmsprop,
        signs=("alpha", "centered"),
    ),
    Kind(
        torch.optim.Adagrad,
        gain=gains.descent,
        source=COHEN_2022,
        preconditioner=preconditioner.adagrad,
        rate=gains.adagrad_rate,
        signs=("lr_decay", "eps"),
    ),
    Kind(
        torch.optim.Adadelta,
        gain=gains.descent,
        source=f"{COHEN_2022}, for the preconditioner of Zeiler 2012",
        preconditioner=preconditioner.adadelta,
        signs=("rho", "eps"),
    ),
    Kind(
        torch.optim.AdamW,
        gain=gains.average,
        source=COHEN_2022,
        preconditioner=preconditioner.adam,
        decoupled=True,
    ),
    Kind(
        torch.optim.Adam,
        gain=gains.average,
        source=COHEN_2022,
        preconditioner=preconditioner.adam,
        signs=("betas", "eps", "amsgrad"),
    ),
    Kind(
        torch.optim.NAdam,
        gain=gains.nadam,
        source=f"{COHEN_2022}, for the recurrence of Dozat 2016",
        preconditioner=preconditioner.nadam,
        signs=("betas", "eps", "momentum_decay"),
    ),
    Kind(
        torch.optim.RAdam,
        gain=gains.average,
        source=f"{COHEN_2022}, for the preconditioner of Liu et al. 2020",
        preconditioner=preconditioner.radam,
        signs=("betas", "eps", "decoupled_weight_decay"),
    ),
    Kind(
        torch.optim.Adamax,
        gain=gains.average,
        source=f"{COHEN_2022}, for the preconditioner of Kingma and Ba 2015, section 7.1",
        preconditioner=preconditioner.adamax,  # without signs: others have options like these
    ),
    Kind(
        torch.optim.Rprop,
        unknown="it steps by the sign of the gradient, so that its steps do not shrink with it",
        signs=("etas", "step_sizes"),
    ),
    Kind(
        torch.optim.LBFGS,
        unknown="its steps come from past steps and, with a line search, from the loss itself",
    ),
    Kind(
        torch.optim.SparseAdam,
        unknown="it leaves out the parameters that a sparse gradient does not name",
    ),
    Kind(
        torch.optim.Adafactor,
        gain=gains.descent,
        source=f"{COHEN_2022}, for the preconditioner of Shazeer and Stern 2018",
        preconditioner=preconditioner.adafactor,
        size=preconditioner.parameter_size,
        rate=gains.adafactor_rate,
        decoupled=True,
    ),
    Kind(
        torch.optim.Muon,
        unknown="it makes the momentum of a matrix orthogonal, so that its steps do not shrink "
        "with it",
        ball=balls.spectral,
    ),
)


def with_thresholds() -> str:
    """The names of the kinds whose steps are understood."""
    return ", ".join(kind.name for kind in KINDS if kind.gain is not None)


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimiser itself, taken out of what carries it as `optimizer`.

    A wrapper is judged as the optimiser inside. Of one that does more than call it, such as
    Lookahead, which steps back every few steps, give the optimiser that you want judged.

    Raises:
        ValueError: if it is no optimiser.

    >>> import types, torch
    >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> unwrapped(types.SimpleNamespace(optimizer=sgd)) is sgd
    True
    """
    seen: set[int] = set()
    while (
        isinstance(getattr(optimizer, "optimizer", None), Optimizer) and id(optimizer) not in seen
    ):
        seen.add(id(optimizer))
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        msg = (
            f"optimizer={optimizer!r} is no optimiser of torch; give the object that trains the "
            "model, such as torch.optim.SGD(model.parameters(), lr=0.1)."
        )
        raise ValueError(msg)
    return optimizer


def kind_of(optimizer: Optimizer) -> Kind | None:
    """The kind of an optimiser, or None where its class is of none or has a step of its own.

    >>> class Mine(torch.optim.AdamW):
    ...     pass
    >>> kind_of(Mine([torch.zeros(1)])).name
    'AdamW'
    """
    optimizer = unwrapped(optimizer)
    row = parent_of(optimizer)
    if row is None:
        return guest(optimizer)
    return None if overrides(optimizer, row) else row


def parent_of(optimizer: Optimizer) -> Kind | None:
    """The first kind that an optimiser is an instance of."""
    return next((kind for kind in KINDS if isinstance(optimizer, kind.optimizer)), None)


def overrides(optimizer: Optimizer, kind: Kind) -> bool:
    """Whether its class has another step than that of the kind; hooks of torch around it aside."""
    own, known = (inspect.unwrap(made.step) for made in (type(optimizer), kind.optimizer))
    return own is not known


def is_adaptive(optimizer: Optimizer) -> bool:
    """Whether the optimiser divides by a known preconditioner P made of past gradients."""
    kind = kind_of(optimizer)
    return kind is not None and kind.adaptive


def ball_of(optimizer: Optimizer) -> Callable[[Group, Tensor], Tensor] | None:
    """The ball of its steps, for an optimiser whose steps do not shrink with the gradient."""
    kind = kind_of(optimizer)
    return None if kind is None else kind.ball


def has_diagonal(optimizer: Optimizer) -> bool:
    """Whether the optimiser divides by a known diagonal made of past gradients."""
    kind = kind_of(optimizer)
    return kind is not None and kind.preconditioner is not None


def has_started(optimizer: Optimizer) -> bool:
    """Whether P is known: after the first step of an adaptive optimiser, and always for others."""
    optimizer, kind = unwrapped(optimizer), kind_of(optimizer)
    return (
        kind is None
        or not kind.adaptive
        or any(
            kind.steps(group, optimizer.state.get(p, {})) > 0
            for group in optimizer.param_groups
            for p in group["params"]
        )
    )


def furthest_state(optimizer: Optimizer, group: Group) -> State:
    """The state of that parameter of a group which has made the most steps; empty before any."""
    states: list[State] = [optimizer.state.get(p, {}) for p in group["params"]]
    return max(states, key=lambda state: float(state.get("step", 0)), default={})
