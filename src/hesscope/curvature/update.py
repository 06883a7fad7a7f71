"""The step that a torch optimiser would make now, and how large its steps may be near a minimum."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.curvature.hessian import Hessian
from hesscope.curvature.preconditioned import PreconditionedHessian
from hesscope.operator import SymmetricOperator
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem

COHEN_2021 = "Cohen, Kaur, Li, Kolter and Talwalkar 2021, appendix B"
COHEN_2022 = "Cohen, Ghorbani, Krishnan et al. 2022, section 3"


@dataclass(frozen=True)
class Update:
    """The step d that an optimiser would make: θ + d are the parameters after it."""

    step: Tensor  # (n,)
    optimizer: str
    rounding: float  # about ‖·‖ of what is lost when θ + d is rounded to the dtype of θ


@dataclass(frozen=True)
class Threshold:
    """Steps contract near a minimum when λmax(lr P^-1 (H + weight_decay I)) < factor, else grow.

    `StepHessian` is this operator, with the optimiser's own lr, P and weight decay.
    """

    factor: float
    formula: str
    source: str
    lr: tuple[float, ...]  # of each parameter group, after the optimiser's own decay and dampening
    weight_decay: tuple[float, ...]  # of each group, where it is part of the gradient


def update(problem: Problem, optimizer: Optimizer, gradient: Tensor) -> Update:
    """The step d = θ' - θ that `optimizer.step()` would make with this gradient, (n,).

    A copy of the optimiser with its options and state makes the step for real on copies of the
    parameters: momentum, preconditioner, weight decay and rounding are the optimiser's own. Model
    and optimiser are not touched. Parameters that the optimiser holds beyond those of the problem
    are left out, so an optimiser whose step couples all parameters (by a global norm) is not
    followed there; hooks on the optimiser do not run. A parameter with zero gradient is stepped
    (momentum, weight decay) as torch does, unlike one whose `.grad` is None, which it skips.
    Costs a copy of the optimiser's state and no matvec.

    Args:
        problem: whose parameters move; for `problem.at(theta)` they start at theta.
        optimizer: any of torch.optim that steps without a closure, or one built like them.
        gradient: (n,), such as `problem.gradient()`; clip it first if training does.

    Raises:
        ValueError: if the gradient is not a finite vector (n,), a parameter is not the optimiser's,
            or its step needs a closure or sparse gradients.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(2).double())
    >>> sgd = torch.optim.SGD(p.model.parameters(), lr=0.25)
    >>> update(p, sgd, p.gradient()).step
    tensor([-0.5000, -0.5000], dtype=torch.float64)
    """
    _refuse_unusual(optimizer)
    if not bool(torch.isfinite(gradient).all()):
        msg = "the gradient is NaN or infinite, and so would be the step; look at problem.loss()."
        raise ValueError(msg)
    pieces = problem.layout.split(gradient.detach())
    own = dict(problem.model.named_parameters())
    clones: dict[int, Tensor] = {}
    for name, leaf, piece in zip(problem.layout.names, problem.leaves(), pieces, strict=True):
        clone = nn.Parameter(leaf.detach().clone())
        clone.grad = piece.to(clone.device, clone.dtype).clone()
        clones[id(own[name])] = clone
    _refuse_missing(problem, optimizer)
    _shadow(optimizer, clones).step()
    start = problem.theta
    after = flatten([clone.detach() for clone in clones.values()])
    rounding = float(torch.finfo(problem.dtype).eps) / 2 * float(start.norm())
    return Update(after - start, type(optimizer).__name__, rounding)


def threshold(optimizer: Optimizer) -> Threshold:
    """The factor that λmax(lr P^-1 (H + weight_decay I)) must stay below for stable steps.

    On a quadratic with P held fixed the fastest eigendirection starts to oscillate with growing
    size exactly there (the recurrence has a root at -1): 2 for gradient descent, RMSprop and
    Adagrad; 2 + 2β with heavy-ball momentum β; (2 + 2β)/(1 + 2β) with Nesterov's; and
    (2 + 2β₁)/(1 - β₁) for Adam, whose momentum is an average and whose P is that of
    `PreconditionedHessian`, bias corrections included. Decoupled weight decay (AdamW) makes the
    first 2 of Adam's a 2 - lr·wd. Dampening τ multiplies the lr by 1 - τ, Adagrad's lr decay is
    counted in, and decay that is part of the gradient adds to H: see `Threshold`.

    Parameter groups may differ in lr and weight decay, not in what makes the factor.

    Raises:
        ValueError: if the optimiser maximises, is of another kind, or its groups differ in factor.

    >>> import torch
    >>> w = [torch.nn.Parameter(torch.zeros(2))]
    >>> threshold(torch.optim.Adam(w)).factor  # (2 + 2·0.9)/(1 - 0.9): 38
    38.0
    >>> threshold(torch.optim.SGD(w, lr=0.1, momentum=0.9)).formula
    '2 + 2β'
    """
    kind = type(optimizer).__name__
    groups = [group for group in optimizer.param_groups if group["params"]]
    if any(group.get("maximize") for group in groups):
        msg = "this optimiser maximises: it climbs, and no step size makes that stable."
        raise ValueError(msg)
    rules = [_rule(kind, group) for group in groups]
    momenta = {float(group.get("momentum", group.get("betas", (0,))[0])) for group in groups}
    if len({formula for _, formula, _ in rules}) > 1 or len(momenta) > 1:
        msg = (
            f"the parameter groups of {kind} differ in momentum, so no single factor holds; judge "
            "them one by one: problem.block(names) with an optimiser that holds those alone."
        )
        raise ValueError(msg)
    factor, formula, source = min(rules)  # groups differ in decoupled decay at most
    return Threshold(
        factor=float(f"{factor:.12g}"),
        formula=formula,
        source=source,
        lr=tuple(_learning_rate(optimizer, group) for group in groups),
        weight_decay=tuple(_coupled_decay(kind, group) for group in groups),
    )


class StepHessian(SymmetricOperator):
    """lr P^-1/2 (H + weight_decay I) P^-1/2: what an optimiser's step multiplies errors with.

    Its eigenvalues are those of lr P^-1 (H + weight_decay I), with the learning rate and the weight
    decay of every parameter's own group and P of `PreconditionedHessian`; steps near a minimum are
    stable when λmax < `threshold(optimizer).factor`. Decoupled decay is not added (it is in the
    factor). Read at every product, so it follows the optimiser. Costs one product of H.

    Raises:
        ValueError: as for `PreconditionedHessian` and `threshold`.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: t.square().sum(), torch.ones(1).double())
    >>> StepHessian(p, torch.optim.SGD(p.model.parameters(), lr=0.5, weight_decay=1)).to_dense()
    tensor([[1.5000]], dtype=torch.float64)
    """

    def __init__(self, problem: Problem, optimizer: Optimizer) -> None:
        super().__init__(problem.n, dtype=problem.dtype, device=problem.device)
        threshold(optimizer)
        self.hessian = Hessian(problem)
        self.problem, self.optimizer = problem, optimizer
        self.preconditioned = PreconditionedHessian(problem, optimizer)

    def matmat(self, V: Tensor) -> Tensor:
        """lr^1/2 P^-1/2 (H + weight_decay I) P^-1/2 lr^1/2 V."""
        lr, decay = self._per_parameter()
        scale = (lr / self.preconditioned.preconditioner()).sqrt()[:, None]
        W = scale * V
        return scale * (self.hessian @ W + decay[:, None] * W)

    def facts(self) -> dict[str, Any]:
        """The facts of the Hessian, and the optimiser."""
        optimizer = type(self.optimizer).__name__
        return {**self.hessian.facts(), **super().facts(), "optimizer": optimizer}

    def _per_parameter(self) -> tuple[Tensor, Tensor]:
        """The learning rate and the coupled weight decay of each parameter, (n,) both."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        own, kind = dict(self.problem.model.named_parameters()), type(self.optimizer).__name__
        lr = torch.empty(self.n, dtype=self.dtype, device=self.device)
        decay = torch.empty_like(lr)
        for name, place in self.problem.layout.slices().items():
            group = groups[id(own[name])]
            lr[place] = _learning_rate(self.optimizer, group)
            decay[place] = _coupled_decay(kind, group)
        return lr, decay


def _refuse_unusual(optimizer: Optimizer) -> None:
    """Refuses what cannot make a step from a dense gradient alone.

    Raises:
        ValueError: naming the reason.
    """
    kind = type(optimizer).__name__
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        msg = (
            f"{kind} evaluates the loss during its step (a closure), so one gradient is too little."
        )
        raise ValueError(msg)
    if kind == "SparseAdam":
        msg = "SparseAdam steps from sparse gradients; use Adam to see its step."
        raise ValueError(msg)


def _refuse_missing(problem: Problem, optimizer: Optimizer) -> None:
    """Every parameter of the problem must be the optimiser's.

    Raises:
        ValueError: naming the first ones that are not.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = dict(problem.model.named_parameters())
    missing = [name for name in problem.layout.names if id(own[name]) not in held]
    if missing:
        msg = (
            f"the optimiser does not hold {', '.join(missing[:3])} ({len(missing)} of "
            f"{len(problem.layout.names)} parameters); give the one that trains them, or look at "
            "the others alone with problem.block(names)."
        )
        raise ValueError(msg)


def _shadow(optimizer: Optimizer, clones: Mapping[int, Tensor]) -> Optimizer:
    """A copy of the optimiser that holds the clones in place of their originals, and nothing else.

    Rebuilt without its constructor, whose arguments are not known, the way unpickling does it.
    """
    groups = []
    for group in optimizer.param_groups:
        inside = [clones[id(p)] for p in group["params"] if id(p) in clones]
        if inside:
            options = {name: _copied(x) for name, x in group.items() if name != "params"}
            groups.append({**options, "params": inside})
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    for parameter, content in optimizer.state.items():
        if id(parameter) in clones:
            state[clones[id(parameter)]] = _copied(content)
    shadow = type(optimizer).__new__(type(optimizer))
    shadow.__setstate__(
        {"defaults": _copied(optimizer.defaults), "state": state, "param_groups": groups}
    )
    for name, value in vars(optimizer).items():  # what a class of one's own keeps besides
        if name not in vars(shadow) and name != "step":  # schedulers wrap the live one's step
            setattr(shadow, name, _copied(value))
    return shadow


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return copy.deepcopy(value)


def _rule(kind: str, group: Mapping[str, Any]) -> tuple[float, str, str]:
    """(factor, formula, source) of one parameter group.

    Raises:
        ValueError: if the kind is not one whose threshold is known.
    """
    if kind in ("Adam", "AdamW"):
        beta = float(group["betas"][0])
        if group.get("decoupled_weight_decay", kind == "AdamW"):
            shrink = float(group["lr"]) * float(group["weight_decay"])
            return (
                (2 - shrink) * (1 + beta) / (1 - beta),
                "(2 - lr·wd)(1 + β₁)/(1 - β₁)",
                COHEN_2022,
            )
        return (2 + 2 * beta) / (1 - beta), "(2 + 2β₁)/(1 - β₁)", COHEN_2022
    if kind == "Adagrad":
        return 2.0, "2", COHEN_2022
    if kind not in ("SGD", "RMSprop"):
        msg = (
            f"no stability threshold is known for {kind}; SGD, RMSprop, Adagrad, Adam(W) have one."
        )
        raise ValueError(msg)
    beta, source = float(group["momentum"]), COHEN_2021 if kind == "SGD" else COHEN_2022
    if beta == 0:
        return 2.0, "2", source
    if group.get("nesterov"):
        return (2 + 2 * beta) / (1 + 2 * beta), "(2 + 2β)/(1 + 2β)", source
    return 2 + 2 * beta, "2 + 2β", source


def _learning_rate(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The lr that multiplies the gradient in the long run: dampened, or decayed by Adagrad."""
    lr = float(group["lr"])
    if float(group.get("momentum", 0)) != 0:
        lr *= 1 - float(group.get("dampening", 0))
    if group.get("lr_decay"):
        states = (optimizer.state.get(p, {}) for p in group["params"])
        steps = max((float(state["step"]) for state in states if "step" in state), default=0.0)
        lr /= 1 + steps * float(group["lr_decay"])
    return lr


def _coupled_decay(kind: str, group: Mapping[str, Any]) -> float:
    """The weight decay that is added to the gradient, λ θ; 0 where it is decoupled."""
    if group.get("decoupled_weight_decay", kind == "AdamW"):
        return 0.0
    return float(group.get("weight_decay", 0.0))
