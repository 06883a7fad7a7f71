"""Problem: one mean, the same for every split of the data, every wrapper and every process."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.clean_models import count_tokens
from tests.networks import (
    SMOOTH,
    Case,
    Encoder,
    UnusedHead,
    make,
    mlp,
    plain_gradient,
    relative_error,
    smooth,
    theta_of,
    token_loss,
    tokens,
    vectors,
)
from tests.processes import in_processes

SPLIT = 1e-12


def numbers(problem: hs.Problem) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, gradient and one product."""
    v = torch.linspace(-1, 1, problem.n, dtype=problem.dtype)
    return problem.loss(), problem.gradient(), hs.Hessian(problem) @ v


def assert_same(a, b, tolerance=SPLIT):
    assert abs(a[0] - b[0]) <= tolerance * abs(b[0])
    assert relative_error(a[1], b[1]) <= tolerance
    assert relative_error(a[2], b[2]) <= tolerance


# Against plain torch


@pytest.mark.parametrize("name", SMOOTH)
def test_loss_and_gradient_are_those_of_plain_torch(name):
    case = smooth(name)
    problem = case.problem()
    assert problem.loss() == pytest.approx(case.loss().item(), rel=1e-13)
    truth = plain_gradient(case, theta_of(case.model))
    assert relative_error(problem.gradient(), truth) < SPLIT
    assert torch.equal(problem.theta, theta_of(case.model))


# Invariance under any split of the same data


@pytest.mark.parametrize("batch_size", [1, 3, 6, 7, 100])
@pytest.mark.parametrize("name", ["mlp", "resnet_batchnorm", "lstm", "gpt2", "tied"])
def test_any_batch_size_gives_the_same_numbers(name, batch_size):
    case = smooth(name)
    assert_same(numbers(case.problem(batch_size=batch_size)), numbers(case.problem()))


@pytest.mark.parametrize("sizes", [(6, 1), (1, 6), (2, 2, 2, 1), (5, 2), (1,) * 7])
def test_ragged_batches_and_a_last_batch_of_one_give_the_same_numbers(sizes):
    case = smooth("mlp")
    x, y = (t.split(sizes) for t in case.data)
    split = hs.Problem(case.model, case.loss_fn, list(zip(x, y, strict=True)))
    assert_same(numbers(split), numbers(case.problem()))


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_mean_over_tokens_is_invariant_when_tokens_are_counted(batch_size):
    x, y = tokens()
    y = torch.where(torch.arange(5) > torch.arange(7)[:, None] - 1, -100, y)  # 0, 1, 2, ... left
    case = make(lambda: (Encoder(), token_loss, (x, y)), count=count_tokens)
    assert case.problem().num_items == 0 + 1 + 2 + 3 + 4 + 5 + 5
    assert_same(numbers(case.problem(batch_size=batch_size)), numbers(case.problem()))


def test_a_weighted_mean_is_invariant_when_weights_are_counted():
    weight = torch.tensor([1.0, 2.0, 5.0]).double()
    case = smooth("mlp")
    whole, split = (
        hs.Problem(
            case.model, nn.CrossEntropyLoss(weight), case.data, batch_size=size,
            count=lambda y: weight[y].sum(),
        )
        for size in (7, 2)
    )  # fmt: skip
    assert_same(numbers(split), numbers(whole))


def test_the_order_of_the_examples_does_not_matter():
    case = smooth("mlp")
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    shuffled = Case(case.model, case.loss_fn, tuple(t[order] for t in case.data))
    assert_same(numbers(shuffled.problem(batch_size=3)), numbers(case.problem(batch_size=2)))


def test_repeating_all_examples_changes_nothing():
    case = smooth("mlp")
    twice = Case(case.model, case.loss_fn, tuple(torch.cat([t, t]) for t in case.data))
    assert_same(numbers(twice.problem(batch_size=4)), numbers(case.problem()))


# What theta is made of


def test_tied_parameters_are_counted_once():
    case = smooth("tied")
    assert case.problem().layout.names == ("encoder.weight", "encoder.bias", "decoder.bias")
    assert case.problem().n == 16 + 4 + 4


def test_frozen_parameters_are_left_out_and_named():
    problem = smooth("frozen").problem()
    assert problem.layout.names == ("2.weight", "2.bias")
    assert problem.frozen == ("0.weight", "0.bias")
    assert problem.facts()["frozen"] == 2


def test_unused_parameters_have_zero_gradient_and_zero_products():
    problem = make(lambda: (UnusedHead(), F.cross_entropy, vectors())).problem()
    _, gradient, product = numbers(problem)
    for name, place in problem.layout.slices().items():
        assert bool(gradient[place].any()) != name.startswith("other"), name
        assert bool(product[place].any()) != name.startswith("other"), name


def test_a_block_is_the_same_loss_in_fewer_coordinates():
    problem = smooth("mlp").problem()
    slices = problem.layout.slices()
    blocks = problem.blocks()
    assert list(blocks) == ["0", "2"]
    for block in blocks.values():
        assert block.loss() == problem.loss()
        inside = torch.cat([problem.gradient()[slices[name]] for name in block.layout.names])
        assert torch.equal(block.gradient(), inside)


def test_a_block_that_the_loss_does_not_use_is_flat():
    block = smooth("unused").problem().block("other")
    assert not bool(block.gradient().any())
    for engine in ("reverse-over-reverse", "forward-over-reverse"):
        assert not bool(hs.Hessian(block, engine).to_dense().any())


def test_at_moves_theta_and_leaves_the_model_where_it_is():
    case = smooth("mlp")
    problem, theta = case.problem(), torch.linspace(-1, 1, 43, dtype=torch.float64)
    moved = problem.at(theta)
    assert torch.equal(moved.theta, theta)
    assert relative_error(moved.gradient(), plain_gradient(case, theta)) < SPLIT
    theta.zero_()  # the problem has its own copy
    assert bool(moved.theta.any())
    assert torch.equal(problem.theta, theta_of(case.model))


def test_at_of_a_block_moves_the_block_alone():
    case = smooth("mlp")
    problem = case.problem()
    theta = problem.theta
    theta[25:] = 0.5
    block = problem.block("2.*").at(theta[25:])
    assert block.loss() == pytest.approx(problem.at(theta).loss(), rel=1e-14)
    assert problem.at(theta).block("0.*").loss() == pytest.approx(block.loss(), rel=1e-14)


def test_a_tied_parameter_moves_in_all_its_places():
    case = smooth("tied")
    theta = torch.linspace(-1, 1, 24, dtype=torch.float64)
    assert relative_error(case.problem().at(theta).gradient(), plain_gradient(case, theta)) < SPLIT


@pytest.mark.parametrize("name", ["lstm", "gru", "gpt2", "resnet_batchnorm", "spectral_norm"])
def test_at_reaches_every_kind_of_layer(name):
    case = smooth(name)
    theta = 0.9 * theta_of(case.model) + 0.01
    truth = plain_gradient(case, theta)
    assert relative_error(case.problem().at(theta).gradient(), truth) < SPLIT


# Subsamples and other constructors


def test_a_subsample_draws_without_replacement_by_its_seed():
    x = torch.arange(10.0).double()[:, None]
    problem = hs.Problem(nn.Linear(1, 1).double(), F.mse_loss, (x, x), batch_size=3)

    def drawn(num, seed):
        return torch.cat([b.content[0] for b in problem.subsample(num, seed=seed).batches])[:, 0]

    assert drawn(10, 0).tolist() == x[:, 0].tolist()
    assert len(set(drawn(6, 0).tolist())) == 6
    assert drawn(6, 0).tolist() == drawn(6, 0).tolist() != drawn(6, 1).tolist()
    assert problem.subsample(4).num_items == 4
    assert problem.num_items == 10


def test_the_mean_over_many_subsamples_is_unbiased():
    problem = smooth("mlp").problem(batch_size=3)
    losses = torch.tensor([problem.subsample(3, seed=seed).loss() for seed in range(200)])
    sigma = losses.std() / 200**0.5
    assert abs(losses.mean() - problem.loss()) < 4 * sigma


def test_a_function_of_a_tensor_is_a_problem():
    theta = torch.tensor([1.0, 2.0])
    problem = hs.Problem.from_function(lambda t: t[0] ** 3 * t[1], theta)
    assert problem.loss() == 2.0
    assert problem.gradient().tolist() == [6.0, 1.0]
    assert hs.Hessian(problem).to_dense().tolist() == [[12.0, 3.0], [3.0, 0.0]]
    assert theta.tolist() == [1.0, 2.0]
    assert not theta.requires_grad


def test_a_closure_gets_the_model_and_the_whole_batch():
    case = smooth("mlp")
    closure = hs.Problem.from_closure(
        case.model, lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        [dict(zip("xy", case.data, strict=True))],
    )  # fmt: skip
    assert_same(numbers(closure), numbers(case.problem()))
    assert closure.num_items == 7


def test_a_loss_with_derivatives_of_the_input_is_a_problem():
    """A physics-informed loss: u' = -u on a few points; its gradient is by third derivatives."""
    model = mlp(size=1, out=1).double()

    def residual(model, batch):
        x = batch[0].clone().requires_grad_()
        u = model(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return (slope + u).square().mean()

    x = torch.linspace(0, 1, 6).double()[:, None]
    whole = hs.Problem.from_closure(model, residual, [(x,)])
    split = hs.Problem.from_closure(model, residual, [(x[:4],), (x[4:],)])
    assert_same(numbers(split), numbers(whole))
    assert hs.check_problem(whole).ok


def test_a_dict_batch_of_a_causal_language_model_counts_its_shifted_labels():
    """As one would write it for transformers: model(**batch), labels shifted inside."""
    case = smooth("gpt2")
    ids = torch.cat([case.data[0], case.data[1][:, -1:]], 1)
    labels = torch.where(torch.arange(6) > torch.arange(2, 9)[:, None], -100, ids)

    def shifted(logits, labels):
        return token_loss(logits[:, :-1], labels[:, 1:])

    def problem(size):
        cut = range(0, 7, size)
        batches = [{"input_ids": ids[i : i + size], "labels": labels[i : i + size]} for i in cut]
        return hs.Problem(
            case.model.model,
            shifted,
            batches,
            unpack=lambda batch: (batch, batch["labels"]),
            forward=lambda model, batch: model(input_ids=batch["input_ids"]).logits,
            count=lambda labels: (labels[:, 1:] != -100).sum(),
        )

    assert_same(numbers(problem(2)), numbers(problem(7)))
    assert hs.check_problem(problem(2)).ok


def test_the_loss_that_transformers_computes_itself_is_understood():
    model = smooth("gpt2").model.model.float()
    ids = torch.randint(0, 7, (6, 5))
    batches = [{"input_ids": part, "labels": part} for part in ids.split(4)]
    problem = hs.Problem(
        model,
        lambda output, labels: output.loss,
        batches,
        unpack=lambda batch: (batch, batch["labels"]),
        forward=lambda model, batch: model(**batch),
    )
    assert problem.loss() == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-6)
    assert hs.check_problem(problem).ok


# Modes, wrappers, processes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_everything_works_under_no_grad_and_inference_mode(mode):
    case = smooth("mlp")
    expected = numbers(case.problem())
    data = torch.utils.data.TensorDataset(*case.data)
    with mode():
        loader = torch.utils.data.DataLoader(data, batch_size=3)  # collates inside
        problem = hs.Problem(case.model, case.loss_fn, loader)
        assert_same(numbers(problem), expected)
        assert hs.check_problem(problem).ok
        assert_same(numbers(problem.at(problem.theta)), expected)
        assert_same(numbers(problem.at(problem.theta.clone())), expected)


def test_data_from_inference_mode_can_be_used():
    case = smooth("mlp")
    with torch.inference_mode():
        data = tuple(t.clone() for t in case.data)
    assert_same(numbers(hs.Problem(case.model, case.loss_fn, data)), numbers(case.problem()))


def test_a_compiled_model_is_unwrapped_and_never_compiled():
    case = smooth("mlp")
    compiled = torch.compile(case.model, backend=_must_not_compile)
    problem = hs.Problem(compiled, case.loss_fn, case.data)
    assert_same(numbers(problem), numbers(case.problem()))
    assert problem.facts()["unwrapped"] == ["OptimizedModule"]
    assert "torch.compile off" in problem.facts()["switched"]


def test_layers_and_losses_compiled_inside_a_model_are_switched_off():
    case = smooth("mlp")
    expected = numbers(case.problem())
    model = nn.Sequential(
        case.model[0], case.model[1], torch.compile(case.model[2], backend=_must_not_compile)
    )
    loss = torch.compile(F.cross_entropy, backend=_must_not_compile)
    assert_same(numbers(hs.Problem(model, loss, case.data)), expected)
    case.model.compile(backend=_must_not_compile)
    assert_same(numbers(case.problem()), expected)


def _must_not_compile(*_):
    raise AssertionError("hesscope compiled a model")  # noqa: EM101


def test_data_parallel_is_unwrapped():
    case = smooth("mlp")
    problem = hs.Problem(nn.DataParallel(case.model), case.loss_fn, case.data)
    assert_same(numbers(problem), numbers(case.problem()))
    assert problem.facts()["unwrapped"] == ["DataParallel"]


def _ddp_numbers(rank: int):
    case = smooth("mlp")
    model = nn.parallel.DistributedDataParallel(case.model)
    cut = slice(0, 3) if rank == 0 else slice(3, 7)  # 3 batches here, 4 there
    data = tuple(t[cut] for t in case.data)
    problem = hs.Problem(model, case.loss_fn, data, batch_size=1)
    result = numbers(problem)
    check = hs.check_problem(problem)
    return (*result, problem.num_items, problem.facts()["unwrapped"], check.ok)


@pytest.mark.slow  # starting processes takes seconds
def test_two_processes_with_uneven_data_under_ddp_give_the_numbers_of_one():
    case = smooth("mlp")
    results = in_processes(_ddp_numbers, 2)
    for result in results:
        assert_same(result[:3], numbers(case.problem()), 1e-11)
        assert result[3:] == (7, ["DistributedDataParallel"], True)
    assert torch.equal(results[0][2], results[1][2])


def _one_process(rank: int):
    case = smooth("mlp")
    model = nn.parallel.DistributedDataParallel(case.model)
    return numbers(hs.Problem(model, case.loss_fn, case.data))


def test_ddp_in_one_process_changes_nothing():
    (result,) = in_processes(_one_process, 1)
    assert_same(result, numbers(smooth("mlp").problem()))


# What is said about it


def test_rounded_float32_products_are_recorded():
    problem = smooth("mlp").problem()
    small = hs.Problem(torch.nn.Linear(4, 3), F.cross_entropy, vectors())
    assert "float32 products" not in small.facts()
    torch.set_float32_matmul_precision("high")
    try:
        assert small.facts()["float32 products"] == ["mkldnn.matmul: tf32"]
        assert hs.eigsh(hs.Hessian(small), 1).facts["float32 products"]
        assert "float32 products" not in problem.facts()  # in float64
    finally:
        torch.set_float32_matmul_precision("highest")


def test_facts_and_repr_describe_the_problem():
    problem = smooth("frozen").problem(batch_size=3)
    facts = problem.facts()
    assert (facts["n"], facts["items"], facts["batches"]) == (18, 7, 3)
    assert (facts["dtype"], facts["device"], facts["mode"]) == ("float64", "cpu", "model.eval()")
    assert repr(problem) == "Problem(Sequential, n=18, items=7, batches=3, torch.float64, cpu)"
