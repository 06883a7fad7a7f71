"""What every figure gets: the run, the digits and the conditions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from common.data import digest, like
from common.keeping import Arrays, Run
from torch import Tensor

import hesscope as hs
from sagun import networks
from sagun.settings import Settings


@dataclass(frozen=True)
class Context:
    """Shared by all figures of one run."""

    run: Run
    X: Tensor  # digits, (N, d)
    y: Tensor
    settings: Settings
    data: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", digest(self.X, self.y))

    def layers(self, width: int, classes: int = 10) -> tuple[int, ...]:
        """784-k-k-10."""
        return (self.X.shape[1], width, width, classes)

    def digits(self, width: int, seed: int = 0) -> tuple[Arrays, hs.Problem]:
        """The network of this width, trained on digits."""
        s = replace(self.settings.digits, seed=seed)
        return self.trained(name("digits", width, seed), self.layers(width), self.X, self.y, s)

    @property
    def noise(self) -> tuple[Tensor, Tensor]:
        """Random inputs like the digits, and random labels."""
        return like(self.X, seed=1)

    def trained(self, name: str, layers: Any, X: Tensor, y: Tensor, s: Any) -> tuple[Arrays, Any]:
        """A trained network by name, and its problem."""
        found = networks.trained_digits(self.run, f"{name}/trained", layers, X, y, s)
        e = hs.ensemble.Ensemble(layers, "relu", found["theta"])
        return found, networks.problem(e, 0, X, y)

    def spectrum(self, name: str, problem: hs.Problem) -> hs.Spectrum:
        """The exact spectrum, kept, resumable after the assembly."""
        key = (name, digest(problem.theta), self.data)
        scratch = self.run.scratch(name)
        return self.run.result(
            name,
            key,
            lambda: hs.spectrum(
                hs.Hessian(problem), scratch=scratch, announce=lambda text: tell(f"    {text}")
            ),
        )


def name(kind: str, width: int, seed: int) -> str:
    """The folder of a network: the first seed's is the one that the figures show."""
    return f"{kind}-{width}" + (f"/seed-{seed}" if seed else "")


def tell(text: str) -> None:
    """A line of progress."""
    from common.keeping import console

    console.print(text)


def finished(found: Arrays, tolerance: float) -> str:
    """Whether training reached the tolerance, in words."""
    norms, num = found["gradient_norms"], len(found["gradient_norms"])
    reached = int((norms < tolerance).sum())
    if num == 1:
        word = "reached" if reached else f"not reached ({float(norms[0]):.1e})"
        return f"gradient norm {tolerance:g} {word} after {int(found['steps'][0]):,} steps"
    return (
        f"{reached} of {num} networks reached gradient norm {tolerance:g} "
        f"(median {int(torch.median(found['steps'])):,} steps)"
    )
