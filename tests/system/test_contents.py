"""The bytes of any tensor, whatever its strides."""

import pytest
import torch

import hesscope as hs
from hesscope.system.contents import as_bytes

ODD = {
    "empty": torch.zeros(0),
    "scalar": torch.ones(()),
    "one entry, stride 0": torch.as_strided(torch.ones(1), (1,), (0,)),
    "expanded": torch.ones(1).expand(3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "every second": torch.arange(6.0)[::2],
    "conjugated": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
}


@pytest.mark.parametrize("name", ODD)
def test_they_give_the_tensor_back(name):
    tensor = ODD[name]
    found = as_bytes(tensor).clone().view(tensor.dtype).reshape(tensor.shape)
    assert torch.equal(found, tensor)


def test_a_warm_start_of_one_entry_may_have_any_stride():
    start = torch.as_strided(torch.ones(1).double(), (1,), (0,))
    A = torch.full((1, 1), 2.0, dtype=torch.float64)
    assert hs.eigsh(A, 1, start=start).eigenvalues.tolist() == [2.0]
