"""An optimiser comes back from its file and steps as it would have, or is refused."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hesscope.steps.state import load_optimizer, optimizer_from_state
from tests.oracles import data, network

X, Y = data(30, 5, 3)
O = torch.optim  # noqa: E741
CURE = (
    "Rebuild the optimiser as in training, call its load_state_dict, and pass the optimiser itself."
)
KINDS = {
    "SGD": lambda p: O.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: O.SGD(p, lr=0.1, momentum=0.9, dampening=0.2),
    "Nesterov": lambda p: O.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: O.Adam(p, lr=0.01, weight_decay=0.1, betas=(0.8, 0.99)),
    "AMSGrad": lambda p: O.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: O.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: O.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adagrad": lambda p: O.Adagrad(p, lr=0.01, lr_decay=0.1),
    "Adadelta": lambda p: O.Adadelta(p, rho=0.8),
    "RAdam": lambda p: O.RAdam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "Rprop": lambda p: O.Rprop(p, lr=0.01),
}
SCALARS = {  # torch casts what these keep as scalars to the dtype of the parameters when it loads
    "NAdam": lambda p: O.NAdam(p, lr=0.01, betas=(0.8, 0.99)),
    "ASGD": lambda p: O.ASGD(p, lr=0.1, lambd=0.1),
}


def steps(model, optimiser, num=3):
    for _ in range(num):
        optimiser.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimiser.step()


def trained(make, hold=lambda model: model.parameters()):
    model = network(5, 7, 3)
    optimiser = make(hold(model))
    steps(model, optimiser)
    return model, optimiser


def assert_goes_on_alike(model, optimiser, rebuilt, other):
    assert type(rebuilt) is type(optimiser)
    steps(model, optimiser)
    steps(other, rebuilt)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("key", [None, "optimizer", "optimizer_state_dict", "optimizer_states"])
@pytest.mark.parametrize("name", KINDS)
def test_training_goes_on_bit_for_bit_from_the_file(name, key, tmp_path):
    model, optimiser = trained(KINDS[name])
    content = optimiser.state_dict()
    content = {"epoch": 3, key: [content] if key == "optimizer_states" else content} if key else (
        content
    )  # fmt: skip
    torch.save(content, tmp_path / "o.pt")
    other = copy.deepcopy(model)
    assert_goes_on_alike(model, optimiser, load_optimizer(other, tmp_path / "o.pt"), other)


@pytest.mark.parametrize("name", SCALARS)
def test_training_goes_on_to_the_rounding_of_the_scalars_that_torch_casts(name):
    model, optimiser = trained(SCALARS[name])
    other = copy.deepcopy(model)
    rebuilt = optimizer_from_state(other, optimiser.state_dict())
    assert type(rebuilt) is type(optimiser)
    steps(model, optimiser)
    steps(other, rebuilt)
    eps = torch.finfo(torch.float32).eps
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=4 * eps, atol=4 * eps)


def split(model):
    named = dict(model.named_parameters())
    weights = {n: p for n, p in named.items() if p.ndim > 1}
    return weights, {n: p for n, p in named.items() if p.ndim == 1}


def test_named_groups_in_any_order_are_found_again():
    def hold(model):
        weights, biases = split(model)
        return [{"params": list(biases.items()), "lr": 0.5}, {"params": list(weights.items())}]

    model, optimiser = trained(KINDS["AdamW"], hold)
    other = copy.deepcopy(model)
    rebuilt = optimizer_from_state(other, optimiser.state_dict())
    assert_goes_on_alike(model, optimiser, rebuilt, other)


def test_groups_in_the_order_of_the_model_are_found_again_by_their_shapes():
    def hold(model):
        return [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}]

    model, optimiser = trained(KINDS["momentum"], hold)
    other = copy.deepcopy(model)
    rebuilt = optimizer_from_state(other, optimiser.state_dict())
    assert_goes_on_alike(model, optimiser, rebuilt, other)


def test_what_schedulers_and_users_write_into_groups_is_no_obstacle():
    model, optimiser = trained(KINDS["SGD"])
    O.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=10, cycle_momentum=False)
    optimiser.param_groups[0]["name"] = "everything"
    rebuilt = optimizer_from_state(model, optimiser.state_dict())
    assert rebuilt.param_groups[0]["name"] == "everything"
    assert rebuilt.param_groups[0]["lr"] == optimiser.param_groups[0]["lr"]


def test_frozen_parameters_may_have_been_left_out():
    model, optimiser = trained(KINDS["Adam"], lambda m: m[2].parameters())
    model[0].requires_grad_(False)
    rebuilt = optimizer_from_state(model, optimiser.state_dict())
    assert [id(p) for p in rebuilt.param_groups[0]["params"]] == [
        id(p) for p in model[2].parameters()
    ]


def test_a_wrapped_model_is_seen_through():
    model, optimiser = trained(KINDS["Adam"])
    rebuilt = optimizer_from_state(nn.DataParallel(model), optimiser.state_dict())
    assert rebuilt.param_groups[0]["params"][0] is model[0].weight


def test_an_old_adam_without_decay_is_adam():
    model, optimiser = trained(lambda p: O.Adam(p, lr=0.01))
    saved = optimiser.state_dict()
    for group in saved["param_groups"]:
        del group["decoupled_weight_decay"]
    assert type(optimizer_from_state(model, saved)) is O.Adam


def test_the_dict_and_the_model_are_not_changed():
    model, optimiser = trained(KINDS["Adam"])
    saved = copy.deepcopy(optimiser.state_dict())
    theta = [p.detach().clone() for p in model.parameters()]
    rebuilt = optimizer_from_state(model, saved)
    rebuilt.state[model[0].weight]["exp_avg"].zero_()
    rebuilt.param_groups[0]["lr"] = 7.0
    assert saved["param_groups"][0]["lr"] == 0.01
    assert float(saved["state"][0]["exp_avg"].norm()) > 0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), theta, strict=True))


# --- refusals


def altered(name, change, hold=lambda model: model.parameters()):
    model, optimiser = trained(KINDS[name], hold)
    saved = copy.deepcopy(optimiser.state_dict())
    change(saved)
    return model, saved


def old_decay(saved):
    saved["param_groups"][0].pop("decoupled_weight_decay")


def weights_first(model):
    return [{"params": list(part.values())} for part in split(model)]


REFUSED = {
    "another class": (
        lambda: altered("SGD", lambda s: s["param_groups"][0].update(trust=0.1)),
        f"this looks like SGD, but trust is no option of torch's: another class may have saved it. "
        f"{CURE}",
    ),
    "unknown": (
        lambda: (network(5, 7, 3), O.Adafactor(network(5, 7, 3).parameters()).state_dict()),
        "the options beta2_decay, d, eps, lr, weight_decay are not those of SGD, ASGD, RMSprop, "
        "Adagrad, Adadelta, Adam, NAdam, RAdam, Rprop or AdamW. " + CURE,
    ),
    "without signs": (  # those of Adamax are those of many others, too
        lambda: (network(5, 7, 3), O.Adamax(network(5, 7, 3).parameters()).state_dict()),
        "the options betas, eps, lr, weight_decay are not those of SGD, ASGD, RMSprop, "
        "Adagrad, Adadelta, Adam, NAdam, RAdam, Rprop or AdamW. " + CURE,
    ),
    "two classes": (  # sharpness-aware steps of Adam, say, with its options and their own
        lambda: altered("Adam", lambda s: s["param_groups"][0].update(rho=0.05, adaptive=False)),
        "this looks like Adam, but adaptive, rho is no option of torch's: another class may have "
        f"saved it. {CURE}",
    ),
    "old decay": (
        lambda: altered("AdamW", old_decay),
        "this state was saved by a torch that does not tell Adam from AdamW, and its weight decay "
        f"is not zero. {CURE}",
    ),
    "another model": (
        lambda: (network(5, 7, 7, 3), trained(KINDS["Adam"])[1].state_dict()),
        f"the optimiser holds 4 parameters, the model 6, of which 6 are trainable. {CURE}",
    ),
    "another order": (
        lambda: altered("Adam", lambda s: None, weights_first),
        "the state number 1 has shape (3, 7), but 0.bias has (7,): the optimiser had its parameters"
        f" in another order than model.parameters(). {CURE}",
    ),
    "open order": (
        lambda: altered("SGD", lambda s: None, weights_first),
        "2 parameter groups without names or state do not tell which parameters they held. " + CURE,
    ),
    "no state dict": (
        lambda: (network(5, 7, 3), network(5, 7, 3).state_dict()),
        "this OrderedDict is no optimiser state; save optimizer.state_dict().",
    ),
    "odd numbers": (
        lambda: altered("SGD", lambda s: s["param_groups"][0].update(params=[0, 0, 1, 9])),
        "this dict is no optimiser state; save optimizer.state_dict().",
    ),
    "foreign names": (
        lambda: altered("SGD", lambda s: s["param_groups"][0].update(param_names=list("abcd"))),
        "the optimiser's a, b, c are no parameters of this model.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_does_not_fit_is_refused_with_its_cure(name):
    make, message = REFUSED[name]
    model, saved = make()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        optimizer_from_state(model, saved)


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    model, optimiser = trained(KINDS["SGD"])
    torch.save({**optimiser.state_dict(), "x": Bomb(tmp_path / "ran")}, tmp_path / "o.pt")
    message = (
        f"{tmp_path / 'o.pt'} holds more than tensors, and loading it would run code from the file."
        " Save the state dict alone: torch.save(optimizer.state_dict(), path)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_optimizer(model, tmp_path / "o.pt")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_and_a_misfit_name_the_path(tmp_path):
    path = tmp_path / "o.pt"
    message = f"there is no optimiser file {path}; write torch.save(optimizer.state_dict(), path)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_optimizer(network(5, 7, 3), path)
    torch.save(torch.zeros(3), path)
    message = f"{path}: this Tensor is no optimiser state; save optimizer.state_dict()."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_optimizer(network(5, 7, 3), path)
