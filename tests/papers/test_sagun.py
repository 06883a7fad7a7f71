"""The reproduction as a script: it runs, resumes, reads data and says what is missing."""

import ast
import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import sagun2016
import torch
from common import data
from common.keeping import Run
from sagun import agreement, networks
from sagun.settings import Digits, tiny

import hesscope as hs

PAPERS = Path(__file__).parents[2] / "papers"
SCRIPTS = sorted(PAPERS.rglob("*.py"))


def test_a_tiny_run_draws_all_figures_and_writes_the_page(tmp_path):
    sagun2016.main(["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)])
    page = (tmp_path / "sagun2016.md").read_text("utf-8")
    pictures = re.findall(r"\((sagun2016/\S+\.png)\)", page)
    assert len(pictures) == 11
    assert all((tmp_path / picture).stat().st_size > 3_000 for picture in pictures)
    assert page.count("**yes**") + page.count("**in part**") + page.count("**no**") > 20
    assert "Its numbers mean nothing" in page
    assert "python papers/sagun2016.py --tiny" in page
    assert "Not run" not in page


def test_the_page_in_the_documentation_is_of_a_full_run_and_has_its_pictures():
    folder = PAPERS.parent / "docs/papers"
    page = (folder / "sagun2016.md").read_text("utf-8")
    assert "Its numbers mean nothing" not in page
    assert "## Claims" in page
    pictures = re.findall(r"\((sagun2016/\S+\.png)\)", page)
    drawn = sorted(folder.glob("sagun2016/*.png"))
    assert sorted(folder / picture for picture in pictures) == drawn
    assert sum((folder / picture).stat().st_size for picture in pictures) < 2e6


def test_a_second_run_measures_nothing_and_says_what_is_missing(tmp_path, monkeypatch):
    arguments = ["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    sagun2016.main([*arguments, "--figures", "3,4,5,6"])
    first = (tmp_path / "sagun2016.md").read_text("utf-8")
    monkeypatch.setattr(hs.ensemble, "train", None)
    sagun2016.main([*arguments, "--figures", "3,4,5,6"])
    assert (tmp_path / "sagun2016.md").read_text("utf-8") == first
    assert "Not run: starts/0 has not been measured; add --figures 8" in first


@pytest.mark.parametrize("network", ["digits-2", "random-3", "blobs-18", "blobs-mse"])
def test_any_network_of_it_can_be_diagnosed(network, tmp_path, capsys):
    arguments = ["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    sagun2016.main([*arguments, "--report", network])
    assert "step size" in capsys.readouterr().out
    assert "step size" in str(hs.load(tmp_path / f"diagnosis-{network}"))
    assert "step size" in (tmp_path / f"diagnosis-{network}.html").read_text("utf-8")


def test_a_network_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    arguments = ["--tiny", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as refused:
        sagun2016.main([*arguments, "--report", "blobs"])
    assert str(refused.value) == (
        "--report blobs: there are digits-2, digits-3, digits-4, digits-5, random-3, blobs-18, "
        "blobs-74, blobs-mse."
    )


def test_a_killed_training_resumes_at_its_last_stage_with_the_same_result(tmp_path, monkeypatch):
    s = Digits(steps=40, stage=10, tolerance=0.0)
    X, y = torch.rand(20, 6).double(), torch.randint(3, (20,))
    whole = networks.trained_digits(Run(tmp_path / "whole"), "a", (6, 4, 3), X, y, s)
    train, calls = hs.ensemble.train, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(hs.ensemble, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        networks.trained_digits(Run(tmp_path / "killed"), "a", (6, 4, 3), X, y, s)
    resumed = networks.trained_digits(Run(tmp_path / "killed"), "a", (6, 4, 3), X, y, s)
    assert len(calls) == 5  # two stages, the one that was killed, and the two that were left
    assert all(bool((whole[name] == resumed[name]).all()) for name in whole)


def test_other_conditions_are_measured_anew(tmp_path):
    run = Run(tmp_path)
    for key, value in ((1, 1.0), (1, 2.0), (2, 3.0)):
        found = run.arrays("x", key, lambda value=value: {"a": torch.tensor([value])})
        assert float(found["a"]) == {1: 1.0, 2: 3.0}[key]
    assert run.facts("x")["seconds"] >= 0


def test_a_file_that_is_not_complete_does_not_count(tmp_path):
    run = Run(tmp_path)
    run.arrays("x", 1, lambda: {"a": torch.ones(1)})
    (tmp_path / "x/facts.json").unlink()
    assert float(run.arrays("x", 1, lambda: {"a": torch.zeros(1)})["a"]) == 0


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_and_npz_files_give_the_same_digits(tmp_path, suffix):
    with np.load(data.DEFAULT) as archive:
        images, labels = archive["x_train"][:60], archive["y_train"][:60]
    squeeze = gzip.compress if suffix else bytes
    file = tmp_path / f"train-images-idx3-ubyte{suffix}"
    file.write_bytes(squeeze(struct.pack(">4i", 0x803, 60, 28, 28) + images.tobytes()))
    other = tmp_path / f"train-labels-idx1-ubyte{suffix}"
    other.write_bytes(squeeze(struct.pack(">2i", 0x801, 60) + labels.tobytes()))
    X, y = data.digits(file, tiny().digits.examples, tiny().digits.pool)
    expected_X, expected_y = data.digits(data.DEFAULT, tiny().digits.examples, tiny().digits.pool)
    assert bool((expected_X == X).all())
    assert bool((y == expected_y).all())


def test_data_that_do_not_fit_are_refused_with_what_is_needed(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, images=np.zeros(3))
    with pytest.raises(SystemExit, match="x_train and y_train are needed"):
        data.digits(file)
    np.savez(file, x_train=np.zeros((3, 28, 28)), y_train=np.zeros(3))
    with pytest.raises(SystemExit, match="holds 3 images; 1000 are needed"):
        data.digits(file)
    lonely = tmp_path / "images-idx3-ubyte"
    lonely.write_bytes(b"")
    with pytest.raises(SystemExit, match="labels-idx1-ubyte"):
        data.digits(lonely)
    with pytest.raises(SystemExit, match="there is no such file"):
        data.digits(tmp_path / "b.npz")
    with pytest.raises(SystemExit):
        sagun2016.parse(["--figures", "11"])


@pytest.mark.parametrize(
    ("widths", "message"),
    [("x", "'x': hidden units by commas, as 10,30, or none"), ("10,0", "'10,0': hidden units"),
     ("none", "--widths none: at least one spectrum has to be exact")],
)  # fmt: skip
def test_widths_that_cannot_be_are_refused_with_what_is_needed(widths, message, capsys):
    with pytest.raises(SystemExit):
        sagun2016.parse(["--widths", widths])
    assert message in capsys.readouterr().err
    assert sagun2016.parse(["--densities", "none", "--widths", "10"]).densities == ()


def test_the_shipped_digits_are_what_their_note_says():
    X, y = data.digits(data.DEFAULT)
    assert X.shape == (1000, 784)
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_starts_lie_on_the_sphere_and_blobs_at_their_centres():
    e = networks.starts((2, 6, 6, 2), 5, 0.5)
    assert torch.allclose(e.theta.norm(dim=1), torch.tensor(0.5 * 74**0.5).double())
    X, y = data.blobs(4, 0.0)
    assert torch.allclose(X[y == 0], torch.ones(2, 2).double())
    assert torch.allclose(X[y == 1], -torch.ones(2, 2).double())
    X, y = data.blobs(9, 0.0, classes=3)
    assert torch.allclose(X.norm(dim=1), torch.full((9,), 2**0.5).double())


def test_near_zero_is_absolute_or_relative():
    values = torch.tensor([[-10.0, 0.05, 1.0], [-0.1, 0.05, 0.0]])
    assert networks.near_zero(values, 0.1, relative=False).tolist() == [1, 3]
    assert networks.near_zero(values, 0.1, relative=True).tolist() == [2, 1]


def small_network(examples, layers, steps):
    s = Digits(examples=examples)
    X, y = data.digits(data.DEFAULT, s.examples, s.pool)
    start = networks.starts(layers, 1, s.sigma)
    t = hs.ensemble.train(start, X, y, lr=s.lr, steps=steps)
    return networks.problem(t.ensemble, 0, X, y)


def four_answers(problem, matvecs):
    H = hs.Hessian(problem)
    spectrum = hs.spectrum(H)
    top, bottom = hs.eigsh(H, 12, "LA"), hs.eigsh(H, 6, "SA")
    return spectrum, agreement.compare(spectrum, top, bottom, hs.spectral_density(H, matvecs))


def test_four_answers_about_a_small_network_agree():
    spectrum, found = four_answers(small_network(100, (784, 1, 10), 200), 60)
    assert len(spectrum) == 805
    assert found.all


@pytest.mark.slow
def test_four_answers_about_the_network_of_8070_parameters_agree():
    spectrum, found = four_answers(small_network(1000, (784, 10, 10, 10), 400), 160)
    assert len(spectrum) == 8_070
    assert found.all
    assert max(spectrum.identities.values()) < 1e-8


def test_a_wrong_spectrum_is_noticed():
    H = hs.as_operator(torch.diag(torch.linspace(-1, 5, 300).double()))
    spectrum, wrong = (
        hs.spectrum(H),
        hs.spectrum(hs.as_operator(H.to_dense() + 0.1 * torch.eye(300))),
    )
    answers = hs.eigsh(H, 4, "LA"), hs.eigsh(H, 2, "SA"), hs.spectral_density(H, 60)
    assert agreement.compare(spectrum, *answers).all
    assert not agreement.compare(wrong, *answers).all


def test_scripts_use_the_public_api_alone_and_short_functions():
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert not re.search(r"(from|import) hesscope\.", text), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, (path, node.name)
