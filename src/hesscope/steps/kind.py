"""What is known of the steps of one class of optimisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from hesscope.steps import gains
from hesscope.steps.gains import Gain, Group, State


def own_steps(group: Group, state: State) -> float:  # noqa: ARG001  one signature for all
    """Those that the state of the parameter counts."""
    return float(state.get("step", 0))


@dataclass(frozen=True)
class Kind:
    """What is known of the steps of one class of optimisers."""

    optimizer: type[Optimizer]
    gain: Callable[[Group, State], Gain] | None = None
    source: str = ""
    unknown: str = ""  # where no gain is told: why
    preconditioner: Callable[[Group, State], Tensor] | None = None  # none: P = 1
    root: Callable[[Group, State, Tensor], Tensor] | None = None  # P^-1/2, where P is no diagonal
    size: Callable[[Group, Tensor], float] | None = None  # of θ, that steps are multiples of
    rate: Callable[[Group, State], float] = gains.group_rate  # that multiplies the gradient
    ball: Callable[[Group, Tensor], Tensor] | None = None  # of steps that keep their length
    decay: Callable[[Group], float] = gains.plain_decay
    decoupled: bool = False  # whether weight decay is, where the group does not say
    decays_last: bool = False  # whether decoupled decay shrinks the step, too
    steps: Callable[[Group, State], float] = own_steps  # made of a parameter, so far
    signs: tuple[str, ...] = ()  # options that tell it in a saved state; none: it is not rebuilt

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.optimizer.__name__

    @property
    def adaptive(self) -> bool:
        """Whether P is made of past gradients."""
        return self.preconditioner is not None or self.root is not None

    def coupled_decay(self, group: Group) -> float:
        """The weight decay that is added to the gradient, λ θ."""
        return 0.0 if self.is_decoupled(group) else self.decay(group)

    def is_decoupled(self, group: Group) -> bool:
        """Whether weight decay shrinks the parameters beside the step."""
        return bool(group.get("decoupled_weight_decay", self.decoupled))
