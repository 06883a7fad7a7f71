"""An optimiser around another one, which makes the steps."""

from __future__ import annotations

from typing import Any

from torch.optim import LBFGS, Optimizer


class Around(Optimizer):
    """Changes what a base optimiser steps with.

    Groups, their learning rates and the state are those of the base optimiser, so schedulers,
    GradScaler and `state_dict` work on this one as on any other.
    """

    def __init__(self, base: Optimizer, defaults: dict[str, Any]) -> None:
        if not isinstance(base, Optimizer) or isinstance(base, (LBFGS, Around)):
            msg = (
                f"base={type(base).__name__}; give the optimizer that makes the steps, one "
                "gradient each, such as torch.optim.SGD(model.parameters(), lr=0.1)."
            )
            raise ValueError(msg)
        super().__init__(base.param_groups, defaults)
        self.base = base
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the base optimiser, with options of its own."""
        if not hasattr(self, "base"):  # torch's own constructor
            super().add_param_group(param_group)
            return
        self.base.add_param_group({**self.defaults, **param_group})

    def own(self) -> dict[str, Any]:
        """What a copy has besides what the base optimiser shares."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what torch keeps, and the base optimiser, which shares it."""
        return {**super().__getstate__(), "base": self.base, **self.own()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the state of such an optimiser, as `state_dict` has given it."""
        self.base.load_state_dict(state_dict)
        self._share()
