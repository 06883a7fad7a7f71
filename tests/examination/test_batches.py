"""The step is judged for the user's batches, where their size is given."""

import torch
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, network

X, Y = data(40, 5, 3)


def test_the_size_of_the_batches_decides_about_the_same_step():
    problem = hs.Problem(network(5, 7, 3), F.mse_loss, (X, torch.eye(3).double()[Y]))
    lr = 0.95 * 2 / float(hs.eigsh(hs.Hessian(problem), 1).eigenvalues[0])
    limits = {}
    for size in (1, 40):
        look = hs.diagnose(problem, lr=lr, batch_size=size, effort="quick", check=False)
        verdict = look.verdict("step_size")
        assert f"batches of {size} example{'s' * (size > 1)} can bear" in verdict.claim
        limits[size] = verdict.evidence["batch_limit"]
        assert look.results["batch_stability"].batch_size == size
    assert limits[1] < 0.95 * limits[40]
    assert limits[40] == verdict.evidence["stability_limit"]


def test_without_a_size_or_a_limit_nothing_is_measured():
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    adam = torch.optim.Adam(problem.model.parameters())
    for optimiser, size in ((None, 4), (adam, 4), (torch.optim.SGD(adam.param_groups), None)):
        look = hs.diagnose(problem, optimiser, batch_size=size, effort="quick", check=False)
        assert "batch_stability" not in look.results
        assert "batches of" not in look.verdict("step_size").claim


def test_where_single_examples_are_not_known_the_step_is_judged_all_the_same():
    problem = hs.Problem.from_closure(
        network(5, 7, 3), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (X, Y)
    )
    look = hs.diagnose(problem, lr=0.1, batch_size=4, effort="quick", check=False)
    assert "closure" in look.measurements.missing["batch_stability"]
    assert look.verdict("step_size").claim.startswith("lr 0.1")
