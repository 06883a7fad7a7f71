"""The comparison as a script: it runs, resumes, says what is missing, and its formulas hold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import flatness
import numpy as np
import pytest
import torch
from common.claims import interval
from flat import edge, measure, networks
from flat.train import Method, Setting, mean_loss, train

PAPERS = Path(__file__).parents[2] / "papers"


def images(file):
    """A file as that of CIFAR-10."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 32, 32, 3), np.uint8), np.arange(60) % 10
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file


def test_a_tiny_run_draws_and_writes_and_says_what_is_missing(tmp_path):
    command = [sys.executable, PAPERS / "flatness.py", "--tiny"]
    command += ["--run", tmp_path / "run", "--out", tmp_path, "--parts", "digits,edge"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)  # 8 s of a free core
    page = (tmp_path / "flatness.md").read_text("utf-8")
    pictures = re.findall(r"\((flatness/\S+\.png)\)", page)
    assert len(pictures) == 2
    assert all((tmp_path / picture).stat().st_size > 3_000 for picture in pictures)
    assert "A tiny run: its numbers mean nothing" in page
    assert "Not run: no file of CIFAR-10 was given" in page
    numbers = json.loads((tmp_path / "flatness/results.json").read_text("utf-8"))
    assert len(numbers["digits"]) == 7
    assert len(numbers["edge"]["0.2"]) == 2


def never(*_):
    raise AssertionError


@pytest.mark.parametrize("parts", ["edge", pytest.param("edge,cifar", marks=pytest.mark.slow)])
def test_a_second_run_measures_nothing(parts, tmp_path, monkeypatch):
    arguments = ["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    arguments += ["--cifar", str(images(tmp_path / "images.npz"))]
    flatness.main([*arguments, "--parts", parts])
    first = (tmp_path / "flatness.md").read_text("utf-8")
    assert "Not run: digits/plain-SGD/0 has not been measured; add --parts digits" in first
    assert ("flatness/cifar.png" in first) is ("cifar" in parts)
    monkeypatch.setattr(edge, "follow", never)
    monkeypatch.setattr(flatness, "measured", never)
    flatness.main([*arguments, "--parts", parts])
    assert (tmp_path / "flatness.md").read_text("utf-8") == first


def test_the_page_in_the_documentation_is_of_a_full_run_and_has_its_pictures():
    folder = PAPERS.parent / "docs/papers"
    page = (folder / "flatness.md").read_text("utf-8")
    assert "A tiny run" not in page
    pictures = re.findall(r"\((flatness/\S+\.png)\)", page)
    drawn = sorted(folder.glob("flatness/*.png"))
    assert sorted(folder / picture for picture in pictures) == drawn
    assert len(drawn) >= 2


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        flatness.main(["--parts", "digits,trace"])
    assert "there are digits, edge, cifar" in capsys.readouterr().err


@pytest.mark.parametrize("rho", [1e-9, 0.05, 0.2])
def test_at_the_edge_of_sam_a_step_reflects(rho):
    lr, gradient = 0.5, 0.03
    top = edge.sam_edge(gradient, lr, rho)
    assert 1 - lr * top * (1 + rho * top / gradient) == pytest.approx(-1, abs=1e-6)
    assert top < 2 / lr or rho < 1e-6
    assert edge.sam_edge(gradient, lr, 0.0) == 4.0


def test_training_stops_at_the_first_look_below_each_target_and_measures_there():
    X, y, test_X, test_y = networks.digits(PAPERS / "data/mnist_1k.npz", 100)
    setting = Setting(networks.perceptron, X, y, 0.5, 0.0, (1.5, 0.8, 1e-9), 10, 400, 100)
    found = train(setting, Method(50), 0)
    assert len(found) == 2
    assert 1.2 < found[0].loss <= 1.5
    assert 0.6 < found[1].loss <= 0.8
    model = networks.perceptron(0)
    model.load_state_dict(found[0].state)
    assert mean_loss(model, setting) == found[0].loss
    assert found[0].gradients == found[0].steps
    rows = measure.measured(setting, Method(50), 0, (test_X, test_y), 100)
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
