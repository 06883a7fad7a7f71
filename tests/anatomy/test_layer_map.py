"""The layer map against dense blocks, exactly and within its error bars."""

import itertools

import pytest
import torch
from torch.nn import functional as F

import hesscope as hs
from tests import oracles
from tests.oracles import data, network

X, Y = data(40, 5, 3)


def dense_blocks(problem: hs.Problem) -> list[list[torch.Tensor]]:
    H = oracles.hessian(problem, X, Y)
    edges = [0]
    for block in problem.blocks().values():
        edges.append(edges[-1] + block.n)
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return [[H[rows, columns] for columns in spans] for rows in spans]


def test_small_networks_are_mapped_exactly():
    problem = hs.Problem(network(5, 8, 6, 3), F.cross_entropy, (X, Y))
    found, blocks = hs.layer_map(problem), dense_blocks(problem)
    assert found.exact
    assert found.num_matvecs == problem.n
    for i, row in enumerate(blocks):
        assert float(found.lambda_max[i]) == pytest.approx(
            float(torch.linalg.eigvalsh(row[i])[-1]), rel=1e-6
        )
        assert float(found.trace[i]) == pytest.approx(float(row[i].trace()), rel=1e-6)
        for j, block in enumerate(row):
            assert float(found.interaction[i, j]) == pytest.approx(float(block.norm()), rel=1e-6)


def test_probed_maps_lie_within_their_errors():
    """Five standard errors of 64 probes for norms and traces; residual intervals for λmax."""
    problem = hs.Problem(network(5, 8, 6, 3), F.cross_entropy, (X, Y))
    found, blocks = hs.layer_map(problem, exact=False, num_probes=64), dense_blocks(problem)
    for i, row in enumerate(blocks):
        truth = float(torch.linalg.eigvalsh(row[i])[-1])
        assert abs(float(found.lambda_max[i]) - truth) <= float(found.lambda_max_error[i])
        assert abs(float(found.trace[i] - row[i].trace())) < 5 * float(found.trace_error[i])
        for j, block in enumerate(row):
            error = float(found.interaction_error[i, j])
            assert abs(float(found.interaction[i, j] - block.norm())) < 5 * error


def test_frobenius_norms_are_the_diagonal_of_the_map():
    found = hs.layer_map(hs.Problem(network(5, 8, 3), F.cross_entropy, (X, Y)))
    assert torch.equal(found.frobenius, found.interaction.diagonal())


def test_one_probe_has_no_standard_error():
    problem = hs.Problem(network(5, 3), F.cross_entropy, (X, Y))
    with pytest.raises(ValueError, match=r"^num_probes=1: a standard error needs at least 2.$"):
        hs.layer_map(problem, num_probes=1)
