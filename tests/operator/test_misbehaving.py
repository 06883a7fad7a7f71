"""Operators of users that are none: refused in a sentence, wherever they are given."""

from __future__ import annotations

import pytest
import torch

import hesscope as hs

N = 40
D = torch.diag(torch.linspace(-1, 3, N).double())


class Own(hs.SymmetricOperator):
    def __init__(self, function):
        super().__init__(N, dtype=torch.float64)
        self.function = function

    def matmat(self, V):
        return self.function(V)


def writes(V):
    V.mul_(2)
    return D @ V


def writes_through_numpy(V):
    array = V.numpy()
    array *= 2
    return D @ V


FAULTS = {
    "one vector only": lambda V: D @ V[:, :1],
    "a vector": lambda V: D @ V[:, 0],
    "an array": lambda V: (D @ V).numpy(),
    "a list": lambda V: (D @ V).tolist(),
    "nothing": lambda V: None,
    "a tuple": lambda V: (D @ V,),
    "a generator": lambda V: iter(V),
    "float32": lambda V: (D @ V).float(),
    "complex": lambda V: D @ V + 0j,
    "integers": lambda V: (D @ V).long(),
    "sparse": lambda V: (D @ V).to_sparse(),
    "elsewhere": lambda V: torch.empty_like(V, device="meta"),
    "written over": writes,
    "an attribute": lambda V: D @ V.numbers,
    "a key": lambda V: {}["matrix"] @ V,
}
CALLS = {
    "eigsh": lambda A: hs.eigsh(A, 2),
    "spectrum": hs.spectrum,
    "spectral_density": lambda A: hs.spectral_density(A, 20),
    "trace": hs.trace,
    "frobenius_norm": hs.frobenius_norm,
    "trace_function": lambda A: hs.trace_function(A, torch.exp),
    "diagonal": lambda A: hs.diagonal(A, 20),
    "conditioning": lambda A: hs.conditioning(A, 20),
}


def given(kind, function):
    return Own(function) if kind == "class" else hs.as_operator(function, N)


@pytest.mark.parametrize("kind", ["class", "function"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_product_is_refused_everywhere(fault, kind):
    check = hs.check_operator(given(kind, FAULTS[fault]))
    assert [finding.name for finding in check.faults] == ["form"]
    for name, call in CALLS.items():
        if fault == "one vector only" and name != "spectrum":
            continue  # they ask for one vector at a time, which is what it can do
        with pytest.raises(ValueError, match=r"matmat (returned|raised|wrote)"):
            call(given(kind, FAULTS[fault]))


def test_an_argument_that_is_written_over_through_numpy_is_seen_by_the_check():
    check = hs.check_operator(Own(writes_through_numpy))
    assert [finding.name for finding in check.faults] == ["form"]


def test_a_block_whose_columns_know_each_other_is_found():
    mixed = Own(lambda V: D @ V if V.shape[1] == 1 else D @ V.flip(1))
    assert [finding.name for finding in hs.check_operator(mixed).faults] == ["form"]


def test_a_product_with_a_graph_is_taken_without_it():
    weight = D.clone().requires_grad_()
    assert not (Own(lambda V: weight @ V) @ torch.ones(N).double()).requires_grad
    assert hs.check_operator(Own(lambda V: weight @ V)).ok


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_buffer_that_is_used_again_hides_nothing_from_the_check(chunk):
    buffer = torch.zeros(N, 3, dtype=torch.float64)
    torch.manual_seed(0)

    def matmat(V):
        W = buffer[:, : V.shape[1]]
        W.copy_((D + torch.rand(N, N) * chunk) @ V)
        return W

    assert [finding.name for finding in hs.check_operator(Own(matmat)).faults] == ["deterministic"]


def test_a_spectrum_of_what_is_not_symmetric_is_refused():
    upper = torch.triu(torch.ones(N, N)).double()
    with pytest.raises(RuntimeError, match="the operator is not symmetric"):
        hs.spectrum(Own(lambda V: upper @ V))
    slightly = D + 1e-3 * torch.triu(torch.ones(N, N), 1).double() / N
    found = hs.spectrum(Own(lambda V: slightly @ V))
    assert 0 < found.asymmetry < 1e-3
    assert float((found.eigenvalues - torch.linspace(-1, 3, N)).abs().max()) < 2 * found.error


class Unfinished(hs.SymmetricOperator):
    def __init__(self):
        self.matrix = D

    def matmat(self, V):
        return self.matrix @ V


@pytest.mark.parametrize("call", CALLS)
def test_an_operator_without_a_size_is_refused(call):
    with pytest.raises(ValueError, match=r"call super\(\).__init__"):
        CALLS[call](Unfinished())


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
def test_a_size_that_is_no_number_of_rows_is_refused(n):
    with pytest.raises(ValueError, match="row"):
        hs.as_operator(lambda V: V, n)


@pytest.mark.parametrize("dtype", ["float64", float, torch.int64, torch.complex64])
def test_a_dtype_that_is_none_of_torch_is_refused(dtype):
    with pytest.raises(ValueError, match="real floating dtype"):
        hs.as_operator(lambda V: V, 3, dtype=dtype)
