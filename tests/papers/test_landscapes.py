"""The rules and data of the study of landscapes."""

import torch
from land import architecture, bulk, networks, symmetries
from land.classes import slope

DOUBLE = torch.float64


def test_shares_of_variance_add_up_and_name_what_moves():
    rows = torch.tensor([0.0, 1.0, 2.0])[:, None, None].expand(3, 4, 5).double()
    assert architecture.parts(rows)["architecture"] == 1
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 4, 5, generator=g, dtype=DOUBLE)
    found = architecture.parts(rows + noise)
    assert abs(sum(found.values()) - 1) < 1e-12
    total = (rows + noise).var(correction=0)
    within = (rows + noise).var(dim=-1, correction=0).mean()
    assert abs(found["seeds"] - float(within / total)) < 1e-12


def test_share_and_shape_of_a_bulk():
    values = torch.tensor([-2e-3, 0.0, 1e-4, 1e-3, 0.5, 1.0], dtype=DOUBLE)
    assert float(bulk.share(values[None])[0]) == 0.5
    left = bulk.shape(values, 2)
    assert len(left) == 4
    assert abs(float(left.square().mean()) - 1) < 1e-12
    assert bulk.distance(left, left) == 0
    assert bulk.distance(left, left + 10) == 1


def test_zeros_are_those_of_the_data_until_those_of_symmetry():
    examples = torch.tensor([1, 40, 100])
    found = symmetries.predicted(370, torch.full((3,), 13.0), examples)
    assert found.tolist() == [361, 13, 13]


def test_the_text_is_the_poem_and_its_rare_symbols_are_one_class():
    run = networks.symbols()
    assert "".join((networks.LETTERS + "_")[i] for i in run[:17]) == "the zen of python"
    X, y = networks.text(100, 4)
    assert X.shape == (100, networks.WINDOW)
    assert y.max() == 3
    often = run.bincount().argmax()
    follows = run[networks.WINDOW :][:100]
    assert torch.equal(y == 0, follows == often)


def test_slope_of_counts_in_classes():
    found = {("CNN", C): {"gap": torch.tensor([C - 1.0, C - 1.0])} for C in (2, 5, 9)}
    assert abs(slope(found, "CNN", "gap") - 1) < 1e-6


def test_a_network_comes_back_from_its_vector():
    model = networks.made(networks.convolutions, 0)
    theta = networks.flat(model)
    other = networks.placed(networks.made(networks.convolutions, 1), theta)
    assert torch.equal(networks.flat(other), theta)
