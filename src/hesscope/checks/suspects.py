"""What in a model is known to have no derivative of its own: named where derivatives are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from hesscope import rounding
from hesscope.autodiff.graph import node_names
from hesscope.checks.state import State
from hesscope.results.check import Finding


@dataclass(frozen=True)
class Suspect:
    """A likely cause of a wrong derivative, and what helps."""

    cause: str
    cure: str


def suspects(state: State) -> list[Suspect]:
    """The likely causes that are seen, without proof; none where there is nothing to be seen."""
    found = [one for name, module in state.modules() for one in _of_module(name, module)]
    return [*found[:2], *_of_loss(state)]


def shortened_rows(state: State) -> Finding | None:
    """That a lookup changes its own weights in place, which no derivative knows of.

    Seen by what one forward pass leaves of parameters like the model's own.
    """
    problem = state.problem
    if all(getattr(module, "max_norm", None) is None for _, module in state.modules()):
        return None
    theta = problem.theta
    there = problem.at(theta)
    with there.evaluation() as e:
        e.loss(state.first_batch())
    moved = (there.theta - theta).abs() > rounding.half_the_digits(theta.dtype) * theta.abs()
    places = problem.layout.slices()
    names = [name for name, place in places.items() if bool(moved[place].any())]
    if not names:
        return None
    return Finding(
        "gradient_is_not_the_derivative",
        f"the forward pass shortens rows of {', '.join(names[:3])} in place (max_norm): its loss "
        "is that of other parameters, and its gradient knows nothing of it.",
        "set max_norm = None on the embedding, shorten rows in forward() with torch.renorm, or "
        "call the model once in training mode, so that the rows are as it wants them.",
    )


def _of_module(name: str, module: nn.Module) -> Iterator[Suspect]:
    kind = type(module).__name__
    if getattr(module, "max_norm", None) is not None:
        yield Suspect(
            f"{name} ({kind}) shortens its rows in place (max_norm), which has no derivative",
            f"set {name}.max_norm = None, or shorten rows in forward() with torch.renorm",
        )
    hooks = (getattr(module, kept, None) for kept in ("_backward_hooks", "_backward_pre_hooks"))
    if any(hooks):
        yield Suspect(
            f"{name} ({kind}) has backward hooks, which may change its gradient",
            "remove these hooks while measuring",
        )
    if module.training and _normalises_spectrally(module):
        yield Suspect(
            f"spectral_norm of {name} ({kind}) holds its singular vectors fixed in training mode",
            "measure in evaluation mode: leave out training=True",
        )


def _normalises_spectrally(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return type(module).__name__ == "_SpectralNorm" or any(
        type(hook).__name__ == "SpectralNorm" for hook in hooks
    )


def _of_loss(state: State) -> Iterator[Suspect]:
    with state.problem.evaluation() as e:
        names = node_names([e.loss(state.first_batch())])
    if any(name.startswith("BinaryCrossEntropyBackward") for name in names):
        yield Suspect(
            "binary_cross_entropy of probabilities is clamped where they come near 0 or 1",
            "leave out the sigmoid and use binary_cross_entropy_with_logits",
        )
