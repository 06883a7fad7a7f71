"""A post-mortem measures what a monitor would have, at checkpoints, and touches nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import hesscope as hs
from hesscope.monitor.postmortem import QUANTITIES

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
WRONG = (5 * X[:16], (Y[:16] + 1) % 3)


def _trained(folder: Path, steps: int = 5) -> tuple[hs.Problem, torch.optim.Optimizer, hs.History]:
    """Full-batch training with checkpoints of every step, watched."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    with hs.Monitor(problem, optimizer, every=1, quantities=QUANTITIES) as monitor:
        for step in range(steps):
            torch.save(model.state_dict(), folder / f"w{step:03d}.pt")
            torch.save(optimizer.state_dict(), folder / f"o{step:03d}.pt")
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            optimizer.step()
    return problem, optimizer, monitor.history


def test_checkpoints_give_what_a_monitor_saw_and_the_model_is_not_touched(tmp_path: Path) -> None:
    problem, optimizer, seen = _trained(tmp_path)
    before, state = copy.deepcopy(problem.model.state_dict()), copy.deepcopy(optimizer.state_dict())
    generator = torch.get_rng_state()
    paths, states = sorted(tmp_path.glob("w*")), sorted(tmp_path.glob("o*"))
    found = hs.postmortem(problem, paths, optimizers=states)
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is not None for p in problem.model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    for old, new in zip(
        state["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(torch.as_tensor(old[k]), torch.as_tensor(new[k])) for k in old)
    assert found.healthy
    for key in ("loss", "update_norm", "preconditioner_lag", "layer/0/gradient_norm"):
        assert found.history[key].steps.tolist() == seen[key].steps.tolist(), key
        assert found.history[key].values.tolist() == pytest.approx(
            seen[key].values.tolist(), rel=1e-4
        ), key
    assert found.history["lambda_max"].values.tolist() == pytest.approx(
        seen["lambda_max"].values.tolist(), rel=0.02
    )


def test_it_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    problem, _, _ = _trained(tmp_path)
    paths = sorted(tmp_path.glob("w*"))
    hs.postmortem(problem, paths[:3], to=tmp_path / "run")
    for path in paths[:3]:
        path.write_bytes(b"damaged since")
    found = hs.postmortem(problem, paths, to=tmp_path / "run")
    assert found.history["loss"].steps.tolist() == [0, 1, 2, 3, 4]
    assert "update_norm" not in found.history
    assert str(hs.postmortem(tmp_path / "run")) == str(found)


def test_a_suspect_is_held_against_the_probe_data(tmp_path: Path) -> None:
    problem, _, _ = _trained(tmp_path, 30)
    weights = {0: torch.load(tmp_path / "w029.pt")}
    for batch, odd in ((WRONG, True), ((X[:16], Y[:16]), False)):
        history = hs.postmortem(problem, weights, batch=batch).history
        problem.model.load_state_dict(weights[0])
        loss = cross_entropy(problem.model(batch[0]), batch[1], reduction="none").detach()
        assert history["batch_loss"].last == pytest.approx(float(loss.mean()), rel=1e-5)
        examples = history.results["batch_examples"][0].values
        assert examples.tolist() == pytest.approx(loss.tolist(), rel=1e-5)
        assert (history["batch_loss_excess"].last > 6) is odd
        assert (history["batch_gradient_excess"].last > 3) is odd
        single = cross_entropy(problem.model(X), Y, reduction="none").detach()
        assert history["loss_deviation"].last == pytest.approx(float(single.std()), rel=0.5)


def test_rows_of_underflow_lag_and_layers_agree_with_their_definitions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    rows = ["underflow", "preconditioner_lag", "layer_norms"]
    with hs.Monitor(problem, optimizer, every=1, quantities=rows) as monitor:
        for scale in (1.0, 1.0, 1e-6):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            for p in model.parameters():
                p.grad.copy_((p.grad * scale).half() if scale < 1 else p.grad)
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            states = list(optimizer.state.values())
            squares = sum(float(s["exp_avg_sq"].sum()) for s in states)
            steps = float(states[0]["step"]) if states else 0.0
            optimizer.step()
    history = monitor.history
    assert not history.events
    lost = float((gradient == 0).double().mean())
    assert 0.2 < lost < 1
    assert history["gradient_underflow"].values.tolist() == pytest.approx([0, 0, lost])
    lag = float(gradient.norm()) / (squares / (1 - 0.99**steps)) ** 0.5
    assert history["preconditioner_lag"].last == pytest.approx(lag)
    assert history["preconditioner_memory"].last == pytest.approx(100)
    assert history["layer/0/gradient_norm"].last == pytest.approx(float(gradient[:54].norm()))


def test_zeros_of_dead_units_are_no_underflow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hs.Monitor(problem, optimizer, every=1, quantities=["underflow"]) as monitor:
        cross_entropy(model(X[:1]), Y[:1]).backward()
        optimizer.step()
    assert monitor.history["gradient_zeros"].last > 0.3
    assert monitor.history["gradient_underflow"].last == 0


@pytest.mark.parametrize(
    ("checkpoints", "optimizers", "message"),
    [
        (["best.pt"], None, "no step in its name"),
        (["a1.pt", "b1.pt"], None, "not one each"),
        ([], None, "not one each"),
        ([{}], None, "do not tell their steps"),
        ({0: {}}, None, "does not fit"),
        ({0: "missing.pt"}, None, "no weights file"),
        ({0: {}}, {1: {}}, "no checkpoint of step 1"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(checkpoints, optimizers, message) -> None:
    problem = hs.Problem(nn.Linear(8, 3), nn.CrossEntropyLoss(), (X, Y))
    with pytest.raises(ValueError, match=message):
        hs.postmortem(problem, checkpoints, optimizers=optimizers)


def test_parameters_that_are_not_finite_are_a_divergence() -> None:
    problem = hs.Problem(nn.Linear(8, 3), nn.CrossEntropyLoss(), (X, Y))
    steps = {t: copy.deepcopy(problem.model.state_dict()) for t in range(4)}
    steps[3]["weight"][0, 0] = torch.nan
    found = hs.postmortem(problem, steps)
    assert (found.kind, found.onset) == ("divergence", 3)
