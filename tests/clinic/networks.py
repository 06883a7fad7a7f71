"""Networks and regressions with one thing wrong: in the layers, the data, the noise or the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import hesscope as hs
from tests.clinic.case import Case, Patient
from tests.clinic.data import digits, linear_targets, mlp, sgd, train, two_classes

cross_entropy, mse = nn.functional.cross_entropy, nn.functional.mse_loss
logistic = nn.functional.binary_cross_entropy_with_logits
DESCENDING = "no: still descending"
NOISE = "at the noise level"
# Consequences of broken layers: no step is right there, and descent creeps or stands still
CONSEQUENCES = ("step size", "conditioning", "minimum?")


def squeezed(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda out, y: loss(out.squeeze(-1), y)


def dead_layer(seed: int) -> Patient:
    model = mlp(16, 24, 24, 10)
    nn.init.constant_(model[2].bias, -100.0)
    return hs.Problem(model, cross_entropy, digits(200, pooled=True)), {}


def half_dead(seed: int) -> Patient:
    """Twenty of 32 units have lost their bias, as after one step that was too large."""
    model = mlp(16, 32, 10)
    with torch.no_grad():
        model[0].bias[:20] = -20.0
    return hs.Problem(model, cross_entropy, digits(200, pooled=True)), {}


def vanishing(seed: int) -> Patient:
    model = mlp(16, *[24] * 12, 10, activation=nn.Sigmoid)
    return hs.Problem(model, cross_entropy, digits(200, pooled=True)), {}


def exploding(seed: int) -> Patient:
    """Eight ReLU layers with weights of standard deviation 2: seven times He's."""
    model = mlp(16, *[24] * 7, 10)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=2.0)
    return hs.Problem(model, cross_entropy, digits(200, pooled=True)), {}


def exploding_last(seed: int) -> Patient:
    model = mlp(16, 24, 24, 10)
    with torch.no_grad():
        model[-1].weight *= 1000
    return hs.Problem(model, cross_entropy, digits(200, pooled=True)), {}


def all_zero(seed: int) -> Patient:
    model = mlp(16, 24, 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return hs.Problem(model, cross_entropy, digits(200, pooled=True)), {}


def saturated(seed: int) -> Patient:
    """One sigmoid unit, wrong about every example and sure of it: its slope is below 1e-5."""
    X = torch.rand(100, 1, dtype=torch.float64) + 1
    model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()).double()
    with torch.no_grad():
        model[0].weight.fill_(5.0)
        model[0].bias.fill_(7.0)
    return hs.Problem(model, mse, (X, torch.zeros_like(X))), {"lr": 0.1}


def scaled_features(loss: str) -> Callable[[int], Patient]:
    """The features of one half are a thousand times those of the other."""

    def make(seed: int) -> Patient:
        X, Y = linear_targets() if loss == "linear" else two_classes()
        X = X * torch.tensor([1.0, 1.0, 1.0, 1000.0, 1000.0, 1000.0])
        model = nn.Linear(6, 1).double()
        nn.init.normal_(model.weight, std=1e-3)
        loss_fn = mse if loss == "linear" else squeezed(logistic)
        return hs.Problem(model, loss_fn, (X, Y)), {}

    return make


def noise_floor(seed: int) -> Patient:
    """Linear regression, a tenth of a standard error from the least squares of its sample."""
    X, Y = linear_targets(300, 8, noise=1.0)
    model = nn.Linear(8, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(X, Y).solution.T)
        model.weight += 0.1 / 300**0.5 * torch.randn(1, 8, dtype=torch.float64)
    return hs.Problem(model, mse, (X, Y)), {}


def random_labels(seed: int) -> Patient:
    """Logistic regression at zero on labels that have nothing to do with the inputs."""
    X = torch.randn(400, 20, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    labels = torch.randint(0, 2, (400,)).double()
    return hs.Problem(model, squeezed(logistic), (X, labels)), {}


def high_loss(seed: int) -> Patient:
    """A network whose targets lie far away: the loss is 1e4, and there is a slope."""
    X, Y = linear_targets()
    return hs.Problem(mlp(6, 16, 1, activation=nn.Tanh), mse, (X, Y + 100)), {}


def logistic_start(seed: int) -> Patient:
    X, Y = two_classes()
    return hs.Problem(nn.Linear(6, 1).double(), squeezed(logistic), (X, Y)), {}


def hinge(power: int) -> Callable[[int], Patient]:
    """A linear classifier with weight decay on its weights and none on its bias."""

    def make(seed: int) -> Patient:
        X, Y = two_classes()
        model = nn.Linear(6, 1).double()

        def closure(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            inputs, labels = batch
            margins = (2 * labels - 1) * model(inputs).squeeze(-1)
            return (1 - margins).clamp_min(0).pow(power).mean() + 0.05 * model.weight.square().sum()

        return hs.Problem.from_closure(model, closure, [(X, Y)]), {}

    return make


def untrained(activation: type[nn.Module]) -> Callable[[int], Patient]:
    def make(seed: int) -> Patient:
        model = mlp(16, 20, 10, activation=activation)
        return hs.Problem(model, cross_entropy, digits(300, pooled=True)), {}

    return make


def summed(seed: int) -> Patient:
    loss = nn.CrossEntropyLoss(reduction="sum")
    return hs.Problem(mlp(16, 12, 10), loss, digits(60, pooled=True)), {}


def noisy_loss(seed: int) -> Patient:
    """Noise from numpy, which no seed of torch holds still."""
    import numpy as np

    X, Y = linear_targets()
    rng = np.random.default_rng(seed)

    def closure(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mse(model(batch[0] + float(rng.normal())), batch[1])

    return hs.Problem.from_closure(mlp(6, 8, 1), closure, [(X, Y)]), {}


def not_a_number(seed: int) -> Patient:
    model = mlp(16, 12, 10)
    with torch.no_grad():
        model[2].weight[3, 4] = float("nan")
    return hs.Problem(model, cross_entropy, digits(60, pooled=True)), {}


def stuck(seed: int) -> Patient:
    """A trained network, all of whose units have died in a step that was too large."""
    data = digits(200, pooled=True)
    model = mlp(16, 24, 10)
    train(model, cross_entropy, data, sgd(model, 0.3), 100)
    with torch.no_grad():
        model[0].bias -= 50
    return hs.Problem(model, cross_entropy, data), {"lr": 0.3}


def layer_case(name: str, make: Callable[[int], Patient], *words: str) -> Case:
    return Case(name, make, {"layers": words}, ("layers",), CONSEQUENCES)


CASES = [
    layer_case("dead ReLU layer", dead_layer, 'all 24 units of layer "2" are dead'),
    layer_case("network killed by a step", stuck, 'all 24 units of layer "0" are dead'),
    layer_case("20 of 32 units dead", half_dead, "of the units are dead"),
    layer_case("vanishing gradients, 13 sigmoid layers", vanishing, "vanishing gradients"),
    layer_case("exploding initial weights", exploding, "exploding"),
    layer_case(
        "exploding last layer", exploding_last, 'the weights of layer "4" are out of proportion'
    ),
    layer_case("all weights zero", all_zero, "exactly zero"),
    Case(
        "saturated sigmoid",
        saturated,
        {"minimum?": ("a plateau",)},
        ("minimum?",),
        (*CONSEQUENCES, "layers", "stuck high"),
    ),
    Case(
        "linear regression, features 1:1000",
        scaled_features("linear"),
        {"conditioning": ("by the input features",)},
        ("conditioning",),
    ),
    Case(
        "logistic regression, features 1:1000",
        scaled_features("logistic"),
        {"conditioning": ("by the input features",)},
        ("conditioning",),
    ),
    Case(
        "regression at its noise floor",
        noise_floor,
        {"minimum?": (NOISE,), "noise": ("the gradient is smaller than its sampling noise",)},
    ),
    Case("random labels", random_labels, {"minimum?": (NOISE,)}),
    Case(
        "high loss with a healthy gradient",
        high_loss,
        {"minimum?": (DESCENDING,)},
        never={"minimum?": ("a minimum", "local minimum", "plateau", "noise level")},
    ),
    Case(
        "logistic regression, convex",
        logistic_start,
        {"convexity": ("no negative curvature",), "minimum?": (DESCENDING,)},
        never={"convexity": ("not convex",)},
    ),
    Case(
        "hinge with weight decay, convex",
        hinge(1),
        {"convexity": ("no negative curvature",)},
        never={"convexity": ("not convex",)},
    ),
    Case(
        "squared hinge, convex",
        hinge(2),
        {"convexity": ("no negative curvature",)},
        never={"convexity": ("not convex",)},
    ),
    Case("tanh network, not convex", untrained(nn.Tanh), {"convexity": ("not convex",)}),
    Case("ReLU network, not convex", untrained(nn.ReLU), {"convexity": ("not convex",)}),
    Case("summed loss", summed, {"model fault": ("sum",)}, ("model fault",)),
    Case("loss that differs at every call", noisy_loss, {"model fault": ("",)}, ("model fault",)),
    Case("a parameter is NaN", not_a_number, {"model fault": ("",)}, ("model fault",)),
]
