"""What comes before curvature, measured on data whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.anatomy.data_summary import data_summary
from hesscope.anatomy.neighbours import neighbours
from hesscope.anatomy.predictions import predictions
from hesscope.anatomy.sample import MOST, Sample, sample
from hesscope.anatomy.time_signals import time_signals
from hesscope.anatomy.trained import trained


def linear(inputs: torch.Tensor, targets: torch.Tensor, outputs: int = 3, **given) -> hs.Problem:
    return hs.Problem(
        nn.Linear(inputs.shape[1], outputs), F.cross_entropy, (inputs, targets), **given
    )


@pytest.mark.parametrize("batch_size", [None, 7, 1000])
def test_a_sample_is_spread_evenly_over_all_data_whatever_its_batches(batch_size):
    num = 5000
    data = torch.arange(2.0 * num).reshape(num, 2), torch.arange(num) % 3
    seen = sample(linear(*data, batch_size=batch_size))
    assert MOST <= len(seen.places) <= 2 * MOST
    assert seen.places.diff().unique().tolist() == [8]
    assert torch.equal(seen.inputs, data[0][seen.places])
    assert torch.equal(seen.targets, data[1][seen.places])


def test_a_sample_leaves_the_model_as_it_was_and_needs_outputs():
    problem = linear(torch.randn(9, 2), torch.zeros(9).long())
    sample(problem)
    assert not problem.model._forward_pre_hooks
    function = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2))
    assert sample(function) is None


def test_logits_are_looked_at_without_what_they_have_in_common():
    common = torch.arange(6.0)[:, None].expand(6, 3)
    outputs = common + torch.tensor([1.0, 0.0, -1.0])
    seen = Sample(torch.arange(6), None, outputs, torch.tensor([0, 0, 0, 1, 1, -100]))
    found = predictions(seen, F.cross_entropy)
    assert found.spread == pytest.approx(0.0, abs=1e-12)
    assert found.size == pytest.approx(math.sqrt(2 / 3))
    assert (found.accuracy, found.guessing) == (0.6, 0.6)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((4, 5, 3), (4, 5)), ((4, 3, 5), (4, 5)), ((4, 3, 2, 2), (4, 2, 2))],
)
def test_classes_are_found_where_the_loss_has_them(outputs, targets):
    torch.manual_seed(0)
    y = torch.randint(0, 3, targets)
    z = F.one_hot(y, 3).float() * 9
    z = z if outputs[-1] == 3 else z.movedim(-1, 1)
    assert z.shape == outputs
    assert predictions(Sample(torch.arange(4), None, z, y), F.cross_entropy).accuracy == 1.0


@pytest.mark.parametrize(
    ("loss", "twice"),
    [(F.cross_entropy, True), (lambda p, y: F.nll_loss(p.log(), y), False)],
)
@pytest.mark.parametrize("squashed", [lambda z: z.softmax(1), torch.sigmoid])
def test_probabilities_that_are_taken_for_logits_are_known_by_the_loss(loss, twice, squashed):
    torch.manual_seed(0)
    seen = Sample(torch.arange(90), None, squashed(torch.randn(90, 3)), torch.arange(90) % 3)
    assert predictions(seen, loss).probabilities is twice


@pytest.mark.parametrize("seed", range(20))
def test_small_logits_around_their_biases_are_no_probabilities(seed):
    """Between 0 and 1 throughout, because biases are: as of a recurrent network at its start."""
    torch.manual_seed(seed)
    outputs = torch.tensor([0.2, 0.1]) + 0.02 * torch.randn(400, 2)
    seen = Sample(torch.arange(400), None, outputs, torch.arange(400) % 2)
    assert bool(((outputs > 0) & (outputs < 1)).all())
    assert not predictions(seen, F.cross_entropy).probabilities


def test_a_feature_tells_the_share_of_its_variance_between_the_classes():
    """Means 0 and 1 with variance 1/4 within: (1/4)/(1/4 + 1/4) = 1/2."""
    y = torch.arange(400) % 2
    within = torch.where(torch.arange(400) % 4 < 2, 0.5, -0.5)
    X = torch.stack([y + within, within], 1)
    found = data_summary(Sample(torch.arange(400), X, X, y), nn.Linear(2, 2))
    assert found.told == pytest.approx(0.5)
    assert (found.telling_feature, found.telling) == (0, 0)


def test_a_pixel_that_is_lit_once_tells_nothing():
    y = torch.arange(60) % 2
    y[7] = 2
    X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    X[:, 1] = (torch.arange(60) == 7).float()
    assert data_summary(Sample(torch.arange(60), X, X, y), nn.Linear(3, 3)).telling == 0


def test_tokens_that_are_not_shifted_are_counted_but_those_left_out():
    x = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    y = torch.tensor([[1, 2, 3, -100], [4, 3, 0, -100]])
    seen = Sample(torch.arange(2), x, torch.zeros(2, 4, 5), y)
    assert data_summary(seen, nn.Linear(1, 1)).copied == pytest.approx(5 / 6)
    assert math.isnan(data_summary(seen, nn.Linear(1, 1), shifts=True).copied)


def test_labels_drawn_at_random_have_no_neighbours_that_agree():
    torch.manual_seed(0)
    X, y = torch.randn(400, 5), torch.randint(0, 3, (400,))
    found = neighbours(Sample(torch.arange(400), X, X, y))
    assert found.decided < 0.05 * found.num_examples
    assert neighbours(Sample(torch.arange(99), X[:99], X[:99], y[:99])) is None


def test_flipped_labels_are_those_that_are_named():
    torch.manual_seed(0)
    y = torch.arange(300) % 3
    X = 6 * F.one_hot(y, 3).float() + torch.randn(300, 3)
    wrong = torch.randperm(300)[:45]
    y[wrong] = (y[wrong] + 1) % 3
    found = neighbours(Sample(torch.arange(300), X, X, y))
    assert set(found.contradicted) <= set(wrong.tolist())
    assert len(found.contradicted) >= 40


def test_the_last_layer_is_the_one_that_runs_last():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    model.register_module("idle", nn.Linear(3, 3))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    problem = hs.Problem(model, F.cross_entropy, (torch.randn(9, 2), torch.arange(9) % 3))
    sgd = torch.optim.SGD(
        [
            {"params": model[0].parameters(), "lr": 0.1},
            {"params": model[2].parameters(), "lr": 0.0},
        ]
    )
    found = trained(problem, sgd)
    assert (found.head, found.frozen, found.num_layers) == ("2", (), 3)
    assert found.unmoved == ("2", "idle")
    assert math.isnan(found.steps)


def test_the_steps_that_an_optimiser_counts_are_known():
    model = nn.Linear(2, 3)
    adam = torch.optim.Adam(model.parameters())
    data = torch.randn(9, 2), torch.arange(9) % 3
    for _ in range(4):
        F.cross_entropy(model(data[0]), data[1]).backward()
        adam.step()
    assert trained(hs.Problem(model, F.cross_entropy, data), adam).steps == 4


@pytest.mark.parametrize("first", [False, True])
def test_gradients_through_time_are_those_of_the_input(first):
    """h_t = 3 x_t + h_(t-1)/2 and the loss h_T: ∂L/∂x_t = 3 / 2^(T-t)."""
    rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=first).double()
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(3.0)
        rnn.weight_hh_l0.fill_(0.5)
    x = torch.ones(1, 4, 1).double() if first else torch.ones(4, 1, 1).double()
    end = lambda model, batch: model(batch[0])[0].flatten()[-1]  # noqa: E731
    problem = hs.Problem.from_closure(rnn, end, [(x, torch.zeros(1))], count=1)
    (found,) = time_signals(problem)
    assert (found.length, found.first, found.last, found.largest) == (4, 3 / 8, 3.0, 3.0)
    assert not rnn._forward_pre_hooks


def test_held_out_data_is_looked_at_where_it_is_given():
    torch.manual_seed(0)
    problem = linear(torch.randn(40, 2), torch.randint(0, 3, (40,)))
    unseen = hs.Problem(problem.model, F.cross_entropy, (torch.randn(30, 2), torch.arange(30) % 3))
    found = hs.diagnose(problem, lr=0.1, effort="quick", held_out=unseen, seed=0)
    assert found.results["held_out_loss"] == unseen.loss()
    assert found.verdict("memorised").evidence["held_out_loss"] == unseen.loss()
    with pytest.raises(ValueError, match=r"^held_out is of type Tensor; give a hesscope\.Problem"):
        hs.diagnose(problem, lr=0.1, held_out=torch.ones(2))


def test_a_head_whose_bias_alone_is_trained_is_frozen():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight.requires_grad_(False)
    data = torch.randn(9, 2), torch.arange(9) % 3
    assert trained(hs.Problem(model, F.cross_entropy, data)).frozen == ("2",)
