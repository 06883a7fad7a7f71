"""Memory that runs out in the midst of a search: what was found is kept, or a sentence says why."""

from __future__ import annotations

import pytest
import torch

import hesscope as hs

TOLD = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
VALUES = torch.cat([torch.linspace(0, 1, 95), torch.tensor([9.0, 7.0, 5.0, 3.0, 2.0])]).double()


class Tight(hs.SymmetricOperator):
    """Runs out of memory at its products from some number on."""

    def __init__(self, last: int, error: type[Exception]) -> None:
        super().__init__(100, dtype=torch.float64)
        self.last, self.error, self.made = last, error, 0

    def matmat(self, V):
        self.made += 1
        if self.made > self.last:
            raise self.error(TOLD)
        return VALUES[:, None] * V


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_pairs_found_until_then_are_returned_and_said_to_be_so(error):
    pairs = hs.eigsh(Tight(12, error), 2, seed=0)
    assert any(note.startswith("out of memory: residuals are the rec") for note in pairs.notes)
    assert not pairs.certificate.complete
    for value, residual in zip(pairs.eigenvalues, pairs.residuals, strict=True):
        assert float((VALUES - value).abs().min()) <= float(residual)


def test_before_anything_is_known_a_sentence_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"^memory ran out .* max_basis=16, or give the data"):
        hs.eigsh(Tight(1, RuntimeError), 3, seed=0)


def test_other_errors_are_not_taken_for_it():
    A = Tight(12, RuntimeError)
    A.error = lambda _: RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        hs.eigsh(A, 2, seed=0)
