"""Every bad argument is refused in full sentences, and the model stays as it was."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs
from tests.networks import mlp, vectors
from tests.state import state_of


def pair():
    return torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


@dataclass
class Door:
    """What is given, and the whole message that comes back, at construction or at the first use."""

    text: str
    model: Any = mlp
    loss: Any = F.cross_entropy
    data: Any = pair
    options: Any = dict
    error: type[Exception] = ValueError


def frozen():
    return mlp().requires_grad_(False)


def quantised():
    with warnings.catch_warnings(action="ignore"):  # torch.ao.quantization is deprecated
        return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})


class OneParameter(nn.Module):
    def __init__(self, tensor):
        super().__init__()
        self.w = nn.Parameter(tensor, requires_grad=not tensor.dtype.is_signed)
        self.w.requires_grad_(tensor.is_floating_point() or tensor.is_complex())


def integers():
    return OneParameter(torch.ones(3, dtype=torch.int8))


def from_inference_mode():
    with torch.inference_mode():
        return mlp()


def mixed():
    model = mlp()
    model[2].double()
    return model


def nan_loss(output, targets):
    return (output.sum() - output.sum() - 1).log()


def all_ignored():
    return torch.ones(6, 4), torch.full((6,), -100)


NO_GRAPH = (
    "the loss of batch 0 does not depend on the parameters through autograd (it has no grad_fn): "
    "look for .item(), .detach(), .numpy() or torch.no_grad() in the model or the loss."
)
NONE_AT_ALL = (
    "the model has no differentiable parameters: it has none at all, or its modules are quantised "
    "or scripted. Measure the floating-point model from which it was made."
)
NOT_FINITE = (
    "the loss of batch 0 is nan; a Hessian needs a finite loss. Look for NaN in the data or the "
    "parameters, log(0), or a run that has diverged."
)
ALL_ZERO = (
    "all 1 batches count zero items (every label is ignored, or the batches are empty); there is "
    "nothing to average. Check `count` and the labels."
)
EMPTY = "the data holds no batch: the loader, list or filter behind it is empty."

DOORS = {
    # data
    "empty list": Door(EMPTY, data=list),
    "empty arrays": Door(EMPTY, data=lambda: (torch.ones(0, 4), torch.ones(0).long())),
    "empty batch": Door(ALL_ZERO, data=lambda: [(torch.ones(0, 4), torch.ones(0).long())]),
    "generator": Door(
        "data is a generator that can be read only once, but curvature reads the data many times. "
        "Pass list(data), or the loader that it came from.",
        data=lambda: (pair() for _ in range(2)),
    ),
    "zip": Door(
        "data is a zip that can be read only once, but curvature reads the data many times. "
        "Pass list(data), or the loader that it came from.",
        data=lambda: zip(*pair(), strict=True),
    ),
    "one tensor": Door(
        "data is one array of shape (6, 4); give (inputs, targets), a DataLoader or a list of "
        "batches. For a loss without targets use Problem.from_closure.",
        data=lambda: pair()[0],
    ),
    "one array": Door(
        "data is one array of shape (6, 4); give (inputs, targets), a DataLoader or a list of "
        "batches. For a loss without targets use Problem.from_closure.",
        data=lambda: np.ones((6, 4)),
    ),
    "dict": Door(
        "data is one dict with keys ['x', 'y']; give a list of batches, [batch], and `unpack` to "
        "say which entries are inputs and targets.",
        data=lambda: dict(zip("xy", pair(), strict=True)),
    ),
    "number": Door(
        "data is a int; give (inputs, targets), a DataLoader, or any list of batches.",
        data=lambda: 3,
    ),
    "lengths that differ": Door(
        "the arrays differ in their number of examples: shapes (6, 4), (5,).",
        data=lambda: (torch.ones(6, 4), torch.ones(5)),
    ),
    "batch of three": Door(
        "a batch is a tuple of float32 (2,), float32 (2,), float32 (2,), 24 bytes, not a pair "
        "(inputs, targets). Say which is which: unpack=lambda batch: (batch[0], batch[-1]).",
        data=lambda: [(torch.ones(2),) * 3],
    ),
    "batch in a dict": Door(
        "a batch is a dict with keys 'input_ids', 'labels', not a pair (inputs, targets). Say "
        'which is which: unpack=lambda batch: (batch["input_ids"], batch["labels"]).',
        data=lambda: [dict(zip(("input_ids", "labels"), pair(), strict=True))],
    ),
    "targets without examples": Door(
        "cannot tell the examples of a batch apart: its tensors have shapes (6, 4), () without a "
        "common first dimension. Pass `count` to say how many items a batch averages over.",
        data=lambda: [(torch.ones(6, 4), torch.tensor(1.0))],
    ),
    "negative count": Door(
        "count gave -6.0 for batch 0; a batch counts a finite number of items, zero or more.",
        options=lambda: {"count": lambda y: -len(y)},
    ),
    "count that is NaN": Door(
        "count gave nan for batch 0; a batch counts a finite number of items, zero or more.",
        options=lambda: {"count": lambda y: float("nan")},
    ),
    "labels all ignored": Door(
        ALL_ZERO, data=all_ignored, options=lambda: {"count": lambda y: (y != -100).sum()}
    ),
    "labels all ignored but counted": Door(NOT_FINITE, data=all_ignored, error=RuntimeError),
    # models
    "no module": Door(
        "model is a function, not a torch.nn.Module. For a plain function of the parameters use "
        "Problem.from_function(f, theta).",
        model=lambda: vectors,
    ),
    "all frozen": Door(
        "all 4 parameters are frozen (requires_grad is False), for example 0.weight. Call "
        "requires_grad_(True) on what you want to look at.",
        model=frozen,
    ),
    "quantised": Door(NONE_AT_ALL, model=quantised),
    "without parameters": Door(NONE_AT_ALL, model=nn.ReLU),
    "integer parameters": Door(
        "the model has no differentiable parameters: w hold integers (torch.int8). Measure the "
        "floating-point model from which they were made.",
        model=integers,
    ),
    "complex parameters": Door(
        "parameter w is complex (torch.complex64); hesscope needs real parameters. Store real and "
        "imaginary part as two real tensors (torch.view_as_real).",
        model=lambda: OneParameter(torch.ones(3, dtype=torch.complex64)),
    ),
    "inference-mode parameters": Door(
        "parameter 0.weight was made inside torch.inference_mode() and can never be "
        "differentiated. Build or load the model outside of it.",
        model=from_inference_mode,
    ),
    "lazy parameters": Door(
        "parameter weight has no values yet (a lazy module, or the meta device). Call the model "
        "once on a batch, or load its weights.",
        model=lambda: nn.LazyLinear(3),
    ),
    "meta parameters": Door(
        "parameter weight has no values yet (a lazy module, or the meta device). Call the model "
        "once on a batch, or load its weights.",
        model=lambda: nn.Linear(4, 3, device="meta"),
    ),
    "two dtypes": Door(
        "the parameters differ in dtype or device: 0.bias is torch.float32 on cpu, 2.bias is "
        "torch.float64 on cpu. Bring them together, for example with model.float() or "
        "model.to(device), or choose some of them with `params`.",
        model=mixed,
    ),
    "unknown parameters": Door(
        "params='fc.*' selects none of the 4 trainable parameters. Names look like 0.weight, "
        "0.bias, 2.weight; `model.named_parameters()` lists all of them.",
        options=lambda: {"params": "fc.*"},
    ),
    # losses
    "NaN loss": Door(NOT_FINITE, loss=nan_loss, error=RuntimeError),
    "infinite loss": Door(
        NOT_FINITE.replace("nan;", "inf;"),
        loss=lambda out, y: F.cross_entropy(out, y) * float("inf"),
        error=RuntimeError,
    ),
    "loss by .item()": Door(
        "the loss of batch 0 is a float, not a tensor; return the tensor itself, without .item() "
        "or float().",
        loss=lambda out, y: F.cross_entropy(out, y).item(),
    ),
    "detached loss": Door(NO_GRAPH, loss=lambda out, y: F.cross_entropy(out, y).detach()),
    "detached model": Door(NO_GRAPH, loss=lambda out, y: F.cross_entropy(out.detach(), y)),
    "one loss per example": Door(
        "the loss of batch 0 has shape (6,), not one number; use reduction='mean', or take "
        ".mean() of it.",
        loss=nn.CrossEntropyLoss(reduction="none"),
    ),
    "complex loss": Door(
        "the loss of batch 0 is complex (torch.complex64); take its real part or its absolute "
        "value.",
        loss=lambda out, y: F.cross_entropy(out, y) * 1j,
    ),
    "two results": Door(
        "the loss of batch 0 is a tuple, not a tensor; return the tensor itself, without .item() "
        "or float().",
        loss=lambda out, y: (F.cross_entropy(out, y), out),
    ),
    "inputs of the wrong width": Door(
        "the model or the loss fails on batch 0 (tuple of float32 (6, 5), int64 (6,), 168 bytes) "
        "with parameters in torch.float32 on cpu: RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (6x5 and 4x5)",
        data=lambda: (torch.ones(6, 5), pair()[1]),
    ),
    "inputs of the wrong dtype": Door(
        "the model or the loss fails on batch 0 (tuple of float64 (6, 4), int64 (6,), 240 bytes) "
        "with parameters in torch.float32 on cpu: RuntimeError: mat1 and mat2 must have the same "
        "dtype, but got Double and Float. The data is in float64: bring it to torch.float32, "
        "x.to(torch.float32).",
        data=lambda: (torch.ones(6, 4).double(), pair()[1]),
    ),
    "labels out of range": Door(
        "the model or the loss fails on batch 0 (tuple of float32 (6, 4), int64 (6,), 144 bytes) "
        "with parameters in torch.float32 on cpu: IndexError: Target 7 is out of bounds.",
        data=lambda: (pair()[0], pair()[1] + 7),
    ),
}


@pytest.mark.parametrize("name", DOORS)
def test_bad_input_is_refused_in_a_full_sentence_and_the_model_is_unchanged(name):
    door = DOORS[name]
    model, data = door.model(), door.data()
    whole = isinstance(model, nn.Module) and not name.startswith(("lazy", "meta", "inference"))
    before = state_of(model) if whole else None
    with pytest.raises(door.error, match=f"^{re.escape(door.text)}$"):
        hs.Problem(model, door.loss, data, **door.options()).gradient()
    assert before == (state_of(model) if whole else None)


@pytest.mark.parametrize("num", [0, -1, 8, 2.5])
def test_a_subsample_of_no_or_too_many_examples_is_refused(num):
    problem = hs.Problem(mlp(), F.cross_entropy, vectors())
    text = f"num={num}: the data holds 7 examples; draw between 1 and that many."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        problem.subsample(num)


@pytest.mark.parametrize(
    ("theta", "kind"),
    [([0.0, 1.0], "list"), (torch.zeros(2).long(), "torch.int64"), (3.0, "float")],
)
def test_a_theta_that_is_no_floating_tensor_is_refused(theta, kind):
    text = f"theta is {kind}; give a floating tensor such as torch.zeros(2)."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        hs.Problem.from_function(lambda t: t.sum(), theta)


def test_parameters_of_the_wrong_number_are_refused():
    problem = hs.Problem(mlp(), F.cross_entropy, vectors())
    text = (
        "a vector of shape (5,) does not fit 43 parameters; give a tensor of shape (43,), such as "
        "problem.theta."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        problem.at(torch.zeros(5))


def test_frozen_blocks_are_refused():
    problem = hs.Problem(mlp(), F.cross_entropy, vectors())
    text = (
        "params='1' selects none of the 4 trainable parameters. Names look like 0.weight, 0.bias, "
        "2.weight; `model.named_parameters()` lists all of them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        problem.block("1")


@pytest.mark.parametrize(
    ("closure", "cure"),
    [
        (lambda model, batch: None, "None, not a tensor; models give no loss where the batch"),
        (lambda model, batch: SimpleNamespace(loss=model(batch["x"]).sum()), "return its .loss"),
    ],
)
def test_a_closure_that_gives_no_loss_is_told_what_it_gives(closure, cure):
    problem = hs.Problem.from_closure(nn.Linear(2, 1), closure, [{"x": torch.ones(3, 2)}])
    with pytest.raises(ValueError, match=cure):
        problem.loss()


def test_a_count_of_targets_is_told_that_it_gets_the_batch():
    with pytest.raises(ValueError, match=r"`count` fails on a dict .* called with the batch"):
        hs.Problem.from_closure(
            nn.Linear(2, 1),
            lambda model, batch: model(batch["x"]).square().mean(),
            [{"x": torch.ones(3, 2)}],
            count=lambda targets: (targets != -100).sum(),
        )


def test_a_loss_of_a_part_of_the_output_is_told_to_take_it():
    class Named(nn.Linear):
        def forward(self, x):
            return SimpleNamespace(logits=super().forward(x))

    problem = hs.Problem(Named(2, 2), F.cross_entropy, (torch.ones(3, 2), torch.arange(3) % 2))
    with pytest.raises(ValueError, match=r"forward=lambda model, inputs: model\(inputs\).logits"):
        problem.loss()
