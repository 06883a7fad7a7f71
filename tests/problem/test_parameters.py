"""Layout, selection and substitution of parameters."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from hesscope.problem.parameters import Layout, flatten, select, substituted
from tests.networks import SMOOTH, mlp, smooth, theta_of


def names(selection):
    return tuple(select(dict(mlp().named_parameters()), selection))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, ("0.weight", "0.bias", "2.weight", "2.bias")),
        ("0", ("0.weight", "0.bias")),
        ("*.bias", ("0.bias", "2.bias")),
        ("2.weight", ("2.weight",)),
        (["2.*", "0.bias"], ("0.bias", "2.weight", "2.bias")),
        (lambda name, p: p.ndim == 1, ("0.bias", "2.bias")),
    ],
)
def test_a_selection_chooses_by_name_glob_list_or_function_in_the_models_order(selection, expected):
    assert names(selection) == expected


@pytest.mark.parametrize("name", SMOOTH)
def test_split_undoes_flatten(name):
    model = smooth(name).model
    tensors = [p.detach() for p in model.parameters()]
    layout = Layout(tuple(map(str, range(len(tensors)))), tuple(t.shape for t in tensors))
    pieces = layout.split(flatten(tensors))
    assert all(torch.equal(a, b) for a, b in zip(pieces, tensors, strict=True))
    assert layout.n == sum(t.numel() for t in tensors)


def test_slices_cover_the_vector_without_a_gap():
    layout = Layout(("a", "b", "c"), (torch.Size([2, 3]), torch.Size([]), torch.Size([4])))
    assert list(layout.slices().values()) == [slice(0, 6), slice(6, 7), slice(7, 11)]
    assert layout.n == 11


@pytest.mark.parametrize("name", ["tied", "lstm", "gru", "gpt2", "resnet_batchnorm"])
def test_a_forward_pass_sees_the_substitutes_and_the_model_keeps_its_own(name):
    case, other = smooth(name), smooth(name, seed=1)
    own = {n: p for n, p in case.model.named_parameters()}
    before = theta_of(case.model)
    stand_ins = {n: p.detach() for n, p in other.model.named_parameters()}
    stand_ins |= {n: b.clone() for n, b in other.model.named_buffers()}
    with torch.no_grad(), substituted(case.model, stand_ins):
        seen = case.model(case.data[0])
    assert torch.equal(seen, other.model(case.data[0]))
    assert torch.equal(theta_of(case.model), before)
    assert {n: id(p) for n, p in case.model.named_parameters()} == {
        n: id(p) for n, p in own.items()
    }


def test_substitutes_are_taken_off_when_an_error_passes():
    model = nn.LSTM(3, 2)
    own, flat = model.weight_hh_l0, model._flat_weights

    def fail():
        with substituted(model, {"weight_hh_l0": torch.zeros(8, 2)}):
            assert model._flat_weights[1] is model.weight_hh_l0 is not own
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.weight_hh_l0 is own
    assert model._flat_weights is flat


DOORS = {
    "typo": (
        "layers.*",
        "params='layers.*' selects none of the 4 trainable parameters. Names look like 0.weight, "
        "0.bias, 2.weight; `model.named_parameters()` lists all of them.",
    ),
    "typo among good names": (
        ["0.*", "3.*"],
        "params='3.*' selects none of the 4 trainable parameters. Names look like 0.weight, "
        "0.bias, 2.weight; `model.named_parameters()` lists all of them.",
    ),
    "empty list": (
        [],
        "params=[] selects none of the 4 trainable parameters. Names look like 0.weight, "
        "0.bias, 2.weight; `model.named_parameters()` lists all of them.",
    ),
    "function": (
        lambda name, p: False,
        "the function given as params selects none of the 4 trainable parameters. Names look like "
        "0.weight, 0.bias, 2.weight; `model.named_parameters()` lists all of them.",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_selection_of_nothing_is_refused(door):
    selection, text = DOORS[door]
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        names(selection)


def test_a_selection_of_frozen_parameters_says_that_they_are_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    text = (
        "params='0' selects none of the 2 trainable parameters. It matches 0.weight, 0.bias, "
        "which is frozen. Names look like 2.weight, 2.bias; `model.named_parameters()` lists all "
        "of them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        select(dict(model.named_parameters()), "0")


def test_a_vector_of_the_wrong_length_is_refused():
    text = (
        "a vector of shape (3,) does not fit 2 parameters; give a tensor of shape (2,), such as "
        "problem.theta."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Layout(("w",), (torch.Size([2]),)).split(torch.ones(3))
