"""A Problem: the model, loss and data whose mean loss is minimised, as a function of theta.

This is the one place that averages. A batch counts by the items that its loss averages over, the
sum is divided once, over all processes, so any split of the same data gives the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem import adapters
from hesscope.problem.calls import call, check_loss, check_outputs
from hesscope.problem.data import (
    DEFAULT_CACHE,
    Batch,
    Batches,
    map_tensors,
    num_examples,
    seed_generators,
    take,
)
from hesscope.problem.evaluation import switched, twice_differentiable, untouched
from hesscope.problem.parameters import Layout, Selection, flatten, select, substituted
from hesscope.system import collectives

Closure = Callable[[nn.Module, Any], Tensor]
Predict = Callable[[nn.Module, Any], tuple[Any, Any]]


class Problem:
    """The mean loss L(theta) of a model over data, with theta the trainable parameters.

    Args:
        model: the network. It is put into evaluation mode while hesscope works and comes back as
            it was: parameters, buffers, gradients, modes and random state, bit for bit.
        loss_fn: (output, targets) -> scalar, the *mean* over the items that `count` counts.
        data: a DataLoader or Dataset, any re-iterable of batches, or a tuple of tensors or arrays.
        unpack: batch -> (inputs, targets); by default a batch is that pair.
        forward: (model, inputs) -> output; by default model(inputs).
        count: targets -> how many items the loss averages over; by default len(targets). For a
            loss over tokens, count the tokens that are not ignored.
        params: which parameters make up theta: a name or glob ("layers.3.*"), several of them, or
            a function (name, tensor) -> bool. By default all that require gradients.
        training: True measures the model in training mode (dropout masks frozen by a seed).
        batch_size: splits a tuple of arrays into batches of this size.
        cache_bytes: batches are kept on the device up to this size, and read again above it.

    Raises:
        ValueError: if the data is empty or can be read only once, or if nothing is trainable.
            Whether model, loss and data fit together is seen at the first use.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> problem = hs.Problem(model, torch.nn.functional.mse_loss, (x, y))
    >>> problem.n, hs.spectrum(hs.Hessian(problem)).eigenvalues  # 2 mean(x²) = 10
    (1, tensor([10.], dtype=torch.float64))
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        data: Any,
        *,
        unpack: Callable[[Any], tuple[Any, Any]] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        count: Callable[[Any], Any] | None = None,
        params: Selection = None,
        training: bool = False,
        batch_size: int | None = None,
        cache_bytes: int = DEFAULT_CACHE,
    ) -> None:
        unpack = unpack or adapters.inputs_and_targets
        forward = forward or adapters.call_model

        def predict(model: nn.Module, content: Any) -> tuple[Any, Any]:
            inputs, targets = unpack(content)
            return forward(model, inputs), targets

        def count_of(content: Any) -> float:
            targets = unpack(content)[1]
            return float(count(targets) if count else adapters.count_targets(targets, content))

        self.loss_fn: Callable[[Any, Any], Tensor] | None = loss_fn
        self.predict: Predict | None = predict
        self._build(
            model,
            lambda model, content: loss_fn(*predict(model, content)),
            lambda device, dtype: Batches(
                data,
                device=device,
                dtype=dtype,
                count_of=count_of,
                batch_size=batch_size,
                cache_bytes=cache_bytes,
            ),
            params,
            training,
        )

    @classmethod
    def from_closure(
        cls,
        model: nn.Module,
        closure: Closure,
        data: Any,
        *,
        count: Callable[[Any], Any] | None = None,
        params: Selection = None,
        training: bool = False,
        cache_bytes: int = DEFAULT_CACHE,
    ) -> Problem:
        """A problem from closure(model, batch) -> mean loss: several inputs, RL, PINNs, anything.

        `count` takes the whole batch and defaults to its number of examples. Only the Hessian is
        available: Gauss-Newton and Fisher need to know the model's output.

        Raises:
            ValueError: as for `Problem`.
        """
        problem = cls.__new__(cls)
        problem.loss_fn, problem.predict = None, None
        problem._build(
            model,
            closure,
            lambda device, dtype: Batches(
                data,
                device=device,
                dtype=dtype,
                count_of=lambda content: float((count or num_examples)(content)),
                cache_bytes=cache_bytes,
            ),
            params,
            training,
        )
        return problem

    @classmethod
    def from_function(cls, f: Callable[[Tensor], Tensor], theta: Tensor) -> Problem:
        """The problem of minimising f(theta) -> scalar at a tensor theta; no network, no data.

        Raises:
            ValueError: if theta is not a real floating tensor.

        >>> import torch, hesscope as hs
        >>> saddle = hs.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.zeros(2))
        >>> hs.spectrum(hs.Hessian(saddle)).eigenvalues
        tensor([-2.,  2.], dtype=torch.float64)
        """
        if not isinstance(theta, Tensor) or not theta.is_floating_point():
            kind = theta.dtype if isinstance(theta, Tensor) else type(theta).__name__
            msg = f"theta is {kind}; give a floating tensor such as torch.zeros(2)."
            raise ValueError(msg)
        point = _Point(theta)

        def closure(model: Any, _: Any) -> Tensor:
            return f(model.theta)

        return cls.from_closure(point, closure, [()], count=lambda _: 1)

    def _build(
        self,
        model: nn.Module,
        closure: Closure,
        make_batches: Callable[[torch.device, torch.dtype], Batches],
        params: Selection,
        training: bool,
    ) -> None:
        if not isinstance(model, nn.Module):
            msg = (
                f"model is a {type(model).__name__}, not a torch.nn.Module. For a plain function "
                "of the parameters use Problem.from_function(f, theta)."
            )
            raise ValueError(msg)
        self.model, self.unwrapped = adapters.unwrap(model)
        chosen = select(dict(self.model.named_parameters()), params)
        first = next(iter(chosen.values()))
        self.device, self.dtype, self.training = first.device, first.dtype, training
        self.layout = Layout(tuple(chosen), tuple(p.shape for p in chosen.values()))
        self._closure = closure
        self._substitutes: dict[str, Tensor] = {}
        self._is_block = False
        self.batches = make_batches(self.device, self.dtype)
        self._total = collectives.sum_of_number(self.batches.total)

    @property
    def n(self) -> int:
        """The number of parameters in theta."""
        return self.layout.n

    @property
    def count(self) -> float:
        """How many items the mean loss averages over, in all processes together."""
        return self._total

    @property
    def theta(self) -> Tensor:
        """A copy of the parameter vector (n,)."""
        with torch.inference_mode(mode=False):
            return flatten([leaf.detach() for leaf in self.leaves()]).clone()

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the model's parameters that theta leaves out."""
        inside = set(self.layout.names)
        return tuple(name for name, _ in self.model.named_parameters() if name not in inside)

    def leaves(self) -> list[Tensor]:
        """The tensors that are differentiated: the model's own, or those of `at(theta)`."""
        own = dict(self.model.named_parameters())
        return [self._substitutes.get(name, own[name]) for name in self.layout.names]

    def watched(self) -> list[Tensor]:
        """Every tensor that the loss depends on: parameters, frozen ones too, then buffers."""
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        return [self._substitutes.get(name, tensor) for name, tensor in own]

    def at(self, theta: Tensor) -> Problem:
        """The same problem at other parameters theta (n,), which stay fixed; the model is not used.

        Raises:
            ValueError: if theta does not have length n.
        """
        with torch.inference_mode(mode=False):
            theta = torch.as_tensor(theta).to(self.device, self.dtype).detach().clone()
            leaves = [piece.clone().requires_grad_() for piece in self.layout.split(theta)]
        moved = copy.copy(self)
        moved._substitutes = {
            **self._substitutes,
            **dict(zip(self.layout.names, leaves, strict=True)),
        }
        return moved

    def block(self, pattern: Selection) -> Problem:
        """The same loss as a function of the parameters that match; the others are held fixed.

        Its Hessian is the diagonal block of the whole Hessian.

        Raises:
            ValueError: if nothing matches.
        """
        chosen = select(dict(zip(self.layout.names, self.leaves(), strict=True)), pattern)
        part = copy.copy(self)
        part._is_block = True
        part.layout = Layout(tuple(chosen), tuple(p.shape for p in chosen.values()))
        return part

    def blocks(self) -> dict[str, Problem]:
        """One problem per module that owns parameters, by the module's name."""
        owners: dict[str, list[str]] = {}
        for name in self.layout.names:
            owners.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return {owner: self.block(_exactly(names)) for owner, names in owners.items()}

    def subsample(self, num: int, seed: int = 0) -> Problem:
        """The same problem on `num` examples drawn without replacement.

        Raises:
            ValueError: if num is not between 1 and the number of examples, or if the examples of
                a batch cannot be told apart.
        """
        sizes = [num_examples(batch.content) for batch in self.batches]
        if not 1 <= num <= sum(sizes):
            msg = f"num={num}: the data holds {sum(sizes)} examples; draw between 1 and that many."
            raise ValueError(msg)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(sum(sizes), generator=generator)[:num].sort().values
        parts, start = [], 0
        for batch, size in zip(self.batches, sizes, strict=True):
            inside = drawn[(drawn >= start) & (drawn < start + size)] - start
            if len(inside):
                parts.append(take(batch.content, inside.to(self.device)))
            start += size
        return self.with_batches(parts)

    def with_batches(self, contents: list[Any]) -> Problem:
        """The same problem on other batches, given as the contents of a list."""
        other = copy.copy(self)
        other.batches = Batches(
            contents, device=self.device, dtype=self.dtype, count_of=self.batches.count_of
        )
        other._total = collectives.sum_of_number(other.batches.total)
        return other

    def in_double(self, contents: list[Any]) -> Problem:
        """The same problem in float64 on the given batches: parameters, buffers and data."""

        def double(tensor: Tensor) -> Tensor:
            return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()

        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.inference_mode(mode=False):
            tensors = {n: double(self._substitutes.get(n, t)).clone() for n, t in own.items()}
            for name in self.layout.names:
                tensors[name].requires_grad_()
        other = copy.copy(self)
        other.dtype, other._substitutes = torch.float64, tensors
        if isinstance(self.loss_fn, nn.Module) and self.predict is not None:  # class weights
            loss_fn, predict = copy.deepcopy(self.loss_fn).double(), self.predict
            other.loss_fn = loss_fn
            other._closure = lambda model, content: loss_fn(*predict(model, content))
        return other.with_batches([map_tensors(content, double) for content in contents])

    def loss(self) -> float:
        """The mean loss over all data.

        Raises:
            RuntimeError: if it is NaN or infinite; the message names the first such batch.
        """
        with self.evaluating():
            return float(self.mean(lambda batch: self.batch_loss(batch).detach()))

    def gradient(self) -> Tensor:
        """The gradient of the mean loss, (n,).

        Raises:
            RuntimeError: if the loss is NaN or infinite.
        """
        with self.evaluating() as leaves:
            return self.mean(lambda batch: flatten(self.batch_gradient(batch, leaves)))

    def mean(self, f: Callable[[Batch], Tensor]) -> Tensor:
        """The mean of f(batch) over all batches and processes, each weighted by its count."""
        total: Tensor | None = None
        for batch in self.batches:
            part = (batch.count / self._total) * f(batch)
            total = part if total is None else total + part
        assert total is not None  # Batches refuses empty data
        return collectives.sum_over_processes(total)

    @contextmanager
    def evaluating(self) -> Iterator[list[Tensor]]:
        """The surroundings in which `batch_loss` may be called; yields the leaves."""
        with untouched(self.model, training=self.training):
            inside = set(self.layout.names)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in inside and name not in self._substitutes)
            with (
                substituted(self.model, self._substitutes),
                twice_differentiable(self.model, self.device),
            ):
                yield self.leaves()

    def batch_loss(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """The mean loss of one batch, with its graph; random layers draw from a seed per batch.

        The forward pass works on copies of the buffers: every batch sees them as they were, in
        whatever order, and running statistics written to cannot spoil a kept graph.

        Raises:
            ValueError: if the loss cannot be computed, is no scalar tensor or has no graph.
            RuntimeError: if it is not finite.
        """
        loss: Tensor = self._run(self._closure, batch, seed)
        if self._is_block and isinstance(loss, Tensor) and not loss.requires_grad:
            own = dict(self.model.named_parameters())
            loss = loss + 0 * own[self.layout.names[0]].sum()  # unused: the gradient is zero
        check_loss(loss, batch.index)
        return loss

    def batch_output(self, batch: Batch) -> tuple[Tensor, Any]:
        """The model's outputs on one batch, with their graph, and the targets.

        Raises:
            ValueError: if there are none (a closure), or the outputs are no floating tensor.
        """
        if self.predict is None:
            msg = "this problem was made from a closure, which does not tell outputs from the loss."
            raise ValueError(msg)
        outputs, targets = self._run(self.predict, batch)
        check_outputs(outputs)
        return outputs, targets

    def _run(
        self, function: Callable[[nn.Module, Any], Any], batch: Batch, seed: int | None = None
    ) -> Any:
        """The user's code on one batch, with copies of the buffers and its own random seed."""
        seed_generators(batch.index if seed is None else seed)
        with substituted(self.model, _copies(self.model.named_buffers())):
            setting = f"parameters in {self.dtype} on {self.device}"
            return call(function, self.model, batch, setting)

    def batch_gradient(self, batch: Batch, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        """The gradient of the mean loss of one batch; zeros for parameters that are not used."""
        return torch.autograd.grad(
            self.batch_loss(batch), leaves, allow_unused=True, materialize_grads=True
        )

    def facts(self) -> dict[str, Any]:
        """What a reader of a result should know about the problem."""
        return {
            "model": type(self.model).__name__,
            "n": self.n,
            "items": self.count,
            "batches": len(self.batches),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "mode": "model.train()" if self.training else "model.eval()",
            "switched": switched(self.model, self.device),
            "unwrapped": list(self.unwrapped),
            "frozen": len(self.frozen),
        }

    def __repr__(self) -> str:
        return (
            f"Problem({type(self.model).__name__}, n={self.n}, items={self.count:g}, "
            f"batches={len(self.batches)}, {self.dtype}, {self.device})"
        )


class _Point(nn.Module):
    """A parameter tensor as a model, for `Problem.from_function`."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())


def _exactly(names: list[str]) -> Callable[[str, Tensor], bool]:
    inside = set(names)
    return lambda name, _: name in inside


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in named}


def layer_slices(problem: Problem) -> dict[str, list[slice]]:
    """The places in theta that each module of `problem.blocks()` owns."""
    places = problem.layout.slices()
    return {
        owner: [places[name] for name in block.layout.names]
        for owner, block in problem.blocks().items()
    }
