"""The comparison of optimisers: its rules and formulas."""

import pytest
import torch
from acting import claims, courses, million, saddles


@pytest.mark.parametrize(
    ("newton", "descent", "holds"), [(4, 152, "yes"), (40, 152, "in part"), (-1, 152, "in part")]
)
def test_saddles_are_left_quickly_in_a_fifth_of_the_steps(newton, descent, holds):
    plane = torch.tensor([[0, 0, 0, 0], [descent, 9, 9, newton]])
    own = torch.tensor([[0, 0, 0, 0], [500, 9, 9, 20]])[:, :, None]
    assert claims.leaves_at_once(plane, own).holds == holds


def test_hessian_free_is_ahead_where_no_seed_of_another_is_as_low():
    def ends(newton):
        found = {name: torch.tensor([0.2, 0.3]) for name in claims.FIRST_ORDER}
        return {**found, "SGD, batches": torch.tensor([0.15, 0.2]), "NewtonCG": newton}

    low, middle, high = (torch.tensor(v) for v in ([0.1, 0.12], [0.16, 0.17], [0.4, 0.16]))
    assert claims.hessian_free_is_ahead(ends(low), ends(low)).holds == "yes"
    assert claims.hessian_free_is_ahead(ends(middle), ends(high)).holds == "in part"
    assert claims.hessian_free_is_ahead(ends(high), ends(high)).holds == "no"


def test_losses_between_two_looks_lie_on_a_line_in_their_logarithm():
    course = {"gradients": torch.tensor([0.0, 2.0]), "loss": torch.tensor([1.0, 0.01])}
    assert courses.at(course, "gradients", 1.0) == pytest.approx(0.1, rel=1e-6)


def test_what_is_not_reached_is_infinitely_far():
    def course(*losses):
        return {"loss": torch.tensor(losses), "steps": torch.arange(float(len(losses)))}

    found = {"Adam": 2 * [course(3.0, 1.0)], "other": [course(2.0, 1.0, 0.5), course(2.0, 1.5)]}
    assert million.to_adams(found, "other", "steps") == [1.0, torch.inf]


def test_the_median_number_of_steps_is_fitted_by_a_line():
    start, slope = saddles.line((1.0, 0.1), torch.tensor([[5, 5, 9], [10, 7, 5]]))
    assert start == pytest.approx(5)
    assert slope == pytest.approx(2 / torch.tensor(10.0).log().item())
