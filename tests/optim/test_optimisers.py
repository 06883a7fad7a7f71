"""What every optimiser of ours stands: resumption, AMP, accumulation, schedulers, doors."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.oracles import data

X, Y = data(64, 6, 3)
X = X.float()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def sgd(net, **options):
    return torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3, **options)


def problem(net):
    return hs.Problem(net, F.cross_entropy, (X, Y), training=net.training)


def subspace(net, base, **options):
    problem = hs.Problem(net, F.cross_entropy, (X, Y))
    return hs.optim.SubspaceSGD(base, problem, k=3, every=5, **options)


MADE = {
    "SAM": lambda net: hs.optim.SAM(sgd(net), rho=0.1, model=net),
    "SAM on Adam": lambda net: hs.optim.SAM(torch.optim.Adam(net.parameters(), lr=0.01), model=net),
    "ASAM": lambda net: hs.optim.ASAM(sgd(net), model=net),
    "noise": lambda net: hs.optim.PerturbedSGD(net.parameters(), lr=0.2, radius=0.05),
    "kicks": lambda net: hs.optim.PerturbedSGD(
        net.parameters(), lr=0.2, radius=0.05, threshold=9.0, wait=3
    ),
    "subspace": lambda net: subspace(net, sgd(net), top=0.5),
    "bulk of Adam": lambda net: subspace(net, torch.optim.Adam(net.parameters(), lr=0.01)),
    "entropy": lambda net: hs.optim.EntropySGD(
        net.parameters(), num_inner=4, gamma=0.1, inner_lr=0.2, noise=0.01
    ),
    "Newton": lambda net: hs.optim.NewtonCG(problem(net), max_matvecs=15),
    "saddle-free": lambda net: hs.optim.SaddleFreeNewton(problem(net), max_matvecs=5),
}  # fmt: skip
every = pytest.mark.parametrize("name", list(MADE))


def backward(net, some, scale=lambda loss: loss, share=1.0):
    loss = F.cross_entropy(net(X[some]), Y[some]) * share
    scale(loss).backward()
    return loss.detach()


def train(net, optimizer, steps, parts=1):
    """Plain steps; a batch in so many parts whose gradients add up."""
    losses = []
    pieces = [range(i, 64, parts) for i in range(parts)]
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(sum(backward(net, list(p), share=1 / parts) for p in pieces))
        if hasattr(optimizer, "perturbed"):
            with optimizer.perturbed():
                for p in pieces:
                    backward(net, list(p), share=1 / parts)
        optimizer.step()
    return torch.stack(losses)


def tensors(net):
    return {name: t.clone() for name, t in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@every
def test_training_goes_down(name):
    net = model()
    losses = train(net, MADE[name](net), 60)
    assert float(losses[-5:].mean()) < 0.8 * float(losses[0])


@every
def test_a_resumed_run_goes_on_to_the_bit(name, tmp_path):
    net = model()
    optimizer = MADE[name](net)
    train(net, optimizer, 7)
    torch.save([net.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    train(net, optimizer, 7)
    other = model()
    train(other, resumed := MADE[name](other), 2)  # a history of its own, to be forgotten
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(other, resumed, 7)
    assert same(tensors(net), tensors(other))


@every
def test_a_copy_takes_the_same_steps_on_its_own(name):
    net = model()
    pair = copy.deepcopy((net, MADE[name](net)))
    before = tensors(net)
    losses = train(*pair, 3)
    assert same(tensors(net), before)
    again = model()
    assert torch.equal(losses, train(again, MADE[name](again), 3))


@every
def test_schedulers_set_the_length_of_steps(name):
    net = model()
    optimizer = MADE[name](net)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    first = optimizer.param_groups[0]["lr"]
    for _ in range(3):
        train(net, optimizer, 1)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(first / 8)
    if hasattr(optimizer, "base"):
        assert optimizer.base.param_groups[0]["lr"] == pytest.approx(first / 8)


@every
def test_accumulated_gradients_are_one_gradient(name):
    """In evaluation mode, where parts of a batch do not know of each other."""
    one, two = model().eval(), model().eval()
    train(one, MADE[name](one), 5)
    train(two, MADE[name](two), 5, parts=4)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@every
def test_a_closure_gives_the_same_steps(name):
    one, two = model(), model()
    first, second = MADE[name](one), MADE[name](two)

    def closure():
        second.zero_grad()
        return backward(two, slice(None))

    losses = train(one, first, 4)
    assert torch.equal(losses, torch.stack([second.step(closure) for _ in range(4)]))
    assert same(tensors(one), tensors(two))


@every
def test_mixed_precision_with_a_scaler_that_leaves_a_step_out(name):
    net = model()
    optimizer = MADE[name](net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def pass_(scale=scaler.scale):
        with torch.autocast("cpu", torch.bfloat16):
            return backward(net, slice(None), scale)

    losses = []
    for i in range(30):
        before = tensors(net)
        optimizer.zero_grad()
        losses.append(pass_())
        if hasattr(optimizer, "perturbed"):
            with optimizer.perturbed():
                pass_()
        if i == 3:
            net[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if i == 3:
            assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert scaler.get_scale() == 2.0**9
    assert float(losses[-1]) < 0.9 * float(losses[0])


@pytest.mark.parametrize("name", ["Newton", "saddle-free"])
def test_a_method_of_one_problem_refuses_other_parameters(name):
    optimizer = MADE[name](model())
    with pytest.raises(ValueError, match="steps in the θ of its problem, one group; make an"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("name", [name for name in MADE if name not in ("Newton", "saddle-free")])
def test_groups_and_unused_parameters(name):
    net = model()
    optimizer = MADE[name](net)
    extra = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [extra]})
    train(net, optimizer, 5)
    assert extra.tolist() == [1.0, 1.0]
    assert len(optimizer.state_dict()["param_groups"]) == 2


PARAMETER = [nn.Parameter(torch.ones(2))]
OF_CLOSURE = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(2))


def newton(*arguments, **options):
    return lambda: hs.optim.NewtonCG(*(arguments or (problem(model()),)), **options)


def saddle_free(*arguments, **options):
    return lambda: hs.optim.SaddleFreeNewton(*(arguments or (problem(model()),)), **options)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: hs.optim.SAM(sgd(model()), rho=0), "rho=0; give a finite number above 0."),
        (lambda: hs.optim.SAM(sgd(model()), rho=float("nan")), "rho=nan; give a finite number"),
        (lambda: hs.optim.SAM(model().parameters()), "base=generator; give the optimizer that"),
        (lambda: hs.optim.SAM(torch.optim.LBFGS(PARAMETER)), "base=LBFGS; give the optimize"),
        (lambda: hs.optim.SAM(sgd(model()), model=3), "model is a int, not a torch.nn.Modu"),
        (lambda: hs.optim.SAM(hs.optim.SAM(sgd(model()))), "base=SAM; give the optimizer that"),
        (
            lambda: hs.optim.SAM(torch.optim.SGD([{"params": PARAMETER, "rho": -1}], lr=1.0)),
            "rho of a group=-1; give a finite number above 0.",
        ),
        (lambda: hs.optim.ASAM(sgd(model()), eta=-1), "eta=-1; give a finite number above 0."),
        (lambda: hs.optim.PerturbedSGD(PARAMETER, lr=-0.1), "lr=-0.1; give a finite number a"),
        (lambda: hs.optim.PerturbedSGD(PARAMETER, radius=0.0), "radius=0.0; give a finite "),
        (lambda: hs.optim.PerturbedSGD(PARAMETER, threshold="1"), "threshold='1'; give a fini"),
        (lambda: hs.optim.PerturbedSGD(PARAMETER, wait=-1), "wait=-1; give a whole number, 0 "),
        (lambda: hs.optim.PerturbedSGD(PARAMETER, seed=0.5), "seed=0.5; give a whole number"),
        (lambda: subspace(model(), PARAMETER), "base=list; give the optimizer that"),
        (lambda: subspace(model(), sgd(model())), "6 of the problem's 6 parameters are"),
        (lambda: subspace(net := model(), sgd(net), top=-1), "top=-1; give a finite number"),
        (lambda: subspace(net := model(), sgd(net), bulk=True), "bulk=True; give a finite"),
        (lambda: hs.optim.SubspaceSGD(sgd(model()), 3), "problem is a int; give hs.Problem("),
        (lambda: hs.optim.SubspaceSGD(sgd(net := model()), hs.Problem(net, F.cross_entropy, (X, Y)),
                                      every=0), "every=0; give a whole number, 1 or more."),
        (lambda: hs.optim.SubspaceSGD(sgd(net := model()), hs.Problem(net, F.cross_entropy, (X, Y)),
                                      k=1000), "k=1000 directions of 99 parameters"),
        (lambda: hs.optim.EntropySGD(PARAMETER, lr=1.5), "lr=1.5; give a finite number above"),
        (lambda: hs.optim.EntropySGD(PARAMETER, alpha=0), "alpha=0; give a finite number a"),
        (lambda: hs.optim.EntropySGD(PARAMETER, noise=-1), "noise=-1; give a finite number a"),
        (lambda: hs.optim.EntropySGD(PARAMETER, num_inner=0), "num_inner=0; give a whole num"),
        (newton(PARAMETER), "problem is a list; give hs.Problem(model, loss_fn, data), whose"),
        (saddle_free(model()), "problem is a Sequential; give hs.Problem(model, loss_fn, data)"),
        (newton(lr=0.0), "lr=0.0; give a finite number above 0."),
        (newton(damping=-1), "damping=-1; give a finite number above 0."),
        (saddle_free(damping=float("inf")), "damping=inf; give a finite number above 0."),
        (newton(curvature="fisher"), "curvature='fisher'; choose 'ggn' or 'hessian'."),
        (newton(max_matvecs=1), "max_matvecs=1; give a whole number, 2 or more."),
        (saddle_free(max_matvecs=2.0), "max_matvecs=2.0; give a whole number, 1 or more."),
        (newton(OF_CLOSURE), "made from a closure"),
        (saddle_free(OF_CLOSURE.at(torch.zeros(2))), "stays at parameters or buffers of its own"),
        (newton(problem(model().bfloat16())), "the model is in torch.bfloat16, which has no"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_when_they_are_made(make, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        make()
