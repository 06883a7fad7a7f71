"""What rounding does, in named formulas: the one home of every multiple of eps.

eps is the distance from 1 to the next number of a dtype (Higham 2002, "Accuracy and stability of
numerical algorithms", for the bounds). Constants in front were measured where a proof would be too
large by orders of magnitude; each formula says which.
"""

from __future__ import annotations

import math

import torch

MASS = 1e-12  # of sums of weights that add up to one: eps times the number of terms, 4,000 at most


def eps(dtype: torch.dtype = torch.float64) -> float:
    """The distance from 1 to the next number; one operation is off by at most half of it."""
    return float(torch.finfo(dtype).eps)


def tiny(dtype: torch.dtype = torch.float64) -> float:
    """The smallest number that has all its digits; those below are rounded to multiples of it."""
    return float(torch.finfo(dtype).tiny)


POSITIVE = 1e-300  # stands for a divisor or a threshold that would be zero
LOST = tiny() ** 0.5  # the square of a smaller number is none: norms and variances lose it
IN_RANGE = {torch.float64: 2.0**230, torch.float32: 2.0**60}  # and one over it: room for products
LARGEST = 1e140  # sums of squares of larger numbers may leave the range of float64


def squares_are_numbers(dtype: torch.dtype, size: float) -> bool:
    """Whether squares and products of squares of numbers of this size are; zero has no size."""
    most = IN_RANGE.get(dtype, 2.0**60)
    return size == 0.0 or 1 / most <= size <= most


# --- numbers that are stored


def stored(dtype: torch.dtype, length: float) -> float:
    """Of a vector that is rounded once: half a unit in the last place of every entry."""
    return eps(dtype) / 2 * length


def recomputed(dtype: torch.dtype) -> float:
    """Relative difference of one quantity computed in two ways: a thousand roundings at most."""
    return 1e3 * eps(dtype)


def same_computation(dtype: torch.dtype) -> float:
    """Relative difference of a quantity computed in one way twice, where sums change their order.

    None on a CPU; the atomic additions of a GPU leave some tens of roundings: a hundred at most.
    """
    return 100 * eps(dtype)


def loss_tolerance(dtype: torch.dtype) -> float:
    """1e-9 in float64 and 1e-4 in float32, some thousand roundings; ten in half precision."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 10 * eps(dtype))


def half_the_digits(dtype: torch.dtype) -> float:
    """√eps, relative: what is meant to be the same differs by far less, what is not by far more."""
    return eps(dtype) ** 0.5


def underflow(dtype: torch.dtype, terms: int) -> float:
    """Of a sum of so many products where they leave the range of normal numbers.

    A product below `tiny` is rounded to a multiple of tiny·eps, or to zero where hardware flushes
    subnormal numbers: off by up to tiny either way, whatever its own size.
    """
    return terms * tiny(dtype)


def summed(*terms: float) -> float:
    """Of a sum in float64 of terms of these sizes: 8·eps of each, with what went before."""
    return 8 * eps() * sum(abs(term) for term in terms)


# --- products, bases and eigenvalues of an operator of a given size


def product_noise(dtype: torch.dtype, size: float, asymmetry: float = 0.0) -> float:
    """Of a product with a unit vector, and so of every residual: (4·eps + asymmetry) ‖A‖.

    Three times what was measured: 0.6 to 1.4 eps·‖A‖ along top eigenvectors of Hessians of 1 to 8
    layers in float32, less along random vectors. Products that are asymmetric are as noisy as that.
    Norms lose what is below `LOST`, so an operator smaller than that is all noise.
    """
    return max((4 * eps(dtype) + asymmetry) * size, min(size, LOST))


def of_tridiagonal(noise: float) -> float:
    """Of the eigenvalues of a tridiagonal matrix, each of whose entries may be off by the noise.

    At most the norm of what its entries are off by, and so the sum of a row of three: 3 noise.
    """
    return 3 * noise


def breakdown(dtype: torch.dtype, size: float) -> float:
    """A residual below is noise, and its direction would be: 25 times the noise of a product."""
    return max(100 * eps(dtype) * size, min(size, LOST))


def settled(dtype: torch.dtype, length: float) -> float:
    """Of a coefficient that a second orthogonalisation finds: noise of the first, 4·eps·‖w‖."""
    return 4 * eps(dtype) * length


def product_tolerance(dtype: torch.dtype, n: int) -> float:
    """Relative error of a product above which an operator is at fault, not rounding.

    A product rounds in each of its passes over data and layers; a hundred roundings of that kind
    leave 10·eps, and norms of n random errors grow as √n: 10·eps·√n, at least that of n = 100.
    """
    return 100 * eps(dtype) * math.sqrt(max(n, 100)) / 10


def dense_eigenvalue(dtype: torch.dtype, n: int, size: float, *, in_two_stages: bool) -> float:
    """Of each eigenvalue of a dense matrix, 5·eps·√n·‖A‖ by LAPACK and 10 in two stages.

    Twice the largest errors seen on integer matrices with known eigenvalues, 2.4 and 4.6; a proof
    has n in the place of √n. Most of the error in two stages is the band's.
    """
    return (10 if in_two_stages else 5) * eps(dtype) * n**0.5 * size


def shifted_eigenvalue(factor: float, size: float, shift: float) -> float:
    """Of c λ + d in float64: half a unit for the product and half a unit for the sum."""
    return eps() * (abs(factor) * size + abs(shift))


def block_eigenvalue(dtype: torch.dtype, norm: float) -> float:
    """Of an eigenvalue of a block, from entries that are off by eps/2 each way: eps·‖A‖_F."""
    return eps(dtype) * norm


def rank_threshold(dtype: torch.dtype, n: int, size: float) -> float:
    """Singular values below are zero to rounding: n·eps·‖A‖, as LAPACK-based libraries have it."""
    return eps(dtype) * n * size


def same_node(size: float) -> float:
    """Two nodes of a quadrature rule that near are not told apart: a few eps·‖T‖ for each."""
    return 8 * eps() * size


def nearest_bound(size: float) -> float:
    """Nearer to a Ritz value no bound is put, or its rounding would put the bound inside."""
    return size * 1e-14


# --- losses and gradients, means over all data


def loss_noise(dtype: torch.dtype, loss: float) -> float:
    """Of a mean loss: 10·eps·|L|, for some tens of roundings of either sign on the way to it."""
    return 10 * eps(dtype) * abs(loss)


def loss_change_noise(dtype: torch.dtype, largest: float) -> float:
    """Of a difference of two mean losses: 8·eps times the larger, about what it is off by."""
    return 8 * eps(dtype) * largest


def sag_noise(dtype: torch.dtype, largest: float) -> float:
    """Of L(middle) - (L(here) + L(end))/2: 16·eps of the largest, twice that of two losses."""
    return 16 * eps(dtype) * largest


def gradient_noise(dtype: torch.dtype, curvature: float, length: float) -> float:
    """Of a gradient near a critical point: θ is off by eps·‖θ‖, which H turns into a gradient."""
    return 10 * eps(dtype) * curvature * length


def gradient_change_noise(dtype: torch.dtype, size: float) -> float:
    """Of a difference of two gradients: 100·eps·‖g‖, a loss and a backward pass for each."""
    return 100 * eps(dtype) * size
