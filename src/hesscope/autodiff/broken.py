"""What torch cannot differentiate twice, or only wrongly: by name, with cause and cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class BrokenNode:
    """A place in a loss or its gradient that cannot be differentiated again, or not rightly."""

    name: str
    cause: str
    cure: str
    after: str = ""  # the node of the operation that breaks
    otherwise: str = "accept an approximation: Hessian(problem, product='finite-difference')"


class UntrustworthyError(RuntimeError):
    """Second derivatives of this model would be wrong; `node` says where, why and what to do."""

    def __init__(self, node: BrokenNode) -> None:
        self.node = node
        place = f" (at {node.after})" if node.after else ""
        super().__init__(
            f"this model has no trustworthy second derivative: {node.cause}{place}. "
            f"Either {node.cure}, or {node.otherwise}."
        )


BY_NODE = {
    "torch::autograd::Error": (
        "once_differentiable",
        "its gradient passes through a Function marked @once_differentiable; autograd skips it, "
        "and the Hessian-vector product would be wrong without an error",
        "write its backward from differentiable operations and drop @once_differentiable",
    ),
    "torch::autograd::NotImplemented": (
        "not_differentiable_twice",
        "its gradient passes through an operation whose backward has no derivative",
        "replace the operation by its elementary form",
    ),
    "CheckpointFunctionBackward": (
        "reentrant_checkpoint",
        "it checkpoints activations with use_reentrant=True, and autograd leaves out what is "
        "inside without an error",
        "pass use_reentrant=False to torch.utils.checkpoint.checkpoint (Hugging Face: "
        "gradient_checkpointing_kwargs={'use_reentrant': False})",
    ),
    "WeightNormInterface": (
        "weight_norm",
        "it uses weight_norm, whose second derivative is wrong in torch 2.13 (30 to 50 %)",
        "take it off with torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') "
        "or torch.nn.utils.remove_weight_norm(layer)",
    ),
    "SparseCooTensorWithDimsAndTensorsBackward": (
        "sparse_values",
        "it builds a sparse tensor from values that are differentiated, and torch drops the graph "
        "of their gradient without an error",
        "use a dense matrix (nn.Embedding: sparse=False), or index_add of the weighted rows",
    ),
}

SCALED_GRADIENT = (
    "scaled_gradient",
    "an embedding with scale_grad_by_freq=True divides the gradient of each row by how often the "
    "row is used: it is the gradient of no loss, and has no symmetric derivative",
    "set scale_grad_by_freq = False on the embedding",
)

HIDDEN_NORMALISATION = BrokenNode(
    "third_derivative",
    "its loss is made of derivatives through a LayerNorm, InstanceNorm or BatchNorm that is not "
    "called by torch.nn.functional, and torch 2.13 differentiates these wrongly for a third time",
    "call it by torch.nn.functional, or write it with mean and var",
)

# torch.func.jvp and dual numbers through these are right, once; the gradient of that is not.
AFTER_FORWARD_MODE = {
    torch.det, torch.linalg.det, Tensor.det, torch.logdet, Tensor.logdet, torch.slogdet,
    torch.linalg.slogdet, Tensor.slogdet, torch.linalg.solve, torch.linalg.solve_ex,
    torch.linalg.tensorsolve, torch.linalg.householder_product, torch.orgqr, Tensor.orgqr,
}  # fmt: skip

# Forward mode over the gradient of these is wrong, of scatter_reduce only for products.
FORWARD_OVER_REVERSE = {
    torch.cholesky_inverse, Tensor.cholesky_inverse,
    torch.scatter_reduce, Tensor.scatter_reduce, Tensor.scatter_reduce_,
}  # fmt: skip


def after_forward_mode(func: Any) -> BrokenNode:
    """The finding that the loss takes a forward-mode derivative through this function."""
    name = func.__name__.replace("linalg_", "torch.linalg.")
    return BrokenNode(
        "forward_mode_inside",
        f"its loss takes a forward-mode derivative (torch.func.jvp, dual numbers) through {name}, "
        "and torch 2.13 differentiates that wrongly, so its gradient is wrong in training, too",
        "take that derivative in reverse mode (torch.func.vjp, torch.autograd.grad)",
        otherwise=f"write {name} in elementary form",
    )


def forward_over_reverse(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> BrokenNode | None:
    """The finding that forward mode over the gradient of this call is wrong, or None."""
    if "scatter" in func.__name__:
        reduce = kwargs.get("reduce", args[4] if len(args) > 4 else None)
        if reduce != "prod":
            return None
    return BrokenNode(
        "wrong_in_forward_mode",
        f"torch 2.13 is wrong in forward mode over the gradient of {func.__name__}",
        "use the default product='reverse-over-reverse', which is right",
    )
