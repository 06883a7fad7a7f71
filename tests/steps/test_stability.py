"""The threshold is where an optimiser's own steps begin to grow, with P held as it is."""

import re

import pytest
import torch
from torch import nn

import hesscope as hs
from hesscope.curvature.preconditioned import StepHessian
from hesscope.steps import preconditioner
from hesscope.steps.stability import threshold, why_unknown
from tests.steps.test_update import STEPPED, Lion, trained

O = torch.optim  # noqa: E741
A = torch.tensor([[2.0, 0.3, -0.4], [0.3, 1.0, 0.2], [-0.4, 0.2, 1.5]]).double()
V = torch.tensor([2.0, 0.5, 1.0]).double()  # √v of each coordinate
ALWAYS = 1e15  # steps made: bias corrections stand still
CARRIED = ("exp_avg", "momentum_buffer", "ax")  # momentum goes on; everything else is held


def after(t, **moments):
    """A state from which the next step is number t, with no momentum."""
    return {"step": torch.tensor(t - 1).double(), **moments}


def squares(t, **others):
    return after(t, exp_avg=torch.zeros(3).double(), exp_avg_sq=V.square(), **others)


def of_rmsprop(**others):
    return after(ALWAYS, square_avg=V.square(), momentum_buffer=torch.zeros(3).double(), **others)


def of_nadam(t):
    """With the product of its momenta so far, for β₁ = 0.8 and ψ = 4e-3."""
    product = 1.0
    for s in range(1, min(t, 500)):
        product *= 0.8 * (1 - 0.96 ** (4e-3 * s) / 2)
    return squares(t, mu_product=torch.tensor(product).double())


def of_adamax(t):
    return after(t, exp_avg=torch.zeros(3).double(), exp_inf=V.clone())


SHORT = (0.8, 0.99)
CASES = {  # how it is made, its state before the step, and the factor where it is short to write
    "descent": (lambda p, lr: O.SGD(p, lr=lr), {}, 2.0),
    "decay": (lambda p, lr: O.SGD(p, lr=lr, weight_decay=0.5), {}, 2.0),
    "heavy ball": (lambda p, lr: O.SGD(p, lr=lr, momentum=0.7), {}, 3.4),
    "dampened": (
        lambda p, lr: O.SGD(p, lr=lr, momentum=0.7, dampening=0.4, weight_decay=0.5), {}, 3.4
    ),
    "Nesterov": (lambda p, lr: O.SGD(p, lr=lr, momentum=0.7, nesterov=True), {}, 3.4 / 2.4),
    "ASGD": (lambda p, lr: O.ASGD(p, lr=lr, lambd=0.5, alpha=0.0, weight_decay=0.25), {}, 2.0),
    "RMSprop": (lambda p, lr: O.RMSprop(p, lr=lr), of_rmsprop(), 2.0),
    "RMSprop momentum": (lambda p, lr: O.RMSprop(p, lr=lr, momentum=0.7), of_rmsprop(), 3.4),
    "RMSprop centred": (
        lambda p, lr: O.RMSprop(p, lr=lr, centered=True), of_rmsprop(grad_avg=V / 2), 2.0
    ),
    "Adagrad": (
        lambda p, lr: O.Adagrad(p, lr=lr, lr_decay=1e-4), after(1e4, sum=V.square()), 2.0
    ),
    "Adadelta": (
        lambda p, lr: O.Adadelta(p, lr=lr, rho=1 - 1e-6),  # a step uses E[d²] from before it
        after(9, square_avg=V.square(), acc_delta=torch.tensor([1e-2, 4e-2, 1e-3]).double()),
        2.0,
    ),
    "Adam": (lambda p, lr: O.Adam(p, lr=lr, betas=SHORT, weight_decay=0.5), squares(ALWAYS), 18.0),
    "Adam at step 3": (lambda p, lr: O.Adam(p, lr=lr, betas=SHORT), squares(3), 18.0),
    "AMSGrad": (
        lambda p, lr: O.Adam(p, lr=lr, betas=SHORT, amsgrad=True),
        squares(9, max_exp_avg_sq=9 * V.square()),
        18.0,
    ),
    "AdamW": (lambda p, lr: O.AdamW(p, lr=lr, betas=SHORT, weight_decay=0.1), squares(99), None),
    "NAdam": (
        lambda p, lr: O.NAdam(p, lr=lr, betas=SHORT, weight_decay=0.5), of_nadam(10**9), 18 / 2.6
    ),
    "NAdam at step 3": (lambda p, lr: O.NAdam(p, lr=lr, betas=SHORT), of_nadam(3), None),
    "NAdam decoupled": (
        lambda p, lr: O.NAdam(
            p, lr=lr, betas=SHORT, weight_decay=0.1, decoupled_weight_decay=True
        ),
        of_nadam(200),
        None,
    ),
    "RAdam without v": (lambda p, lr: O.RAdam(p, lr=lr, betas=SHORT), squares(5), 18.0),
    "RAdam": (lambda p, lr: O.RAdam(p, lr=lr, betas=SHORT, weight_decay=0.5), squares(20), 18.0),
    "RAdam decoupled": (
        lambda p, lr: O.RAdam(
            p, lr=lr, betas=SHORT, weight_decay=0.1, decoupled_weight_decay=True
        ),
        squares(50),
        None,
    ),
    "Adafactor": (  # P is √V̂ over 100, the size that steps are multiples of at least
        lambda p, lr: O.Adafactor(
            p, lr=lr, beta2_decay=-20.0, eps=(None, 100.0), weight_decay=0.1
        ),
        after(4, variance=V.square()),
        None,
    ),
    "Adamax": (lambda p, lr: O.Adamax(p, lr=lr, betas=SHORT, weight_decay=0.5), of_adamax(4), 18.0),
}  # fmt: skip


def optimiser_in(p, make, lr, state):
    """An optimiser of the parameter p with a copy of a state."""
    optimiser = make([p], lr)
    optimiser.state[p].update({name: tensor.clone() for name, tensor in state.items()})
    return optimiser


def growth(make, state, lr, steps=500):
    """‖θ‖ after many steps with everything but momentum held, relative to the start."""
    p = nn.Parameter(1e-9 * torch.ones(3).double())
    optimiser = optimiser_in(p, make, lr, state)
    start = float(p.detach().norm())
    for _ in range(steps):
        held = {name: x.clone() for name, x in state.items() if name not in CARRIED}
        optimiser.state[p].update(held)
        p.grad = A @ p.detach()
        optimiser.step()
        if float(p.detach().norm()) > 1e6 * start:
            break
    return float(p.detach().norm()) / start


def quadratic():
    return hs.Problem.from_function(lambda t: t @ A @ t / 2, 1e-6 * torch.ones(3).double())


def stepped(problem, make, lr, state):
    """The optimiser after a step with no gradient, which is the step that is held."""
    (p,) = problem.model.parameters()
    optimiser = optimiser_in(p, make, lr, state)
    p.grad = torch.zeros_like(p)
    optimiser.step()
    p.grad = None
    return optimiser


def lr_at_the_threshold(make, state):
    """By bisection on lr: λmax(StepHessian) = factor, whatever depends on lr."""
    problem = quadratic()
    low, high = 1e-6, 1e3
    for _ in range(60):
        lr = (low * high) ** 0.5
        optimiser = stepped(problem, make, lr, state)
        top = float(torch.linalg.eigvalsh(StepHessian(problem, optimiser).to_dense())[-1])
        low, high = (lr, high) if top < threshold(optimiser).factor else (low, lr)
    return low


@pytest.mark.parametrize("name", CASES)
def test_steps_shrink_one_percent_below_the_threshold_and_grow_one_percent_above(name):
    make, state, factor = CASES[name]
    edge = lr_at_the_threshold(make, state)
    if factor is not None:
        optimiser = stepped(quadratic(), make, edge, state)
        assert threshold(optimiser).factor == pytest.approx(factor, rel=1e-11)
    assert growth(make, state, 0.99 * edge) < 1e-2
    assert growth(make, state, 1.01 * edge) > 1e2


def test_the_operator_is_symmetric_and_takes_each_groups_lr_and_decay():
    problem, optimiser = trained(
        lambda p: O.Adam([{"params": (ps := list(p))[:2], "lr": 0.1, "weight_decay": 0.2},
                          {"params": ps[2:]}], lr=0.01)
    )  # fmt: skip
    H = StepHessian(problem, optimiser)
    first = torch.arange(problem.n) < sum(p.numel() for p in problem.model[0].parameters())
    lr = 0.01 + 0.09 * first.double()
    P = hs.PreconditionedHessian(problem, optimiser).preconditioner()
    decayed = hs.Hessian(problem).to_dense() + torch.diag(0.2 * first.double())
    root = (lr / P).sqrt()
    assert torch.allclose(H.to_dense(), root[:, None] * decayed * root, rtol=1e-11, atol=1e-13)
    assert hs.check_operator(H).ok
    assert threshold(optimiser).lr == (0.1, 0.01)
    assert threshold(optimiser).weight_decay == (0.2, 0.0)
    relative = StepHessian(problem, optimiser, lr=1.0)
    assert torch.allclose(relative.to_dense(), 10 * H.to_dense(), rtol=1e-11, atol=1e-13)


def test_adagrads_own_decay_of_the_rate_is_counted():
    _, optimiser = trained(STEPPED["Adagrad"], steps=3)
    assert threshold(optimiser).lr == (pytest.approx(0.01 / 1.3),)


def test_asgds_rate_is_the_one_that_its_last_step_laid_down():
    _, optimiser = trained(lambda p: O.ASGD(p, lr=0.1, lambd=0.5, alpha=1.0), steps=3)
    limit = threshold(optimiser)
    assert limit.lr == (pytest.approx(0.1 / (1 + 0.5 * 0.1 * 3)),)
    assert limit.weight_decay == (0.5,)


def test_groups_that_differ_in_decoupled_decay_get_the_safe_side():
    w = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": w[:1], "weight_decay": 0.0}, {"params": w[1:], "weight_decay": 1.0}]
    assert threshold(O.AdamW(groups, lr=0.1)).factor == pytest.approx(1.9 * 19)


def test_adafactors_step_is_the_gradient_over_its_preconditioner_where_it_is_not_clipped():
    """With d = 1e9 it never is; matrices and vectors, and the cap 1/√t on lr."""
    problem, optimiser = trained(lambda p: O.Adafactor(p, lr=0.9, d=1e9), steps=3)
    assert threshold(optimiser).lr == (0.5,)
    parameters = list(problem.model.parameters())
    sizes = [float(p.detach().square().mean().sqrt()) for p in parameters]
    torch.manual_seed(0)
    for p in parameters:
        p.grad = torch.randn_like(p)
    before = [p.detach().clone() for p in parameters]
    optimiser.step()
    for p, old, size in zip(parameters, before, sizes, strict=True):
        P = preconditioner.adafactor(optimiser.param_groups[0], optimiser.state[p]) / size
        assert torch.allclose(p.detach() - old, -0.5 * p.grad / P, rtol=1e-6, atol=1e-12)


# --- a learning rate of zero: the first step of every warm-up, the last of many a schedule

MADE = ("momentum", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Adamax")


@pytest.mark.parametrize("name", [*MADE, "ASGD"])
def test_without_learning_rate_the_step_hessian_is_zero_and_the_limit_stays(name):
    problem, optimiser = trained(STEPPED[name])
    before = StepHessian(problem, optimiser, lr=1.0).to_dense()
    shrunk = "decoupled" if threshold(optimiser).formula.startswith("(2 - lr·wd)") else ""
    factor = threshold(optimiser).factor
    optimiser.param_groups[0]["lr"] = 0.0
    for state in optimiser.state.values() if name == "ASGD" else ():
        state["eta"].zero_()
    limit = threshold(optimiser)
    assert limit.lr == (0.0,)
    assert limit.factor == (38.0 if shrunk else factor)
    assert not bool(StepHessian(problem, optimiser).to_dense().any())
    after = StepHessian(problem, optimiser, lr=1.0).to_dense()
    assert torch.allclose(after, before, rtol=1e-12, atol=1e-13 * float(before.abs().max()))


def test_where_all_groups_warm_up_from_zero_their_ratio_is_that_of_their_schedule():
    def grouped(parameters):
        ps = list(parameters)
        return O.SGD([{"params": ps[:2], "lr": 0.5}, {"params": ps[2:]}], lr=0.1)

    problem, optimiser = trained(grouped, steps=0)
    expected = StepHessian(problem, optimiser, lr=1.0).to_dense()
    O.lr_scheduler.LambdaLR(optimiser, lambda t: t / 10)
    assert threshold(optimiser).lr == (0.0, 0.0)
    assert not bool(StepHessian(problem, optimiser).to_dense().any())
    found = StepHessian(problem, optimiser, lr=1.0).to_dense()
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-13)


# --- where none is known


class SignDescent(O.SGD):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.data.sub_(p.grad.sign(), alpha=self.param_groups[0]["lr"])


KNOWN = (
    "SGD, ASGD, RMSprop, Adagrad, Adadelta, AdamW, Adam, NAdam, RAdam, Adamax, Adafactor have one."
)
UNKNOWN = [
    (lambda w: O.SGD(w, lr=0.1, maximize=True), "this optimiser maximises: it climbs, and no "
     "step size makes that stable."),
    (lambda w: O.Rprop(w), "no stability threshold is known for Rprop: it steps by the sign of the "
     "gradient, so that its steps do not shrink with it."),
    (lambda w: O.LBFGS(w), "no stability threshold is known for LBFGS: its steps come from past "
     "steps and, with a line search, from the loss itself."),
    (lambda w: O.SparseAdam(w), "no stability threshold is known for SparseAdam: it leaves out the "
     "parameters that a sparse gradient does not name."),
    (lambda w: O.Muon(w), "no stability threshold is known for Muon: it makes the momentum of a "
     "matrix orthogonal, so that its steps do not shrink with it."),
    (lambda w: Lion(w, 3.0, lr=0.1), "no stability threshold is known for Lion; " + KNOWN),
    (lambda w: SignDescent(w, lr=0.1), "no stability threshold is known for SignDescent: it "
     "overrides the step of SGD, so its steps need not be those."),
    (lambda w: O.SGD([{"params": w[:1]}, {"params": w[1:], "momentum": 0.5}], lr=0.1),
     "the parameter groups of SGD differ in momentum, so no single factor holds; judge them "
     "one by one: problem.block(names) with an optimiser that holds those alone."),
    (lambda w: O.NAdam([{"params": w[:1]}, {"params": w[1:], "betas": (0.5, 0.9)}]),
     "the parameter groups of NAdam differ in momentum, so no single factor holds; judge them "
     "one by one: problem.block(names) with an optimiser that holds those alone."),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), UNKNOWN)
def test_thresholds_that_are_not_known_are_refused_and_the_cause_is_to_be_had_as_a_value(
    make, message
):
    optimiser = make([nn.Parameter(torch.zeros(1, 1)) for _ in range(2)])
    assert why_unknown(optimiser) == message
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        threshold(optimiser)


@pytest.mark.parametrize("name", [n for n in STEPPED if n not in ("ascent", "Rprop", "own class")])
def test_where_there_is_no_cause_there_is_a_threshold(name):
    for steps in (0, 2):
        _, optimiser = trained(STEPPED[name], steps)
        assert why_unknown(optimiser) == ""
        assert threshold(optimiser).factor > 0
