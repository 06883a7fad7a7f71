"""Dense float64 references that share no product code with the library."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import hesscope as hs


def outputs_of(problem: hs.Problem, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """theta -> outputs on the inputs, by torch.func.functional_call."""
    names, shapes = problem.layout.names, problem.layout.shapes

    def function(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes])
        tensors = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return torch.func.functional_call(problem.model, tensors, (inputs,))

    return function


def jacobian(problem: hs.Problem, inputs: Tensor) -> Tensor:
    """(N·C, n)."""
    J = torch.autograd.functional.jacobian(outputs_of(problem, inputs), problem.theta)
    return J.reshape(-1, problem.n)


def gauss_newton(problem: hs.Problem, inputs: Tensor, targets: Tensor) -> Tensor:
    """JᵀMJ with M the Hessian of the mean loss in all outputs."""
    J = jacobian(problem, inputs)
    z = outputs_of(problem, inputs)(problem.theta).detach()
    M = torch.autograd.functional.hessian(lambda q: problem.loss_fn(q, targets), z)
    return J.T @ M.reshape(len(J), len(J)) @ J


def hessian(problem: hs.Problem, inputs: Tensor, targets: Tensor) -> Tensor:
    """Of the mean loss."""
    f = outputs_of(problem, inputs)
    return torch.autograd.functional.hessian(
        lambda t: problem.loss_fn(f(t), targets), problem.theta
    )


def item_gradients(problem: hs.Problem, inputs: Tensor, targets: Tensor) -> Tensor:
    """(N, n) gradients of each example's own loss."""
    rows = []
    for i in range(len(inputs)):
        f = outputs_of(problem, inputs[i : i + 1])
        theta = problem.theta.requires_grad_()
        rows.append(torch.autograd.grad(problem.loss_fn(f(theta), targets[i : i + 1]), theta)[0])
    return torch.stack(rows)


def network(*widths: int, activation: type[nn.Module] = nn.Tanh, seed: int = 0) -> nn.Sequential:
    """A float64 multilayer perceptron."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), activation()]
    return nn.Sequential(*layers[:-1]).double()


def data(num: int, dim: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian inputs and labels that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, dim, dtype=torch.float64, generator=generator)
    return inputs, (inputs[:, 0].argsort().argsort() * classes) // num
