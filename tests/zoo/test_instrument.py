"""The zoo's instrument on models whose answer is known, before it judges anything."""

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.zoo.examine import ALL_MODES, MODES, examine
from tests.zoo.reference import MeanLoss, attributes_kept, direction, error, truth, truth_of_parts
from tests.zoo.shrink import SIZES, small
from tests.zoo.specimen import NUM, Specimen, same
from tests.zoo.verdict import ALARM, RIGHT, RIGHTLY, SILENT, WRONGLY, Measured, verdict

QUICK = [mode for mode in MODES if mode.point == "moved"]


def inputs(generator):
    return torch.randn(NUM, 4, generator=generator), torch.arange(NUM) % 3


def entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def specimen(make, loss=entropy, **kw):
    def seeded(eager):
        torch.manual_seed(0)
        return make()

    return Specimen("known", "known", seeded, inputs, loss, **kw)


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def mean_loss(known, parts=1):
    model = known.make(False).double()
    return MeanLoss(known, model, known.batches(parts, torch.float64), lifted=True)


def true(known):
    loss = mean_loss(known)
    return truth(loss, direction(loss.model))


def squares(model, batch):
    """Computed in float32, as many language models do."""
    return model(batch[0].float().to(batch[0].dtype)).float().square().mean()


@pytest.mark.parametrize("parts", [1, 2])
def test_the_reference_of_a_linear_model_is_its_moment_matrix(parts):
    known = specimen(lambda: nn.Linear(4, 1, bias=False), squares)
    loss = mean_loss(known, parts)
    (x, _), v = known.batches(1, torch.float64)[0], direction(loss.model)
    expected = 2 * x.T @ (x @ v) / NUM
    assert error(loss.product(v), expected) < 1e-14
    differences, spread = loss.best_difference(v, loss.gradient)
    assert max(error(differences, expected), spread) < 1e-10


def test_casts_to_float32_are_lifted():
    known = specimen(lambda: nn.Linear(4, 1, bias=False), squares)
    lifted, as_is = (
        MeanLoss(known, known.make(False).double(), known.batches(1, torch.float64), lifted=how)
        for how in (True, False)
    )
    assert lifted.mean(torch.detach).dtype is torch.float64
    assert as_is.mean(torch.detach).dtype is torch.float32


class WrongSecond(torch.autograd.Function):
    """exp whose backward keeps a detached value: right once, zero twice."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = x.detach().exp()
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.kept


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def detached(model, batch):
    outputs = model(batch[0])
    return F.cross_entropy(outputs / outputs.norm().detach(), batch[1])


UNSOUND = {
    "double backward is": specimen(
        lambda: nn.Sequential(nn.Linear(4, 3), Apply(WrongSecond.apply)),
    ),
    "random in evaluation mode": specimen(
        lambda: nn.Sequential(nn.Linear(4, 3), Apply(lambda x: F.dropout(x, 0.5)))
    ),
    "from differences of the loss": specimen(network, detached),
    "no second derivative": specimen(
        lambda: nn.Linear(4, 6),
        lambda m, b: F.ctc_loss(
            m(b[0]).log_softmax(-1).expand(8, NUM, 6), b[1][:, None] + 1, *([8] * NUM, [1] * NUM)
        ),
    ),
    "the loss is not finite": specimen(
        lambda: nn.Sequential(nn.Linear(4, 3), Apply(lambda x: x / 0))
    ),
}


@pytest.mark.parametrize("reason", UNSOUND)
def test_the_reference_says_why_a_loss_has_no_hessian_to_serve(reason):
    assert reason in true(UNSOUND[reason]).unsound


def test_a_sound_loss_has_two_witnesses_that_agree():
    found = true(specimen(network))
    assert found.unsound == ""
    assert found.witness.startswith("double backward, differences")


def test_state_between_calls_is_seen_and_put_back():
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * self.calls

    known = specimen(lambda: Counting(4, 3))
    assert "keeps state" in true(known).unsound
    model = known.make(False)
    with attributes_kept(model):
        model(torch.zeros(1, 4))
    assert "calls" not in model.__dict__


def test_a_sum_is_no_mean_over_the_parts_unless_the_batch_is_one_item():
    def total(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    for indivisible in (False, True):
        known = specimen(network, total, indivisible=indivisible)
        whole, parts = mean_loss(known), mean_loss(known, 2)
        v = direction(whole.model)
        unsound = truth_of_parts(parts, whole, truth(whole, v), v).unsound
        assert ("do not average" in unsound) is not indivisible


def test_a_kink_leaves_double_backward_as_the_only_witness():
    flat = specimen(lambda: nn.Sequential(nn.Linear(4, 3), Apply(torch.relu), nn.Linear(3, 3)))
    loss = mean_loss(flat)
    with torch.no_grad():
        loss.parameters[0].zero_()
        loss.parameters[1].zero_()
    found = truth(loss, direction(loss.model))
    assert "diverge" in found.witness
    assert found.unsound == ""


@pytest.mark.parametrize(
    ("fault", "failure", "off", "rounding", "unsound", "expected"),
    [
        ("", "", 1e-6, 0.0, "", RIGHT),
        ("", "", 5e-2, 0.0, "", SILENT),
        ("", "", 5e-2, 4e-2, "", RIGHT),
        ("", "", 5e-2, 0.0, "random", SILENT),
        ("fault", "", 1e-6, 0.0, "", ALARM),
        ("fault", "", 5e-2, 0.0, "", WRONGLY),
        ("fault", "raised", float("inf"), 0.0, "", WRONGLY),
        ("", "raised", float("inf"), 0.0, "", WRONGLY),
        ("fault", "", 1e-6, 0.0, "random", RIGHTLY),
    ],
)
def test_verdicts(fault, failure, off, rounding, unsound, expected):
    assert verdict(Measured(torch.float32, fault, failure, off, rounding, unsound)) == expected


def test_a_healthy_model_is_right_in_every_mode():
    rows = list(examine(specimen(network), ALL_MODES))
    assert [row["verdict"] for row in rows] == [RIGHT] * 8
    assert all(row["left_changed"] == [] for row in rows)


def test_half_of_the_modes_hold_every_pair_of_their_levels():
    for one, other in combinations(("point", "dtype", "parts"), 2):
        assert len({(getattr(mode, one), getattr(mode, other)) for mode in MODES}) == 4


def test_a_library_that_is_off_by_two_per_cent_is_silent(monkeypatch):
    honest = hs.Hessian
    monkeypatch.setattr(hs, "Hessian", lambda problem: 1.02 * honest(problem))
    rows = list(examine(specimen(network), QUICK))
    assert {row["verdict"] for row in rows} == {SILENT}


def test_a_library_that_leaves_its_mark_is_seen(monkeypatch):
    honest = hs.check_problem

    def careless(problem):
        problem.model.forgotten = True
        problem.model[0].bias.grad = torch.zeros(6)
        return honest(problem)

    batches = specimen(network).batches(1, torch.float32)
    assert same(batches, specimen(network).batches(1, torch.float32))
    batches[0][0].add_(1)
    assert not same(batches, specimen(network).batches(1, torch.float32))

    monkeypatch.setattr(hs, "check_problem", careless)
    (row,) = examine(specimen(network), QUICK[:1])
    assert row["left_changed"] == ["gradients", "forgotten"]


def test_sizes_reach_every_field_that_a_configuration_knows():
    transformers = pytest.importorskip("transformers")
    config = small(transformers.CLIPConfig, projection_dim=4, vision_config=dict(hidden_size=24))
    assert (config.projection_dim, config.vision_config.hidden_size) == (4, 24)
    assert config.text_config.vocab_size == SIZES["vocab_size"]
    assert small(transformers.GPT2Config).hidden_size == SIZES["n_embd"]
    assert small(transformers.GPT2Config, n_head=None).n_head == transformers.GPT2Config().n_head
