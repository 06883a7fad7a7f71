"""What people bring: data of every layout, state of every kind, code that writes; served exactly.

Each case is a problem and the Hessian of the same loss written anew, without what is foreign in it.
"""

from __future__ import annotations

from collections import UserDict, deque
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import hesscope as hs


def generator(seed):
    return torch.Generator().manual_seed(seed)


X = torch.randn(12, 4, generator=generator(1)).double()
Y = torch.arange(12) % 3
RING = (torch.eye(12) + torch.eye(12).roll(1, 0)).double()
CUT = 5  # examples of the first of two batches


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def hessian(loss, parameters):
    """Double backward, row by row."""
    parameters = list(parameters)
    options = {"allow_unused": True, "materialize_grads": True}
    pieces = torch.autograd.grad(loss, parameters, create_graph=True, **options)
    rows = []
    for entry in torch.cat([piece.reshape(-1) for piece in pieces]):
        row = torch.autograd.grad(entry, parameters, retain_graph=True, **options)
        rows.append(torch.cat([piece.reshape(-1) for piece in row]))
    return torch.stack(rows)


def plain(model):
    return hessian(F.cross_entropy(model(X), Y), model.parameters())


SERVED = {}


def served(case):
    SERVED[case.__name__] = case
    return case


def through(convert):
    """Data on a ring of nodes, its adjacency in some layout."""
    model, adjacency = network(), convert(RING)
    problem = hs.Problem(
        model, F.cross_entropy, [((X, adjacency), Y)], forward=lambda m, i: i[1] @ m(i[0])
    )
    return problem, hessian(F.cross_entropy(RING @ model(X), Y), model.parameters())


SERVED["adjacency in COO"] = partial(through, torch.Tensor.to_sparse)
SERVED["adjacency in CSR"] = partial(through, torch.Tensor.to_sparse_csr)
SERVED["adjacency in CSC"] = partial(through, torch.Tensor.to_sparse_csc)


@served
def sparse_features():
    model, few = nn.Linear(4, 3).double(), torch.where(X.abs() > 0.5, X, 0)
    problem = hs.Problem(
        model,
        F.cross_entropy,
        [(few[:CUT].to_sparse(), Y[:CUT]), (few[CUT:].to_sparse(), Y[CUT:])],
        forward=lambda m, s: torch.sparse.mm(s, m.weight.T) + m.bias,
    )
    return problem, hessian(F.cross_entropy(model(few), Y), model.parameters())


@served
def sparse_buffer():
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.register_buffer("adjacency", RING.to_sparse())

        def forward(self, x):
            return torch.sparse.mm(self.adjacency, self.net(x))

    model = Graph()
    expected = hessian(F.cross_entropy(RING @ model.net(X), Y), model.parameters())
    return hs.Problem(model, F.cross_entropy, [(X, Y)]), expected


def ragged(layout):
    texts = list(X.split([2, 5, 1, 4]))
    model, labels = network(), torch.tensor([0, 1, 2, 0])

    def means(m, batch):
        return torch.stack([m(text).mean(0) for text in batch.unbind()])

    data = [(torch.nested.nested_tensor(texts, layout=layout), labels)]
    outputs = torch.stack([model(text).mean(0) for text in texts])
    expected = hessian(F.cross_entropy(outputs, labels), model.parameters())
    return hs.Problem(model, F.cross_entropy, data, forward=means), expected


SERVED["nested, jagged"] = partial(ragged, torch.jagged)
SERVED["nested, strided"] = partial(ragged, torch.strided)


@served
def conjugated_view():
    z, model = torch.complex(X[:, :2], X[:, 2:]).conj(), network()
    problem = hs.Problem(
        model,
        F.cross_entropy,
        (z, Y),
        forward=lambda m, i: m(torch.cat([i.real, i.imag], 1)),
        batch_size=CUT,
    )
    both = torch.cat([X[:, :2], -X[:, 2:]], 1)
    return problem, hessian(F.cross_entropy(model(both), Y), model.parameters())


@served
def complex_parameters_outside_theta():
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modes = nn.Parameter(torch.polar(torch.ones(3), torch.arange(3.0)).cdouble())
            self.head = network()

        def forward(self, x):
            return torch.fft.irfft(torch.fft.rfft(x) * self.modes, n=4) @ self.head[0].weight.T

    model = Spectral()
    expected = hessian(F.cross_entropy(model(X)[:, :3], Y), [model.head[0].weight])
    forward = lambda m, x: m(x)[:, :3]  # noqa: E731
    problem = hs.Problem(model, F.cross_entropy, (X, Y), forward=forward, params="head.0.weight")
    return problem, expected


@served
def compiled_backbone_outside_theta():
    body = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    model = nn.Sequential(torch.jit.script(body), nn.Linear(4, 3).double())
    problem = hs.Problem(model, F.cross_entropy, (X, Y), params="1.*")
    expected = hessian(F.cross_entropy(model[1](body(X)), Y), model[1].parameters())
    return problem, expected


class Slopes(nn.Module):
    """u + du/dt: the forward pass differentiates by its own input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def forward(self, t):
        u = self.net(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return u + slope


def collocated(points):
    model, given = Slopes(), points(X[:, :1].clone())
    problem = hs.Problem(model, F.mse_loss, (given, X[:, 1:2]), batch_size=CUT)
    own = X[:, :1].clone().requires_grad_()
    return problem, hessian(F.mse_loss(model(own), X[:, 1:2]), model.parameters())


SERVED["inputs that require gradients"] = partial(collocated, torch.Tensor.requires_grad_)
SERVED["inputs that the training loop asks gradients of"] = partial(collocated, lambda t: t)
SERVED["inputs with a graph"] = partial(collocated, lambda t: t.requires_grad_() * 1)


@served
def inner_steps_of_parameters_outside_theta():
    model = network()

    def adapted(m, batch):
        named = {name: p for name, p in m.named_parameters() if p.requires_grad}
        support = F.cross_entropy(m(batch[0][:6]), batch[1][:6])
        slopes = torch.autograd.grad(support, list(named.values()), create_graph=True)
        moved = {n: p - 0.5 * s for (n, p), s in zip(named.items(), slopes, strict=True)}
        outputs = torch.func.functional_call(m, moved, (batch[0][6:],))
        return F.cross_entropy(outputs, batch[1][6:])

    problem = hs.Problem.from_closure(model, adapted, [(X, Y)], params="2.*", count=1)
    return problem, hessian(adapted(model, (X, Y)), model[2].parameters())


class Remembers(nn.Module):
    """Scales its outputs by how often it has been called, as far as it remembers."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.net, self.kind = network(), kind
        self.queue, self.nest = deque(maxlen=2), {"seen": [[]]}
        self.box, self.noise = UserDict(calls=0), torch.Generator().manual_seed(3)

    def forward(self, x):
        if self.kind == "generator":
            return self.net(x) + torch.randn(x.shape[0], 3, generator=self.noise).double()
        calls = {
            "queue": len(self.queue),
            "nested list": len(self.nest["seen"][0]),
            "object": self.box["calls"],
        }
        self.queue.append(1)
        self.nest["seen"][0].append(1)
        self.box["calls"] += 1
        return self.net(x) * (1 + calls[self.kind])

    def remembered(self):
        return len(self.queue), len(self.nest["seen"][0]), self.box["calls"]


def remembering(kind):
    model = Remembers(kind)
    noise = torch.randn(12, 3, generator=torch.Generator().manual_seed(3)).double()
    shift = noise if kind == "generator" else 0
    expected = hessian(F.cross_entropy(model.net(X) + shift, Y), model.parameters())
    return hs.Problem(model, F.cross_entropy, [(X, Y)]), expected


for _kind in ("queue", "nested list", "object", "generator"):
    SERVED[f"state in a {_kind}"] = partial(remembering, _kind)


@served
def loss_object_with_a_moving_mean():
    class Baseline:
        mean = 0.0

        def __call__(self, outputs, targets):
            loss = F.cross_entropy(outputs, targets) * (1 + self.mean)
            self.mean = 0.9 * self.mean + 0.1 * float(loss.detach())
            return loss

    model, loss = network(), Baseline()
    return hs.Problem(model, loss, (X, Y)), plain(model)


def writing(write):
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x):
            write(x)
            return self.net(x)

    model, halved = Writes(), X.clone()
    write(halved)
    expected = hessian(F.cross_entropy(model.net(halved), Y), model.parameters())
    return hs.Problem(model, F.cross_entropy, (X, Y)), expected


SERVED["writes by .data"] = partial(writing, lambda x: x.data.clamp_(-0.5, 0.5))
SERVED["writes by NumPy"] = partial(writing, lambda x: np.multiply(x, 0.5, out=x.numpy()))


def halves():
    return [{"x": X[:CUT], "y": Y[:CUT]}, {"x": X[CUT:], "y": Y[CUT:]}]


@served
def unpack_that_pops():
    model = network()

    def unpack(batch):
        labels = batch.pop("y")
        return batch["x"], labels

    return hs.Problem(model, F.cross_entropy, halves(), unpack=unpack), plain(model)


@served
def count_that_pops():
    model = network()
    problem = hs.Problem.from_closure(
        model,
        lambda m, batch: F.cross_entropy(m(batch["x"]), batch["y"]),
        halves(),
        count=lambda batch: len(batch.pop("y")),
    )
    return problem, plain(model)


@served
def objects_with_a_log():
    class Record:
        def __init__(self) -> None:
            self.x, self.y, self.log = X, Y, []

    def logged(m, record):
        calls = len(record.log)
        record.log.append(calls)
        return F.cross_entropy(m(record.x), record.y) * (1 + calls)

    model = network()
    return hs.Problem.from_closure(model, logged, [Record()]), plain(model)


WORDS = torch.randint(0, 6, (12, 3), generator=generator(4))


def looked_up(lookup):
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.weight = nn.Parameter(torch.randn(6, 4, generator=generator(5)).double())

        def forward(self, words):
            return self.net(lookup(words, self.weight).mean(1))

    model = Words()
    outputs = model.net(model.weight[WORDS].mean(1))
    expected = hessian(F.cross_entropy(outputs, Y), model.parameters())
    return hs.Problem(model, F.cross_entropy, (WORDS, Y), batch_size=CUT), expected


SERVED["sparse embedding"] = partial(looked_up, partial(F.embedding, sparse=True))
SERVED["sparse embedding, by place"] = partial(
    looked_up, lambda words, weight: F.embedding(words, weight, None, None, 2.0, False, True)
)


@served
def attention_that_asks_for_a_fused_kernel():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.k, self.head = (nn.Linear(*n).double() for n in ((4, 8), (4, 4), (8, 3)))

        def parts(self, x):
            q = self.q(x).view(3, 4, 2, 4).transpose(1, 2)
            return q, self.k(x).view(3, 4, 1, 4).transpose(1, 2)

        def forward(self, x):
            q, k = self.parts(x)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                a = F.scaled_dot_product_attention(
                    q, k, k, is_causal=True, enable_gqa=True, scale=0.3
                )
            return self.head(a.transpose(1, 2).reshape(12, 8))

    model = Attends()
    q, k = model.parts(X)
    late = ~torch.ones(4, 4).tril().bool()
    a = (0.3 * q @ k.mT).masked_fill(late, -torch.inf).softmax(-1) @ k
    outputs = model.head(a.transpose(1, 2).reshape(12, 8))
    expected = hessian(F.cross_entropy(outputs, Y), model.parameters())
    return hs.Problem(model, F.cross_entropy, [(X, Y)]), expected


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("name", SERVED)
def test_it_is_served_exactly_and_its_data_left_alone(name):
    before = X.clone()
    problem, expected = SERVED[name]()
    losses = {problem.loss() for _ in range(3)}
    H = hs.Hessian(problem).to_dense()
    assert len(losses) == 1
    assert (H - expected).abs().max() <= 1e-13 * expected.abs().max()
    check = hs.check_problem(problem)
    assert check.ok, check
    assert torch.equal(X, before)
