"""The noise of a gradient is the standard error of the mean of the examples' gradients."""

import math

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.curvature.sampling import gradient_with_noise


def linear_problem(num: int, seed: int = 0, **options) -> tuple[hs.Problem, torch.Tensor]:
    """A problem whose gradient is the mean of the inputs: L = mean(w'x)."""
    torch.manual_seed(seed)
    x = torch.randn(num, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5, 3.0]) + 1
    model = nn.Linear(4, 1, bias=False).double()
    loss = lambda output, targets: output.mean()  # noqa: E731
    return hs.Problem(model, loss, (x, x[:, 0]), **options), x


def test_with_one_part_per_example_it_is_the_textbook_standard_error():
    problem, x = linear_problem(20)
    gradient, noise = gradient_with_noise(problem)
    assert torch.allclose(gradient, x.mean(0), rtol=0, atol=1e-14)
    assert noise == pytest.approx(math.sqrt(float(x.var(0).sum()) / 20), rel=1e-12)


def test_over_many_data_sets_it_is_the_spread_of_the_gradient():
    """E noise² = E‖g - E g‖² = tr Σ / N; 200 data sets, mean of noise² within five sigma."""
    truth = (1 + 4 + 0.25 + 9) / 64
    squares = torch.tensor(
        [gradient_with_noise(linear_problem(64, s)[0])[1] ** 2 for s in range(200)]
    )
    assert abs(float(squares.mean()) - truth) < 5 * float(squares.std()) / math.sqrt(200)


def test_a_problem_without_examples_has_unknown_noise():
    problem = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3))
    gradient, noise = gradient_with_noise(problem)
    assert torch.equal(gradient, 2 * torch.ones(3))
    assert math.isnan(noise)
