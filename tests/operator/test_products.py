"""Products that are not what they should be are refused alike by everyone, and no others are."""

from __future__ import annotations

import math

import pytest
import torch

import hesscope as hs
from hesscope.operator import column_products, finite_product, norm
from tests.operator.test_door import DOORS

NOT_FINITE = (
    "a product of the operator with a finite vector is NaN or infinite; "
    "hs.check_problem names the cause."
)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("door", [name for name in DOORS if name != "spectrum"])
def test_a_product_that_is_not_finite_is_refused_by_every_algorithm(door, value):
    """`spectrum` looks at the whole matrix, which has a message of its own."""

    def product(V):
        W = V.clone()
        W[7] = value
        return W

    with pytest.raises(RuntimeError) as caught:
        DOORS[door](hs.as_operator(product, 200))
    assert str(caught.value) == NOT_FINITE


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_finite_products_whose_sum_overflows_are_let_through(dtype):
    largest = torch.finfo(dtype).max
    A = hs.as_operator(lambda V: V * largest, 5, dtype=dtype)
    assert torch.equal(finite_product(A, torch.ones(5)), torch.full((5,), largest, dtype=dtype))


def test_columns_are_multiplied_one_after_the_other_and_told():
    told, widths = [], []

    def product(V):
        widths.append(V.shape[1])
        return 2 * V

    V = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = column_products(hs.as_operator(product, 6), V, told.append)
    assert torch.equal(found, 2 * V)
    assert (told, widths) == ([1, 2, 3, 4], [1, 1, 1, 1])


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1e-140, 1.0, 1e140, 1e160, 1e300])
def test_norms_are_right_wherever_the_entries_are(scale):
    A = hs.as_operator(torch.eye(4).double())
    v = scale * torch.tensor([3.0, -4.0, 0.0, 12.0]).double()
    smallest = torch.finfo(torch.float64).smallest_normal * torch.finfo(torch.float64).eps
    assert norm(A, v) == pytest.approx(13 * scale, rel=1e-14, abs=4 * smallest)


def test_norms_of_what_is_zero_or_not_finite():
    A = hs.as_operator(torch.eye(2).double())
    assert norm(A, torch.zeros(2).double()) == 0.0
    assert norm(A, torch.tensor([1.0, math.inf]).double()) == math.inf
    assert math.isnan(norm(A, torch.tensor([1.0, math.nan]).double()))
