"""Examinations: honest about what they found, within their limits, unchanged by saving."""

import re

import pytest
import torch
from torch import nn

import hesscope as hs


def quadratic(*eigenvalues: float) -> hs.Problem:
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return hs.Problem.from_function(
        lambda t: 0.5 * (values * t * t).sum(), torch.zeros_like(values)
    )


@pytest.mark.parametrize(
    ("eigenvalues", "claim"),
    [
        ((3.0, 2.0, 1.0), "a strict local minimum: the loss rises in every direction"),
        (
            (3.0, 2.0, -1.0),
            "a strict saddle: there is no slope, but the loss falls along at least one direction",
        ),
        (
            (3.0, 2.0, 0.0),
            "a minimum to second order: nothing curves downhill by more than 3.0e-04, and flat "
            "directions are left",
        ),
        ((-3.0, -2.0, -1.0), "a local maximum: the loss falls in every direction"),
        ((2.0,), "a strict local minimum: the loss rises in every direction"),
    ],
)
def test_critical_points_of_quadratics_are_named(eigenvalues, claim):
    assert hs.diagnose(quadratic(*eigenvalues)).verdict("minimum?").claim == claim


def small_problem(seed: int = 0, **options) -> hs.Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.randn(90, 6), torch.randint(0, 3, (90,))
    return hs.Problem(model, nn.functional.cross_entropy, data, **options)


def test_an_untrained_network_is_still_descending():
    torch.manual_seed(0)
    inputs = torch.randn(400, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    problem = hs.Problem(model, nn.functional.cross_entropy, (inputs, (inputs[:, 0] > 0).long()))
    verdict = hs.diagnose(problem).verdict("minimum?")
    assert verdict.claim.startswith("no: still descending")
    assert verdict.evidence["gradient_norm"] > 2 * verdict.evidence["gradient_noise"]


def test_a_model_fault_comes_first_and_stops_the_rest():
    problem = small_problem()
    problem = hs.Problem(
        problem.model, nn.CrossEntropyLoss(reduction="sum"), problem.batches.source
    )
    examined = hs.diagnose(problem)
    assert [verdict.key for verdict in examined.verdicts] == ["model_fault"]
    assert "sum_reduction" in examined.verdicts[0].claim
    assert not examined.healthy


@pytest.mark.parametrize("most", [10, 25, 60])
def test_the_limit_on_products_is_kept_and_counted(most, monkeypatch):
    multiplied = []
    matmat = hs.Hessian.matmat

    def counting(self, V):
        multiplied.append(V.shape[1])
        return matmat(self, V)

    measured = hs.Hessian.measured_noise

    def uncounted(self, v):  # products on a few examples say what rounding costs
        before = len(multiplied)
        noise = measured(self, v)
        del multiplied[before:]
        return noise

    monkeypatch.setattr(hs.Hessian, "matmat", counting)
    monkeypatch.setattr(hs.Hessian, "measured_noise", uncounted)
    # without data error bars, whose products run on parts of the data
    examined = hs.diagnose(small_problem(), max_matvecs=most, effort="quick", check=False)
    assert examined.num_matvecs == sum(multiplied) <= most


def test_an_examination_survives_saving(tmp_path):
    examined = hs.diagnose(small_problem(), lr=0.1)
    again = hs.load(examined.save(tmp_path / "run"))
    assert str(again) == str(examined)
    assert again.verdicts == examined.verdicts
    assert torch.equal(
        again.results["eigenpairs"].eigenvectors, examined.results["eigenpairs"].eigenvectors
    )


def test_the_page_shows_claim_evidence_and_cost():
    text = str(hs.diagnose(small_problem(), lr=0.1))
    assert re.search(r"minimum\?.*\n.*gradient norm = ", text)
    cost = r"\d+ matvecs, \d+ gradients' worth in all, .* seed 0, 90 items, n = 83, float32"
    assert re.search(cost + r", model.eval\(\)$", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0 is not a learning rate; give the lr of your optimiser."),
        ({"max_matvecs": 2}, "max_matvecs=2 is too little to say anything; the usual is 105."),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.diagnose(small_problem(), **options)


def test_an_unknown_verdict_names_the_known_ones():
    message = "no verdict 'mood'; there are 'learnt', 'critical_point', 'stuck_high', 'step_size', "
    message += "'data', 'outputs', 'trained_layers', 'conditioning', 'layers', 'noise', "
    message += "'convexity', 'outliers', 'smoothness'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hs.diagnose(small_problem()).verdict("mood")
