"""What does a loss divide by? Counts that are tried out on a batch and its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor

from hesscope.checks.repeatable import close
from hesscope.problem.problem import Problem

Content = Any
IGNORED = -100  # torch's own


@dataclass(frozen=True)
class Guess:
    """A count that the loss might divide by: its finding, in words, and of a batch."""

    name: str
    words: str
    of: Callable[[Content], float]


@dataclass(frozen=True)
class Cut:
    """A batch and two parts of it, with their losses."""

    contents: tuple[Content, Content, Content]  # whole, one part, the other
    losses: tuple[float, float, float]

    def is_mean_by(self, count: Callable[[Content], float], tolerance: float) -> bool:
        """Whether c ℓ = c₁ ℓ₁ + c₂ ℓ₂ with these counts."""
        whole, one, two = (count(content) for content in self.contents)
        expected = one * self.losses[1] + two * self.losses[2]
        return min(whole, one, two) > 0 and close(whole * self.losses[0], expected, tolerance)


def what_it_divides_by(problem: Problem, cuts: list[Cut], tolerance: float) -> Guess | None:
    """The first of the usual counts by which the loss is a mean on all cuts; None if none is."""
    for guess in _guesses(problem, cuts[0].contents[0]):
        try:
            if all(cut.is_mean_by(guess.of, tolerance) for cut in cuts):
                return guess
        except (IndexError, RuntimeError):  # labels that are no classes of these weights
            continue
    return None


def _guesses(problem: Problem, content: Content) -> Iterator[Guess]:
    """Items, items that are not ignored, masks, lengths, class weights; then the same shifted."""
    weight = getattr(problem.loss_fn, "weight", None)
    argument = "batch" if problem.loss_fn is None else "targets"
    for path, words in _integers(content, argument):

        def at(content: Content, path: tuple[Any, ...] = path) -> Tensor:
            for step in path:
                content = getattr(content, step.name) if isinstance(step, _Field) else content[step]
            return content

        if isinstance(weight, Tensor):
            yield _of_weights(weight, at)
        yield from _of_labels(at, words, argument, at(content))


@dataclass(frozen=True)
class _Field:
    name: str


def _of_weights(weight: Tensor, at: Callable[[Content], Tensor]) -> Guess:
    def of(content: Content) -> float:
        labels = at(content)
        return float(weight.to(labels.device)[labels[labels != IGNORED]].sum())

    words = "count=lambda targets: loss_fn.weight[targets].sum()"
    return Guess("class_weights", words, of)


def _of_labels(
    at: Callable[[Content], Tensor], words: str, argument: str, labels: Tensor
) -> Iterator[Guess]:
    """What a tensor of integers may count, with and without the first column."""
    for finding, form, count in _FORMS:
        name = finding if bool((labels == IGNORED).any()) else "not_a_mean"
        text = f"count=lambda {argument}: {form}"
        yield Guess(name, text.format(words), _counted(count, at))
        if labels.ndim > 1:  # labels that a causal model shifts itself
            yield Guess(name, text.format(f"{words}[:, 1:]"), _counted(count, at, first=1))


_FORMS: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("ignored_targets", "({} != -100).sum()", lambda t: (t != IGNORED).sum()),
    ("not_a_mean", "({} != 0).sum()", lambda t: (t != 0).sum()),
    ("not_a_mean", "({} > 0).sum()", lambda t: (t > 0).sum()),
    ("not_a_mean", "{}.sum()", lambda t: t.sum()),
)


def _counted(
    count: Callable[[Tensor], Tensor], at: Callable[[Content], Tensor], first: int = 0
) -> Callable[[Content], float]:
    return lambda content: float(count(at(content)[:, first:] if first else at(content)))


def _integers(content: Content, words: str) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where integer tensors lie in a batch, the last first: labels come after inputs."""
    found = list(_paths(content, (), "batch"))
    for path, place, tensor in reversed(found):
        if not tensor.is_floating_point() and tensor.ndim:
            is_target = words == "targets" and path == found[-1][0]
            yield path, "targets" if is_target else place


def _paths(
    content: Content, path: tuple[Any, ...], words: str
) -> Iterator[tuple[tuple[Any, ...], str, Tensor]]:
    if isinstance(content, Tensor):
        yield path, words, content
    elif isinstance(content, Mapping):
        for key, item in content.items():
            yield from _paths(item, (*path, key), f"{words}[{key!r}]")
    elif isinstance(content, (list, tuple)):
        for number, item in enumerate(content):
            yield from _paths(item, (*path, number), f"{words}[{number}]")
    elif is_dataclass(content):
        for name in vars(content):
            item = getattr(content, name)
            yield from _paths(item, (*path, _Field(name)), f"{words}.{name}")
