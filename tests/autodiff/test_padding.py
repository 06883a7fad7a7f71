"""A padding row has no gradient, so that no engine may move what a lookup finds there."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import hesscope as hs
from tests.thinning import thinned

TEXTS = torch.randint(0, 4, (12, 6), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
PADDING = 1
ENGINES = {"auto": 1e-12, "forward-over-reverse": 1e-12, "finite-difference": 1e-8}


def held(index: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The lookup with a padding row that is a constant: what torch's gradient means."""
    found = weight[index]
    return torch.where((index == padding)[..., None], found.detach(), found)


class Texts(nn.Module):
    """Embeddings, looked up by torch or by hand, are averaged and classified."""

    def __init__(self, by_hand: bool, padding: int = PADDING) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3, padding_idx=padding)
        nn.init.normal_(self.embed.weight)  # as after training without a reset
        self.head, self.by_hand = nn.Linear(3, 3), by_hand

    def look_up(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.by_hand:
            return held(x, weight, self.embed.padding_idx % len(weight))
        return F.embedding(x, weight, self.embed.padding_idx)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.look_up(x, self.embed.weight)).mean(1))


class Module(Texts):
    def look_up(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().look_up(x, weight) if self.by_hand else self.embed(x)


class Raw(Texts):
    """By torch.embedding, which takes its arguments in another order."""

    def look_up(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.by_hand:
            return super().look_up(x, weight)
        return torch.embedding(weight, x, self.embed.padding_idx)


class FromTheEnd(Texts):
    def __init__(self, by_hand: bool) -> None:
        super().__init__(by_hand, padding=-2)


class TiedToTheHead(Texts):
    """The row does move as the weight of an output, and has a gradient there."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) @ self.embed.weight.T)[:, :3]


class Computed(Texts):
    """The rows are no parameters themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.look_up(x, self.embed.weight.sin())).mean(1))


class Twice(Texts):
    """As many lookups as a text of its batch is long, in one of two ways."""

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.look_up(x[:, : i + 1], self.embed.weight).mean(1) for i in range(x.shape[1])]
        return self.head(torch.tanh(sum(rows)))


MODELS = [Texts, Module, Raw, FromTheEnd, TiedToTheHead, Computed, Twice]


def problem(model: type[Texts], by_hand: bool, seed: int = 0) -> hs.Problem:
    torch.manual_seed(seed)
    made = model(by_hand).double()
    batches = [(TEXTS[:5], LABELS[:5]), (TEXTS[5:, :4], LABELS[5:])]
    return hs.Problem(made, F.cross_entropy, batches)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", thinned(MODELS, 2))
def test_every_engine_holds_what_a_lookup_finds_for_padding(model, engine):
    truth = hs.Hessian(problem(model, by_hand=True)).to_dense()
    H = hs.Hessian(problem(model, by_hand=False), engine).to_dense()
    assert float((H - truth).norm() / truth.norm()) < ENGINES[engine]
    assert float((H - H.T).norm() / H.norm()) < ENGINES[engine]


def test_a_parametrised_embedding_keeps_its_padding_too():
    torch.manual_seed(0)
    one, two = Module(False).double(), Module(True).double()
    for model in (one, two):
        parametrizations.spectral_norm(model.embed)
    two.load_state_dict(one.state_dict())
    truth, H = (hs.Problem(m.eval(), F.cross_entropy, (TEXTS, LABELS)) for m in (two, one))
    V = torch.randn(truth.n, 2, dtype=torch.float64)
    expected = hs.Hessian(truth) @ V
    for engine, tolerance in ENGINES.items():
        product = hs.Hessian(H, engine) @ V
        assert float((product - expected).norm() / expected.norm()) < tolerance


def test_differences_hold_padding_where_the_parameters_are_now():
    moving = problem(TiedToTheHead, by_hand=False)
    H = hs.Hessian(moving, "finite-difference")
    before = H.to_dense()
    moving.model.embed.weight.data.mul_(1.5)
    after, truth = H.to_dense(), hs.Hessian(moving).to_dense()
    assert float((after - truth).norm() / truth.norm()) < 1e-8
    assert float((before - truth).norm() / truth.norm()) > 0.1
