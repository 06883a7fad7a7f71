"""A Problem: the model, loss and data whose mean loss is minimised, as a function of theta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hesscope.problem import adapters
from hesscope.problem.alone import by_itself
from hesscope.problem.attributes import can_change
from hesscope.problem.behind import modules_in, reached_by
from hesscope.problem.contents import map_tensors, wanted_as
from hesscope.problem.data import DEFAULT_CACHE, Batches
from hesscope.problem.evaluation import Closure, Evaluation, Predict, evaluating
from hesscope.problem.examples import num_examples
from hesscope.problem.handing import Handing, on_a_copy
from hesscope.problem.inference import inferred
from hesscope.problem.items import Count, Counting
from hesscope.problem.own_loss import all_of_it, one_or_more, own_loss
from hesscope.problem.parameters import Layout, Selection, exactly, refuse_compiled
from hesscope.problem.point import Point, double
from hesscope.problem.precision import Computed
from hesscope.problem.rules import WHOLE_BATCH, Counted
from hesscope.problem.subsets import drawn
from hesscope.problem.surroundings import rounded_products, switched
from hesscope.problem.turns import LOCK
from hesscope.system import collectives
from hesscope.system.contexts import public_methods


@public_methods
class Problem:
    """The mean loss L(theta) of a model over data, with theta the trainable parameters.

    A model in half precision (bfloat16, float16) is looked at in float32: theta is, and the model
    runs on float32 copies of its tensors and of the data. Its own arithmetic would put 1 to 80 % of
    noise on Hessian-vector products. Only a model that fails so is run as it is; `facts` say which.

    Args:
        model: the network. It is put into evaluation mode while hesscope works and comes back as
            it was: parameters, buffers, gradients, modes and random state, bit for bit.
        loss_fn: (output, targets) -> scalar, the *mean* over the items that `count` counts. Left
            out, the model computes its own loss: a model of transformers on mappings (the output's
            `loss`), a LightningModule (`training_step`), or any that gives one scalar. Which loss
            of which outputs it is, and what it counts, is measured at once (two to four gradients
            of a batch) and told by `print(problem)`.
        data: a DataLoader or Dataset, any re-iterable of batches, or a tuple of tensors or arrays.
        unpack: batch -> (inputs, targets); by default a batch is that pair, or graphs with their y.
        forward: (model, inputs) -> output; by default model(inputs).
        count: targets -> how many items the loss averages over; by default len(targets). For a
            loss over tokens, count the tokens that are not ignored. Of a model with its own loss,
            batch -> how many. 1, the number: a batch is one item that is never cut, as for a
            contrastive loss, and the mean is that over batches.
        params: which parameters make up theta: a name or glob ("layers.3.*"), several of them, or
            a function (name, tensor) -> bool. By default all that require gradients.
        training: True measures the model in training mode (dropout masks frozen by a seed).
        batch_size: splits a tuple of arrays into batches of this size.
        cache_bytes: batches are kept on the device up to this size, and read again above it.
        shard: with several processes of `torch.distributed`, all are given the same data and each
            takes every W-th batch of it, or its part of a tuple of arrays. By default the data of
            a process is its own share, as a DistributedSampler makes it.

    Raises:
        ValueError: if the data is empty or can be read only once, or if nothing is trainable.
            Whether model, loss and data fit together is seen at the first use; without a loss_fn
            at once, and then also if nobody can tell what the loss averages over.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> problem = hs.Problem(model, torch.nn.functional.mse_loss, (x, y))
    >>> problem.n, hs.spectrum(hs.Hessian(problem)).eigenvalues  # 2 mean(x²) = 10
    (1, tensor([10.], dtype=torch.float64))
    """

    others: tuple[nn.Module, ...]  # that the loss runs besides the model, in the mode they are in
    inferred: tuple[str, ...]  # in words: of a model that computes its own loss
    why_no_outputs: str
    counted: Counted  # what `count` is called with

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        data: Any = None,
        *,
        unpack: Callable[[Any], tuple[Any, Any]] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        count: Count = None,
        params: Selection = None,
        training: bool = False,
        batch_size: int | None = None,
        cache_bytes: int = DEFAULT_CACHE,
        shard: bool = False,
    ) -> None:
        adapters.refuse_half_a_problem(loss_fn, data, unpack, forward)
        reading = {"batch_size": batch_size, "cache_bytes": cache_bytes, "shard": shard}
        if loss_fn is None:
            self._of_own_loss(model, data, count, params, training, reading)
            return
        unpack = unpack or adapters.inputs_and_targets
        forward = forward or adapters.call_model

        def predict(model: nn.Module, content: Any) -> tuple[Any, Any]:
            inputs, targets = unpack(content)
            return forward(model, inputs), targets

        def count_targets(content: Any) -> float:
            return adapters.count_targets(unpack(content)[1], content)

        raised = adapters.loss_in_single(loss_fn)
        self.loss_fn: Callable[[Any, Any], Tensor] | None = raised
        self.predict: Predict | None = predict
        self.counted = Counted("targets", lambda content: unpack(content)[1])
        self._computed = Computed(lambda model, content: loss_fn(*predict(model, content)))
        self._build(
            model,
            lambda model, content: raised(*predict(model, content)),
            data,
            Counting.of(count, self.counted, count_targets),
            params,
            training,
            reading,
        )

    def _of_own_loss(
        self,
        model: nn.Module,
        data: Any,
        count: Count,
        params: Selection,
        training: bool,
        reading: dict[str, Any],
    ) -> None:
        """Reads the data under a count of one a batch, and then counts as is inferred."""
        self.loss_fn, self.predict, self._computed = None, all_of_it, Computed(own_loss)
        self.counted = WHOLE_BATCH
        counting = Counting.of(count, WHOLE_BATCH, lambda _: 1.0)
        self._build(model, own_loss, one_or_more(data), counting, params, training, reading)
        with self.evaluation() as e:
            found = inferred(self, e, counts_too=count is None)
        self.inferred, self.why_no_outputs = found.notes, found.notes[1]
        count = found.count
        self._read(self.batches if count is None else self.batches.counted(count))
        if found.form is None:
            self.predict = None
        else:
            self.loss_fn, self.predict = found.form.loss_fn, found.form.predict

    @classmethod
    def from_closure(
        cls,
        model: nn.Module,
        closure: Closure,
        data: Any,
        *,
        count: Count = None,
        params: Selection = None,
        training: bool = False,
        cache_bytes: int = DEFAULT_CACHE,
        shard: bool = False,
    ) -> Problem:
        """A problem from closure(model, batch) -> mean loss: several inputs, RL, PINNs, anything.

        `count` takes the whole batch and defaults to its number of examples; 1, the number: a batch
        is one item that is never cut. Only the Hessian is available: Gauss-Newton and Fisher need
        to know the model's output.

        Raises:
            ValueError: as for `Problem`.
        """
        problem = cls.__new__(cls)
        problem.loss_fn, problem.predict, problem._computed = None, None, Computed(closure)
        problem.counted = WHOLE_BATCH
        counting = Counting.of(count, WHOLE_BATCH, num_examples)
        reading = {"cache_bytes": cache_bytes, "shard": shard}
        problem._build(model, closure, data, counting, params, training, reading)
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
        model = adapters.OneTensor(theta)

        def closure(model: Any, _: Any) -> Tensor:
            return f(model.theta)

        return cls.from_closure(model, closure, [()], count=lambda _: 1)

    def _build(
        self,
        model: nn.Module,
        closure: Closure,
        data: Any,
        counting: Counting,
        params: Selection,
        training: bool,
        reading: dict[str, Any],
    ) -> None:
        adapters.refuse_no_module(model)
        inner, self.unwrapped = adapters.unwrap(model)
        with LOCK:  # else another thread's copy in float64 may stand in the model just now
            self.point = Point.of(inner, params)
        refuse_compiled(inner, self.point.layout.names)
        self.training, self._closure = training, closure
        own, behind = set(inner.modules()), reached_by(closure, without=data)
        self.others = tuple(module for module in modules_in(behind) if module not in own)
        self._held = tuple(thing for thing in behind if can_change(thing))
        self._handing = Handing()
        self.inferred = ()
        self.why_no_outputs = "it was made from a closure or a function"
        self._read(
            Batches(
                data,
                device=self.device,
                dtype=self.dtype,
                count_of=on_a_copy(counting.count_of, self.counted.name),
                whole=counting.whole,
                **reading,
            )
        )

    def _read(self, batches: Batches) -> None:
        self.batches = batches
        self._num_items = collectives.sum_of_number(batches.total)

    @property
    def n(self) -> int:
        """The number of parameters in theta."""
        return self.layout.n

    @property
    def num_items(self) -> float:
        """How many items the mean loss averages over, in all processes together.

        Raises:
            RuntimeError: if the data was shared out over another number of processes.
        """
        self.batches.refuse_other_number()
        return self._num_items

    @property
    def theta(self) -> Tensor:
        """A copy of the parameter vector (n,)."""
        return self.point.theta()

    @property
    def model(self) -> nn.Module:
        """The user's network, without wrappers."""
        return self.point.model

    @property
    def closure(self) -> Closure:
        """(model, batch) -> mean loss, as it is computed."""
        return self._closure

    @property
    def layout(self) -> Layout:
        """Which tensors theta is made of, and where each one lies in it."""
        return self.point.layout

    @property
    def dtype(self) -> torch.dtype:
        """That of theta."""
        return self.point.dtype

    @property
    def device(self) -> torch.device:
        """Where theta lies, and batches are brought to."""
        return self.point.device

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the model's parameters that theta leaves out."""
        inside = set(self.layout.names)
        return tuple(
            name for name, _ in self.point.structure.named_parameters() if name not in inside
        )

    def at(self, theta: Tensor) -> Problem:
        """The same problem at other parameters theta (n,), which stay fixed; the model is not used.

        Raises:
            ValueError: if theta does not have length n.
        """
        return self._standing_at(self.point.moved_to(theta))

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Problem:
        """The same problem with other buffers of these names, such as running statistics.

        >>> import torch, hesscope as hs
        >>> norm = torch.nn.BatchNorm1d(1, affine=True)
        >>> problem = hs.Problem(norm, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
        >>> problem.with_buffers({"running_mean": torch.ones(1)}).loss()
        0.0
        """
        return self._standing_at(self.point.with_buffers(buffers))

    def block(self, pattern: Selection) -> Problem:
        """The same loss as a function of the parameters that match; the others are held fixed.

        Its Hessian is the diagonal block of the whole Hessian.

        Raises:
            ValueError: if nothing matches.
        """
        return self._standing_at(self.point.block(pattern))

    def blocks(self) -> dict[str, Problem]:
        """One problem per module that owns parameters, by the module's name."""
        owners: dict[str, list[str]] = {}
        for name in self.layout.names:
            owners.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return {owner: self.block(exactly(names)) for owner, names in owners.items()}

    def subsample(self, num: int, *, seed: int = 0) -> Problem:
        """The same problem on `num` examples drawn without replacement; batches if each is an item.

        Raises:
            ValueError: if num is not between 1 and the number of examples, or if the examples of
                a batch cannot be told apart.
        """
        return self.with_batches(drawn(self.batches, num, seed))

    def with_batches(self, contents: Any) -> Problem:
        """The same problem on other batches: the contents of a list, or any data of a `Problem`."""
        return self._reading(self.batches.made_of(contents, self.device, self.dtype))

    def _reading(self, batches: Batches) -> Problem:
        """The same problem on batches that are read already."""
        other = copy.copy(self)
        other._read(batches)
        return other

    def alone(self) -> AbstractContextManager[Problem]:
        """Inside, this process works by itself, with all of the data: for sweeps over many items.

        Of several processes that have a problem with shard=True, each measures other items, seeds
        or layers or weights say, and need not wait for the others. All have to enter it. At its end
        each waits until all have ended; what one raises all raise. A model that is cut over
        processes is looked at in a copy with whole weights. What was made of the problem outside
        is refused inside, and the other way round. In one process nothing changes.

        Raises:
            ValueError: if each process has a share of its own (shard=False).
            RuntimeError: if a process is dead, after the time limit of the group; it is named.

        >>> import torch, hesscope as hs
        >>> bowl = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(2))
        >>> with bowl.alone() as own:
        ...     own.loss()
        2.0
        """
        return by_itself(self)

    def on(self, other: Problem) -> Problem:
        """The same problem on the data of another one, held-out data for example."""
        there = copy.copy(self)
        there.batches, there._num_items = other.batches, other._num_items
        return there

    def in_double(self, contents: list[Any] | None = None) -> Problem:
        """The same problem in float64: parameters, buffers, and the given batches if there are any.

        Without, it keeps its own batches, which stay in the precision that they have.
        """
        other = self._standing_at(self.point.in_double())
        if isinstance(self.loss_fn, nn.Module) and self.predict is not None:  # class weights
            loss_fn, predict = copy.deepcopy(self.loss_fn).double(), self.predict
            other.loss_fn = loss_fn
            other._closure = lambda model, content: loss_fn(*predict(model, content))
        if contents is None:
            return other
        doubled = [map_tensors(one, lambda t: wanted_as(t, double(t))) for one in contents]
        return other.with_batches(doubled)

    def _standing_at(self, point: Point) -> Problem:
        other = copy.copy(self)
        other.point = point
        return other

    def frozen_copy(self) -> Problem:
        """The same problem on a copy of the model as it is now, which no training moves.

        The way to look at a model that another thread trains: make it between two steps of the
        training, and look at it in any thread. Data and loss are shared. (The generators of torch,
        NumPy and Python are those of the process: dropout of a training that must be repeatable
        needs a generator, or a process, of its own.)

        Raises:
            ValueError: if the model cannot be copied.

        >>> import torch, hesscope as hs
        >>> problem = hs.Problem.from_function(lambda t: (t**4).sum(), torch.ones(1))
        >>> frozen = problem.frozen_copy()
        >>> problem.write(torch.zeros(1))
        >>> problem.loss(), frozen.loss()
        (0.0, 1.0)
        """
        try:
            model = copy.deepcopy(self.model)
        except (RuntimeError, TypeError) as error:
            msg = f"this {type(self.model).__name__} cannot be copied: {error}"
            raise ValueError(msg) from error
        return self._standing_at(self.point.of_model(model))

    def loss(self) -> float:
        """The mean loss over all data.

        Raises:
            RuntimeError: if it is NaN or infinite; the message names the first such batch.
        """
        with self.evaluation() as e:
            return float(e.mean(lambda batch: e.finite_loss(batch).detach()))

    def loss_at(self, theta: Tensor) -> float:
        """The mean loss at other parameters theta (n,), whatever it is: inf, -inf and NaN, too.

        The same number as `at(theta).loss()` where that is finite, and NaN also where some batches
        have inf and others -inf. What else goes wrong away from where the model stands (memory,
        data that changes between passes, the user's code) is an error as it is there. The model is
        not used. Costs one loss over all data.

        Raises:
            ValueError: if theta does not have length n.

        >>> import torch, hesscope as hs
        >>> root = hs.Problem.from_function(lambda t: t.sqrt().sum(), torch.ones(1))
        >>> root.loss_at(torch.tensor([4.0])), root.loss_at(torch.tensor([-1.0]))
        (2.0, nan)
        """
        with self.at(theta).evaluation() as e:
            return float(e.mean(lambda batch: e.loss(batch).detach()))

    def gradient(self) -> Tensor:
        """The gradient of the mean loss, (n,).

        Raises:
            RuntimeError: if the loss is NaN or infinite.
        """
        with self.evaluation() as e:
            return e.mean(e.gradient)

    def write(self, theta: Tensor) -> None:
        """Writes theta (n,) into the model's own parameters, in place: the model moves there.

        In the dtype and on the device that they have. Frozen parameters, those outside a block,
        buffers and `.grad` stay as they are; a tied parameter is one. Whatever was measured before
        belongs to the old parameters; operators notice and measure anew.

        Raises:
            ValueError: if theta is not finite or not of length n, or if this problem stays at
                parameters of its own, `at(theta)`, or the model's are cut over processes. Then
                nothing is written.

        >>> import torch, hesscope as hs
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> problem = hs.Problem(model, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
        >>> problem.write(torch.tensor([3.0, 4.0]))
        >>> model.weight.tolist(), problem.loss()
        ([[3.0, 4.0]], 6.5)
        """
        self.point.write(theta)

    def evaluation(self) -> AbstractContextManager[Evaluation]:
        """The engine room, for measurements of one's own: losses and gradients batch by batch.

        Inside, the model is in one mode and differentiable twice, and on exit what it was, bit for
        bit, also when an error passes.

        >>> import torch, hesscope as hs
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> problem = hs.Problem(model, torch.nn.MSELoss(), (x, 2 * x))
        >>> problem.write(torch.zeros(1))
        >>> with problem.evaluation() as e:
        ...     [e.gradient(batch).tolist() for batch in e.batches]  # -2 mean(x y)
        [[-20.0]]
        """
        return self._evaluation(rounded=self.rounded)

    @property
    def rounded(self) -> bool:
        """Whether a model in half precision is run as it is, for it fails in float32.

        Seen once, by one loss, and of such a model only.
        """
        half = self.point.half
        return half is not None and self._computed.only_as_it_is(self._evaluation)

    @property
    def weakest(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss, seen once on one batch."""
        return self._computed.weakest(self.dtype, self.evaluation)

    def _evaluation(self, *, rounded: bool) -> AbstractContextManager[Evaluation]:
        return evaluating(
            self.point,
            self._computed.as_it_is if rounded else self._closure,
            self.predict,
            self.batches,
            self.num_items,
            self._handing,
            self.others,
            self._held,
            training=self.training,
            rounded=rounded,
        )

    def facts(self) -> dict[str, Any]:
        """What a reader of a result should know about the problem."""
        half = self.point.half
        computed = f"{half} as it is" if self.rounded else f"float32 copies of {half}"
        return {
            "model": type(self.point.structure).__name__,
            "n": self.n,
            "items": self.num_items,
            "batches": len(self.batches),
            "dtype": str(self.dtype).removeprefix("torch."),
            **({} if half is None else {"computed in": computed.replace("torch.", "")}),
            "device": str(self.device),
            "mode": "model.train()" if self.training else "model.eval()",
            "switched": switched(self.point.structure, self.device),
            **rounded_products(self.dtype, self.device),
            "unwrapped": list(self.unwrapped),
            **self.point.facts(),
            "frozen": len(self.frozen),
            **({"inferred": list(self.inferred)} if self.inferred else {}),
        }

    def __str__(self) -> str:
        """The line of `repr`, and what was inferred, a line each."""
        return "\n  ".join([repr(self), *self.inferred])

    def __repr__(self) -> str:
        return (
            f"Problem({type(self.point.structure).__name__}, n={self.n}, "
            f"items={self._num_items:g}, batches={len(self.batches)}, {self.dtype}, {self.device})"
        )
