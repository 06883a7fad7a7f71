"""The comparison as a script: it runs, resumes, says what is missing, and its formulas hold."""

import flatness
import numpy as np
import pytest
import torch
from common import study
from common.claims import NO, Claim, interval
from flat import chances, claims, edge, measure, networks, scaling
from flat.settings import Sizes
from flat.train import Entropy, Method, Setting, mean_loss, train


def images(file):
    """A file as that of CIFAR-10."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 32, 32, 3), np.uint8), np.arange(60) % 10
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file


@pytest.mark.slow
def test_cifar_is_compared_where_its_file_is(tmp_path):
    arguments = ["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    arguments += ["--cifar", str(images(tmp_path / "images.npz")), "--parts", "cifar"]
    study.run(flatness.STUDY, arguments)
    page = (tmp_path / "flatness.md").read_text("utf-8")
    assert "flatness/cifar.png" in page
    assert "| SAM, ρ = 0.2 |" in page


def table(lambda_max, accuracy):
    """Two methods at one loss: plain SGD at 1 and 0.5, another with these values over seeds."""
    seeds = len(lambda_max)
    plain = {"lambda_max": torch.ones(seeds, 1), "accuracy": torch.full((seeds, 1), 0.5)}
    other = {name: torch.tensor(v)[:, None] for name, v in
             (("lambda_max", lambda_max), ("accuracy", accuracy))}  # fmt: skip
    return {"plain": plain, "other": other}


@pytest.mark.parametrize(
    ("lambda_max", "accuracy", "holds"),
    [
        ([0.5, 0.52, 0.48], [0.501, 0.499, 0.5], "yes"),  # flatter, and no better
        ([0.5, 0.52, 0.48], [0.6, 0.61, 0.59], "no"),  # flatter and better
        ([0.5, 0.52, 0.48], [0.7, 0.4, 0.6], "in part"),  # nobody can tell
        ([1.5, 0.52, 0.98], [0.5, 0.5, 0.501], "no"),  # not surely flatter
    ],
)
def test_the_benefit_vanishes_where_flatter_is_surely_less_than_a_point_better(
    lambda_max, accuracy, holds
):
    assert claims.vanishes(table(lambda_max, accuracy), (0.1,), "plain", "").holds == holds


def test_a_method_is_flatter_where_its_interval_is_below_one():
    logs, gains = torch.log(torch.tensor([[0.5, 1.1], [0.52, 0.9], [0.48, 1.0]])), torch.zeros(3, 2)
    claim = claims.flatter("", logs, gains, (0.1, 0.01), "")
    assert claim.holds == "in part"
    assert "0.50 [" in claim.measured
    assert claims.flatter("", logs[:, 1:], gains[:, 1:], (0.01,), "").holds == "undecided"
    three = logs[:, 1:].expand(-1, 3), gains[:, 1:].expand(-1, 3)
    assert claims.flatter("", *three, (0.1, 0.03, 0.01), "").holds == "no"


@pytest.mark.parametrize(("points_of", "good"), [(True, "up"), (False, "down")])
def test_a_no_becomes_only_when_where_a_best_chance_surely_bears_it_out(points_of, good):
    found = {"up": torch.tensor([1.0, 1.1, 0.9]), "down": -torch.tensor([1.0, 1.1, 0.9])}
    found["neither"] = torch.tensor([1.0, -1.0, 0.5])
    no = Claim("a", "b", NO, "c", ("d",))
    claim = chances.tried(no, found, points_of=points_of)
    assert claim.holds == f"only when: {good}"
    assert "neither: " in claim.measured
    rest = {name: values for name, values in found.items() if name != good}
    claim = chances.tried(no, rest, points_of=points_of)
    assert claim.holds == NO
    assert len(claim.tried) == 3
    yes = Claim("a", "b", "yes")
    assert chances.tried(yes, found, points_of=points_of) is yes


def test_a_round_of_entropy_sgd_is_as_long_as_asked():
    X, y, _, _ = networks.digits(100)
    setting = Setting(networks.perceptron, X, y, 0.5, 0.0, (2.2,), 10, 400, 100)
    found = train(setting, Entropy(50, gamma=0.1, inner=15, alpha=0.5), 0)
    assert found[0].steps % 15 == 0
    assert found[0].loss <= 2.2


def test_scaling_two_layers_against_each_other_leaves_the_function():
    X, y, test_X, test_y = networks.digits(100)
    found = scaling.rescaled((X, y), (test_X, test_y), Sizes(digits=2, factors=(1.0, 4.0)))
    assert float(found["moved"].max()) < 1e-12
    assert bool((found["lambda_max"][1] > 1.5 * found["lambda_max"][0]).all())
    assert claims.sharpness_is_of_the_weights(found).holds in ("yes", "in part")


@pytest.mark.parametrize("rho", [1e-9, 0.05, 0.2])
def test_at_the_edge_of_sam_a_step_reflects(rho):
    lr, gradient = 0.5, 0.03
    top = edge.sam_edge(gradient, lr, rho)
    assert 1 - lr * top * (1 + rho * top / gradient) == pytest.approx(-1, abs=1e-6)
    assert top < 2 / lr or rho < 1e-6
    assert edge.sam_edge(gradient, lr, 0.0) == 4.0


def test_training_stops_at_the_first_look_below_each_target_and_measures_there():
    X, y, test_X, test_y = networks.digits(100)
    setting = Setting(networks.perceptron, X, y, 0.5, 0.0, (1.5, 0.8, 1e-9), 10, 400, 100)
    found = train(setting, Method(50), 0)
    assert len(found) == 2
    assert 1.2 < found[0].loss <= 1.5
    assert 0.6 < found[1].loss <= 0.8
    model = networks.perceptron(0)
    model.load_state_dict(found[0].state)
    assert mean_loss(model, setting) == found[0].loss
    assert found[0].gradients == found[0].steps
    rows = measure.measured(setting, Method(50), 0, {"accuracy": (test_X, test_y)}, 100, False)
    assert torch.isnan(rows["loss"]).tolist() == [False, False, True]
    assert float(rows["lambda_max"][0]) > 0
    assert 0.3 < float(rows["accuracy"][1]) < 1


def test_an_interval_over_seeds_is_that_of_student():
    mean, half = interval(torch.tensor([1.0, 2.0, 3.0, float("nan")]).double())
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_the_residual_network_is_that_of_its_paper():
    model = networks.resnet(0)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == 19
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
