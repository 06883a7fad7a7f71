"""The table of optimisers: subclasses are their parents, wrappers what they hold."""

import re
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.curvature.preconditioned import StepHessian
from hesscope.steps.kinds import KINDS, has_started, is_adaptive, kind_of, unwrapped
from hesscope.steps.stability import threshold
from hesscope.steps.update import update
from tests.oracles import data, network
from tests.steps.test_update import STEPPED, Lion, trained

O = torch.optim  # noqa: E741
X, Y = data(40, 5, 3)
ALL = [
    made
    for made in vars(O).values()
    if isinstance(made, type) and issubclass(made, O.Optimizer) and made is not O.Optimizer
]


def weights():
    return [nn.Parameter(torch.zeros(2, 2))]


@pytest.mark.parametrize("made", ALL)
def test_every_optimiser_of_torch_has_a_row_of_its_own(made):
    kind = kind_of(made(weights()))
    assert kind.optimizer is made
    assert (kind.gain is None) == bool(kind.unknown)
    assert kind.gain is None or kind.source


def test_a_subclass_stands_before_its_parent():
    for place, kind in enumerate(KINDS):
        assert not any(issubclass(later.optimizer, kind.optimizer) for later in KINDS[place + 1 :])


@pytest.mark.parametrize("made", ALL)
def test_a_subclass_is_of_its_parents_kind_also_once_torch_has_wrapped_its_step(made):
    mine = type("Mine", (made,), {})
    mine(weights())
    assert kind_of(mine(weights())).optimizer is made


def test_a_class_with_a_step_of_its_own_is_of_no_kind():
    class Mine(O.Adam):
        def step(self, closure=None):
            return super().step(closure)

    assert kind_of(Mine(weights())) is None
    assert kind_of(Lion(weights(), 1.0, lr=0.1)) is None


@pytest.mark.parametrize(
    ("made", "options"),
    [(O.SGD, {"momentum": 0.9}), (O.Adam, {}), (O.AdamW, {}), (O.NAdam, {}), (O.RMSprop, {})],
)
def test_a_subclass_is_judged_as_its_parent(made, options):
    mine = type("Mine", (made,), {})
    (problem, own), (other, parent) = (
        trained(lambda p, make=make: make(p, lr=0.01, **options)) for make in (mine, made)
    )
    assert threshold(own) == threshold(parent)
    expected = StepHessian(other, parent).to_dense()
    assert torch.equal(StepHessian(problem, own).to_dense(), expected)


def test_adaptive_ones_have_started_after_a_step_and_others_always():
    for name in STEPPED:
        adaptive = name not in ("Rprop", "own class", "ASGD", "decay", "ascent",
                                "momentum", "Nesterov") and not name.startswith("SGD")  # fmt: skip
        fresh, stepped = (trained(STEPPED[name], steps)[1] for steps in (0, 1))
        assert is_adaptive(fresh) == adaptive
        assert has_started(fresh) == (not adaptive)
        assert has_started(stepped)


class Accelerated(O.Optimizer):
    """Carries an optimiser as Accelerate does: an Optimizer that never calls its constructor."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    @property
    def state(self):
        return self.optimizer.state

    def step(self, closure=None):
        self.optimizer.step(closure)


def lightning(optimiser):
    """Carries an optimiser as Lightning does: a copy of its attributes, and a class of both."""

    class LightningOptimizer:
        def __init__(self, inner):
            self._optimizer = inner
            attributes = {k: v for k, v in vars(inner).items() if k != "step"}
            self.__dict__.update(attributes)
            self.__class__ = type("LightningAdam", (type(self), type(inner)), {})

        @property
        def optimizer(self):
            return self._optimizer

        def step(self, closure=None):
            self._optimizer.step(closure)

    return LightningOptimizer(optimiser)


WRAPPED = {
    "Accelerate": Accelerated,
    "Lightning": lightning,
    "twice": lambda optimiser: Accelerated(Accelerated(optimiser)),
    "anything": lambda optimiser: types.SimpleNamespace(optimizer=optimiser),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_seen_through(name):
    problem, optimiser = trained(STEPPED["AdamW"])
    wrapped = WRAPPED[name](optimiser)
    assert unwrapped(wrapped) is optimiser
    assert threshold(wrapped) == threshold(optimiser)
    gradient = problem.gradient()
    step = update(problem, wrapped, gradient)
    assert step.optimizer == "AdamW"
    assert torch.equal(step.step, update(problem, optimiser, gradient).step)
    expected = StepHessian(problem, optimiser).to_dense()
    assert torch.equal(StepHessian(problem, wrapped).to_dense(), expected)
    seen, own = (hs.diagnose(problem, o, effort="quick", check=False) for o in (wrapped, optimiser))
    assert seen.verdict("step size").claim == own.verdict("step size").claim


def test_a_wrapper_of_itself_ends():
    wrapper = Accelerated(None)
    wrapper.optimizer = wrapper
    assert unwrapped(wrapper) is wrapper


@pytest.mark.parametrize("given", ["adam", 0.1, O.SGD, None, types.SimpleNamespace(optimizer=3)])
def test_what_is_no_optimiser_is_refused(given):
    message = (
        f"optimizer={given!r} is no optimiser of torch; give the object that trains the model, "
        "such as torch.optim.SGD(model.parameters(), lr=0.1)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        unwrapped(given)


@pytest.mark.parametrize("given", ["adam", O.SGD])
def test_diagnose_refuses_what_is_no_optimiser_before_it_measures(given):
    problem = hs.Problem(network(5, 7, 3), F.cross_entropy, (X, Y))
    with pytest.raises(ValueError, match="is no optimiser of torch; give the object"):
        hs.diagnose(problem, given, effort="quick")


@pytest.mark.parametrize("name", ["momentum", "Adam", "AdamW", "RMSprop"])
def test_a_learning_rate_of_zero_is_judged_like_any_other(name):
    problem, optimiser = trained(STEPPED[name])
    optimiser.param_groups[0]["lr"] = 0.0
    verdict = hs.diagnose(problem, optimiser, effort="quick", check=False).verdict("step size")
    assert verdict.claim.startswith("lr 0: nothing moves, as at the ends of a schedule; safe")
    assert not verdict.finding


def test_before_the_first_step_of_adagrad_nothing_is_known_of_its_preconditioner():
    problem, optimiser = trained(STEPPED["Adagrad"], steps=0)
    with pytest.raises(ValueError, match=r"^Adagrad has no state for 0\.weight yet; make at least"):
        hs.PreconditionedHessian(problem, optimiser)
    verdict = hs.diagnose(problem, optimiser, effort="quick", check=False).verdict("step size")
    assert verdict.claim.endswith("is known once Adagrad has made steps")
