"""The heat map shows every block's norm."""

import torch

import hesscope as hs
from tests.oracles import data, network


def test_each_cell_shows_the_norm_of_its_block():
    problem = hs.Problem(network(5, 8, 6, 3), torch.nn.functional.cross_entropy, data(40, 5, 3))
    found = hs.layer_map(problem)
    ax = hs.plots.layer_map(found)
    assert [text.get_text() for text in ax.texts] == [
        f"{float(v):.2g}" for v in found.interaction.flatten()
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == list(found.layers)
