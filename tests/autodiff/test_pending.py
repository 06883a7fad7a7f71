"""Logits that are pending: the same loss, gradient and products, and themselves for all else."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

import hesscope as hs
from hesscope.autodiff import language_head, pending
from hesscope.autodiff.graph import differentiably, gradient_graph, kept_bytes, node_names
from hesscope.autodiff.kernels import fast_second_derivatives
from tests.autodiff.operations import randn
from tests.autodiff.stock import EXACT, derivatives, relative

MARK, CLASSES = "_LossBackwardBackward", 13
H, W = randn(3, 5, 2), randn(CLASSES, 2, seed=1)
Y = torch.arange(15).view(3, 5) % CLASSES
Y[0, 2] = -100
NAN = Y.masked_fill(Y >= 0, -100)


@pytest.fixture(autouse=True, params=[1, 30, 10_000], ids=["items", "pieces", "one piece"])
def small(monkeypatch, request):
    monkeypatch.setattr(pending, "LARGE", 1)
    monkeypatch.setitem(language_head.ENTRIES, "cpu", request.param)


def ahead(z: Tensor, **options) -> Tensor:
    return F.cross_entropy(z[:, :-1].flatten(0, 1), Y[:, 1:].flatten(), **options)


# losses of logits that do without them
TAKEN = {
    "as users write it": ahead,
    "as Hugging Face writes it": lambda z: F.cross_entropy(z.view(-1, CLASSES), Y.view(-1)),
    "shifted and copied": lambda z: F.cross_entropy(
        z[..., :-1, :].contiguous().view(-1, z.shape[-1]), Y[..., 1:].reshape(-1)
    ),
    "sum": lambda z: ahead(z, reduction="sum") / 7,
    "another index is ignored": lambda z: F.cross_entropy(
        z.reshape(15, CLASSES), Y.clamp_min(0).flatten(), ignore_index=4
    ),
    "squared": lambda z: ahead(z) ** 2,
    "by name": lambda z: F.cross_entropy(input=z.flatten(end_dim=1), target=Y.flatten()),
    "of one sequence": lambda z: F.cross_entropy(z[1:2][..., :].view([-1, CLASSES]), Y[1]),
}


def written(z: Tensor) -> Tensor:
    flat = z.view(-1, CLASSES)
    z.mul_(2)
    return F.cross_entropy(flat, Y.view(-1))


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


# and that need them
REAL = {
    "scaled": lambda z: ahead(z * 0.3),
    "capped": lambda z: ahead(3 * torch.tanh(z / 3)),
    "written to": written,
    "divided in place": lambda z: ahead(z.div_(3)),
    "smoothed": lambda z: ahead(z, label_smoothing=0.1),
    "weighted": lambda z: ahead(z, weight=W[:, 0].square()),
    "each": lambda z: ahead(z, reduction="none").square().mean(),
    "likelihood": lambda z: -z.log_softmax(-1)[0, 1, 3],
    "classes in the middle": lambda z: F.cross_entropy(z.mT, Y),
    "fewer classes": lambda z: F.cross_entropy(z[..., :7].flatten(0, 1), Y.flatten() % 7),
    "penalised": lambda z: ahead(z) + 1e-3 * torch.logsumexp(z, -1).square().mean(),
    "one token": lambda z: F.cross_entropy(z[:, -1], Y[:, -1]),
    "distributions": lambda z: F.cross_entropy(
        z.flatten(0, 1), randn(15, CLASSES, seed=5).softmax(1)
    ),
    "chosen rows": lambda z: F.cross_entropy(z[Y >= 0], Y[Y >= 0]),
    "another shape": lambda z: z.reshape(-1).sin().mean(),
    "squeezed": lambda z: ahead(z.unsqueeze(0).squeeze(0)),
}


def compared(loss, leaves) -> set[str]:
    """Loss, gradient, product and those of a loss made of derivatives; the names of all nodes."""

    def penalised() -> Tensor:
        value = loss()
        slopes = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        return value + sum(slope.square().sum() for slope in slopes)

    names = set()
    for f in (loss, penalised):
        value, (gradient, product, _) = f().detach(), derivatives(f, leaves)
        with fast_second_derivatives(heads=True) as mode:
            found, (fast_gradient, fast_product, own) = f().detach(), derivatives(f, leaves)
        assert mode.pending
        assert relative(found, value) <= EXACT
        assert relative(fast_gradient, gradient) <= EXACT
        assert relative(fast_product, product) <= EXACT
        names |= own
    return names


@pytest.mark.parametrize("name", TAKEN)
def test_a_cross_entropy_is_that_of_stock_without_the_logits(name):
    leaves = [H.clone().requires_grad_(), W.clone().requires_grad_()]
    names = compared(lambda: TAKEN[name](F.linear(leaves[0].sin(), leaves[1])), leaves)
    assert any(MARK in node for node in names)


@pytest.mark.parametrize("name", REAL)
def test_any_other_use_gets_the_logits(name):
    leaves = [H.clone().requires_grad_(), W.clone().requires_grad_()]
    names = compared(lambda: REAL[name](F.linear(leaves[0].sin(), leaves[1])), leaves)
    assert not any(MARK in node for node in names) or name == "penalised"


@pytest.mark.parametrize("learnt", [0, 1])
def test_what_is_frozen_stays_so(learnt):
    leaves = [H.clone(), W.clone()]
    leaves[learnt].requires_grad_()
    assert any(
        MARK in node for node in compared(lambda: ahead(F.linear(*leaves)), [leaves[learnt]])
    )


def test_second_derivatives_agree_with_differences():
    def f(h: Tensor, weight: Tensor) -> Tensor:
        with fast_second_derivatives(heads=True):
            return ahead(F.linear(h, weight))

    leaves = H.clone().requires_grad_(), W.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


def test_a_batch_in_which_nothing_counts_is_as_in_torch():
    weight = W.clone().requires_grad_()
    with fast_second_derivatives(heads=True):
        logits = F.linear(H, weight).flatten(0, 1)
        assert F.cross_entropy(logits, NAN.flatten()).isnan()
        assert F.cross_entropy(logits, NAN.flatten(), reduction="sum") == 0
        with pytest.raises((RuntimeError, IndexError)):
            F.cross_entropy(logits, NAN.flatten() + 100 + CLASSES)


def test_shapes_and_kinds_are_known_without_numbers():
    weight = W.clone().requires_grad_()
    with fast_second_derivatives(heads=True):
        z = F.linear(H, weight)
    assert isinstance(z, Tensor)
    assert (z.shape, z.size(-1), z.dim(), z.ndim, len(z), z.numel()) == (
        (3, 5, 13),
        13,
        3,
        3,
        3,
        195,
    )
    assert (z.dtype, z.device) == (H.dtype, H.device)
    assert z._product.computed is None
    assert z.requires_grad
    assert relative(z.detach(), F.linear(H, W)) == 0  # outside of the mode, too


def test_factors_that_are_written_to_afterwards_are_refused():
    leaf = H.clone().requires_grad_()
    with fast_second_derivatives(heads=True):
        h = leaf.sin()
        z = F.linear(h, W)
        h.mul_(2)
        for use in (ahead, torch.sum):
            with pytest.raises(pending.WrittenError, match="written to"):
                use(z)


@pytest.mark.parametrize("case", ["bias", "narrow", "few", "autocast", "not asked for"])
def test_other_layers_are_torchs_own(case, monkeypatch):
    weight = W.float().requires_grad_()
    if case == "few":
        monkeypatch.setattr(pending, "LARGE", H[..., 0].numel() * CLASSES + 1)
    with (
        fast_second_derivatives(heads=case != "not asked for"),
        torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"),
    ):
        bias = W[:, 0].float() if case == "bias" else None
        z = F.linear(H.float(), weight[:11] if case == "narrow" else weight, bias)
    assert not isinstance(z, pending.Pending)


class Language(nn.Module):
    """A language model that computes its own loss, with its embedding as its head."""

    def __init__(self, classes: int = CLASSES, tail=None):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(classes, 2, dtype=torch.float64)
        self.inner = nn.Linear(2, 2, dtype=torch.float64)
        self.tail = tail or (lambda z: z)

    def forward(self, tokens: Tensor) -> Tensor:
        h = torch.tanh(self.inner(self.embedding(tokens)))
        return self.tail(F.linear(h, self.embedding.weight))


TAILS = {"plain": None, "a Function of its own": Doubled.apply, "scaled": lambda z: z / 3}
TOKENS = torch.arange(40).view(4, 10) * 7 % CLASSES


def own_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("name", TAILS)
def test_the_hessian_of_a_language_model_is_that_of_forward_over_reverse(name):
    model = Language(tail=TAILS[name])
    problem = hs.Problem.from_closure(model, own_loss, [TOKENS[:3], TOKENS[3:]])
    v = randn(problem.n, seed=3)
    with problem.evaluation() as e:
        batch = next(iter(e.batches))
        names = node_names(gradient_graph(e, batch)[1])
    assert any(MARK in node for node in names) == (name == "plain")
    if name != "a Function of its own":  # which has no forward mode
        expected = hs.Hessian(problem, "forward-over-reverse") @ v
        assert relative(hs.Hessian(problem) @ v, expected) <= EXACT


def test_an_error_of_the_loss_is_its_own():
    model = Language()

    def broken(z: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        differentiably(model, lambda: broken(model(TOKENS)), lambda loss: loss, heads=True)


def test_outputs_that_are_asked_for_are_numbers():
    problem = hs.Problem(Language(tail=lambda z: z[:, -1]), F.cross_entropy, (TOKENS, TOKENS[:, 0]))
    G, v = hs.GaussNewton(problem), randn(problem.n, seed=3)
    assert float(v @ (G @ v)) > 0


def test_no_matrix_of_all_items_by_all_classes_is_kept(monkeypatch):
    monkeypatch.undo()
    model = Language(9_000)
    tokens = torch.arange(4 * 128).view(4, 128)
    problem = hs.Problem.from_closure(model, own_loss, [tokens])
    with problem.evaluation() as e:
        loss, gradient = gradient_graph(e, next(iter(e.batches)))
    assert any(MARK in node for node in node_names(gradient))
    assert kept_bytes([loss, *gradient]) < 8 * 4 * 127 * 9_000 / 4
