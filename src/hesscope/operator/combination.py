"""Sums, multiples and shifts of operators, written out as Σ cᵢ Aᵢ + d I."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.operator.inner import largest_norm
from hesscope.operator.parts import Parts
from hesscope.operator.place import Place
from hesscope.operator.symmetric import SpectralForm, SymmetricOperator

Term = tuple[float, SymmetricOperator]


class Identity(SymmetricOperator):
    """I, the n x n identity: `A + d * Identity(n)` is A with d added to every eigenvalue.

    A shift takes the dtype and the device of what it shifts, and its products cost nothing.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([1.0, 2.0])))
    >>> hs.spectrum(2 * (A + 0.5 * hs.Identity(2))).eigenvalues
    tensor([3., 5.], dtype=torch.float64)
    """

    positive_semidefinite = True

    def __init__(
        self, n: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(n, dtype=dtype, device=device)

    @property
    def lower_bound(self) -> float:
        """1, the only eigenvalue."""
        return 1.0

    def matmat(self, V: Tensor) -> Tensor:
        """V itself, as a copy."""
        return V.clone()

    def _expression(self) -> str:
        return "I"

    def to_dense(self, *, chunk: int = 64) -> Tensor:  # noqa: ARG002  nothing to assemble
        """The identity matrix, (n, n)."""
        return torch.eye(self.n, dtype=self.dtype, device=self.device)

    def spectral_form(self) -> SpectralForm:
        """No matrix at all: n zeros, shifted by one."""
        empty = torch.zeros(0, 0, dtype=self.dtype, device=self.device)
        known = {"multiple of the identity": self.n}
        return SpectralForm(0, lambda: empty, "none is needed", zeros=known, shift=1.0)


class Combination(SymmetricOperator):
    """Σ cᵢ Aᵢ + d I; a product costs one product of each Aᵢ.

    What is known of the Aᵢ is known of the combination: lower ends of their spectra add up, and
    the spectrum of c A + d I comes from that of A.

    Raises:
        ValueError: if sizes or devices differ.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        own = [(c, A) for c, A in terms if not isinstance(A, Identity)]
        along = [(c, A) for c, A in terms if isinstance(A, Identity)]
        total = sum(c for c, _ in along)
        self.terms: list[Term] = own or [(total, along[0][1])]
        self.shift: float = total if own else 0.0
        first = self.terms[0][1]
        for _, B in terms:
            if first.n != B.n or (first.device != B.device and not isinstance(B, Identity)):
                msg = (
                    f"cannot combine an operator of size {first.n} on {first.device} "
                    f"with one of size {B.n} on {B.device}."
                )
                raise ValueError(msg)
        dtype = reduce(torch.promote_types, (A.dtype for _, A in self.terms))
        super().__init__(first.n, dtype=dtype, device=first.device)
        self.positive_semidefinite = self.lower_bound >= 0.0
        self._sharing = next((A for _, A in self.terms if A.shared), first)
        self.shared = self._sharing.shared
        self._space = next((A for _, A in self.terms if not A.plain_inner), first)

    @property
    def lower_bound(self) -> float:
        """Σ cᵢ times the lower bound of Aᵢ, plus d; -inf where a factor is negative."""
        if any(c < 0 for c, _ in self.terms):
            return -math.inf
        return sum(c * A.lower_bound for c, A in self.terms if c > 0) + self.shift

    @property
    def precision(self) -> torch.dtype:
        """That of the Aᵢ with the fewest digits, whatever the others have."""
        return max((A.precision for _, A in self.terms), key=rounding.eps)

    @property
    def plain_inner(self) -> bool:
        """Whether the inner product of all Aᵢ is the usual one."""
        return self._space.plain_inner

    @property
    def identity_part(self) -> float:
        """d, and what the Aᵢ have of it."""
        return sum(c * A.identity_part for c, A in self.terms) + self.shift

    def tolerance(self, size: float) -> float:
        """Σ |cᵢ| times that of Aᵢ, each of the size that it may have where it is alone."""
        own = size + abs(self.shift)
        return sum(abs(c) * A.tolerance(own / abs(c)) for c, A in self.terms if c)

    def matmat(self, V: Tensor) -> Tensor:
        """(Σ cᵢ Aᵢ + d I) V."""
        (c, A), *others = self.terms
        W = c * (A @ V)
        for c, A in others:
            W = torch.add(W, A @ V, alpha=c)
        return torch.add(W, V, alpha=self.shift) if self.shift else W

    @property
    def num_local(self) -> int:
        """As the Aᵢ have it."""
        return self._space.num_local

    def in_pieces(self, made_of_it: SymmetricOperator | None = None) -> SymmetricOperator:
        """As an Aᵢ has it which processes share, if there is one."""
        return self._sharing.in_pieces(made_of_it or self)

    @property
    def _parts(self) -> Parts:
        """As the Aᵢ have it."""
        return self._space._parts

    def collected(self, found: Tensor) -> Tensor:
        """As the Aᵢ have it."""
        return self._space.collected(found)

    def own_part(self, X: Tensor) -> Tensor:
        """As the Aᵢ have it."""
        return self._space.own_part(X)

    def whole(self, X: Tensor) -> Tensor:
        """As the Aᵢ have it."""
        return self._space.whole(X)

    def inner(self, V: Tensor, W: Tensor) -> Tensor:
        """The inner product of the space that the Aᵢ act on."""
        return self._space.inner(V, W)

    def probe(self, seed: int) -> Tensor:
        """A standard normal vector of the space that the Aᵢ act on."""
        return self._space.probe(seed).to(self.dtype)

    def measured_noise(self, v: Tensor) -> float:
        """Σ |cᵢ| times that of Aᵢ; where summands may cancel, at least the rounding of each Aᵢ v.

        Costs a product of each Aᵢ, if there are several and they are not in float64.
        """
        alone = len(self.terms) == 1 and not self.shift
        if alone or self.precision is torch.float64:
            return sum(abs(c) * A.measured_noise(v) for c, A in self.terms)
        V = v.reshape(self.n, -1)
        return sum(
            abs(c) * max(A.measured_noise(V), A.product_noise(largest_norm(A, A @ V)))
            for c, A in self.terms
        )

    @property
    def writes(self) -> bool:
        """As an Aᵢ has it which processes share, if there is one."""
        return self._sharing.writes

    def of_one(self, make: Callable[[], Any]) -> Any:
        """As an Aᵢ has it which processes share, if there is one."""
        return self._sharing.of_one(make)

    def _free_bytes(self, place: Place) -> int:
        """That of an Aᵢ which processes share, if there is one."""
        return self._sharing._free_bytes(place)

    def drawn_seed(self, given: int | None) -> int:
        """That of an Aᵢ which processes share, if there is one."""
        return self._sharing.drawn_seed(given)

    def fresh_seed(self) -> int:
        """That of an Aᵢ which processes share, if there is one."""
        return self._sharing.fresh_seed()

    def to_dense(self, *, chunk: int = 64) -> Tensor:
        """The matrix, (n, n): of c A + d I from that of A, as A makes it; else n matvecs."""
        if len(self.terms) > 1:
            return super().to_dense(chunk=chunk)
        ((c, A),) = self.terms
        dense = A.to_dense(chunk=chunk).mul_(c)
        dense.diagonal().add_(self.shift)
        return dense

    def spectral_form(self) -> SpectralForm:
        """That of A for c A + d I, with eigenvalues c λ + d; else the dense matrix."""
        if len(self.terms) > 1:
            return super().spectral_form()
        ((c, A),) = self.terms
        form = A.spectral_form()
        return replace(form, factor=c * form.factor, shift=c * form.shift + self.shift)

    def made_of(self) -> dict[str, str]:
        """What the products of the Aᵢ are made of."""
        each = [A.made_of() for _, A in self.terms]
        named = {name for made in each for name in made}
        merged = {name: " and ".join(made.get(name, "none") for made in each) for name in named}
        return merged | super().made_of()

    def facts(self) -> dict[str, Any]:
        """The facts of the Aᵢ under the name of the combination; a tuple where they differ."""
        each = [A.facts() for _, A in self.terms]
        merged: dict[str, Any] = {}
        for name in dict.fromkeys(key for facts in each for key in facts):
            values = [facts[name] for facts in each if name in facts]
            merged[name] = values[0] if all(v == values[0] for v in values) else tuple(values)
        return {**merged, "operator": self._expression()}

    def _terms(self) -> list[Term]:
        shift = [(self.shift, Identity(self.n, dtype=self.dtype, device=self.device))]
        return [*self.terms, *(shift if self.shift else [])]

    def _expression(self) -> str:
        pieces = [(c, A._expression()) for c, A in self.terms]
        pieces += [(self.shift, "I")] if self.shift else []
        text = " ".join(_signed(c, name) for c, name in pieces)
        return f"-{text[2:]}" if text.startswith("-") else text[2:]


def combined(*terms: Term) -> SymmetricOperator:
    """Σ cᵢ Aᵢ with sums and multiples among the Aᵢ written out; A itself for 1·A.

    Raises:
        ValueError: if sizes or devices differ, or a factor is too large for a float.
    """
    flat = [(c * inner, A) for c, B in terms for inner, A in B._terms()]
    if not all(math.isfinite(c) for c, _ in flat):
        msg = f"the factors {[c for c, _ in flat]} of a combination overflow; give smaller ones."
        raise ValueError(msg)
    found = Combination(flat)
    alone = len(found.terms) == 1 and found.terms[0][0] == 1.0 and found.shift == 0.0
    return found.terms[0][1] if alone else found


def _signed(factor: float, name: str) -> str:
    """The sign, a space, and factor and name: "+ 2 Hessian", "- Hessian"."""
    size = abs(factor)
    return f"{'-' if factor < 0 else '+'} {'' if size == 1 else f'{size:g} '}{name}"
