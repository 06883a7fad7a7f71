"""A module that is known to write out GELU calls it while a loss is built, and only then."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import hesscope as hs
from hesscope.autodiff import written_out
from hesscope.autodiff.graph import differentiably, node_names
from tests.autodiff.operations import randn
from tests.autodiff.stock import EXACT, relative


class NewGELUActivation(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        inner = math.sqrt(2 / math.pi) * (input + 0.044715 * torch.pow(input, 3.0))
        return 0.5 * input * (1.0 + torch.tanh(inner))


class Sharper(NewGELUActivation):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(1.1 * input)


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    """As if the classes here were those of Hugging Face."""
    monkeypatch.setattr(written_out, "HOME", __name__)


Sharper.__qualname__ = NewGELUActivation.__qualname__


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), kind(), nn.Linear(5, 2)).double()


X = randn(10, 6)
MARK = "_ActivationBackward"


def names_of(model: nn.Module, f=None) -> set[str]:
    f = f or model
    return node_names([differentiably(model, lambda: f(X).sin().sum(), lambda loss: loss)])


def test_it_calls_gelu_inside_and_is_itself_afterwards():
    model = network(NewGELUActivation)
    assert MARK in names_of(model)
    assert "forward" not in vars(model[1])
    assert "TanhBackward0" in node_names([model(X).sum()])


def test_the_hessian_is_that_of_the_form_written_out():
    model, plain = network(NewGELUActivation), network(lambda: nn.GELU("tanh"))
    data = X, torch.arange(10) % 2
    H, expected = (hs.Hessian(hs.Problem(m, F.cross_entropy, data)) for m in (model, plain))
    v = randn(H.n, seed=1)
    assert relative(H @ v, expected @ v) <= EXACT
    stock = hs.Hessian(hs.Problem(model, F.cross_entropy, data), "forward-over-reverse")
    assert relative(H @ v, stock @ v) <= EXACT


def test_a_class_of_that_name_with_other_values_runs_as_it_is():
    assert MARK not in names_of(network(Sharper))


def test_a_class_of_that_name_from_elsewhere_runs_as_it_is(monkeypatch):
    monkeypatch.setattr(NewGELUActivation, "__module__", "somewhere.else")
    assert MARK not in names_of(network(NewGELUActivation))


def test_a_module_with_a_forward_of_its_own_keeps_it():
    model = network(NewGELUActivation)
    model[1].forward = own = torch.sin
    assert MARK not in names_of(model)
    assert model[1].forward is own


def test_it_is_itself_again_after_an_error():
    model = network(NewGELUActivation)

    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        names_of(model, fail)
    assert "forward" not in vars(model[1])


def test_inside_a_checkpoint_it_runs_as_it_is():
    model = network(NewGELUActivation)
    assert MARK not in names_of(model, lambda x: checkpoint(model, x, use_reentrant=False))


def test_its_hooks_are_called():
    model, seen = network(NewGELUActivation), []
    model[1].register_forward_hook(lambda *_: seen.append("hook"))
    names_of(model)
    assert seen == ["hook"]


def test_that_of_hugging_face_is_known(monkeypatch):
    monkeypatch.undo()
    activations = pytest.importorskip("transformers.activations")
    with written_out.called_as_one(model := activations.NewGELUActivation()):
        assert "forward" in vars(model)
