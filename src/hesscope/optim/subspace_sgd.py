"""Steps in the sharp directions and in the others, each at a rate of its own (Song et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope import probes
from hesscope.curvature.hessian import Hessian
from hesscope.krylov.eigsh import eigsh
from hesscope.optim.arguments import check, check_count
from hesscope.optim.around import Around
from hesscope.optim.closures import evaluated
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem

TOL = 0.03  # of an eigenvalue: residuals of the directions


class SubspaceSGD(Around):
    """A base optimiser's step with the gradient split at the top of the Hessian's spectrum.

    With P the projection onto the k eigenvectors of the largest eigenvalues of the Hessian of
    `problem`,

        g ← top P g + bulk (g - P g),    then the base optimiser's step with g

    top=1, bulk=0 is Dom-SGD and top=0, bulk=1 Bulk-SGD of Song, Ahn and Yun 2024 ("Does SGD really
    happen in tiny subspaces?"), who find that although most of g lies in the few top directions, it
    is the small rest that trains: Dom-SGD stalls, Bulk-SGD goes on. Factors in between are learning
    rates of their own for sharp and flat directions: with top=0.5 the edge of stability along the
    sharp ones is at twice the lr.

    The vectors are found anew every `every` steps, from those before: 8 to 12 products a direction
    the first time and 4 to 5 later (a perceptron on digits, k = 5 and 10; `num_matvecs` counts
    them), of two gradients each on the data of the problem. `.grad` is left as it was.

    Args:
        base: makes the steps: any optimiser of one gradient a step.
        problem: whose parameters are those of the base optimiser, or some of them; the others keep
            their gradient.
        k: directions at the top; the paper takes the number of classes.
        top: factor of the gradient within them, 0 or more.
        bulk: factor of the rest, 0 or more.
        every: steps between two searches for the directions.
        max_matvecs: products of one search; by default as many as it needs, up to 21 k + 200.
        seed: of the searches.

    Raises:
        ValueError: if an argument is out of range, or θ holds parameters that base does not.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])  # H = diag(9, 1)
    >>> problem = hs.Problem(model, torch.nn.MSELoss(), (x, torch.zeros(2, 1)))
    >>> problem.write(torch.ones(2))
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> optimizer = hs.optim.SubspaceSGD(sgd, problem, k=1, top=0.0, bulk=1.0)
    >>> torch.nn.functional.mse_loss(model(x), torch.zeros(2, 1)).backward()
    >>> optimizer.step()
    >>> [round(w, 4) for w in model.weight[0].tolist()], round(optimizer.top_share, 4)
    ([1.0, 0.9], 0.9878)
    """

    def __init__(
        self,
        base: Optimizer,
        problem: Problem,
        k: int = 10,
        *,
        top: float = 0.0,
        bulk: float = 1.0,
        every: int = 50,
        max_matvecs: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(problem, Problem):
            msg = f"problem is a {type(problem).__name__}; give hs.Problem(model, loss_fn, data)."
            raise ValueError(msg)
        super().__init__(base, {})
        check_count("k", k)
        check_count("every", every)
        check_count("seed", seed, least=0)
        for name, factor in (("top", top), ("bulk", bulk)):
            if factor != 0 or isinstance(factor, bool):  # zero leaves them out
                check(name, factor)
        if k > problem.n:
            msg = f"k={k} directions of {problem.n} parameters; give at most that many."
            raise ValueError(msg)
        self.problem, self.k, self.every, self.seed = problem, k, every, seed
        self.top, self.bulk, self.max_matvecs = float(top), float(bulk), max_matvecs
        self.vectors: Tensor | None = None  # (n, k)
        self.num_steps = self.num_matvecs = 0
        self.top_share = math.nan  # |P g|²/|g|² of the last step
        _refuse_strangers(self._own_parameters(), base)

    def _own_parameters(self) -> list[Tensor]:
        """The parameters of θ, in its order."""
        named = dict(self.problem.model.named_parameters())
        return [named[name] for name in self.problem.layout.names]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the loss of the closure, if there is one."""
        loss = evaluated(closure)
        parameters = self._own_parameters()
        kept = [p.grad for p in parameters]
        if all(g is None for g in kept):
            self.base.step()
            return loss
        if self.num_steps % self.every == 0 or self.vectors is None:
            self._search()
        for p, g in zip(parameters, self._rescaled(parameters), strict=True):
            if p.grad is not None:
                p.grad = g.to(p.dtype)
        try:
            self.base.step()
        finally:
            for p, gradient in zip(parameters, kept, strict=True):
                p.grad = gradient
        self.num_steps += 1
        return loss

    def _search(self) -> None:
        """The top eigenvectors where the parameters are now, from those before."""
        found = eigsh(
            Hessian(self.problem),
            self.k,
            tol=TOL,
            verify=False,
            start=self.vectors,
            max_matvecs=self.max_matvecs,
            seed=probes.key(self.seed, "subspace SGD", self.num_steps),
        )
        self.vectors = found.eigenvectors[:, : self.k].clone()
        self.num_matvecs += found.num_matvecs

    def _rescaled(self, parameters: list[Tensor]) -> list[Tensor]:
        """Top P g + bulk (g - P g) in the shapes of the parameters."""
        Q = self.vectors
        assert Q is not None
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        g = flatten([t.to(Q) for t in given])
        inside = Q @ (Q.T @ g)
        size = float(g.double().square().sum())
        self.top_share = float(inside.double().square().sum()) / size if size > 0 else math.nan
        return self.problem.layout.split(self.bulk * g + (self.top - self.bulk) * inside)

    def own(self) -> dict[str, Any]:
        """All that is not the base optimiser's."""
        names = ("problem", "k", "every", "seed", "top", "bulk", "max_matvecs")
        return {**{name: getattr(self, name) for name in names}, **self._position()}

    def _position(self) -> dict[str, Any]:
        names = ("vectors", "num_steps", "num_matvecs", "top_share")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """That of the base optimiser, with the directions and the count of steps."""
        return {**self.base.state_dict(), "subspace": self._position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over such a state: a resumed run goes on to the bit."""
        rest = dict(state_dict)
        position = rest.pop("subspace")
        super().load_state_dict(rest)
        vectors = position["vectors"]
        vars(self).update(position)
        self.vectors = None if vectors is None else vectors.clone().to(self.problem.device)


def _refuse_strangers(parameters: list[Tensor], base: Optimizer) -> None:
    """Whether the base optimiser moves all of θ.

    Raises:
        ValueError: if not.
    """
    moved = {id(p) for group in base.param_groups for p in group["params"]}
    missing = sum(id(p) not in moved for p in parameters)
    if missing:
        msg = (
            f"{missing} of the problem's {len(parameters)} parameters are not among those of base: "
            "give the model that it trains, or a part of it, problem.block('layers.3.*')."
        )
        raise ValueError(msg)
