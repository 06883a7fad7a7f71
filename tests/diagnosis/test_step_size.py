"""Numbers in, claims out: the step against the limits of the quadratic model."""

import math
from dataclasses import replace

import pytest
import torch

import hesscope as hs
from hesscope.diagnosis.step_size import step_size
from hesscope.results.step import Step

HERE = "; far from a minimum this says nothing about the next hundred steps"


def along_the_gradient(lr: float, change: float, **known: float) -> Step:
    """g·g = 1, g·Hg = 2.5 and λmax = 10: stable below 0.2, descending below 0.8."""
    known = {"slope": -lr, "curvature": 2.5 * lr**2, **known}
    return Step(1.0, 2.5, 10.0, 1e-6, lr=lr, change=change, **known)


@pytest.mark.parametrize(
    ("step", "claim", "finding"),
    [
        (
            Step(1.0, 2.5, 10.0, 0.0),
            "safe at this point up to lr 0.2 = 2/λmax; far from a minimum",
            False,
        ),
        (along_the_gradient(0.05, -0.04), "lr 0.05 is safe at this point: the limit is 0.2", False),
        (along_the_gradient(0.19, -0.01), "lr 0.19 is at the edge of stability: 0.95", False),
        (along_the_gradient(0.21, -0.01), "lr 0.21 is at the edge of stability: 1.05", False),
        (
            along_the_gradient(0.3, -0.1875),
            "lr 0.3 is 1.5 times the limit 0.2 = 2/λmax: the sharp",
            True,
        ),
        (
            along_the_gradient(0.3, -0.01),
            "lr 0.3 is 1.5 times the limit 0.2 = 2/λmax, but this step",
            False,
        ),
        (along_the_gradient(0.9, 0.1125), "too large: this step climbs, because the curv", True),
        (along_the_gradient(0.3, 0.2), "too large: this step climbs, because the loss bend", True),
        (along_the_gradient(0.3, math.inf), "too large: after this step the loss is not f", True),
        (along_the_gradient(0.3, 0.2, slope=0.1), "this step climbs because it points up", True),
        (
            along_the_gradient(0.05, 1e-9, rounding=1e-8),
            "lr 0.05 is safe at this point: the limit is 0.2",
            False,
        ),
    ],
)
def test_the_claim_follows_from_the_update_and_the_curvature(step, claim, finding):
    verdict = step_size(step)
    assert verdict.claim.startswith(claim)
    assert verdict.finding is finding
    assert verdict.evidence["stability_limit"] == pytest.approx(0.2)
    assert verdict.evidence["gradient_limit"] == pytest.approx(0.8)


def test_the_limit_is_that_of_the_optimiser_and_its_preconditioner():
    step = along_the_gradient(0.3, -0.1875, sharpness=4.0, factor=3.8)
    assert step.stable == pytest.approx(0.95)
    assert step_size(step).claim.startswith("lr 0.3 is safe at this point: the limit is 0.95")


def test_the_best_multiple_of_a_climbing_step_is_advised():
    assert "use lr 0.4, the best" in step_size(along_the_gradient(0.9, 0.1125)).advice


def test_without_positive_curvature_along_the_gradient_there_is_no_finite_limit():
    assert step_size(Step(1.0, -1.0, 5.0, 0.0)).evidence["gradient_limit"] == math.inf


@pytest.mark.parametrize("seed", range(20))
def test_curvatures_cancel_only_where_there_are_both_signs(seed):
    import torch

    torch.manual_seed(seed)
    g, values = torch.randn(30).double(), torch.rand(30).double() ** 8

    def cancels(h: torch.Tensor, g: torch.Tensor) -> bool:
        Hg = h * g
        step = Step(float(g @ g), float(g @ Hg), float(h.max()), 0.0, Hg_norm=float(Hg.norm()))
        return step.cancels

    assert not cancels(values, g)
    down = torch.arange(30) < 15
    up, low = (float((values * g**2)[part].sum()) for part in (~down, down))
    mixed = torch.where(down, g * ((1 - 1e-4) * up / low) ** 0.5, g)  # g·Hg nearly zero
    assert cancels(torch.where(down, -values, values), mixed)


@pytest.mark.parametrize(("factor", "climbs"), [(0.99, False), (1.01, True)])
def test_on_a_quadratic_the_threshold_along_the_gradient_is_sharp(factor, climbs):
    """L = ½ Σ λ_i t_i²: the loss change has the sign that the limit 2 g·g/g·Hg predicts."""
    import torch

    eigenvalues = torch.tensor([100.0, 10.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    problem = hs.Problem.from_function(
        lambda t: 0.5 * (eigenvalues * t * t).sum(), torch.ones(6, dtype=torch.float64)
    )
    g = eigenvalues
    limit = 2 * float(g @ g) / float(g @ (eigenvalues * g))
    verdict = hs.diagnose(problem, lr=factor * limit).verdict("step size")
    assert verdict.evidence["gradient_limit"] == pytest.approx(limit, rel=1e-10)
    assert (verdict.evidence["measured_change"] > 0) is climbs
    assert ("this step climbs" in verdict.claim) is climbs


@pytest.mark.parametrize(
    ("known", "claim", "confidence", "finding"),
    [
        (
            {},
            "lr 0.21 is at the edge of stability: 1.05 of the limit 0.2 = 2/λmax; this step",
            "measured",
            0,
        ),
        ({"change": 0.9}, "too large: this step climbs", "measured", True),
        (
            {"factor": math.nan, "change": -1.0, "optimizer": "Adam"},
            "lr 0.21: this step lowers the "
            "loss; what repeated steps can bear is known once Adam has made",
            "measured",
            False,
        ),
        (
            {"sharpness": 20.0, "change": -0.1, "adaptive": True},
            "lr 0.21 is 2.1 times the limit 0.1 = 2/λmax, but this step lowers the loss",
            "measured",
            False,
        ),
        (
            {"sharpness": 8.0, "adaptive": True, "change": -0.1},
            "lr 0.21 is at the edge",
            "measured",
            False,
        ),
        (
            {"sharpness": 20.0, "running_statistics": True},
            "undecided: lr 0.21 is 2.1 times",
            "undecided",
            False,
        ),
        (
            {"sharpness": 200.0, "running_statistics": True},
            "too large: this step climbs",
            "measured",
            True,
        ),
    ],
)
def test_what_is_usual_in_training_is_no_finding(known, claim, confidence, finding):
    verdict = step_size(along_the_gradient(0.21, **{"change": 0.1, "loss": 2.0, **known}))
    assert verdict.claim.startswith(claim)
    assert (verdict.confidence, verdict.finding) == (confidence, bool(finding))


# --- on random batches


def batches(noise_factor: float, size: int = 4, share: float = 0.01) -> hs.BatchStability:
    return hs.BatchStability(
        size, 0.3 / noise_factor, 0.3, (0.3 / noise_factor,), "SGD", 100.0, share, 17, 16, 50.0
    )


@pytest.mark.parametrize(
    ("lr", "noise_factor", "claim", "finding"),
    [
        (
            0.19,
            2.0,
            "lr 0.19 is 1.9 times what batches of 4 examples can bear near a minimum (lr 0.1",
            1,
        ),
        (
            0.11,
            2.0,
            "lr 0.11 is 1.1 times what batches of 4 examples can bear near a minimum (lr 0.1",
            0,
        ),
        (
            0.05,
            2.0,
            "lr 0.05 is safe at this point: the limit is 0.2 = 2/λmax" + HERE + "; batches of 4",
            0,
        ),
        (
            0.05,
            1.01,
            "lr 0.05 is safe at this point: the limit is 0.2 = 2/λmax" + HERE + "; batches of 4",
            0,
        ),
        (
            0.19,
            1.04,
            "lr 0.19 is at the edge of stability: 0.95 of the limit 0.2",
            0,
        ),
    ],
)
def test_the_claim_names_the_batch_size_and_what_it_leaves(lr, noise_factor, claim, finding):
    verdict = step_size(along_the_gradient(lr, -0.01), batches(noise_factor))
    assert verdict.claim.startswith(claim)
    assert verdict.finding is bool(finding)
    assert verdict.evidence["batch_size"] == 4
    assert verdict.evidence["batch_limit"] == pytest.approx(0.2 / noise_factor)
    assert "Mulayoff" in verdict.source


def test_an_example_that_makes_the_noise_alone_is_named():
    verdict = step_size(along_the_gradient(0.19, -0.01), batches(2.0, share=0.7))
    assert verdict.advice.endswith("; example 17 makes 70% of the noise: look at it")


def test_a_step_that_is_wrong_on_the_whole_data_is_that_first():
    verdict = step_size(along_the_gradient(0.9, 0.1125), batches(2.0))
    assert verdict.claim.startswith("too large: this step climbs")


@pytest.mark.parametrize(
    ("options", "steps", "cause"),
    [
        ({"maximize": True}, 0, "maximize=True asks for it"),
        ({"momentum": 0.9}, 3, "it comes from earlier gradients, not"),
        ({"weight_decay": 10.0}, 0, "it comes from weight decay, not"),
        ({"momentum": 0.9, "weight_decay": 10.0}, 3, "earlier gradients or weight decay"),
    ],
)
def test_a_step_uphill_is_put_down_to_what_may_turn_it(options, steps, cause):
    """L = (w - 4)²/2: at w = 3 the gradient is -1, and decay pulls by 10 w the other way."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    problem = hs.Problem(
        model,
        lambda outputs, targets: ((outputs - targets) ** 2).mean() / 2,
        (torch.ones(8, 1).double(), torch.full((8, 1), 4.0).double()),
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, **options)
    for _ in range(steps):  # up from far above the minimum, so that momentum points down
        model.weight.grad = torch.full((1, 1), 100.0).double()
        optimiser.step()
    problem.write(torch.tensor([3.0]))
    verdict = hs.diagnose(problem, optimiser, effort="quick").verdict("step size")
    assert "points uphill" in verdict.claim
    assert cause in verdict.claim


def test_a_prediction_that_misses_by_far_is_said_aloud():
    missed = along_the_gradient(0.05, -0.01)
    missed = replace(missed, change=48 * missed.predicted)
    assert "48 times as much: trust the measured one" in step_size(missed).claim
    turned = replace(missed, change=-missed.predicted)
    assert "the other way: trust the measured one" in step_size(turned).claim
    held = replace(missed, change=1.5 * missed.predicted)
    assert "trust the measured one" not in step_size(held).claim


def test_a_little_way_uphill_is_no_finding_where_batches_are_noisy():
    step = replace(along_the_gradient(0.05, 1e-4), slope=1e-4, curvature=0.0, loss=1.0)
    assert not step_size(step).finding
    assert "uphill a little" in step_size(step).claim
    assert step_size(replace(step, loss=1e-2)).finding
    assert not step_size(replace(step, loss=1e-2), noisy=True).finding
    assert step_size(replace(step, loss=1e-3), noisy=True).finding
    assert step_size(replace(step, uphill="maximize is set")).finding
