"""The ways to count what a batch counts that are tried out: examples, targets, masks, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hesscope.problem.contents import tensors_in
from hesscope.problem.examples import num_examples

IGNORED = -100  # torch's own


@dataclass(frozen=True)
class Counted:
    """What `count` is called with: the whole batch, or the targets in it."""

    name: str
    of: Callable[[Any], Any]


WHOLE_BATCH = Counted("batch", lambda content: content)


@dataclass(frozen=True)
class Rule:
    """A way to count the items of a batch, in words and as the code of `count`."""

    words: str
    code: str
    count: Callable[[Any], float]  # of what `count` is called with
    weighs: bool = False  # whether it adds up the weights of classes


EXAMPLES = Rule("examples", "len(...)", lambda argument: float(num_examples(argument)))


def rules_for(counted: Counted, content: Any) -> list[Rule]:
    """The usual ways to count a batch like this one: first targets, then examples."""
    return [*_of_labels(_labels_in(counted, content)), EXAMPLES]


def all_rules_for(
    counted: Counted, content: Any, weight: Any, ignored: int = IGNORED
) -> list[Rule]:
    """Those, and masks, lengths and class weights, if there are any; the last tensor first."""
    found: list[Rule] = []
    for place in reversed(list(_whole_numbers(counted.of(content), counted.name, ()))):
        if isinstance(weight, Tensor):
            found.append(_of_weights(weight, place, ignored))
        for index in dict.fromkeys((IGNORED, ignored)):
            found += _of_labels([place], index)
        for form, count in _OTHER_FORMS:
            found += [_of_form(form, count, place, shift) for shift in _shifts(place)]
    return [*found, EXAMPLES]


@dataclass(frozen=True)
class _Place:
    """A tensor of whole numbers in what `count` is called with, and the way to it."""

    path: tuple[Any, ...]
    code: str
    tensor: Tensor

    def within(self, argument: Any) -> Tensor:
        for step in self.path:
            by_key = isinstance(argument, (Mapping, list, tuple))
            argument = argument[step] if by_key else getattr(argument, step)
        tensor: Tensor = argument
        return tensor


def _shifts(place: _Place) -> tuple[bool, ...]:
    """Whether the first column may be left out: labels that a causal model shifts itself."""
    return (False, True) if place.tensor.ndim > 1 else (False,)


def _of_labels(places: Iterable[_Place], ignored: int = IGNORED) -> Iterator[Rule]:
    def are_targets(tensor: Tensor) -> Tensor:
        return (tensor != ignored).sum()

    for place in places:
        for shift in _shifts(place):
            rule = _of_form(f"({{}} != {ignored}).sum()", are_targets, place, shift)
            without = ", without the first of each" if shift else ""
            yield replace(rule, words=f"{place.code} other than {ignored}{without}")


_OTHER_FORMS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("({} != 0).sum()", lambda t: (t != 0).sum()),
    ("({} > 0).sum()", lambda t: (t > 0).sum()),
    ("{}.sum()", lambda t: t.sum()),
)


def _of_form(form: str, count: Callable[[Tensor], Tensor], place: _Place, shift: bool) -> Rule:
    def of(argument: Any) -> float:
        tensor = place.within(argument)
        return float(count(tensor[:, 1:] if shift else tensor))

    code = form.format(f"{place.code}[:, 1:]" if shift else place.code)
    return Rule(code, code, of)


def _of_weights(weight: Tensor, place: _Place, ignored: int) -> Rule:
    def of(argument: Any) -> float:
        labels = place.within(argument)
        return float(weight.double().to(labels.device)[labels[labels != ignored]].sum())

    some = bool((place.tensor == ignored).any())
    labels = f"{place.code}[{place.code} != {ignored}]" if some else place.code
    code = f"loss_fn.weight[{labels}].sum()"
    return Rule(code, code, of, weighs=True)


def _labels_in(counted: Counted, content: Any) -> Iterator[_Place]:
    """The tensors that are called labels, or hold ignored ones, in what is counted."""
    for place in _whole_numbers(counted.of(content), counted.name, ()):
        last = str(place.path[-1]) if place.path else "label"
        named = last == "y" or any(word in last for word in ("label", "target"))
        if place.tensor.dtype != torch.bool and (named or holds_ignored(place.tensor)):
            yield place


def _whole_numbers(thing: Any, code: str, path: tuple[Any, ...]) -> Iterator[_Place]:
    """The tensors of whole numbers in what is counted, each with the way to it."""
    if isinstance(thing, Tensor):
        if not thing.is_floating_point() and not thing.is_complex() and thing.ndim > 0:
            yield _Place(path, code, thing)
    elif isinstance(thing, Mapping):
        for key, part in thing.items():
            inside = f"{code}[{key!r}]".replace("'", '"')
            yield from _whole_numbers(part, inside, (*path, key))
    elif isinstance(thing, (list, tuple)):
        for number, part in enumerate(thing):
            yield from _whole_numbers(part, f"{code}[{number}]", (*path, number))
    elif hasattr(thing, "__dict__") and (not path or is_dataclass(thing)):
        graph = hasattr(thing, "edge_index") and callable(getattr(thing, "keys", None))
        for name in thing.keys() if graph else vars(thing):
            part = getattr(thing, name)
            yield from _whole_numbers(part, f"{code}.{name}", (*path, name))


def holds_ignored(content: Any) -> bool:
    """Whether some whole numbers of a batch are -100."""
    return any(
        not t.is_floating_point() and not t.is_complex() and bool((t == IGNORED).any())
        for t in tensors_in(content)
    )
