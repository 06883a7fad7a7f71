"""The door of public calls: in whatever context a user stands, numbers are those outside of it."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.system import contexts
from tests import public_calls
from tests.public_calls import CALLS, FIGURES, Stage, differences

SLOW = {name for name in CALLS if name.startswith("spectrum of ")} - {"spectrum of Hessian"}
SLOW |= {"batch_stability", "basin", "diagnose, an lr"}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(kind: str) -> Iterator[None]:
    torch.set_default_device(kind)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def anomaly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Anomaly Detection has been enabled"
        stack = torch.autograd.detect_anomaly()
    with stack:
        yield


@contextmanager
def everything() -> Iterator[None]:
    """As many as go together."""
    with ExitStack() as stack:
        for name in ("inference mode", "autocast", "device", "bfloat16 by default", "NumPy raises"):
            stack.enter_context(CONTEXTS[name]())
        yield


CONTEXTS = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "gradients off": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to half": lambda: torch.autocast("cpu", dtype=torch.float16),
    "device": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "deterministic": deterministic,
    "anomaly": anomaly,
    "NumPy raises": lambda: np.errstate(all="raise"),
    "saved tensors packed": lambda: torch.autograd.graph.saved_tensors_hooks(_kept, _kept),
    "everything": everything,
}


BY_TORCH, BY_LEAN = "don't yet support saved tensor hooks", "or another hook for saved tensors"
REFUSED = {
    ("saved tensors packed", "Hessian, forward mode @ v"): BY_TORCH,
    ("saved tensors packed", "spectrum of Hessian, forward mode"): BY_TORCH,
    ("saved tensors packed", "Hessian, lean @ v"): BY_LEAN,
    ("saved tensors packed", "spectrum of Hessian, lean"): BY_LEAN,
}


def _kept(tensor):
    return tensor


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(scope="module")
def outside(stage) -> dict:
    """What each call gives outside of all contexts, once asked for."""
    return {}


@pytest.mark.parametrize(
    ("context", "name"),
    [
        pytest.param(
            context,
            name,
            marks=() if context == "everything" and name not in SLOW else pytest.mark.slow,
        )
        for context in CONTEXTS
        for name in CALLS
    ],
)
def test_a_public_call_gives_what_it_gives_outside(context, name, stage, outside):
    if name not in outside:  # and so whatever the call begins with
        outside[name] = CALLS[name](stage)
    with CONTEXTS[context]():
        if (context, name) in REFUSED:
            with pytest.raises((RuntimeError, ValueError), match=REFUSED[context, name]):
                CALLS[name](stage)
            return
        found = CALLS[name](stage)
    assert differences(found, outside[name]) == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn(name, stage):
    mpl.use("Agg")
    for context in (nullcontext, everything):  # at first whatever the figure begins with is made
        with context():
            axes = FIGURES[name](stage)
            axes.figure.canvas.draw()
        pyplot.close(axes.figure)
        assert axes.has_data()


def _behind_the_door(function: object) -> bool:
    return getattr(function, contexts.MARK, False)


def test_every_public_function_and_method_is_behind_the_door():
    # Steps of optimisers are training: they stay where the loop stands, under autocast and all.
    spaces = [hs, *(getattr(hs, name) for name in hs._NAMESPACES if name != "optim")]
    open_ones, seen = [], 0
    for value in (getattr(space, name) for space in spaces for name in dir(space)):
        if not getattr(value, "__module__", "").startswith("hesscope."):
            continue
        seen += 1
        if inspect.isroutine(value) and not _behind_the_door(value):
            open_ones.append(value.__qualname__)
        for name, member in vars(value).items() if inspect.isclass(value) else ():
            function = member.fget if isinstance(member, property) else member
            function = getattr(function, "__func__", function)
            generated = getattr(function, "__qualname__", "").startswith("__create_fn__")
            if inspect.isfunction(function) and not name.startswith("_") and not generated:
                open_ones += [function.__qualname__] * (not _behind_the_door(function))
    assert seen > 90
    assert sorted(open_ones) == ["listening", "paper_style", "progress"]  # they compute nothing


def test_wrappers_keep_names_signatures_and_hints():
    assert hs.eigsh.__name__ == "eigsh"
    assert list(inspect.signature(hs.eigsh).parameters)[:2] == ["A", "k"]
    assert typing.get_type_hints(hs.Problem.loss)["return"] is float
    assert inspect.isabstract(hs.SymmetricOperator)


def surroundings() -> tuple:
    kinds = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return *kinds, *modes, torch.empty(0).device, torch.get_default_dtype(), str(np.geterr())


@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts_are_as_they_were_afterwards_also_after_an_error(context):
    @contexts.public
    def fails():
        assert torch.empty(0).device == torch.device("cpu")
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        msg = "on purpose"
        raise RuntimeError(msg)

    with CONTEXTS[context]():
        before = surroundings()
        with pytest.raises(RuntimeError, match="on purpose"):
            fails()
        assert surroundings() == before
    assert contexts._thread.inside is False
    assert contexts._thread.users is None


def test_the_users_code_finds_its_own_default_device_and_errors():
    seen = []

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3, device="cpu")

        def forward(self, x):
            seen.append(surroundings()[4:])
            hs.trace(torch.eye(2, dtype=torch.float64, device="cpu"), seed=0)  # nested
            seen.append(surroundings()[4:])
            return self.layer(x)

    class Data:
        def __iter__(self):
            seen.append(surroundings()[4:])
            yield public_calls.INPUTS, public_calls.LABELS

    def function(V):
        seen.append(surroundings()[4:])
        return 2 * V

    class Own(hs.SymmetricOperator):
        def matmat(self, V):
            return function(V)

    model = Noting()
    with torch.device("meta"), np.errstate(over="raise"):
        here = surroundings()[4:]
        problem = hs.Problem(model, F.cross_entropy, Data())
        problem.gradient()
        hs.eigsh(hs.as_operator(function, n=3), 1, seed=0)
        hs.eigsh(Own(3, dtype=torch.float64), 1, seed=0)
        Own(3, dtype=torch.float64).matmat(torch.ones(3, 1, device="cpu"))
    assert len(seen) > 8
    assert set(seen) == {here}


def test_a_loss_that_makes_tensors_on_the_default_device_is_refused_where_that_is_another():
    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, weight=torch.ones(3))

    problem = hs.Problem(public_calls.made(), loss, (public_calls.INPUTS, public_calls.LABELS))
    with torch.device("meta"), pytest.raises(ValueError, match=r"^the model or the loss fails on"):
        problem.loss()
    assert problem.loss() > 0


NORMED = hs.Problem(
    nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
    F.cross_entropy,
    (public_calls.INPUTS, public_calls.LABELS),
)
ARGUMENTS = {
    "theta": lambda s, own: s.problem.at(own(s.v)).gradient(),
    "loss_at": lambda s, own: s.problem.loss_at(own(s.v)),
    "write": lambda s, own: public_calls._written(s.problem.frozen_copy(), own(s.v)),
    "vector": lambda s, own: hs.Hessian(s.problem) @ own(s.v),
    "block": lambda s, own: own(s.v)[None] @ hs.Hessian(s.problem),
    "matrix": lambda s, own: hs.eigsh(own(s.matrix), 2, seed=0),
    "dense matrix": lambda s, own: hs.spectrum(own(s.matrix)),
    "start": lambda s, own: hs.eigsh(s.hessian, 2, start=own(s.v), seed=0),
    "data": lambda s, own: hs.Problem(s.model, F.cross_entropy, tuple(map(own, s.data))).gradient(),
    "ends": lambda s, own: hs.interpolate(s.problem, own(s.v), own(2 * s.v), 3),
    "state dict": lambda s, own: hs.interpolate(
        s.problem, {k: own(v) for k, v in s.model.state_dict().items()}, s.problem.theta, 3
    ),
    "buffers": lambda s, own: NORMED.with_buffers({"1.running_mean": own(torch.ones(3))}).loss(),
    "inputs of an ensemble": lambda s, own: hs.ensemble.hessians(
        s.nets, own(s.wide[0]), own(s.wide[1])
    ),
    "ensemble": lambda s, own: hs.ensemble.train(
        hs.ensemble.Ensemble((3, 4, 3), "relu", own(s.nets.theta)),
        own(s.wide[0]),
        own(s.wide[1]),
        lr=0.5,
        steps=3,
    ),
    "losses": lambda s, own: hs.rmt.negative_share(own(torch.ones(2)), 0.1, 0.3),
    "eigenvalues": lambda s, own: hs.rmt.Semicircle.fit(own(s.matrix.diagonal())),
    "slice": lambda s, own: hs.loss_slice(
        s.problem, [own(s.v), own(s.v.cos())], num_points=3, max_matvecs=4
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_tensors_that_inference_mode_made_are_taken_as_others_are(name, stage):
    def own(tensor):
        with torch.inference_mode():
            return tensor.clone()

    expected = ARGUMENTS[name](stage, lambda tensor: tensor)
    assert differences(ARGUMENTS[name](stage, own), expected) == []
    with torch.inference_mode():
        assert differences(ARGUMENTS[name](stage, own), expected) == []


def test_parameters_that_inference_mode_made_are_refused_by_name():
    with torch.inference_mode():
        model = public_calls.made()
    with pytest.raises(ValueError, match=r"^parameter 0\.weight was made inside torch\.inference"):
        hs.Problem(model, F.cross_entropy, (public_calls.INPUTS, public_calls.LABELS))
