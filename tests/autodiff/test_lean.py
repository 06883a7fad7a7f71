"""The lean product against whole graphs, on networks of many kinds; and what it does not touch."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.autodiff.blocks import blocks_of
from tests.autodiff.cut_models import CUT, FOREIGN, Block, Net, Residual, classes, images, words
from tests.autodiff.cut_models import Language as Transformer
from tests.networks import relative_error
from tests.processes import in_processes

EXACT = 1e-13  # both are derivatives without truncation: below 1e-15 is seen
SINGLE_INSIDE = 1e-7  # casts to float32 inside of a float64 model: below 1e-9 is seen
TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not TRANSFORMERS, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def assert_products_are_those_of_whole_graphs(problem, allowed=EXACT):
    V = torch.randn(problem.n, 5, dtype=torch.float64)
    whole = hs.Hessian(problem, product="reverse-over-reverse") @ V
    lean = hs.Hessian(problem, product="lean")
    for num in (1, 2, 5):
        assert relative_error(lean @ V[:, :num], whole[:, :num]) < allowed
    assert lean.facts()["product"] == "lean"


@pytest.mark.parametrize("name", CUT)
def test_products_are_those_of_whole_graphs(name):
    assert_products_are_those_of_whole_graphs(CUT[name]())


@needs_transformers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOREIGN)
def test_products_of_models_of_transformers_are_those_of_whole_graphs(name):
    single_inside = name in ("Mixtral", "T5")
    allowed = SINGLE_INSIDE if single_inside else EXACT
    assert_products_are_those_of_whole_graphs(FOREIGN[name](), allowed)


def test_more_vectors_than_go_through_the_blocks_at_once():
    problem = classes(Net())
    V = torch.randn(problem.n, 12, dtype=torch.float64)
    whole = hs.Hessian(problem, product="ror") @ V
    assert relative_error(hs.Hessian(problem, product="lean") @ V, whole) < EXACT


def test_a_model_in_half_precision_is_run_in_float32():
    problem = words(Transformer())
    half = hs.Problem(
        problem.model.bfloat16(), problem.loss_fn, next(iter(problem.batches)).content
    )
    v = torch.randn(half.n)
    whole = hs.Hessian(half, product="ror") @ v
    assert half.dtype == torch.float32
    assert relative_error(hs.Hessian(half, product="lean") @ v, whole) < 1e-5


def test_products_follow_the_parameters():
    problem = classes(Net())
    lean, v = hs.Hessian(problem, product="lean"), torch.randn(problem.n, dtype=torch.float64)
    before = lean @ v
    problem.write(problem.theta + 0.1)
    after = lean @ v
    assert relative_error(after, before) > 1e-3
    assert relative_error(after, hs.Hessian(problem, product="ror") @ v) < EXACT


@pytest.mark.parametrize("training", [False, True])
def test_the_model_comes_back_as_it_was(training):
    problem = images(
        nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.Sequential(*(Residual(2, nn.BatchNorm2d) for _ in range(2))),
            nn.Flatten(),
            nn.Linear(72, 3),
        ),
        training=training,
    )
    model = problem.model
    state, attributes = copy.deepcopy(model.state_dict()), [set(vars(m)) for m in model.modules()]
    generator = torch.get_rng_state()
    hs.Hessian(problem, product="lean") @ torch.ones(problem.n)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), generator)


class Averaging(Block):
    """Counts its calls in a buffer that it scales its result by."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.ones(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls.clone()


def test_buffers_are_written_to_once_for_each_call():
    seen = []

    def watched(block, x):
        x = block(x)
        seen.append(float(block.calls))
        return x

    problem = classes(Net(Averaging, lambda b, x: watched(b, watched(b, x)), num=1))
    assert_products_are_those_of_whole_graphs(problem)
    assert set(seen) == {2.0, 3.0}


def test_a_hook_on_a_block_fires_as_often_as_in_an_ordinary_pass():
    problem, calls = classes(Net()), []
    lean = hs.Hessian(problem, product="lean")
    lean @ torch.ones(problem.n)
    problem.model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    lean @ torch.ones(problem.n)
    assert len(calls) == 1


def test_a_forward_of_its_own_comes_back():
    problem = classes(Net())
    block = problem.model.blocks[0]
    own = block.forward = lambda x: 2 * Block.forward(block, x)
    assert_products_are_those_of_whole_graphs(problem)
    assert vars(block)["forward"] is own


def test_eigenvalues_are_those_of_whole_graphs():
    problem = classes(Net())
    whole = hs.spectrum(hs.Hessian(problem, product="ror")).eigenvalues
    pairs = hs.eigsh(hs.Hessian(problem, product="lean"), 3, which="LA", tol=1e-8, seed=0)
    assert torch.allclose(pairs.eigenvalues.sort().values, whole[-3:].to(pairs.eigenvalues.dtype))


# Several processes


def _share(rank):
    """Half of the data of `_whole`; and little memory in one process, a hook in the other."""
    from hesscope.autodiff import automatic, cost

    inputs, targets = _data()
    part = slice(0, 3) if rank == 0 else slice(3, 7)
    torch.manual_seed(0)
    problem = hs.Problem(Net().double(), F.cross_entropy, (inputs[part], targets[part]))
    v = torch.linspace(-1, 1, problem.n, dtype=torch.float64)
    lean = hs.Hessian(problem, product="lean") @ v
    for module in (automatic, cost):
        module.available_bytes = lambda _: 10 if rank == 0 else 10**12
    chosen = hs.Hessian(problem)
    both = chosen @ v
    if rank == 1:
        problem.model.blocks[0].a.register_forward_hook(lambda *_: None)
    refused = hs.Hessian(problem)
    neither = refused @ v
    facts = [(H.facts()["product"], H.facts().get("not lean", "")) for H in (chosen, refused)]
    return lean, both, neither, facts, chosen.facts()["why"]


def _data():
    torch.manual_seed(1)
    return torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 4


@pytest.mark.slow
def test_processes_that_share_the_data_go_the_same_way():
    torch.manual_seed(0)
    problem = hs.Problem(Net().double(), F.cross_entropy, _data())
    v = torch.linspace(-1, 1, problem.n, dtype=torch.float64)
    whole = hs.Hessian(problem, product="ror") @ v
    first, second = in_processes(_share, 2)
    for *products, facts, _ in (first, second):
        assert all(relative_error(product, whole) < EXACT for product in products)
        assert facts[0] == ("lean", "")
        assert facts[1][0] == "reverse-over-reverse"
        assert "hooks on Linear in Block" in facts[1][1]
    assert first[4].startswith("the graph of a batch would take about ")
    assert second[4] == "the graph of a batch would not fit in another process"


# Which modules are blocks


def test_blocks_are_the_children_of_containers_of_one_class():
    net = Net()
    assert blocks_of(net) == list(net.blocks)


def test_of_stages_the_blocks_are_taken_and_of_experts_the_layer():
    stages = nn.ModuleList([nn.Sequential(Block(), Block()) for _ in range(2)])
    assert blocks_of(nn.ModuleDict({"stages": stages})) == [b for stage in stages for b in stage]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.Linear(5, 5)
            self.experts = nn.ModuleList([Block(), Block()])

    layers = nn.ModuleList([Layer(), Layer()])
    assert blocks_of(nn.ModuleDict({"layers": layers})) == list(layers)


def test_enough_blocks_are_not_cut_further_and_lists_in_lists_are_called_one_by_one():
    stages = [nn.Sequential(Block(), Block()) for _ in range(8)]
    assert blocks_of(nn.ModuleList(stages)) == stages
    lists = nn.ModuleList([nn.ModuleList([Block()]), nn.ModuleList([Block()])])
    assert blocks_of(lists) == [lists[0][0], lists[1][0]]


def test_layers_of_several_kinds_are_blocks_where_there_are_no_others():
    layers = nn.ModuleList([Block(), nn.TransformerEncoderLayer(4, 2), Block()])
    assert blocks_of(nn.ModuleDict({"layers": layers})) == list(layers)


def test_encoder_and_decoder_both_have_blocks():
    model = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)
    assert blocks_of(model) == [*model.encoder.layers, *model.decoder.layers]


def test_without_containers_segments_of_the_largest_sequential():
    small, large = (nn.Sequential(*(nn.Linear(n, n) for _ in range(9))) for n in (3, 4))
    found = blocks_of(nn.ModuleDict({"a": small, "b": large}))
    assert [layer for segment in found for layer in segment] == list(large)
    assert [len(segment) for segment in found] == [3, 3, 3]


def test_segments_begin_with_parameters_so_that_activations_may_write_in_place():
    torch.manual_seed(0)
    layers = [m for _ in range(6) for m in (nn.Linear(3, 3), nn.SiLU(inplace=True))]
    problem = classes(nn.Sequential(*layers, nn.Linear(3, 4)))
    assert_products_are_those_of_whole_graphs(problem)
    assert hs.Hessian(problem, product="lean").facts()["blocks"] == "3 Segment"


def test_without_blocks_it_is_refused():
    problem = hs.Problem(nn.Linear(3, 2), F.mse_loss, (torch.ones(4, 3), torch.zeros(4, 2)))
    with pytest.raises(
        ValueError, match=r"^product='lean' finds no blocks in Linear: .* Hold them"
    ):
        hs.Hessian(problem, product="lean")
