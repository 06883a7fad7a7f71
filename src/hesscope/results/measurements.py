"""One look at a problem as a record: what was measured, what was not and why, and the cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hesscope.results.result import Result
from hesscope.results.tables import is_cell
from hesscope.results.words import called


@dataclass(frozen=True)
class Measurements(Result):
    """The numbers of one look, each under the key of its quantity.

    A quantity is in `values`, or in `missing` with the reason, or in neither where the look did
    not go that far or there was nothing to measure. Verdicts are judged from this record alone, so
    an old look can be judged again by today's rules.

    >>> look = Measurements({"loss": 0.5}, {"step": "no threshold is known for LBFGS"})
    >>> look["loss"], "step" in look, look.missing["step"]
    (0.5, False, 'no threshold is known for LBFGS')
    """

    values: dict[str, Any]
    missing: dict[str, str] = field(default_factory=dict)  # key -> why it is not known
    asked: dict[str, Any] = field(default_factory=dict)  # what the user gave: lr, batch_size, ...
    num_matvecs: int = 0
    gradients: float = 0.0  # all of the cost, in gradients of the mean loss
    seconds: float = 0.0
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)  # about the problem and its products
    interrupted: bool = False  # the user stopped it: what comes later in the table is missing

    def __getitem__(self, key: str) -> Any:
        if key in self.values:
            return self.values[key]
        why = self.missing.get(key, "it was not looked at")
        msg = f"{key!r} is not known: {why}. There are {', '.join(self.values) or 'no numbers'}."
        raise KeyError(msg)

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a quantity, or a default where it is not known."""
        return self.values.get(key, default)

    def quantities(self) -> dict[str, Any]:
        """The single numbers of the look, what is missing and why, and the cost."""
        found = {called(key): value for key, value in self.values.items() if is_cell(value)}
        found |= {f"{called(key)}: not known": why for key, why in self.missing.items()}
        asked = {f"given: {called(key)}": v for key, v in self.asked.items() if v is not None}
        return {
            **found,
            **asked,
            "cost in products (matvecs)": self.num_matvecs,
            "cost in gradients, all of it": self.gradients,
            "seconds": self.seconds,
            "seed": str(self.seed),
        }

    def __str__(self) -> str:
        lines = [f"{len(self)} quantities: {', '.join(self)}"]
        if self.interrupted:
            lines.append("  interrupted: this is what was measured until then")
        lines += [f"  not known: {key}, for {why}" for key, why in self.missing.items()]
        return "\n".join(lines)
