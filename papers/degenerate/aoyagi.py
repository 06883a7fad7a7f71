"""The learning coefficient of linear networks in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import ceil


def reduced_rank(M: int, H: int, N: int, r: int) -> tuple[float, int]:
    """(λ, multiplicity) of M - H - N linear networks whose truth has rank r.

    Aoyagi and Watanabe 2005, "Stochastic complexities of reduced rank regression in Bayesian
    estimation", main theorem; λ = n/2 for regular models of n parameters.
    """
    if N + r > M + H:
        return (H * M - H * r + N * r) / 2, 1
    if M + r > N + H:
        return (H * N - H * r + M * r) / 2, 1
    if H + r > M + N:
        return M * N / 2, 1
    twice = -((H + r) ** 2) - M**2 - N**2 + 2 * (H + r) * (M + N) + 2 * M * N
    odd = (M + H + N + r) % 2
    return (twice + odd) / 8, 1 + odd


def deep(widths: Sequence[int], r: int) -> tuple[float, int]:
    """(λ, multiplicity) of a linear network of these widths, from inputs to outputs.

    Aoyagi 2024, "Consideration on the learning efficiency of multiple-layered neural networks with
    linear units"; for two layers it is `reduced_rank`. Δ are the widths less r; of the set Σ that
    is asked for (the smallest Δ that balance each other) there is one, but for ties.

    Raises:
        ValueError: if r is larger than a width.
    """
    delta = [width - r for width in widths]
    if min(delta) < 0:
        msg = f"a network of widths {tuple(widths)} makes no map of rank {r}."
        raise ValueError(msg)
    inside = _balanced(delta)
    parts, total = len(inside) - 1, sum(inside)
    a = total - (ceil(total / parts) - 1) * parts
    value = (r * (widths[0] + widths[-1]) - r * r) / 2 + a * (parts - a) / (4 * parts)
    value -= parts * (parts - 1) / 4 * (total / parts) ** 2
    value += sum(x * y for x, y in combinations(inside, 2)) / 2
    return value, a * (parts - a) + 1


def _balanced(delta: Sequence[int]) -> list[int]:
    """The smallest entries, at least two, none above the sum over one less their number.

    Raises:
        ValueError: if no set is so, which cannot be.
    """
    ordered = sorted(delta)
    for size in range(len(ordered), 1, -1):
        inside, outside = ordered[:size], ordered[size:]
        parts, total = size - 1, sum(inside)
        if total >= parts * inside[-1] and (not outside or total < parts * outside[0]):
            return inside
    msg = f"no subset of {ordered} is balanced."
    raise ValueError(msg)
