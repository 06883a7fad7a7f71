"""Comparisons: nothing is said to differ that need not, and what cannot be compared is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.cli import main


def matrix(values):
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    )
    return (Q * torch.as_tensor(values, dtype=torch.float64)) @ Q.T


def looked_at(width=6, steps=0, seed=0):
    """An examination of a small network after some steps."""
    torch.manual_seed(seed)
    inputs, labels = torch.randn(60, 4), torch.arange(60) % 3
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        sgd.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        sgd.step()
    return hs.diagnose(hs.Problem(model, F.cross_entropy, (inputs, labels)), optimizer=sgd, seed=0)


@pytest.fixture(scope="module")
def looks():
    return looked_at(), looked_at(steps=60)


def test_the_same_under_other_seeds_is_never_told_apart():
    M = matrix(torch.linspace(-1, 4, 120, dtype=torch.float64))
    for measure in (
        lambda seed: hs.spectral_density(M, 30, seed=seed),
        lambda seed: hs.conditioning(M, 30, seed=seed),
        lambda seed: hs.eigsh(M, 3, seed=seed),
        lambda seed: hs.trace(M, rtol=0.1, seed=seed),
    ):
        found = hs.compare(*[measure(seed) for seed in range(6)], level=0.998)
        assert not any(any(row.differs) for row in found.rows)


def test_what_differs_by_more_than_both_intervals_is_told():
    small, large = (
        matrix(torch.linspace(-1, 4, 120, dtype=torch.float64)),
        matrix(torch.linspace(-2, 9, 120, dtype=torch.float64)),
    )
    for measure, name in (
        (lambda M: hs.spectral_density(M, 40, seed=0), "λmax"),
        (lambda M: hs.conditioning(M, 40, seed=0), "λmin"),
        (lambda M: hs.eigsh(M, 3, seed=0), "eigenvalue 1"),
        (lambda M: hs.trace(M, rtol=0.01, seed=0), "value"),
        (lambda M: hs.spectrum(M), "Frobenius norm"),
    ):
        row = hs.compare(measure(small), measure(large), level=0.998)[name]
        exact = {"λmax": 5, "λmin": -1, "eigenvalue 1": 5, "value": 420 - 180}
        exact["Frobenius norm"] = float(large.norm() - small.norm())
        assert row.differs == (True,)
        assert exact[name] in hs.Interval(row.differences[0].low, row.differences[0].high)


def test_examinations_show_their_losses_and_the_verdicts_that_differ(looks):
    found = hs.compare(*looks, labels=["start", "later"])
    assert found.equal_loss is False
    assert any("the losses differ" in note and "(later)" in note for note in found.notes)
    assert found["loss"].differs == (True,)
    names = {v.key for v in looks[0].verdicts if v.finding}
    other = {v.key for v in looks[1].verdicts if v.finding}
    assert len([note for note in found.notes if "is a finding in" in note]) == len(names ^ other)
    curvature = looks[0].measurements["curvature"]
    assert curvature.lambda_max in found["λmax"].intervals[0]
    assert found["λmax"].intervals[0].width <= 2.1 * curvature.lambda_max_error  # the sharper one
    text = str(found)
    assert text.splitlines()[0].split() == ["start", "later"]
    assert "↑" in text
    assert "↓" in text


def test_networks_of_different_sizes_are_compared_and_it_is_said(looks):
    found = hs.compare(looks[0], looked_at(width=9))
    assert any("parameters" in note for note in found.notes)


def test_a_comparison_is_a_table_and_is_saved(looks, tmp_path):
    found = hs.compare(*looks, labels=["a", "b"])
    table = found.to_pandas()
    assert list(table["number"]) == [row.name for row in found.rows]
    assert (table["a: low"] <= table["a: high"]).all()
    hs.save(found, tmp_path / "compared")
    assert str(hs.load(tmp_path / "compared")) == str(found)


def test_lower_bounds_of_sharpness_are_left_out():
    measures = (
        hs.SharpnessMeasure("worst", 1.0, 0.1, "bound", "1", ""),
        hs.SharpnessMeasure("trace", 1.0, 0.1, "estimate", "1", ""),
    )
    one = hs.Sharpness(0.5, measures, 0.1, 1, 2, 3)
    found = hs.compare(one, one)
    assert [row.name for row in found.rows] == ["trace"]
    assert found.equal_loss is True


def test_what_cannot_be_compared_is_refused():
    spectrum, trace = hs.spectrum(torch.eye(3)), hs.Estimate(1.0, 0.1)
    with pytest.raises(ValueError, match="give two or more"):
        hs.compare(spectrum)
    with pytest.raises(TypeError, match="Estimate and Spectrum; give results of one kind"):
        hs.compare(spectrum, trace)
    with pytest.raises(TypeError, match="Interval; give"):
        hs.compare(hs.Interval(0, 1), hs.Interval(0, 1))
    for bad in ({"labels": ["a"]}, {"labels": ["a", "a"]}, {"level": 1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            hs.compare(trace, trace, **bad)
    with pytest.raises(KeyError, match="there are value"):
        hs.compare(trace, trace)["loss"]


def test_unknown_ends_do_not_break_the_table():
    bound = hs.Interval(1.0, math.inf)
    row = hs.Compared("κ", (bound, hs.Interval(5.0, 6.0)))
    assert row.differs == (False,)
    assert "1 to inf" in str(hs.Comparison(("a", "b"), (row,)))


def test_the_command_line_compares_folders(looks, tmp_path, capsys):
    folders = [str(look.save(tmp_path / f"run{i}")) for i, look in enumerate(looks)]
    assert main(["compare", *folders]) == 0
    out = capsys.readouterr().out
    assert "run0" in out
    assert "λmax" in out
    assert main(["compare", *folders, "--labels", "x,y", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["x", "y"]
    assert main(["compare", folders[0]]) == 2
    assert "give two or more" in capsys.readouterr().err
    assert main(["compare", folders[0], str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    hs.save(hs.spectrum(torch.eye(3)), tmp_path / "other")
    assert main(["compare", folders[0], str(tmp_path / "other")]) == 2
    assert "one kind" in capsys.readouterr().err
