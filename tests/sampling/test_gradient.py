"""The noise of a gradient is the standard error of the mean of the examples' gradients."""

import math

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.sampling.gradient import gradient_with_noise
from hesscope.sampling.parts import parts_of


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


def test_sorted_data_has_the_noise_of_shuffled_data():
    """Parts are cut at random, so the order of the examples in a batch does not matter."""
    torch.manual_seed(0)
    x = torch.randn(640, 1, dtype=torch.float64).sort(0).values
    model = nn.Linear(1, 1, bias=False).double()
    problem = hs.Problem(model, lambda output, targets: output.mean(), (x, x))
    truth = float(x.std()) / math.sqrt(640)
    assert gradient_with_noise(problem)[1] == pytest.approx(truth, rel=4 / math.sqrt(2 * 31))


@pytest.mark.parametrize(("num", "batch_size"), [(5, None), (40, None), (70, 7), (100, 3)])
def test_parts_hold_every_example_once(num, batch_size):
    x = torch.arange(float(num))[:, None]
    problem = hs.Problem(nn.Linear(1, 1), nn.MSELoss(), (x, x), batch_size=batch_size)
    with problem.evaluation() as e:
        parts = list(parts_of(problem, e))
    assert torch.equal(torch.cat([part.content[0] for part in parts]).sort(0).values, x)
    assert min(num, 32) <= len(parts)
    assert sum(part.count for part in parts) == problem.num_items


def test_examples_that_cannot_be_told_apart_stay_in_one_part():
    batches = [(torch.ones(3, 1), torch.ones(4, 1))] * 2
    closure = lambda model, batch: model(batch[0]).mean() + batch[1].mean()  # noqa: E731
    problem = hs.Problem.from_closure(nn.Linear(1, 1), closure, batches, count=lambda _: 3)
    with problem.evaluation() as e:
        assert [part.count for part in parts_of(problem, e)] == [3.0, 3.0]
