"""What the study of a transformer computes, on cases with known answers."""

import pytest
import torch
import transformer
from common.gpt import LETTERS, gpt, words
from transforming import classes, looks, training

import hesscope as hs


def test_every_parameter_of_the_transformer_is_of_one_type():
    model = looks.made(transformer.STUDY.tiny, 4, 2, 0)
    text = words(2, 6, 4)
    problem = hs.Problem(model, torch.nn.functional.cross_entropy, [text])
    places = looks.coordinates(problem)
    together = torch.cat(list(places.values()))
    assert together.sort().values.tolist() == list(range(problem.n))
    theta = problem.theta
    qkv = model.blocks[0].attention.qkv.weight.detach()
    assert torch.equal(theta[places["key"]], qkv[len(qkv) // 3 : 2 * len(qkv) // 3].flatten())


def test_the_transformer_does_not_see_what_comes_later():
    model = gpt(0, symbols=5, length=6, width=4, depth=1)
    text = torch.tensor([[0, 1, 2, 3, 4, 0]])
    other = text.clone()
    other[0, 4:] = 1
    first, second = model(text), model(other)
    torch.testing.assert_close(first[:4], second[:4])
    assert not torch.allclose(first[4:], second[4:])


def test_words_are_pieces_of_a_text_with_what_follows():
    text, following = words(5, 8)
    assert text.shape == (5, 8)
    assert torch.equal(text[:, 1:], following.view(5, 8)[:, :-1])
    assert int(text.max()) < len(LETTERS)
    few, _ = words(50, 8, 3)
    assert few.unique().tolist() == [0, 1, 2]


def test_topics_are_as_many_of_each():
    pieces, labels = classes.topics(12, 5, 3)
    assert pieces.shape == (12, 5)
    assert labels.bincount().tolist() == [4, 4, 4]


def test_the_share_of_flat_eigenvalues_is_that_below_a_hundredth():
    one = {"H/whole": torch.tensor([-0.5, 0.0, 0.005, 0.02, 1.0]).double()}
    assert training.flat(one) == pytest.approx(2 / 5)
    assert training.tall(one) == pytest.approx(1 / 5)
