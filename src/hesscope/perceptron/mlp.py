"""Multilayer perceptrons: recognised in a problem, and read example by example.

The second derivatives of a plain stack of linear layers and elementwise activations have a closed
form (`injections.py`), from which the Hessian follows by matrix products (`assembly.py`) and its
exact zeros without any (`reductions.py`). What is not surely such a stack is not recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from hesscope import probes, rounding
from hesscope.derivatives.by_autograd import hessian_blocks, hessian_product
from hesscope.problem.data import Batch, seed_generators
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem
from hesscope.system import collectives

ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.SiLU,
    nn.GELU, nn.Mish, nn.Softplus, nn.Softsign, nn.ELU, nn.CELU, nn.SELU,
)  # fmt: skip
DROPOUTS = (nn.Dropout, nn.AlphaDropout)  # the identity in evaluation mode


@dataclass(frozen=True)
class Layer:
    """z = W a + b followed by an elementwise activation."""

    name: str  # of the linear module in the model
    linear: nn.Linear
    activation: nn.Module


@dataclass(frozen=True)
class MLP:
    """A problem whose model is a stack of layers; their tensors are read anew at every use."""

    problem: Problem
    core: nn.Module  # the Sequential, or the single Linear, inside the model
    layers: tuple[Layer, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each layer."""
        return tuple(layer.linear.out_features for layer in self.layers)


@dataclass(frozen=True)
class Examples:
    """N examples: inputs of the first layer, and the derivatives of the loss in the outputs.

    The loss is Σ_n ℓ_n(out_n), the mean over all data, so that weights and counts are inside.
    """

    inputs: Tensor  # (N, d)
    outputs: Tensor  # (N, C)
    gradients: Tensor  # ∂ℓ_n/∂out_n, (N, C)
    hessians: Tensor  # ∂²ℓ_n/∂out_n², (N, C, C)

    def split(self, size: int) -> Iterator[Examples]:
        """The same examples, `size` at a time."""
        fields = (self.inputs, self.outputs, self.gradients, self.hessians)
        for parts in zip(*(torch.split(field, size) for field in fields), strict=True):
            yield Examples(*parts)


def recognise(problem: Problem) -> MLP | None:
    """The problem as a plain multilayer perceptron, or None if it is anything else.

    Recognised is a Sequential, nested or not, alone or as the only child of a wrapper that returns
    its output, of linear layers (with bias or without), each followed by at most one elementwise
    activation; Flatten, Identity and, in evaluation mode, Dropout may stand anywhere. Its
    parameters may be frozen in part. The loss may be any function of outputs and targets that
    treats examples one by one and is twice differentiable, piecewise linear ones included.

    Refused are hooks, parametrisations, tied weights, overridden forward methods, inputs that are
    not 2-dimensional at the first linear layer, losses that reach the parameters or couple
    examples, and several processes. Types are checked first; then, on every batch, that the model
    returns the Sequential's own output, that the forward pass of this file gives it to rounding,
    and the loss. Cost: about two gradients.

    >>> import torch, hesscope as hs
    >>> data = (torch.randn(5, 4), torch.zeros(5, dtype=torch.long))
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> recognise(hs.Problem(model, torch.nn.functional.cross_entropy, data)).widths
    (3, 2)
    """
    model = problem.model
    if problem.loss_fn is None or collectives.num_processes() > 1 or _has_ties(model):
        return None
    if not all(_runs_its_own_forward(module) for module in model.modules()):
        return None
    core, name = _core(model)
    layers = _layers(core, name, training=problem.training)
    if layers is None:
        return None
    mlp = MLP(problem, core, layers)
    return mlp if _behaves(mlp) else None


def examples(mlp: MLP) -> Iterator[Examples]:
    """The examples of each batch, inside an evaluation."""
    problem = mlp.problem
    with problem.evaluation() as e:
        for batch in e.batches:
            run = _run(mlp, e, batch)
            assert run is not None  # recognised before
            inputs, outputs, targets = run
            point, loss = _loss(problem, batch, outputs, targets)
            (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
            # Autograd, rather than closed forms, takes class weights, smoothing and any loss alike
            gradients, hessians = gradient.detach(), hessian_blocks(gradient, point)
            weight = batch.count / e.num_items
            yield Examples(inputs, outputs, weight * gradients, weight * hessians)


def inputs_and_targets(mlp: MLP, e: Evaluation, batch: Batch) -> tuple[Tensor, Any]:
    """What the first layer gets of a batch, (N, d), and the targets."""
    run = _run(mlp, e, batch)
    assert run is not None  # recognised before
    return run[0], run[2]


def forward(mlp: MLP, inputs: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The output, and (a, z) of each layer: its input and its pre-activation."""
    a, levels = inputs, []
    with torch.no_grad():
        for layer in mlp.layers:
            z = F.linear(a, layer.linear.weight, layer.linear.bias)
            levels.append((a, z))
            a = layer.activation(z.clone())  # it may work in place
    return a, levels


# What a model is made of


def _has_ties(model: nn.Module) -> bool:
    everywhere = list(model.named_parameters(remove_duplicate=False))
    return len(everywhere) != len(list(model.named_parameters()))


def _runs_its_own_forward(module: nn.Module) -> bool:
    """No hook, no forward method of the instance, no parametrisation."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks,
        module._backward_hooks, module._backward_pre_hooks,
    )  # fmt: skip
    changed = any(hooks) or "forward" in vars(module)
    return not (changed or bool(parametrize.is_parametrized(module)))


def _core(model: nn.Module) -> tuple[nn.Module, str]:
    """The Sequential or Linear inside wrappers that own nothing else, and its name."""
    name = ""
    while not isinstance(model, (nn.Sequential, nn.Linear)):
        children = dict(model.named_children())
        owned = [*model.parameters(recurse=False), *model.buffers(recurse=False)]
        if len(children) != 1 or owned:
            break
        ((key, model),) = children.items()
        name = f"{name}.{key}" if name else key
    return model, name


def _flattened(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of nested Sequentials in the order in which they run."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for key, child in module._modules.items():  # named_children() leaves repeated ones out
            if child is not None:
                yield from _flattened(child, f"{name}.{key}" if name else key)
    else:
        yield name, module


def _layers(core: nn.Module, name: str, *, training: bool) -> tuple[Layer, ...] | None:
    """The layers of a stack, or None where anything stands that is no part of one."""
    layers: list[Layer] = []
    for place, module in _flattened(core, name):
        if type(module) is nn.Linear:
            layers.append(Layer(place, module, nn.Identity()))
        elif type(module) in ACTIVATIONS:
            if not layers:
                continue  # a fixed function of the inputs
            if type(layers[-1].activation) is not nn.Identity:
                return None
            layers[-1] = Layer(layers[-1].name, layers[-1].linear, module)
        elif not _is_identity(module, training=training):
            return None
    return tuple(layers) or None


def _is_identity(module: nn.Module, *, training: bool) -> bool:
    """Whether a module leaves a matrix of one row per example as it is."""
    if type(module) is nn.Flatten:
        return module.start_dim == 1 and module.end_dim == -1
    if type(module) in DROPOUTS:
        return bool(not training or module.p == 0)
    return type(module) is nn.Identity


# How a batch is run


def _behaves(mlp: MLP) -> bool:
    """Whether every batch runs as the stack says, through a loss of separate examples."""
    try:
        with mlp.problem.evaluation() as e:
            return all(_fits(mlp, e, batch) for batch in e.batches)
    except (ValueError, RuntimeError):  # whoever measures otherwise will be told why
        return False


def _fits(mlp: MLP, e: Evaluation, batch: Batch) -> bool:
    run = _run(mlp, e, batch)
    if run is None:
        return False
    inputs, outputs, targets = run
    if not _close(forward(mlp, inputs)[0], outputs):
        return False
    point, loss = _loss(mlp.problem, batch, outputs, targets)
    if loss.numel() != 1 or not loss.requires_grad:
        return False
    outside = torch.autograd.grad(loss, e.leaves, retain_graph=True, allow_unused=True)
    if any(gradient is not None for gradient in outside):  # a penalty on the weights, say
        return False
    whole = e.finite_loss(batch).detach()
    return _close(loss.detach().reshape(()), whole.reshape(())) and _is_separate(loss, point)


def _close(found: Tensor, expected: Tensor, size: float = 0.0) -> bool:
    """Equal to rounding of numbers as large as `expected`, or `size`; never with NaNs."""
    if found.shape != expected.shape:
        return False
    error = (found - expected).abs().max()
    allowed = rounding.recomputed(found.dtype) * expected.abs().max().clamp_min(size)
    return bool(error <= allowed)


def _run(mlp: MLP, e: Evaluation, batch: Batch) -> tuple[Tensor, Tensor, Any] | None:
    """(inputs of the first layer, outputs, targets), or None if the core is not run plainly.

    Plainly: once, on something that does not depend on theta, its output being the model's.
    """
    inputs: list[Tensor] = []
    found: list[Any] = []
    hooks = (
        mlp.layers[0].linear.register_forward_pre_hook(lambda _, args: inputs.append(args[0])),
        mlp.core.register_forward_hook(lambda *call: found.append(call[-1])),
    )
    try:
        outputs, targets = e.outputs(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if len(inputs) != 1 or len(found) != 1 or found[0] is not outputs:
        return None
    if inputs[0].ndim != 2 or outputs.ndim != 2 or inputs[0].requires_grad:
        return None
    return inputs[0].detach(), outputs.detach(), targets


def _loss(problem: Problem, batch: Batch, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """(outputs, loss of the batch as a function of them)."""
    assert problem.loss_fn is not None  # recognised before
    seed_generators(batch.index)  # as in `Evaluation.loss`
    with torch.enable_grad():
        point = outputs.clone().requires_grad_()
        return point, problem.loss_fn(point * 1.0, targets)  # not a leaf: it may work in place


def _is_separate(loss: Tensor, point: Tensor) -> bool:
    """Whether the loss is a sum over examples: H u is blockwise for a u that differs in each."""
    (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
    generator = torch.Generator().manual_seed(probes.key(0, "is the loss a sum"))
    u = torch.randn(point.shape, generator=generator, dtype=torch.float64).to(point)
    blockwise = torch.einsum("ncd,nd->nc", hessian_blocks(gradient, point), u)
    usual = 1 / len(point)  # of one in N examples; a saturated loss leaves rounding errors of that
    return _close(blockwise, hessian_product(gradient, point, u), usual)
