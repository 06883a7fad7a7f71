"""What the study of layers computes, on cases with known answers."""

import math

import layers as study
import pytest
import torch
from common.claims import NO, Claim
from layered import adam, chances, coupling, spectra, targeted, whole
from layered.networks import kinds, layers, matrices

import hesscope as hs

TINY = study.STUDY.tiny


def test_a_histogram_has_half_decades_of_both_signs():
    found = spectra.histogram(torch.tensor([1.0, 0.9, -0.02, 0.0, 1e-9, 2e-5]).double(), 1.0)
    middle = len(found) // 2
    assert middle == 12
    places = {int(i) - middle: round(6 * float(found[i])) for i in found.nonzero().flatten()}
    assert places == {11: 1, 10: 1, -7: 1, 0: 2, 1: 1}


def test_the_distance_is_a_half_way_house_between_equal_and_disjoint():
    p, q = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    assert spectra.distance(p, p) == 0
    expected = (
        0.5 * math.log2(1 / 0.75) + 0.25 * math.log2(0.5 / 0.75) + 0.25 * math.log2(2)
    ) ** 0.5
    assert spectra.distance(p, q) == pytest.approx(expected)
    assert spectra.distance(p, 1 - p) == pytest.approx(1)


def test_quantiles_of_the_semicircle_have_its_moments():
    found = spectra.semicircle(1000)
    assert float(found.mean()) == pytest.approx(0, abs=1e-3)
    assert float(found.square().mean()) == pytest.approx(1 / 4, rel=1e-2)


def test_blocks_that_are_the_same_are_not_apart_and_scaled_ones_are():
    e = torch.tensor([1.0, 1e-2, -1e-3]).double()
    assert spectra.heterogeneity([e, e, e], 1.0) == 0
    assert spectra.heterogeneity([e, 1e-2 * e], 1.0) > 0.5


def test_a_layer_inside_is_neither_the_first_nor_the_last():
    assert whole.inside(torch.tensor([1.0, 3.0, 2.0]))
    assert not whole.inside(torch.tensor([3.0, 1.0, 2.0]))
    assert not whole.inside(torch.tensor([1.0, 2.0, 3.0]))


def test_the_share_outside_is_by_squares():
    assert coupling.outside(torch.tensor([[3.0, 1.0], [1.0, 1.0]])) == pytest.approx(1 / 6)
    assert coupling.outside(torch.eye(3)) == 0
    assert coupling.slope((1, 2, 4), torch.tensor([1.0, 0.5, 0.25])) == pytest.approx(-1)


def test_every_parameter_is_in_one_layer_and_fused_weights_are_three():
    for kind in kinds(TINY).values():
        problem = kind.problem(kind.make(0))
        places = torch.cat(list(layers(kind, problem).values()))
        assert places.sort().values.tolist() == list(range(problem.n))
    names = list(matrices(problem))
    assert "blocks.0.attention.qkv.weight.q" in names
    assert not any(name.endswith("bias") or name == "norm.weight" for name in names)


def test_factors_leave_the_function_and_stretch_its_hessian():
    kind = kinds(TINY)["MLP"]
    scaled = adam.settings({"MLP": kind}, TINY)["MLP, f = 4"]
    plain, model = kind.make(0), scaled.make(0)
    torch.testing.assert_close(model(kind.data[0]), plain(kind.data[0]), rtol=1e-12, atol=1e-12)
    H = hs.Hessian(scaled.problem(model)).to_dense()
    found = adam.apart_scaled(scaled, kind, 0)
    expected = float(torch.linalg.eigvalsh(H)[-1])
    assert float(found["lambda_max"]) == pytest.approx(expected, rel=1e-5)
    assert 0 < float(found["apart"]) < 1


def test_the_estimated_share_is_near_the_exact_one():
    kind = kinds(TINY)["MLP"]
    problem = kind.problem(kind.make(0))
    share, error = spectra.estimated(kind, problem, 40)
    H = hs.Hessian(problem).to_dense()
    squares = sum(float(H[w][:, w].square().sum()) for w in layers(kind, problem).values())
    exact = 1 - squares / float(H.square().sum())
    assert 0 < float(error) < 0.1
    assert float(share) == pytest.approx(exact, abs=4 * float(error))


def test_the_layer_that_lost_most_is_the_one_that_was_aimed_at():
    plain = torch.ones(5, 5)
    ratios = {}
    for name, layer in targeted.TARGETS.items():
        ratios[name] = plain.clone()
        ratios[name][:, targeted.LAYERS.index(layer)] = 0.5
    assert targeted.aimed(ratios).holds == "yes"
    ratios["last"] = plain.clone()
    assert targeted.aimed(ratios).holds == "in part"


def test_the_halves_are_the_same_function_with_any_factor():
    x = torch.randn(5, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(chances.halves(16.0, 3)(x), chances.halves(1.0, 3)(x))
    scaled = chances.halves(4.0, 3)
    torch.testing.assert_close(scaled.first.weight, chances.halves(1.0, 3).first.weight / 4)


def test_a_no_is_kept_with_what_was_tried_or_holds_where_a_setting_bears_it_out():
    no = Claim("a", "b", NO, "c", ("d",))
    values = {"low": torch.tensor([0.1, 0.2]), "high": torch.tensor([0.1, 0.9])}
    assert chances.tried(no, chances.below(values, 0.5)).holds == "only when: low"
    kept = chances.tried(no, chances.below({"high": values["high"]}, 0.5))
    assert (kept.holds, kept.tried) == (NO, ("d", "high 0.5 [0.1, 0.9]"))


def test_gaps_rise_and_rank_with_distance():
    gap = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 3.0]]).double()
    family = {"apart": gap.sqrt(), "gap": gap}
    assert chances.rising({"a": family})["a"][1]
    assert chances.ranked({"a": family})["a"] == ("rank correlation 1", True)
    down = {"apart": -gap, "gap": gap[[1, 0, 2]]}
    assert not chances.rising({"a": down})["a"][1]
    assert not chances.ranked({"a": down})["a"][1]
