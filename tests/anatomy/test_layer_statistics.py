"""Layer by layer, against plain autograd and units counted by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.anatomy.layer_statistics import layer_statistics
from hesscope.results.layers import LayerStatistics
from tests import clean_models, networks
from tests.state import state_of

NUM = 90


def data(size: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(NUM, size).double(), torch.randint(0, 3, (NUM,))


def perceptron(act: nn.Module, width: int = 8) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(6, width), act, nn.Linear(width, width), copy.deepcopy(act), nn.Linear(width, 3)
    )
    return model.double()


def measured(model: nn.Module, x: Tensor, y: Tensor, **options) -> LayerStatistics:
    problem = hs.Problem(model, F.cross_entropy, (x, y), batch_size=40, **options)
    return layer_statistics(problem, problem.gradient())


def close(found: Tensor, expected: list[float]) -> None:
    """Sums of up to 100 float64 squares: 1e-12 is 40 times their rounding."""
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


# --- norms


def test_norms_gains_and_signals_are_those_of_plain_autograd():
    model, (x, y) = perceptron(nn.Tanh()), data()
    found = measured(model, x, y)
    F.cross_entropy(model(x), y).backward()
    linears = [model[0], model[2], model[4]]
    gradients = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in linears]
    weights = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in linears]
    outputs = [model[: i + 1](x).detach() for i in (0, 2, 4)]
    assert found.layers == ("0", "2", "4")
    assert found.sizes == (56, 72, 27)
    assert found.depth == (0, 1, 2)
    assert found.matrix == (True,) * 3
    close(found.gradient_norm, [float(g.square().sum().sqrt()) for g in gradients])
    close(found.gradient_rms, [float(g.square().mean().sqrt()) for g in gradients])
    close(found.weight_norm, [float(w.square().sum().sqrt()) for w in weights])
    close(
        found.ratio,
        [float(g.norm() / w.norm()) for g, w in zip(gradients, weights, strict=True)],
    )
    close(found.signal, [float(z.square().mean().sqrt()) for z in outputs])
    close(found.gain, [float(m.weight.detach().square().sum(1).mean().sqrt()) for m in linears])
    total = sum(float(g.square().sum()) for g in gradients)
    close(found.gradient_share, [float(g.square().sum()) / total for g in gradients])


def test_shares_of_an_eigenvector_are_its_squared_entries_by_layer():
    problem = hs.Problem(perceptron(nn.Tanh()), F.cross_entropy, data())
    v = torch.zeros(problem.n).double()
    v[0], v[60], v[-1] = 3.0, 2.0, math.sqrt(3.0)  # in the first, second and third layer
    found = layer_statistics(problem, problem.gradient(), v)
    close(found.curvature_share, [9 / 16, 4 / 16, 3 / 16])


def test_how_the_data_is_split_does_not_matter():
    model, (x, y) = perceptron(nn.ReLU()), data()
    found = []
    for size in (NUM, 7):
        problem = hs.Problem(model, F.cross_entropy, (x, y), batch_size=size)
        found.append(layer_statistics(problem, problem.gradient()))
    assert found[0].units == found[1].units
    close(found[0].signal, found[1].signal.tolist())


def test_layers_come_in_model_order_with_their_place_in_the_forward_pass():
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(8, 3), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.body(x)))

    found = measured(Reversed().double(), *data())
    assert found.layers == ("head", "body")
    assert found.depth == (1, 0)
    assert found.in_depth() == (1, 0)


# --- units


def planted(act: nn.Module, bias: float) -> LayerStatistics:
    """Units 1 and 5 of the second layer see nothing but the bias."""
    model = perceptron(act)
    with torch.no_grad():
        model[2].weight[[1, 5]] = 0
        model[2].bias[[1, 5]] = bias
    return measured(model, *data())


@pytest.mark.parametrize(
    ("act", "bias"),
    [
        (nn.ReLU(), -0.1),
        (nn.ReLU(inplace=True), -0.1),
        (nn.ReLU6(), -0.1),
        (nn.Hardswish(), -3.5),
        (nn.GELU(), -4.5),
        (nn.SiLU(inplace=True), -11.0),
        (nn.Mish(), -11.0),
        (nn.Tanh(), 4.0),
        (nn.Sigmoid(), -7.0),
    ],
)
def test_planted_dead_units_are_named(act, bias):
    units = {u.layer: u for u in planted(act, bias).units}["2"]
    assert {1, 5} <= set(units.dead)
    assert units.activation == f"{type(act).__name__} 3"
    assert (units.num, units.num_seen, units.hidden) == (8, NUM, True)
    assert 2 <= units.far_dead <= len(units.dead)


@pytest.mark.parametrize(
    ("act", "bias"),
    [(nn.LeakyReLU(), -9.0), (nn.ELU(), -9.0), (nn.Softplus(), -9.0), (nn.PReLU(), -9.0)],
)
def test_leaky_activations_never_die(act, bias):
    found = planted(act.double(), bias)
    assert all(u.dead == () for u in found.units)


@pytest.mark.parametrize(
    ("act", "bias"),
    [(nn.GELU(), -3.0), (nn.SiLU(), -9.0), (nn.Tanh(), 2.9), (nn.Sigmoid(), 5.9)],
)
def test_units_with_a_slope_left_are_alive(act, bias):
    units = {u.layer: u for u in planted(act, bias).units}["2"]
    assert not {1, 5} & set(units.dead)


@pytest.mark.parametrize(
    ("kind", "limit", "function"),
    [
        ("dead", -4.0, F.gelu),
        ("dead", -10.0, F.silu),
        ("dead", -10.0, F.mish),
        ("saturated", 3.0, torch.tanh),
        ("saturated", 6.0, torch.sigmoid),
    ],
)
def test_the_limits_are_where_the_slope_has_gone(kind, limit, function):
    """Beyond the limit the slope is below 1e-3 (dead) or 1 % of its largest (saturated)."""
    x = torch.linspace(-20, 20, 40001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    beyond = x.detach() <= limit if kind == "dead" else x.detach().abs() >= limit
    allowed = 1e-3 if kind == "dead" else 1e-2 * float(slope.max())
    assert float(slope[beyond].abs().max()) <= allowed


def test_the_saturated_share_is_counted_over_all_inputs():
    model, (x, y) = perceptron(nn.Tanh()), data()
    with torch.no_grad():
        model[0].weight.mul_(10)
    units = measured(model, x, y).units[0]
    assert units.saturated == float((model[0](x).abs() > 3).double().mean())
    assert 0.2 < units.saturated < 0.9


class Functional(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts[:-1]:
            x = F.relu(part(x))
        return self.parts[-1](x.flatten(1))


@pytest.mark.parametrize("seed", range(10))
def test_dead_units_behind_a_functional_relu_are_found_from_the_gradient(seed):
    torch.manual_seed(seed)
    model, (x, y) = perceptron(nn.ReLU()), data()
    with torch.no_grad():
        model[2].bias[[1, 5]] = -10
    modules = measured(model, x, y).units
    functional = measured(Functional(model[0], model[2], model[4]), x, y).units
    assert [u.dead for u in functional] == [u.dead for u in modules]
    assert [u.far_dead for u in functional] == [u.far_dead for u in modules]
    assert [u.always_on for u in functional] == [u.always_on for u in modules]
    assert [u.layer for u in functional] == ["parts.0", "parts.1"]
    assert {1, 5} <= set(functional[1].dead)


def test_dead_channels_of_a_convolution_are_found_with_and_without_modules():
    conv, head = nn.Conv2d(2, 4, 3), nn.Linear(4 * 16, 3)
    with torch.no_grad():
        conv.bias[2] = -10
    x, y = torch.randn(20, 2, 6, 6).double(), torch.randint(0, 3, (20,))
    functional = measured(Functional(conv, head).double(), x, y).units[0]
    modules = measured(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head).double(), x, y).units[0]
    assert functional.dead == modules.dead == (2,)
    assert (modules.num, modules.num_seen) == (4, 20 * 16)


def test_one_activation_after_two_layers_is_two_sets_of_units():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Linear(6, 8), nn.Linear(8, 5), nn.ReLU()
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.two(self.act(self.one(x)))))

    units = measured(Shared().double(), *data()).units
    assert [(u.layer, u.num) for u in units] == [("one", 8), ("two", 5)]


def test_an_activation_at_the_end_is_not_hidden():
    model, (x, y) = nn.Sequential(nn.Linear(6, 3), nn.Sigmoid()).double(), data()
    assert [u.hidden for u in measured(model, x, y).units] == [False]


# --- what takes no part


def test_inputs_that_are_always_zero_are_listed():
    x, y = data()
    x[:, [0, 4]] = 0
    x[:-1, 2] = 0  # not in the last example
    found = measured(perceptron(nn.Tanh()), x, y)
    assert (found.num_inputs, found.dead_inputs) == (6, (0, 4))


def test_tokens_have_no_dead_inputs():
    problem = clean_models.clean_case("gru", torch.float64, 0).problem()
    assert layer_statistics(problem, problem.gradient()).num_inputs == 20
    problem = clean_models.clean_case("bag_of_words", torch.float64, 0).problem()
    found = layer_statistics(problem, problem.gradient())
    assert (found.num_inputs, found.dead_inputs) == (0, ())


def test_unused_and_gradientless_parameters_are_told_apart():
    problem = clean_models.clean_case("unused_head", torch.float64, 0).problem()
    found = layer_statistics(problem, problem.gradient())
    assert found.unused == found.zero_gradient == ("other.weight", "other.bias")
    problem = clean_models.clean_case("resnet_zero_started", torch.float64, 0).problem()
    found = layer_statistics(problem, problem.gradient())
    assert found.unused == ()
    assert found.zero_weights == ("2.branch.4.weight",)
    assert set(found.zero_gradient) == {
        f"2.branch.{name}" for name in ("0.weight", "1.weight", "1.bias", "3.weight")
    }


# --- every kind of problem


def test_a_function_of_a_tensor_is_one_layer():
    problem = hs.Problem.from_function(lambda t: (t**2).sum(), torch.tensor([3.0, 4.0]))
    found = layer_statistics(problem, problem.gradient())
    assert (found.layers, found.matrix, found.depth) == (("theta",), (False,), (-1,))
    assert float(found.gradient_norm) == 10.0
    assert found.units == ()


def test_a_closure_gives_the_same_units_and_norms():
    model, (x, y) = perceptron(nn.ReLU()), data()
    problem = hs.Problem.from_closure(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), [(x, y)]
    )
    found, expected = layer_statistics(problem, problem.gradient()), measured(model, x, y)
    assert found.units == expected.units
    close(found.gradient_norm, expected.gradient_norm.tolist())


def test_a_closure_that_maps_over_examples_is_not_looked_into():
    def closure(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.vmap(model)(batch[0]), batch[1])

    problem = hs.Problem.from_closure(perceptron(nn.ReLU()), closure, [data()])
    found = layer_statistics(problem, problem.gradient())
    assert all(u.activation == "" for u in found.units)
    assert bool((found.gradient_norm > 0).all())


def test_other_parameters_are_those_of_the_problem():
    model, (x, y) = perceptron(nn.ReLU()), data()
    problem = hs.Problem(model, F.cross_entropy, (x, y))
    there = problem.at(2 * problem.theta)
    found = layer_statistics(there, there.gradient())
    close(found.weight_norm, (2 * measured(model, x, y).weight_norm).tolist())
    assert found.unused == ()


def test_a_block_has_its_own_layers_only():
    problem = hs.Problem(perceptron(nn.ReLU()), F.cross_entropy, data()).block("2.*")
    found = layer_statistics(problem, problem.gradient())
    assert found.layers == ("2",)


@pytest.mark.parametrize("name", clean_models.RECIPES)
def test_every_model_comes_back_as_it_was(name):
    case = clean_models.clean_case(name, torch.float64, 1)
    problem = case.problem()
    gradient, before = problem.gradient(), state_of(case.model)
    found = layer_statistics(problem, gradient)
    assert state_of(case.model) == before
    assert not hooks_on(case.model)
    assert sum(found.sizes) == problem.n
    assert float(found.gradient_norm.square().sum()) == pytest.approx(float(gradient @ gradient))
    assert "share g²" in str(found)


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_gone_after_an_exception():
    model, (x, y) = perceptron(nn.ReLU()), data()
    problem = hs.Problem(model, F.cross_entropy, (x, y))
    gradient, before = problem.gradient(), state_of(model)
    model[3].forward = lambda _: 1 / 0
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        layer_statistics(problem, gradient)
    assert not hooks_on(model)
    assert state_of(model) == before


def test_one_forward_pass_and_no_backward_pass():
    model, (x, y) = perceptron(nn.ReLU()), data()
    problem = hs.Problem(model, F.cross_entropy, (x, y), batch_size=30)
    gradient, calls = problem.gradient(), []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    model[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    layer_statistics(problem, gradient)
    assert calls == ["forward"] * 3


def test_vectors_that_do_not_fit_are_refused():
    problem = hs.Problem(perceptron(nn.ReLU()), F.cross_entropy, data())
    g = problem.gradient()
    with pytest.raises(ValueError, match=r"^a vector of shape \(3,\) does not fit 155 parameters"):
        layer_statistics(problem, g[:3])
    with pytest.raises(ValueError, match=r"^a vector of shape \(3,\) does not fit 155 parameters"):
        layer_statistics(problem, g, g[:3])
    with pytest.raises(ValueError, match=r"^top_vector is zero; give an eigenvector"):
        layer_statistics(problem, g, 0 * g)


def test_the_table_names_what_takes_no_part():
    problem = networks.smooth("unused").problem()
    found = layer_statistics(problem, problem.gradient(), torch.ones(problem.n).double())
    text = str(found)
    assert "top vector" in text.splitlines()[0]
    assert len(text.splitlines()) == 1 + len(found.layers) + 1
    assert text.splitlines()[-1] == "not used by the loss: other.weight, other.bias"
    assert str(planted(nn.ReLU(), -0.1)).count("dead: 2 units") == 1
