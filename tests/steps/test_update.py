"""The step is the optimiser's own, and its threshold is where its steps begin to grow."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.curvature.preconditioned import StepHessian
from hesscope.steps.stability import threshold
from hesscope.steps.update import update
from tests.oracles import data, network
from tests.state import state_of

X, Y = data(40, 5, 3)
O = torch.optim  # noqa: E741
STEPPED = {
    "SGD": lambda p: O.SGD(p, lr=0.1),
    "SGD foreach": lambda p: O.SGD(p, lr=0.1, foreach=True),
    "SGD tensor lr": lambda p: O.SGD(p, lr=torch.tensor(0.1)),
    "decay": lambda p: O.SGD(p, lr=0.1, weight_decay=0.3),
    "momentum": lambda p: O.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
    "Nesterov": lambda p: O.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "ascent": lambda p: O.SGD(p, lr=0.1, momentum=0.9, maximize=True),
    "Adam": lambda p: O.Adam(p, lr=0.01, weight_decay=0.1),
    "Adam fused": lambda p: O.Adam(p, lr=0.01, fused=True),
    "AMSGrad": lambda p: O.Adam(p, lr=0.01, amsgrad=True, betas=(0.8, 0.95)),
    "AdamW": lambda p: O.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: O.RMSprop(p, lr=0.01, weight_decay=0.1),
    "RMSprop centred": lambda p: O.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "Adagrad": lambda p: O.Adagrad(p, lr=0.01, lr_decay=0.1),
    "Adadelta": lambda p: O.Adadelta(p),
    "Adamax": lambda p: O.Adamax(p),
    "NAdam": lambda p: O.NAdam(p),
    "RAdam": lambda p: O.RAdam(p),
    "Rprop": lambda p: O.Rprop(p),
    "ASGD": lambda p: O.ASGD(p),
    "Adafactor": lambda p: O.Adafactor(p),
}


class Lion(O.Optimizer):
    """Sign descent with a constructor and an attribute of its own."""

    def __init__(self, params, scale, *, lr):
        super().__init__(params, {"lr": lr})
        self.scale = {"by": scale}

    @torch.no_grad()
    def step(self, closure=None):
        self.scale["by"] *= 0.5
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 0.1)
                    p.sub_(group["lr"] * self.scale["by"] * m.sign())


STEPPED["own class"] = lambda p: Lion(p, 3.0, lr=0.01)


def trained(make, steps=3, dtype=torch.float64):
    model = network(5, 7, 3).to(dtype)
    optimiser = make(model.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(X.to(dtype)), Y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return hs.Problem(model, F.cross_entropy, (X.to(dtype), Y)), optimiser


def real_step(problem, optimiser, gradient):
    """By stepping copies of model and optimiser, made together, for real."""
    model, stepped = copy.deepcopy((problem.model, optimiser))
    if isinstance(optimiser, Lion):  # torch's optimisers copy no attributes
        stepped.scale = dict(optimiser.scale)
    for p, piece in zip(model.parameters(), problem.layout.split(gradient), strict=True):
        p.grad = piece.clone()
    stepped.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - problem.theta


def optimiser_bytes(optimiser):
    packed = optimiser.state_dict()
    tensors = [t for s in packed["state"].values() for t in s.values()]
    own = repr(getattr(optimiser, "scale", None))
    return (
        own,
        repr(packed["param_groups"]),
        [t.clone().numpy().tobytes() if isinstance(t, torch.Tensor) else t for t in tensors],
    )


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", STEPPED)
def test_the_update_is_what_the_optimiser_does_next_bit_for_bit(name, steps):
    problem, optimiser = trained(STEPPED[name], steps)
    gradient = problem.gradient()
    before, packed = state_of(problem.model), optimiser_bytes(optimiser)
    step = update(problem, optimiser, gradient).step
    assert state_of(problem.model) == before
    assert optimiser_bytes(optimiser) == packed
    assert torch.equal(step, real_step(problem, optimiser, gradient))
    assert float(step.norm()) > 0


def test_in_float32_what_rounding_loses_is_stated():
    problem, optimiser = trained(STEPPED["SGD"], dtype=torch.float32)
    gradient = 1e-3 * problem.gradient()
    found = update(problem, optimiser, gradient)
    error = float((found.step.double() + 0.1 * gradient.double()).norm())
    assert 0 < error <= found.rounding + 1e-6 * float(found.step.norm())


def test_a_scheduler_that_wraps_step_does_not_reach_the_live_optimiser():
    problem, optimiser = trained(STEPPED["momentum"])
    O.lr_scheduler.StepLR(optimiser, 1)
    packed = optimiser_bytes(optimiser)
    gradient = problem.gradient()
    assert torch.equal(
        update(problem, optimiser, gradient).step, real_step(problem, optimiser, gradient)
    )
    assert optimiser_bytes(optimiser) == packed


def test_hooks_on_the_optimiser_do_not_run():
    problem, optimiser = trained(STEPPED["SGD"])
    optimiser.register_step_pre_hook(lambda *_: pytest.fail("the hook ran"))
    optimiser.register_step_post_hook(lambda *_: pytest.fail("the hook ran"))
    gradient = problem.gradient()
    expected = (problem.theta - 0.1 * gradient) - problem.theta
    assert torch.allclose(update(problem, optimiser, gradient).step, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["momentum", "Adam", "own class"])
def test_a_block_moves_as_it_does_in_the_whole_with_each_groups_options(name):
    def grouped(parameters):
        ps = list(parameters)
        return STEPPED[name]([{"params": ps[:2], "lr": 0.5}, {"params": ps[2:]}])

    problem, optimiser = trained(grouped)
    whole = update(problem, optimiser, problem.gradient()).step
    for block in problem.blocks().values():
        inside = torch.cat([whole[problem.layout.slices()[n]] for n in block.layout.names])
        assert torch.equal(update(block, optimiser, block.gradient()).step, inside)


def test_frozen_parameters_that_the_optimiser_holds_stay_out():
    problem, optimiser = trained(STEPPED["momentum"])
    problem.model[0].requires_grad_(False)
    part = hs.Problem(problem.model, F.cross_entropy, (X, Y))
    assert update(part, optimiser, part.gradient()).step.shape == (part.n,)


def test_elsewhere_the_step_starts_elsewhere():
    problem, optimiser = trained(STEPPED["decay"])
    elsewhere = problem.at(2 * problem.theta)
    step = update(elsewhere, optimiser, torch.zeros(problem.n)).step
    assert torch.allclose(step, -0.1 * 0.3 * 2 * problem.theta, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "gradient", "message"),
    [
        (lambda p: O.LBFGS(p), None, "LBFGS evaluates the loss during its step (a closure), so one "
         "gradient is too little."),
        (lambda p: O.SparseAdam(p), None, "SparseAdam steps from sparse gradients; use Adam to see "
         "its step."),
        (lambda p: O.SGD(list(p)[:1], lr=0.1), None, "the optimiser does not hold 0.bias, 2.weight,"
         " 2.bias (3 of 4 parameters); give the one that trains them, or look at the others alone "
         "with problem.block(names)."),
        (lambda p: O.SGD(p, lr=0.1), torch.full((66,), torch.nan), "the gradient is NaN or "
         "infinite, and so would be the step; look at problem.loss()."),
        (lambda p: O.SGD(p, lr=0.1), torch.zeros(3), "a vector of shape (3,) does not fit 66 "
         "parameters; give a tensor of shape (66,), such as problem.theta."),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_foreseen_are_refused(make, gradient, message):
    problem, optimiser = trained(make, steps=0)
    gradient = problem.gradient() if gradient is None else gradient
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        update(problem, optimiser, gradient)


# --- thresholds, against the optimisers themselves on a quadratic

FROZEN = 1e15  # steps made: bias corrections and averages of squares stand still
V = torch.tensor([4.0, 0.25, 1.0]).double()  # √v of each coordinate


def frozen_state(optimiser, p):
    """The second moment of an adaptive optimiser, held fixed at v = V²."""
    zero = torch.zeros_like(p)
    kind, group = type(optimiser).__name__, optimiser.param_groups[0]
    if kind.startswith("Adam"):
        state = {"step": torch.tensor(FROZEN, dtype=torch.float64), "exp_avg": zero}
        state |= {"exp_avg_sq": V.square()}
    elif kind == "RMSprop":
        state = {"step": torch.tensor(1.0), "square_avg": V.square()}
        state |= {"momentum_buffer": zero} if group["momentum"] else {}
    else:
        state = {}
    optimiser.state[p].update(state)


NEARLY = 1 - 1e-14  # an average that forgets nothing within a test
MADE = {
    "descent": (lambda p, lr: O.SGD(p, lr=lr), 2.0),
    "decay": (lambda p, lr: O.SGD(p, lr=lr, weight_decay=0.5), 2.0),
    "heavy ball": (lambda p, lr: O.SGD(p, lr=lr, momentum=0.7), 3.4),
    "dampened": (lambda p, lr: O.SGD(p, lr=lr, momentum=0.7, dampening=0.4, weight_decay=0.5), 3.4),
    "Nesterov": (lambda p, lr: O.SGD(p, lr=lr, momentum=0.7, nesterov=True), 3.4 / 2.4),
    "Adam": (lambda p, lr: O.Adam(p, lr=lr, betas=(0.8, NEARLY), weight_decay=0.5), 3.6 / 0.2),
    "AdamW": (lambda p, lr: O.AdamW(p, lr=lr, betas=(0.8, NEARLY), weight_decay=0.1), None),
    "RMSprop": (lambda p, lr: O.RMSprop(p, lr=lr, alpha=NEARLY), 2.0),
    "RMSprop momentum": (lambda p, lr: O.RMSprop(p, lr=lr, alpha=NEARLY, momentum=0.7), 3.4),
}


def quadratic():
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    A = root @ root.T + torch.eye(3)
    return hs.Problem.from_function(lambda t: t @ A @ t / 2, 1e-6 * torch.ones(3).double())


def lr_at_the_threshold(make, problem):
    """By bisection on lr: λmax(StepHessian) = factor, whatever depends on lr."""
    low, high = 1e-6, 1e3
    for _ in range(80):
        lr = (low * high) ** 0.5
        optimiser = make(list(problem.model.parameters()), lr)
        frozen_state(optimiser, next(iter(problem.model.parameters())))
        top = float(torch.linalg.eigvalsh(StepHessian(problem, optimiser).to_dense())[-1])
        low, high = (lr, high) if top < threshold(optimiser).factor else (low, lr)
    return low


@pytest.mark.parametrize("name", MADE)
def test_steps_shrink_below_the_threshold_and_grow_above_it(name):
    make, factor = MADE[name]
    problem = quadratic()
    edge = lr_at_the_threshold(make, problem)
    if factor is not None:
        assert threshold(make(list(problem.model.parameters()), edge)).factor == pytest.approx(
            factor, rel=1e-11
        )
    ratios = {}
    for share in (0.98, 1.02):
        model = copy.deepcopy(problem.model)
        optimiser = make(list(model.parameters()), share * edge)
        frozen_state(optimiser, model.theta)
        moved = hs.Problem.from_closure(model, problem._closure, [()], count=lambda _: 1)
        start, sizes = float(model.theta.detach().norm()), []
        for _ in range(400):
            optimiser.zero_grad()
            model.theta.grad = moved.gradient()
            optimiser.step()
            sizes.append(float(model.theta.detach().norm()))
            if sizes[-1] > 1e6 * start:
                break
        ratios[share] = sizes[-1] / start
    assert ratios[0.98] < 1e-2
    assert ratios[1.02] > 1e2


def test_the_operator_is_symmetric_and_takes_each_groups_lr_and_decay():
    problem, optimiser = trained(
        lambda p: O.Adam([{"params": (ps := list(p))[:2], "lr": 0.1, "weight_decay": 0.2},
                          {"params": ps[2:]}], lr=0.01)
    )  # fmt: skip
    A = StepHessian(problem, optimiser)
    first = torch.arange(problem.n) < sum(p.numel() for p in problem.model[0].parameters())
    lr = 0.01 + 0.09 * first.double()
    P = hs.PreconditionedHessian(problem, optimiser).preconditioner()
    H = hs.Hessian(problem).to_dense() + torch.diag(0.2 * first.double())
    root = (lr / P).sqrt()
    assert torch.allclose(A.to_dense(), root[:, None] * H * root, rtol=1e-11, atol=1e-13)
    assert hs.check_operator(A).ok
    assert threshold(optimiser).lr == (0.1, 0.01)
    assert threshold(optimiser).weight_decay == (0.2, 0.0)


def test_adagrads_own_decay_of_the_rate_is_counted():
    _, optimiser = trained(STEPPED["Adagrad"], steps=3)
    assert threshold(optimiser).lr == (pytest.approx(0.01 / 1.3),)


def test_groups_that_differ_in_decoupled_decay_get_the_safe_side():
    w = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": w[:1], "weight_decay": 0.0}, {"params": w[1:], "weight_decay": 1.0}]
    assert threshold(O.AdamW(groups, lr=0.1)).factor == pytest.approx(1.9 * 19)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: O.SGD(w, lr=0.1, maximize=True), "this optimiser maximises: it climbs, and no "
         "step size makes that stable."),
        (lambda w: O.NAdam(w), "no stability threshold is known for NAdam; SGD, RMSprop, Adagrad, "
         "Adam(W) have one."),
        (lambda w: O.SGD([{"params": w[:1]}, {"params": w[1:], "momentum": 0.5}], lr=0.1),
         "the parameter groups of SGD differ in momentum, so no single factor holds; judge them "
         "one by one: problem.block(names) with an optimiser that holds those alone."),
    ],
)  # fmt: skip
def test_thresholds_that_are_not_known_are_refused(make, message):
    w = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        threshold(make(w))
