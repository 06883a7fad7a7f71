"""Data error bars against dense algebra, over hundreds of data sets, and shares against oracles."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.sampling import per_example
from hesscope.sampling import shares as shares_module
from hesscope.sampling.shares import curvature_shares
from tests import networks, oracles
from tests.oracles import network
from tests.processes import in_processes
from tests.state import state_of
from tests.tolerances import most_misses

X, Y = oracles.data(30, 3, 2)
SINGLE_PARTS = hs.Problem(network(3, 4, 2), F.cross_entropy, (X, Y))  # 30 examples: 30 parts


def pairs_of(problem, k=3, **options):
    return hs.eigsh(hs.Hessian(problem), k=k, tol=1e-10, **options)


def example_hessians(problem, inputs, targets):
    """(N, n, n), each by torch.autograd.functional.hessian."""
    return torch.stack(
        [
            oracles.hessian(problem, inputs[i : i + 1], targets[i : i + 1])
            for i in range(len(inputs))
        ]
    )


def linear(num, scales, seed):
    """A linear model and squared error on inputs of covariance diag(scales): H = 2 mean xx'."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor(scales, dtype=torch.float64)
    x = torch.randn(num, len(scales), generator=generator, dtype=torch.float64) * scales.sqrt()
    model = nn.Linear(len(scales), 1, bias=False).double()
    return hs.Problem(model, F.mse_loss, (x, torch.zeros(num, 1, dtype=torch.float64)))


# --- against dense algebra


def test_standard_errors_are_the_textbook_ones_when_each_part_is_an_example():
    problem = linear(25, [5.0, 2.0, 1.0, 0.5], seed=3)
    pairs, x = pairs_of(problem), problem.batches.source[0][0]
    curvatures = 2 * (x @ pairs.eigenvectors) ** 2  # v'H_n v = 2 (v'x_n)²
    error = hs.sampling_error(problem, pairs)
    assert torch.allclose(error.eigenvalues, curvatures.mean(0), rtol=1e-10, atol=0)
    expected = curvatures.std(0) / math.sqrt(25)
    assert torch.allclose(error.standard_errors, expected, rtol=1e-10, atol=0)
    assert (error.num_examples, error.num_parts) == (25.0, 25)


def test_with_all_eigenvectors_given_bias_and_mixing_are_sums_over_gaps():
    problem = SINGLE_PARTS
    values, V = torch.linalg.eigh(oracles.hessian(problem, X, Y))
    H = example_hessians(problem, X, Y)
    pairs = dataclasses.replace(
        pairs_of(problem, 1),
        eigenvalues=values.flip(0),
        eigenvectors=V.flip(1),
        residuals=torch.full_like(values, 1e-12),
    )
    error = hs.sampling_error(problem, pairs)
    variances = torch.einsum("ai,nab,bj->nij", V, H, V).var(0) / len(X)
    i = len(values) - 1
    gaps = values[i] - values[:i]
    var = variances[:i, i]
    repelled = gaps / 2 * (1 - (1 - 4 * (var / gaps**2).clamp_max(0.25)).sqrt())
    assert float(error.biases[0]) == pytest.approx(float(repelled.sum()), rel=1e-8)
    assert float(error.mixing[0]) == pytest.approx(float((var / gaps**2).sum()), rel=1e-8)
    expected = variances.diagonal().flip(0).sqrt()
    assert torch.allclose(error.standard_errors, expected, rtol=1e-8, atol=1e-14)
    assert float(error.biases[-1]) < 0  # the smallest is exaggerated downwards


def test_what_the_given_pairs_leave_out_is_found_in_krylov_space():
    """One pair and all Krylov steps: the exact second-order sum, on average over the seeds."""
    problem = linear(400, [8.0, 4.0, 2.0, 1.0, 1.0, 0.5], seed=0)
    x = problem.batches.source[0][0]
    values, V = torch.linalg.eigh(2 * x.T @ x / len(x))
    z = x @ V
    var = (2 * z[:, :-1] * z[:, -1:]).var(0) / len(x)
    exact = float((var / (values[-1] - values[:-1])).sum())
    pairs = pairs_of(problem, 1)
    found = [float(hs.sampling_error(problem, pairs, depth=6, seed=s).biases) for s in range(20)]
    assert np.mean(found) == pytest.approx(exact, rel=0.25)  # the parts' own noise, √(2/31)
    shallow = float(hs.sampling_error(problem, pairs, depth=1, seed=0).biases)
    assert shallow <= found[0] * (1 + 1e-9)  # Galerkin from below


def test_batches_are_invisible_where_they_are_parts_anyway():
    whole = hs.sampling_error(SINGLE_PARTS, pairs_of(SINGLE_PARTS))
    split = hs.Problem(SINGLE_PARTS.model, F.cross_entropy, (X, Y), batch_size=1)
    parts = hs.sampling_error(split, pairs_of(split))
    assert torch.allclose(whole.standard_errors, parts.standard_errors, rtol=1e-8, atol=0)
    assert whole.num_parts == parts.num_parts == 30


def test_single_precision_agrees_with_double():
    x, y = oracles.data(200, 3, 2)
    double = hs.Problem(network(3, 4, 2), F.cross_entropy, (x, y))
    a = hs.sampling_error(double, pairs_of(double), shares=True)
    single = hs.Problem(network(3, 4, 2).float(), F.cross_entropy, (x.float(), y))
    b = hs.sampling_error(single, hs.eigsh(hs.Hessian(single), k=3, tol=1e-4), shares=True)
    assert torch.allclose(a.standard_errors, b.standard_errors, rtol=1e-2, atol=0)
    total = b.shares.examples.sum(0)
    assert torch.allclose(total, b.eigenvalues, rtol=1e-5, atol=0)


# --- coverage over draws of the data


def gaussian_mean(f):
    """E f(t) for standard normal t, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    return float((weights / weights.sum() * f(nodes)).sum())


def logistic(num, seed, scale=3.0, size=10):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, generator=generator, dtype=torch.float64)
    x[:, 0] *= math.sqrt(scale)
    model = nn.Linear(size, 1, bias=False).double()
    nn.init.zeros_(model.weight).data[0, 0] = 1.0
    y = torch.rand(num, 1, generator=generator, dtype=torch.float64) < torch.sigmoid(model(x))
    return hs.Problem(model, F.binary_cross_entropy_with_logits, (x, y.double()))


def logistic_truth(scale=3.0):
    """E σ(1 - σ) x₁², along the direction of the weights."""
    return gaussian_mean(lambda t: scale * t**2 / (2 + 2 * np.cosh(math.sqrt(scale) * t)))


def mlp_data(num, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (num,), generator=generator)
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, -1]]).double()
    return centres[y] + torch.randn(num, 4, generator=generator, dtype=torch.float64), y


def mlp(num, seed):
    return hs.Problem(network(4, 6, 3, seed=5), F.cross_entropy, mlp_data(num, seed))


@functools.cache
def mlp_truth():
    """Top eigenvalue for 100,000 examples: its own error is 1/14 of that for N=500."""
    data = mlp_data(100_000, seed=10**6)
    problem = hs.Problem(network(4, 6, 3, seed=5), F.cross_entropy, data, batch_size=4000)
    return float(hs.eigsh(hs.Hessian(problem), k=1).eigenvalues)


WIDE = [4.0, *[1.0] * 60]
LINEAR = "linear, bias of 0.6 SE"
CASES = {
    LINEAR: (lambda seed: linear(500, WIDE, seed), lambda: 8.0),
    "logistic": (lambda seed: logistic(1000, seed), logistic_truth),
    "tanh network": (lambda seed: mlp(500, seed), mlp_truth),
}


@functools.cache
def data_sets(case, first, num):
    """The results for the top eigenvalue on `num` data sets."""
    problems = [CASES[case][0](first + i) for i in range(num)]
    return [hs.sampling_error(p, hs.eigsh(hs.Hessian(p), k=2)) for p in problems]


def misses(case, first, num):
    truth = CASES[case][1]()
    return sum(truth not in error.interval(0) for error in data_sets(case, first, num))


@pytest.mark.slow
def test_intervals_cover_the_population_over_100_data_sets():
    assert misses(LINEAR, 0, 100) <= most_misses(100, 0.06)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_the_population_in_93_to_99_percent_of_600_data_sets(case):
    assert 0.01 <= misses(case, 1000, 600) / 600 <= 0.07


def test_the_bias_is_that_of_finite_data():
    errors = data_sets(LINEAR, 0, 100)
    values = torch.stack([error.eigenvalues[0] for error in errors])
    corrected = values - torch.stack([error.biases[0] for error in errors])
    assert abs(float(corrected.mean()) - 8) < 4 * float(corrected.std()) / 10
    assert float(values.mean()) - 8 > 4 * float(values.std()) / 10


def test_what_batches_would_read_is_forecast_from_the_whole():
    problem = linear(6000, [8.0, 4.0, *[1.0] * 18], seed=1)
    forecast = hs.sampling_error(problem, pairs_of(problem, 2)).on_batches(300)
    x = problem.batches.source[0][0]
    read = torch.stack(
        [torch.linalg.eigvalsh(2 * part.T @ part / 300)[-1] for part in x.split(300)]
    )
    assert abs(float(read.mean()) - forecast.value) < 4 * float(read.std()) / math.sqrt(20)
    assert float(read.std()) == pytest.approx(forecast.stderr, rel=4 / math.sqrt(2 * 19))


def test_eigenvalues_that_are_equal_in_the_population_are_called_unreliable():
    problem = linear(500, [1.0] * 20, seed=0)
    error = hs.sampling_error(problem, pairs_of(problem, 3))
    assert not bool(error.reliable.any())
    assert str(error).count("first-order theory fails: vectors mix") == 3
    separated = linear(500, [8.0, *[1.0] * 5], seed=0)
    assert bool(hs.sampling_error(separated, pairs_of(separated, 1)).reliable.all())


# --- the order of the data


def sorted_by_size(num=640):
    x = torch.randn(num, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x[x.square().sum(1).argsort()], torch.zeros(num, 1, dtype=torch.float64)


def test_sorted_batches_are_noticed_and_sorted_examples_in_one_batch_do_no_harm():
    model = nn.Linear(3, 1, bias=False).double()
    x, y = sorted_by_size()
    batched = hs.Problem(model, F.mse_loss, (x, y), batch_size=20)
    error = hs.sampling_error(batched, pairs_of(batched, 1))
    assert "neighbouring parts of the data are alike" in error.notes[0]
    whole = hs.Problem(model, F.mse_loss, (x, y))
    other = hs.sampling_error(whole, pairs_of(whole, 1))
    assert other.notes == ()
    assert float(other.standard_errors) < 0.5 * float(error.standard_errors)


# --- shares

ORACLE = ("mlp", "mlp_silu_mse", "tied", "resnet_batchnorm", "layernorm", "gru", "attention")


@pytest.mark.parametrize("name", ORACLE)
def test_shares_are_the_quadratic_forms_of_the_examples_own_hessians(name):
    case = networks.smooth(name)
    problem = case.problem(batch_size=4)
    V = torch.linalg.qr(torch.randn(problem.n, 2, dtype=torch.float64)).Q
    truth = []
    for i in range(networks.NUM):
        one = dataclasses.replace(case, data=tuple(t[i : i + 1] for t in case.data))
        H = networks.dense_hessian(one)
        truth.append((V * (H @ V)).sum(0) / networks.NUM)
    found = curvature_shares(problem, V).examples
    assert torch.allclose(found, torch.stack(truth), rtol=0, atol=1e-12 * float(H.norm()))


@pytest.mark.parametrize("name", networks.SMOOTH)
def test_the_shares_of_all_examples_at_once_are_those_of_one_example_at_a_time(name):
    problem = networks.smooth(name).problem(batch_size=4)
    V = torch.linalg.qr(torch.randn(problem.n, 2, dtype=torch.float64)).Q
    at_once = per_example._at_once(
        problem, lambda e, batch: shares_module._of_batch(problem, e, batch, V), "shares"
    )
    one_by_one = torch.cat(list(per_example._one_by_one(
        problem, V.shape[1], lambda e, one: shares_module._of_example(e, one, V)
    )))  # fmt: skip
    assert torch.allclose(at_once, one_by_one, rtol=0, atol=1e-13 * float(one_by_one.norm()))


@pytest.mark.parametrize("batch_size", [None, 7])
def test_shares_add_up_to_eigenvalues_and_to_class_shares(batch_size):
    x, y = oracles.data(50, 4, 3)
    problem = hs.Problem(network(4, 6, 3), F.cross_entropy, (x, y), batch_size=batch_size)
    pairs = pairs_of(problem, 3, which="BE")
    shares = hs.sampling_error(problem, pairs, shares=True).shares
    assert torch.allclose(shares.examples.sum(0), pairs.eigenvalues, rtol=1e-10, atol=1e-14)
    by_hand = torch.stack([shares.examples[y == c].sum(0) for c in range(3)])
    assert torch.allclose(shares.by_class, by_hand, rtol=0, atol=1e-15)
    assert shares.class_sizes.tolist() == y.bincount().tolist()


def test_shares_follow_the_examples_and_a_closure_has_the_same():
    x, y = oracles.data(20, 4, 3)
    model, order = network(4, 5, 3), torch.randperm(20)
    plain = hs.Problem(model, F.cross_entropy, (x, y))
    shuffled = hs.Problem(model, F.cross_entropy, (x[order], y[order]))
    closure = hs.Problem.from_closure(
        model, lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]), [(x, y)]
    )
    v = torch.randn(plain.n, 1, dtype=torch.float64)
    a, b, c = (curvature_shares(problem, v) for problem in (plain, shuffled, closure))
    assert torch.allclose(a.examples[order], b.examples, rtol=1e-10, atol=0)
    assert torch.allclose(a.examples, c.examples, rtol=1e-10, atol=1e-15)
    assert c.by_class is None
    assert c.num_matvecs > a.num_matvecs


def test_ignored_and_weighted_labels_have_their_shares():
    x, y = oracles.data(24, 4, 3)
    y[::5] = -100
    weight = torch.tensor([1.0, 3.0, 0.5]).double()
    problem = hs.Problem(network(4, 5, 3), nn.CrossEntropyLoss(weight=weight), (x, y))
    shares = curvature_shares(problem, torch.eye(problem.n).double()[:, :2])
    assert not bool(shares.examples[::5].any())
    H = oracles.hessian(problem, x, y)
    assert torch.allclose(shares.examples.sum(0), H.diagonal()[:2], rtol=1e-12, atol=1e-15)
    assert torch.allclose(shares.by_class.sum(0), H.diagonal()[:2], rtol=1e-12, atol=1e-15)
    assert float(shares.class_sizes.sum()) == 24 - 5


def test_tokens_and_floats_are_no_classes():
    for name in ("seq2seq", "tied"):
        problem = networks.smooth(name).problem()
        assert curvature_shares(problem, torch.ones(problem.n, 1).double()).by_class is None


def test_one_dominant_example_is_found():
    x = torch.ones(40, 1).double()
    x[17] = 20.0
    model = nn.Linear(1, 1, bias=False).double()
    problem = hs.Problem(model, F.mse_loss, (x, x))
    error = hs.sampling_error(problem, pairs_of(problem, 1), shares=True)
    assert int(error.shares.largest(num=1)) == 17
    assert error.shares.num_effective() == pytest.approx(439**2 / (400**2 + 39), rel=1e-12)
    assert "largest: 17 (91.1%)" in str(error)


# --- doors, state, records, processes


@pytest.mark.parametrize("shares", [False, True])
def test_the_model_comes_back_as_it_was(shares):
    case = networks.smooth("resnet_batchnorm")
    problem = case.problem()
    pairs = hs.eigsh(hs.Hessian(problem), k=1)
    before = state_of(case.model)
    hs.sampling_error(problem, pairs, shares=shares)
    assert state_of(case.model) == before


def test_pairs_of_another_operator_and_of_other_parameters_are_refused():
    pairs = pairs_of(SINGLE_PARTS)
    wrong = dataclasses.replace(pairs, eigenvalues=1.5 * pairs.eigenvalues)
    with pytest.raises(
        ValueError, match=r"^eigenvalue .* on the mean over parts of the data\. Eit"
    ):
        hs.sampling_error(SINGLE_PARTS, wrong)
    other = hs.Problem(network(3, 2), F.cross_entropy, (X, Y))
    with pytest.raises(ValueError, match=r"^eigenvectors of shape .* are none of the Hessian of a"):
        hs.sampling_error(other, pairs)
    with pytest.raises(ValueError, match=r"^depth=0: the bias needs one Krylov step or more"):
        hs.sampling_error(SINGLE_PARTS, pairs, depth=0)


def test_data_that_is_one_part_is_refused():
    problem = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3).double())
    with pytest.raises(ValueError, match=r"^the data is one part whose examples cannot be told"):
        hs.sampling_error(problem, pairs_of(problem, 1))


def test_a_loss_that_couples_examples_is_refused_unless_its_batches_are_the_parts():
    torch.manual_seed(0)
    x, y = torch.randn(320, 4).double(), torch.randn(320, 2).double()
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    whole = hs.Problem(model, F.mse_loss, (x, y), training=True)
    with pytest.raises(ValueError, match=r"batches couple their examples"):
        hs.sampling_error(whole, pairs_of(whole, 1))
    split = hs.Problem(model, F.mse_loss, (x, y), training=True, batch_size=10)
    pairs = pairs_of(split, 1)
    assert hs.sampling_error(split, pairs).num_parts == 32
    # Differentiating the outputs still splits a coupled loss, but single examples would not.
    batches = list(zip(x.split(10), y.split(10), strict=True))
    closure = hs.Problem.from_closure(
        model, lambda m, b: F.mse_loss(m(b[0]), b[1]), batches, training=True
    )
    with pytest.raises(ValueError):  # noqa: PT011  BatchNorm itself refuses one example
        curvature_shares(closure, pairs.eigenvectors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.interval(0, 95), "level=95 is not a probability between 0 and 1; the usual"),
        (lambda e: e.examples_needed(0, 5), "relative=5 is not between 0 and 1; 0.05 asks for ± 5"),
        (lambda e: e.on_batches(0), "size=0: a batch holds one example or more."),
    ],
)
def test_the_results_doors_refuse_what_they_cannot_answer(call, message):
    error = hs.sampling_error(SINGLE_PARTS, pairs_of(SINGLE_PARTS))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(error)
    assert str(caught.value).startswith(message)


def test_four_times_the_data_halves_the_relative_error():
    error = hs.sampling_error(SINGLE_PARTS, pairs_of(SINGLE_PARTS))
    assert error.examples_needed(0, 0.05) == pytest.approx(4 * error.examples_needed(0, 0.1))
    assert error.on_batches(30).value == pytest.approx(float(error.eigenvalues[0]))


def test_results_are_saved_and_printed(tmp_path):
    error = hs.sampling_error(SINGLE_PARTS, pairs_of(SINGLE_PARTS, 2), shares=True)
    back = hs.load(hs.save(error, tmp_path))
    assert str(back) == str(error)
    assert torch.equal(back.shares.examples, error.shares.examples)
    lines = str(error).splitlines()
    assert lines[0] == "data error of 2 eigenvalues, 30 examples in 30 parts, 8 matvecs"
    assert "in the population (95 %)" in lines[1]


def _numbers(rank, num):
    """64 batches of ragged sizes, dealt to `num` processes."""
    x, y = oracles.data(300, 3, 2)
    batches = list(zip(x.tensor_split(64), y.tensor_split(64), strict=True))[rank::num]
    problem = hs.Problem(network(3, 4, 2), F.cross_entropy, batches)
    error = hs.sampling_error(problem, pairs_of(problem, 2), shares=True)
    fields = (error.standard_errors, error.biases, error.mixing, error.shares.by_class)
    return torch.cat([field.flatten() for field in fields]), error.num_examples, error.num_parts


def _in_two(rank):
    return _numbers(rank, 2)


@pytest.mark.slow  # starting processes takes seconds
def test_two_processes_give_the_numbers_of_one():
    alone = _numbers(0, 1)
    for numbers, num_examples, num_parts in in_processes(_in_two, 2):
        assert torch.allclose(numbers, alone[0], rtol=1e-7, atol=1e-12)
        assert (num_examples, num_parts) == alone[1:]
