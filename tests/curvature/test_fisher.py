"""Fisher matrices weigh items as the loss does, however the data is cut and whatever reduces it."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data, gauss_newton, network
from tests.thinning import thinned

NUM, CLASSES = 12, 3
X, Y = data(NUM, 4, CLASSES)
GENERATOR = torch.Generator().manual_seed(3)
REAL = torch.randn(NUM, CLASSES, dtype=torch.float64, generator=GENERATOR)
SHARES = 3 * torch.rand(NUM, dtype=torch.float64, generator=GENERATOR)
TEXTS = torch.randn(6, 5, 4, dtype=torch.float64, generator=GENERATOR)
WEIGHT = torch.tensor([1.0, 4.0, 0.2], dtype=torch.float64)
LENGTHS = torch.tensor([1, 5, 2, 4, 3, 5])
LABELS = torch.arange(30).view(6, 5) % 3
LABELS[torch.arange(5) >= LENGTHS[:, None]] = -100
SPLITS = ([12], [6, 6], [1, 2, 9], [1] * 12)
EXACT = 1e-12


def relative(A: Tensor, B: Tensor) -> float:
    return float((A - B).norm() / B.norm())


def cut(content, sizes):
    """Batches of these sizes of a tuple (inputs, targets), targets being a tensor or a tuple."""
    inputs, targets = content
    for i, size in zip([sum(sizes[:k]) for k in range(len(sizes))], sizes, strict=True):
        part = slice(i, i + size)
        inside = tuple(t[part] for t in targets) if isinstance(targets, tuple) else targets[part]
        yield inputs[part], inside


def gradient_of(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def moments(gradients: list[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w g gᵀ and Σ w (g - ḡ)(g - ḡ)ᵀ for weights that are divided by their sum."""
    g, w = torch.stack(gradients), (weights / weights.sum())[:, None]
    centred = g - (w * g).sum(0)
    return g.T @ (w * g), centred.T @ (w * centred)


# The empirical Fisher and the covariance: items and their weights


def weighted(z: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy averaged with a weight per example, as a loss of one's own."""
    labels, w = targets
    return (w * F.cross_entropy(z, labels, reduction="none")).sum() / w.sum()


def over_tokens(z: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy averaged over the tokens that count, as a loss of one's own."""
    return F.cross_entropy(z.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("split", SPLITS)
def test_an_example_weighs_in_the_empirical_fisher_what_count_counts_in_it(split):
    model = network(4, 5, 3)
    problem = hs.Problem(
        model, weighted, list(cut((X, (Y, SHARES)), split)), count=lambda t: t[1].sum()
    )
    own = [
        gradient_of(model, F.cross_entropy(model(X[i : i + 1]), Y[i : i + 1])) for i in range(12)
    ]
    second, covariance = moments(own, SHARES)
    assert relative(hs.EmpiricalFisher(problem).to_dense(), second) < EXACT
    assert relative(hs.GradientCovariance(problem).to_dense(), covariance) < EXACT


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("split", [[6], [3, 3], [2, 4], [1] * 6])
def test_a_text_weighs_in_the_empirical_fisher_as_many_tokens_as_count(split, memory):
    model = network(4, 3)
    problem = hs.Problem(
        model, over_tokens, list(cut((TEXTS, LABELS), split)), count=lambda y: (y != -100).sum()
    )
    own = [
        gradient_of(model, over_tokens(model(TEXTS[i : i + 1]), LABELS[i : i + 1]))
        for i in range(6)
    ]
    second, covariance = moments(own, LENGTHS.double())
    E, S = hs.EmpiricalFisher(problem, memory=memory), hs.GradientCovariance(problem, memory=memory)
    assert relative(E.to_dense(), second) < EXACT
    assert relative(S.to_dense(), covariance) < EXACT


def test_a_text_without_a_token_that_counts_adds_nothing():
    labels = LABELS.clone()
    labels[2] = -100
    kept = labels[:, 0] != -100
    model = network(4, 3)

    def problem(x, y):
        return hs.Problem(model, over_tokens, (x, y), count=lambda y: (y != -100).sum())

    whole, without = problem(TEXTS, labels), problem(TEXTS[kept], labels[kept])
    E = hs.EmpiricalFisher(without).to_dense()
    assert relative(hs.EmpiricalFisher(whole).to_dense(), E) < EXACT


class Tokens(nn.Module):
    """Logits (N, C, T), as cross_entropy wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).movedim(-1, 1)


@pytest.mark.parametrize("split", [[6], [2, 4], [1] * 6])
def test_the_items_of_cross_entropy_are_tokens_however_texts_are_batched(split):
    model = Tokens()
    problem = hs.Problem(
        model,
        nn.CrossEntropyLoss(weight=WEIGHT),
        list(cut((TEXTS, LABELS), split)),
        count=lambda y: WEIGHT[y[y != -100]].sum(),
    )
    tokens = TEXTS[LABELS != -100], LABELS[LABELS != -100]
    own = [
        gradient_of(model, F.cross_entropy(model.net(x)[None], y[None]))
        for x, y in zip(*tokens, strict=True)
    ]
    second, covariance = moments(own, WEIGHT[tokens[1]])
    assert relative(hs.EmpiricalFisher(problem).to_dense(), second) < EXACT
    assert relative(hs.GradientCovariance(problem).to_dense(), covariance) < EXACT


FAMILIES = {
    "cross-entropy": (F.cross_entropy, Y, None),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), Y, lambda y: WEIGHT[y].sum()),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), Y, None),
    "soft": (F.cross_entropy, REAL.softmax(1), None),
    "soft, weighted": (nn.CrossEntropyLoss(weight=WEIGHT), REAL.softmax(1), None),
    "squared error": (F.mse_loss, REAL, None),
}


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_loss_has_the_same_empirical_fisher_known_or_written_anew(name, batch_size):
    loss_fn, targets, count = FAMILIES[name]
    known, anew = (
        hs.Problem(network(4, 5, 3), loss, (X, targets), count=count, batch_size=batch_size)
        for loss in (loss_fn, lambda z, t: loss_fn(z, t))
    )
    for operator in (hs.EmpiricalFisher, hs.GradientCovariance):
        assert relative(operator(anew).to_dense(), operator(known).to_dense()) < EXACT


def test_weights_of_examples_that_nobody_can_tell_are_refused():
    problem = hs.Problem(
        network(4, 3), lambda z, t: ((z - t) ** 4).mean(), (X, REAL), count=lambda _: 1
    )
    text = (
        "`count` gives 1 for batch 0 and 12 for its 12 output rows one by one, so nobody can tell "
        "how much each counts. Give a `count` that adds up over examples"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        hs.EmpiricalFisher(problem) @ torch.ones(problem.n)


def test_targets_against_which_outputs_are_broadcast_are_refused():
    problem = hs.Problem(network(4, 1), F.mse_loss, (X, REAL[:, 0]))
    with pytest.raises(ValueError, match=r"^outputs \(12, 1\) and targets \(12,\) differ in shape"):
        hs.EmpiricalFisher(problem) @ torch.ones(problem.n)


# The Fisher matrix: labels drawn from the model


def enumerated(problem: hs.Problem, weights: Tensor, binary: bool) -> Tensor:
    """Σ_n w_n Σ_y p(y|x_n) s sᵀ with s = ∂ log p(y|x_n)/∂theta, over all items n and labels y."""
    model = problem.model
    rows = [row for x in X for row in (model(x)[:, None] if binary else model(x)[None])]
    F_ = torch.zeros(problem.n, problem.n, dtype=torch.float64)
    for w, row in zip(weights, rows, strict=True):
        log_p = torch.cat([F.logsigmoid(row), F.logsigmoid(-row)]) if binary else row.log_softmax(0)
        for value in log_p:
            score = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
            s = torch.cat([g.reshape(-1) for g in score])
            F_ += w * value.exp().detach() * torch.outer(s, s)
    return F_


EQUAL = torch.full((NUM,), 1 / NUM, dtype=torch.float64)
BOTH = (REAL > 0).double()
POSITIVE = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
SMOOTH = 0.2
HOLES = torch.where(torch.arange(NUM) % 3 == 0, -100, Y)
# name: loss, targets, count, weights w_n m_n of the items
DISTRIBUTIONS = {
    "labels": (F.cross_entropy, Y, None, EQUAL),
    "class weights": (
        nn.CrossEntropyLoss(weight=WEIGHT), Y, lambda y: WEIGHT[y].sum(),
        WEIGHT[Y] / WEIGHT[Y].sum(),
    ),
    "ignored labels": (
        F.cross_entropy, HOLES, lambda y: (y != -100).sum(), (HOLES != -100) * EQUAL * 12 / 8,
    ),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=SMOOTH), Y, None, EQUAL),
    "smoothing and class weights": (
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=SMOOTH), Y, lambda y: WEIGHT[y].sum(),
        ((1 - SMOOTH) * WEIGHT[Y] + SMOOTH * WEIGHT.mean()) / WEIGHT[Y].sum(),
    ),
    "soft targets": (F.cross_entropy, REAL.softmax(1), None, EQUAL),
    "soft targets and class weights": (
        nn.CrossEntropyLoss(weight=WEIGHT), REAL.softmax(1), None, REAL.softmax(1) @ WEIGHT / NUM
    ),
    "soft targets, all": (
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=SMOOTH), REAL.softmax(1), None,
        ((1 - SMOOTH) * REAL.softmax(1) @ WEIGHT + SMOOTH * WEIGHT.mean()) / NUM,
    ),
    "soft targets of any mass": (F.cross_entropy, REAL.square(), None, REAL.square().sum(1) / NUM),
    "binary": (nn.BCEWithLogitsLoss(), BOTH, None, EQUAL.repeat(3) / 3),
    "binary, weighted": (
        nn.BCEWithLogitsLoss(pos_weight=POSITIVE), BOTH, None,
        torch.where(BOTH > 0, POSITIVE, 1.0).reshape(-1) / (3 * NUM),
    ),
}  # fmt: skip


def drawn(name: str, batch_size: int | None = None) -> hs.Problem:
    loss_fn, targets, count, _ = DISTRIBUTIONS[name]
    return hs.Problem(network(4, 3), loss_fn, (X, targets), count=count, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_fisher_matrix_is_the_expectation_over_all_labels(name, batch_size):
    problem = drawn(name, batch_size)
    truth = enumerated(problem, DISTRIBUTIONS[name][3], name.startswith("binary"))
    assert relative(hs.Fisher(problem).to_dense(), truth) < EXACT


@pytest.mark.parametrize("name", thinned(DISTRIBUTIONS, 4))
def test_the_sampled_fisher_is_unbiased_for_every_reduction(name):
    """40 seeds of 50 draws: the trace and a random quadratic form, within 4 standard errors."""
    problem = drawn(name, batch_size=5)
    truth = enumerated(problem, DISTRIBUTIONS[name][3], name.startswith("binary"))
    sampled = torch.stack([hs.Fisher(problem, 50, seed=s).to_dense() for s in range(40)])
    v = torch.randn(problem.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for values, exact in (
        (sampled @ v @ v, v @ truth @ v),
        (sampled.diagonal(0, 1, 2).sum(1), truth.trace()),
    ):
        assert abs(float(values.mean() - exact)) < 4 * float(values.std()) / 40**0.5


def test_smoothing_over_a_class_of_weight_zero_is_no_weighted_mean():
    """torch keeps the smoothing loss of such a label, so its item has a loss without a weight."""
    weight = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    loss_fn = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.3)
    problem = hs.Problem(network(4, 5, 3), loss_fn, (X, Y), count=lambda y: weight[y].sum())
    truth = gauss_newton(problem, X, Y)
    assert relative(hs.GaussNewton(problem).to_dense(), truth) < EXACT
    with pytest.raises(ValueError, match=r"^the Fisher matrix needs the distribution behind"):
        hs.Fisher(problem)


def test_the_class_decomposition_adds_up_to_gauss_newton_with_smoothing_and_weights():
    problem = drawn("smoothing and class weights")
    parts = hs.class_decomposition(problem)
    trace = float(hs.GaussNewton(problem).to_dense().trace())
    assert parts.trace == pytest.approx(trace, rel=1e-12)


@pytest.mark.parametrize("samples", [0, -1, 2.5])
def test_a_number_of_samples_that_is_none_is_refused(samples):
    model, data = torch.nn.Linear(2, 3), (torch.eye(2), torch.tensor([0, 1]))
    problem = hs.Problem(model, torch.nn.CrossEntropyLoss(), data)
    with pytest.raises(ValueError, match=f"samples={samples}: draw at least one"):
        hs.Fisher(problem, samples=samples)
