"""Models that the lean product would be wrong of: each is refused, with its cause and cure."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import hesscope as hs
from tests.autodiff.cut_models import FOREIGN, NUM, Block, Net, classes
from tests.autodiff.test_lean import assert_products_are_those_of_whole_graphs, needs_transformers

CALLS = [0.0]
DRAWS = torch.Generator()


class Counting(Block):
    def forward(self, x):
        CALLS[0] += 1
        return super().forward(x) * CALLS[0]


class Drawing(Block):
    def forward(self, x):
        return super().forward(x) * torch.rand((), generator=DRAWS, dtype=x.dtype)


class Writing(Block):
    def forward(self, x):
        x += 1
        return super().forward(x)


class Telling(Block):
    def forward(self, x):
        y = super().forward(x)
        self.told = [y.square().mean()]
        return y


class Foreign(Block):
    def forward(self, x):
        return super().forward(x) * self.others[0].weight.sum()


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Own(Block):
    def forward(self, x):
        return super().forward(Sine.apply(x))


class Saving(Block):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class Energy(Block):
    def forward(self, x):
        with torch.enable_grad():
            y = super().forward(x)
            return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


class Thing:
    def __init__(self, x):
        self.x = x


class Other(torch.Tensor):
    pass


class Giving(Block):
    def forward(self, x):
        return Thing(super().forward(x))


class Complex(Block):
    def forward(self, x):
        return torch.complex(super().forward(x), x)


def foreign():
    net = Net(Foreign)
    for block in net.blocks:
        block.others = [net.first]
    return net


def hooked(net, place, hook):
    module = net.blocks[0].a if place == "inside" else net.blocks[0]
    getattr(module, hook)(lambda *_: None)
    return net


def hooking(block, x):
    if not block.a._forward_hooks:
        block.a.register_forward_hook(lambda *_: None)
    return block(x)


def compiled():
    net = Net()
    net.blocks[1]._compiled_call_impl = net.blocks[1]._call_impl  # as block.compile() does
    return net


def around(block, x):
    return checkpoint(block, x, use_reentrant=False)


MADE_AGAIN = "make its result a function of arguments and parameters"
FAULTS = {
    "counter": (lambda: Net(Counting), "Counting is not repeatable", MADE_AGAIN),
    "own generator": (lambda: Net(Drawing), "Drawing is not repeatable", MADE_AGAIN),
    "writes into its input": (lambda: Net(Writing), "Writing writes in place", "x = x + y"),
    "a loss left behind": (lambda: Net(Telling), r"leaves a tensor in Telling\.told", "detach"),
    "others' parameters": (foreign, "Foreign uses tensors that it is neither", "hand them over"),
    "no forward mode": (lambda: Net(Own), "no forward mode for something in Own", "elementary"),
    "checkpoints": (lambda: Net(Saving), "inside gradient checkpointing", "switch it off"),
    "checkpoints around": (lambda: Net(call=around), "gradient checkpointing", "switch it off"),
    "derivatives inside": (lambda: Net(Energy), "the loss takes derivatives itself", ""),
    "derivatives around": (
        lambda: Net(call=lambda b, x: torch.func.jvp(b, (x,), (x,))[1]),
        "the loss takes derivatives itself",
        "",
    ),
    "objects": (lambda: Net(Giving, lambda b, x: b(x).x), "Giving returns a Thing", "tensors"),
    "an object": (
        lambda: Net(type("Asks", (Block,), {"forward": lambda s, x: Block.forward(s, x.x)}),
                    lambda b, x: b(Thing(x))),
        "Asks is called with a Thing",
        "use_cache=False",
    ),
    "a tensor of another class": (
        lambda: Net(call=lambda b, x: b(x.as_subclass(Other)).as_subclass(torch.Tensor)),
        "Block is called with a Other",
        "use_cache=False",
    ),
    "complex": (lambda: Net(Complex, lambda b, x: b(x).abs()), "complex", "view_as_real"),
    "hook inside": (
        lambda: hooked(Net(), "inside", "register_forward_hook"), "hooks on Linear", "remove",
    ),
    "backward hook": (
        lambda: hooked(Net(), "block", "register_full_backward_hook"), "hooks on Block", "remove",
    ),
    "a hook that comes in the pass": (
        lambda: Net(call=hooking), "hooks on Linear", "remove",
    ),
    "blocks that nobody calls": (
        lambda: Net(call=lambda b, x: Block.forward(b, x)), "calls none of its blocks", "call them",
    ),
    "energies": (
        lambda: Net(call=lambda b, x: torch.autograd.grad(b(x).sum(), x, create_graph=True)[0]),
        "the loss takes derivatives itself",
        "",
    ),
    "compiled": (compiled, "Block is compiled", "compiled from"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_would_be_wrong_is_refused_and_the_model_comes_back(name):
    make, cause, cure = FAULTS[name]
    problem = classes(make())
    attributes = [set(vars(module)) for module in problem.model.modules()]
    state = {key: value.clone() for key, value in problem.model.state_dict().items()}
    with pytest.raises(RuntimeError, match=cause) as caught:
        hs.Hessian(problem, product="lean") @ torch.ones(problem.n)
    text = str(caught.value)
    assert text.startswith("product='lean' does not fit this model: ")
    assert cure in text
    assert text.endswith("se product='reverse-over-reverse'.")
    assert [set(vars(module)) for module in problem.model.modules()] == attributes
    now = problem.model.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in state.items())


def test_a_refused_model_does_not_wait_for_the_garbage_collector():
    def refused():
        problem = classes(Net(Counting))
        with pytest.raises(RuntimeError, match="not repeatable"):
            hs.Hessian(problem, product="lean") @ torch.ones(problem.n)
        return weakref.ref(problem.model)

    refused()  # whatever the first error imports
    gc.collect()
    gc.disable()
    try:
        assert refused()() is None
    finally:
        gc.enable()


class Failing(Block):
    def forward(self, x):
        if torch.autograd.forward_ad._current_level >= 0:
            raise KeyError("planted")  # noqa: EM101
        return super().forward(x)


def test_an_error_inside_of_a_block_is_the_users_and_leaves_no_trace():
    problem = classes(Net(Failing))
    with pytest.raises(ValueError, match=r"fails on batch 0 .* KeyError: 'planted'"):
        hs.Hessian(problem, product="lean") @ torch.ones(problem.n)
    assert all("forward" not in vars(module) for module in problem.model.modules())
    assert problem.gradient().shape == (problem.n,)


class Quiet(torch.autograd.Function):
    """A function whose forward-mode derivative is wrong, and nothing else."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def jvp(ctx, t):
        return 2 * t

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Wrong(Block):
    def forward(self, x):
        return super().forward(Quiet.apply(x))


def test_the_first_product_is_compared_with_a_whole_graph():
    problem = classes(Net(Wrong))
    with pytest.raises(
        RuntimeError, match=r"on 1 examples its product is off by .* more than roun"
    ):
        hs.Hessian(problem, product="lean") @ torch.ones(problem.n)
    right = hs.Hessian(classes(Net()), product="lean")
    right @ torch.ones(problem.n)
    assert "off a whole graph's, on 1 examples" in right.facts()["compared"]


def test_what_cannot_be_compared_says_so():
    data = torch.randn(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    lean = hs.Hessian(hs.Problem(Net().double(), F.cross_entropy, data), product="lean")
    lean @ torch.ones(lean.n)
    text = "not compared with a whole graph: a batch is one example"
    assert lean.facts()["compared"] == text


class Stern(torch.autograd.Function):
    """A function without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def jvp(ctx, t):
        return t.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g.clone()


def test_an_operation_without_second_derivative_is_named():
    class Once(Block):
        def forward(self, x):
            return super().forward(Stern.apply(torch.tanh(x)))

    problem = hs.Problem(Net(Once), F.cross_entropy, (torch.ones(1, 3), torch.tensor([1])))
    with pytest.raises(
        RuntimeError, match=r"no trustworthy second derivative: .*once_differentiabl"
    ):
        hs.Hessian(problem, product="lean") @ torch.ones(problem.n)


def test_states_kept_in_attributes_are_put_back_before_a_repetition():
    class Remembering(Block):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.seen.append(x.detach())
            return super().forward(x) * len(self.seen)

    problem = classes(Net(Remembering, lambda b, x: b(b(x))))
    assert_products_are_those_of_whole_graphs(problem)
    assert [block.seen for block in problem.model.blocks] == [[], []]


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_a_cache_of_keys_left_on_is_refused():
    """Recomputed keys would be there twice: equal outputs, and a product that is 29 % off."""
    given = FOREIGN["GPT-2"]()
    batch = next(iter(given.batches)).content

    def closure(model, batch):
        return model(**batch, use_cache=True).loss

    problem = hs.Problem.from_closure(given.model, closure, [batch], count=1)
    with pytest.raises(RuntimeError, match=r"GPT2Block is called with a \w*Cache.*use_cache=False"):
        hs.Hessian(problem, product="lean") @ torch.ones(problem.n)


def test_an_empty_part_of_theta_has_no_curvature():
    class Idle(Block):
        def forward(self, x):
            return x

    problem = classes(Net(Idle)).block("blocks.*")
    lean = hs.Hessian(problem, product="lean") @ torch.ones(problem.n, dtype=torch.float64)
    assert torch.equal(lean, torch.zeros(problem.n, dtype=torch.float64))


def test_layers_that_are_linear_give_no_curvature():
    chain = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False))
    data = torch.randn(NUM, 3, dtype=torch.float64), torch.randn(NUM, 1, dtype=torch.float64)
    assert_products_are_those_of_whole_graphs(hs.Problem(chain.double(), F.mse_loss, data))
