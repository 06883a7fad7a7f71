"""No engine is silently wrong about any operation: right, or an error that says why."""

import pytest
import torch
from torch import Tensor

import hesscope as hs
from tests.autodiff.operations import OPERATIONS, Through, randn

pytestmark = pytest.mark.filterwarnings(r"ignore:index_reduce\(\) is in beta")

INPUTS = randn(10, 5, seed=4)
CLOSE = 1e-8  # relative, of sixth-order differences in float64

# What reverse-over-reverse refuses, because torch has no second derivative of it, or a wrong one.
REFUSED = {
    "cdist", "pdist", "embedding_bag", "segment_reduce", "multi_margin_loss", "ctc_loss",
    "embedding, scaled", "sparse values",
}  # fmt: skip

ROUNDED = {"hardsigmoid, squared": 1e-7}  # torch's own gradient has a 1/6 of float32
NO_FORWARD_RULE = (
    "wrong in forward mode over the gradient",  # ours; the rest are torch's words
    "forward AD", "forward gradient", "ZeroTensors are immutable", "saved tensor hooks",
)  # fmt: skip


def closure(model: Through, batch: tuple[Tensor]) -> Tensor:
    z = model(batch[0])
    return (z.sin() + z.square()).mean()


def slopes(model: Through, batch: tuple[Tensor]) -> Tensor:
    """A loss that is made of the derivative of the output in the input."""
    x = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sin().sum(), x, create_graph=True)
    return (slope - 1).square().mean()


def problem(name: str, loss=closure) -> hs.Problem:
    return hs.Problem.from_closure(Through(OPERATIONS[name]), loss, [(INPUTS,)])


def differences(name: str, v: Tensor, loss=closure) -> Tensor:
    """H v from six plain gradients, at the better of two steps: share nothing with the engines."""
    model = Through(OPERATIONS[name])
    theta = model.w.detach().clone()

    def gradient(shift: float) -> Tensor:
        model.w.data = theta + shift * v.view_as(theta)
        return torch.autograd.grad(loss(model, (INPUTS,)), model.w)[0].reshape(-1)

    def central(h: float) -> Tensor:
        sides = [gradient(k * h) - gradient(-k * h) for k in (1, 2, 3)]
        return (45 * sides[0] - 9 * sides[1] + sides[2]) / (60 * h)

    coarse, middle, fine = central(1e-2), central(2e-3), central(4e-4)
    better = float((fine - middle).norm()) < float((middle - coarse).norm())
    return fine if better else middle


def direction(n: int) -> Tensor:
    v = randn(n, seed=5)
    return v / v.norm()


def error(product: Tensor, truth: Tensor) -> float:
    return float((product - truth).norm() / truth.norm())


@pytest.mark.parametrize("name", OPERATIONS)
def test_reverse_over_reverse_is_right_or_refuses(name):
    through, v = problem(name), direction(30)
    H = hs.Hessian(through)
    if name in REFUSED:
        with pytest.raises(RuntimeError, match=r"no (trustworthy )?second derivative"):
            H @ v
    else:
        assert error(H @ v, differences(name, v)) < ROUNDED.get(name, CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_over_reverse_is_right_or_refuses(name):
    v, refusal, product = direction(30), "", None
    try:
        product = hs.Hessian(problem(name), "forward-over-reverse") @ v
    except (RuntimeError, ValueError) as error_of_torch:
        refusal = str(error_of_torch)
    if product is None:
        assert any(reason in refusal for reason in NO_FORWARD_RULE), refusal
    else:
        assert error(product, differences(name, v)) < ROUNDED.get(name, CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_finite_differences_keep_to_their_stated_error(name):
    H, v = hs.Hessian(problem(name), "finite-difference"), direction(30)
    product = H @ v
    allowed = 2 * H.facts()["relative_error"] + ROUNDED.get(name, CLOSE)
    assert error(product, differences(name, v)) < allowed


# Where the slope is made of what torch cannot differentiate or differentiates wrongly.
NO_SLOPE = REFUSED | {"hardsigmoid, squared", *(n for n in OPERATIONS if n.startswith("attention"))}
NOT_FINITE = {"logcumsumexp"}
WRONG_GRADIENT = {"weight_norm"}  # torch's own gradient of such a loss is wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - NO_SLOPE))
def test_the_hessian_of_a_loss_made_of_slopes_is_right(name):
    through, v = problem(name, slopes), direction(30)
    product = hs.Hessian(through) @ v
    if name in NOT_FINITE:
        assert not bool(product.isfinite().all())
    elif name in WRONG_GRADIENT:
        assert error(product, differences(name, v, slopes)) > 0.01
    else:
        assert error(product, differences(name, v, slopes)) < 1e-6


def test_the_table_holds_about_two_hundred_operations():
    assert len(OPERATIONS) > 190
    assert set(OPERATIONS) >= REFUSED
