"""Terms of a training loss that make it flat: the trace and the largest eigenvalue, with gradients.

Both are third derivatives once they are differentiated, and cost what stands in their docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hesscope import probes
from hesscope.krylov.subspace import Subspace
from hesscope.operator import as_operator
from hesscope.optim.arguments import check_count
from hesscope.optim.bending import Bending, Forward, bending
from hesscope.optim.noise import signs
from hesscope.problem.losses import LossFunction, output_loss
from hesscope.problem.parameters import Selection
from hesscope.results.spectral_penalty import SpectralPenalty
from hesscope.system.contexts import public

PURPOSE = "trace penalty"


@public
def trace_penalty(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    num_probes: int = 1,
    *,
    curvature: str = "hessian",
    params: Selection = None,
    forward: Forward | None = None,
    seed: int | None = None,
) -> Tensor:
    """The trace of the Hessian of a batch's loss, as a scalar to be added to that loss.

    The mean of z·Hz over vectors z of random signs (Hutchinson 1990), with its graph: value and
    gradient are unbiased, for the signs do not depend on the parameters. Layer by layer it is the
    regulariser of Sankar, Khasbage, Vigneswaran and Balasubramanian 2021. With `curvature="ggn"`
    the trace of the Gauss-Newton matrix G = Jᵀ M J, M = R Rᵀ (Schraudolph 2002), which is never
    negative: the mean of ‖Jᵀ R z‖² over signs z at the outputs, one backward pass each, for
    cross-entropy, squared error and the logistic loss; for other losses by z·Gz.

        loss = loss_fn(model(x), y) + strength * hs.trace_penalty(model, loss_fn, (x, y))
        loss.backward()

    The variance of a probe is 2 Σ_{i≠j} H_ij²; more probes divide it, and so do more steps, which
    average over them. The model is run once more, in the mode that it is in, with other dropout
    masks, leaving running statistics alone. Autocast is off inside, GradScaler
    scales the sum, and `backward()` belongs outside of autocast, as torch says of every one.

    Args:
        model: in training, on float32 or float64 parameters; torch.compile and DDP are taken off.
        loss_fn: (output, targets) -> mean loss, as for `Problem`.
        batch: (inputs, targets).
        num_probes: vectors z.
        curvature: "hessian" or "ggn".
        params: of which parameters, as for `Problem`: "layers.3.*" gives the trace of that block of
            H. Its gradient is by all parameters.
        forward: (model, inputs) -> output; by default model(inputs).
        seed: of the signs, such as the number of the step, to make a run repeatable; by default
            fresh ones at every call.

    Costs, with its backward pass, 5 gradients (perceptrons) to 9 (convolutions with BatchNorm), and
    about as much for each further probe; "ggn" 2.5 to 4, and 1.3 to 2 for each further one.

    Raises:
        ValueError: if an argument is out of range or parameters are in half precision.
        RuntimeError: if a derivative is not to be trusted (custom Functions that cannot be
            differentiated twice, reentrant checkpoints, normalisations inside checkpoints).

    Second derivatives of ReLU networks are those between the kinks, where the penalty flattens
    what multiplies the ReLUs, and not where the kinks lie.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x, y = torch.tensor([[1.0, 2.0]]).double(), torch.zeros(1, 1).double()
    >>> bent = lambda out, y: (out - y).pow(4).mean()  # tr H = 12 out² |x|²
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> penalty = hs.trace_penalty(model, bent, (x, y), num_probes=400, seed=0)
    >>> abs(penalty.item() / (12 * 9 * 5) - 1) < 0.1
    True
    >>> penalty.backward()  # 24 out |x|² x = 360, 720
    >>> (model.weight.grad / torch.tensor([360.0, 720.0]) - 1).abs().max() < 0.1
    tensor(True)
    """
    check_count("num_probes", num_probes)
    seed = probes.fresh_seed() if seed is None else probes.as_seed(seed)
    with bending(model, loss_fn, batch, curvature, params, forward) as bent:
        scattered = _scattered(bent) if bent.gauss_newton else None
        total = torch.zeros_like(bent.loss)
        for i in range(num_probes):
            if scattered is None:
                total = total + bent.along(signs(bent.parameters, seed, PURPOSE, i))
            else:
                pulled = bent.pulled_back(scattered(seed, i))
                total = total + torch.stack([part.square().sum() for part in pulled]).sum()
        return bent.attached(total / num_probes)


@public
def spectral_penalty(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    start: Tensor | None = None,
    num_steps: int = 4,
    curvature: str = "hessian",
    params: Selection = None,
    forward: Forward | None = None,
    seed: int | None = None,
) -> SpectralPenalty:
    """The largest eigenvalue of the Hessian of a batch's loss, to be added to that loss.

    v is the upper Ritz vector of the Krylov space of `num_steps` products from `start` (Lanczos
    1950), and the penalty vᵀHv with v held fixed. Where v is an eigenvector of a simple eigenvalue
    its gradient vᵀ(∂H)v is that of λmax (Hellmann and Feynman); else value and gradient are those
    of a quadratic form that lies below λmax, by `residual`²/gap at most. Given the vector of the
    last step as `start`, few products keep up with training:

        found = hs.spectral_penalty(model, loss_fn, (x, y), start=v)
        (loss_fn(model(x), y) + strength * found.value).backward()
        v = found.vector

    What is said of models, modes and contexts in `trace_penalty` holds here, too.

    Args:
        model: in training, as for `trace_penalty`.
        loss_fn: (output, targets) -> mean loss.
        batch: (inputs, targets).
        start: (n,) of the parameters that were chosen; by default random.
        num_steps: products of the Krylov space, at least 2; from a random start take 10 or more.
        curvature: "hessian", or "ggn" for λmax of the Gauss-Newton matrix.
        params: of which parameters, as for `Problem`; the gradient is by all.
        forward: (model, inputs) -> output; by default model(inputs).
        seed: of the random start.

    Costs, with its backward pass, that of one probe of `trace_penalty` and 2.5 gradients a step.

    Raises:
        ValueError: as for `trace_penalty`, or if `start` does not fit.
        RuntimeError: as for `trace_penalty`, or if a product is not finite.

    >>> import torch, hesscope as hs
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x, y = torch.tensor([[1.0, 2.0]]).double(), torch.zeros(1, 1).double()
    >>> bent = lambda out, y: (out - y).pow(4).mean()  # H = 12 out² x xᵀ
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> found = hs.spectral_penalty(model, bent, (x, y), seed=0)
    >>> round(found.value.item(), 6), found.residual < 1e-9
    (540.0, True)
    """
    check_count("num_steps", num_steps, least=2)
    seed = probes.fresh_seed() if seed is None else probes.as_seed(seed)
    with bending(model, loss_fn, batch, curvature, params, forward) as bent:
        v = _first(bent, start, seed)
        space = Subspace(
            as_operator(
                lambda V: torch.stack([bent.product(v) for v in V.unbind(1)], 1),
                len(v),
                dtype=v.dtype,
                device=v.device,
            )
        )
        residual = v
        for _ in range(min(num_steps, len(v))):
            if not space.add(residual):
                break
            v, residual = space.top()
        v = v.detach().clone() / v.norm()
        value = bent.along(bent.layout.split(v))
        error = float(residual.norm())
        return SpectralPenalty(value, v, error, space.num_matvecs + 1)


def _scattered(bent: Bending) -> Callable[[int, int], Tensor] | None:
    """The function (seed, i) -> √w R z in the shape of the outputs; None where R is not known."""
    family = output_loss(bent.loss_fn)
    root = family.root_product(bent.outputs, bent.targets)
    if root is None:
        return None
    weights = family.weights(bent.outputs, bent.targets).sqrt()[:, None]
    rows = family.rows(bent.outputs)

    def scattered(seed: int, i: int) -> Tensor:
        z = signs([rows.detach()], seed, PURPOSE, i)[0]
        return family.outputs(weights * root(z), bent.outputs)

    return scattered


def _first(bent: Bending, start: Tensor | None, seed: int) -> Tensor:
    """A start vector in the dtype of the parameters.

    Raises:
        ValueError: if the one that was given does not fit.
    """
    like = bent.parameters[0]
    n = bent.layout.n
    if start is None:
        at = probes.key(seed, "start of a spectral penalty")
        return probes.gaussian(n, at, dtype=like.dtype, device=like.device)
    if start.shape != (n,) or not bool(start.isfinite().all()) or not bool(start.any()):
        msg = (
            f"start of shape {tuple(start.shape)} for {n} parameters; give the vector of an "
            "earlier penalty of the same params, finite and not zero, or None."
        )
        raise ValueError(msg)
    return start.detach().to(like)
