"""GPT-2 with 124 million parameters: what products cost, and a certified top of its spectrum.

Built from its configuration with random weights and trained for some steps on the sources of
Python's own library, as bytes: at initialisation the largest eigenvalues lie too close together
for a list of ten to mean anything.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from products import tf32
from rows import Row, Setting, at_most, attempted, peak_bytes, seconds, wait
from torch import Tensor, nn

import hesscope as hs

STEPS = 60
LENGTH = 512


def check(setting: Setting) -> Iterator[Row]:
    model, batches = gpt2(setting), text(setting)
    yield Row("parameters", f"{sum(p.numel() for p in model.parameters()):,}")
    train(model, batches, setting)
    batch = next(batches)
    problem = hs.Problem.from_closure(model, loss, [batch])
    yield Row("loss after training", f"{problem.loss():.3f}")
    truth = direction(problem), product(problem, direction(problem))
    yield from attempted("float32", lambda: costs("float32", problem, batch, truth, setting))
    with tf32():
        yield from attempted("TF32", lambda: costs("TF32", problem, batch, truth, setting))
    yield from attempted("spectrum", lambda: spectrum(problem, setting))
    half = hs.Problem.from_closure(model.bfloat16(), loss, [batch])
    kind = "bfloat16 weights"
    yield from attempted(kind, lambda: costs(kind, half, batch, truth, setting))


def gpt2(setting: Setting) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    small = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 300, "n_positions": 64}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(use_cache=False, **ends, **(small if setting.tiny else {}))
    return GPT2LMHeadModel(config).to(setting.device).eval()


def text(setting: Setting) -> Iterator[Tensor]:
    """Batches of bytes of Python's own library, forever."""
    folder = pathlib.Path(pathlib.__file__).parent.parent
    folder = folder if (folder / "ast.py").exists() else pathlib.Path(pathlib.__file__).parent
    names = ("argparse.py", "ast.py", "subprocess.py", "tarfile.py")
    raw = b"".join((folder / name).read_bytes() for name in names)
    tokens = torch.frombuffer(bytearray(raw), dtype=torch.uint8).long().to(setting.device)
    num, length = (2, 16) if setting.tiny else (4, LENGTH)
    generator = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(tokens) - length, (num,), generator=generator).tolist()
        yield torch.stack([tokens[i : i + length] for i in starts])


def loss(model: nn.Module, batch: Any) -> Tensor:
    logits = model(batch).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def train(model: nn.Module, batches: Iterator[Tensor], setting: Setting) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(3 if setting.tiny else STEPS):
        optimizer.zero_grad()
        loss(model, next(batches)).backward()
        optimizer.step()


def direction(problem: hs.Problem) -> Tensor:
    """The gradient, at unit length: a direction with curvature."""
    g = problem.gradient().float()
    return g / g.norm()


def product(problem: hs.Problem, v: Tensor) -> Tensor:
    return (hs.Hessian(problem) @ v.to(problem.dtype)).float()


def costs(
    kind: str, problem: hs.Problem, batch: Tensor, truth: tuple[Tensor, Tensor], setting: Setting
) -> Iterator[Row]:
    """A gradient as its user would make it, a product in gradients, and the peaks of both."""
    v, expected = truth
    model, parameters = problem.model, list(problem.model.parameters())

    def gradient() -> Any:
        return torch.autograd.grad(loss(model, batch), parameters)

    unit, unit_bytes = seconds(setting, gradient), peak_bytes(setting, gradient)
    yield Row(f"{kind}: gradient", f"{unit * 1e3:.1f} ms, peak {unit_bytes / 1e9:.2f} GB")
    w = v.to(problem.dtype)
    for name, options in (("kept graph", {}), ("rebuilt graph", {"memory": 0})):
        H = hs.Hessian(problem, **options)
        H @ w  # builds what is kept
        took = seconds(setting, lambda H=H: H @ w)
        del H
        fresh = peak_bytes(setting, lambda options=options: hs.Hessian(problem, **options) @ w)
        ratio, share = took / unit, fresh / unit_bytes if unit_bytes else 0.0
        said = f"{ratio:.2f} gradients ({took * 1e3:.1f} ms), peak {fresh / 1e9:.2f} GB"
        yield Row(f"{kind}: product, {name}", f"{said}, {share:.2f} of a gradient's")
    error = float((product(problem, v) - expected).norm() / expected.norm())
    bound = {"float32": 1e-3, "TF32": 0.1}.get(kind, 0.5)
    yield at_most(f"{kind}: product against float32", error, bound)


def spectrum(problem: hs.Problem, setting: Setting) -> Iterator[Row]:
    """Certified pairs, a density and a trace, with their products and seconds."""
    H = hs.Hessian(problem)
    k, most = (2, 40) if setting.tiny else (10, 110)
    for name, work in {
        f"top {k}": lambda: hs.eigsh(H, k, tol=1e-2, max_matvecs=most, seed=0),
        "density": lambda: hs.spectral_density(H, 20 if setting.tiny else 60, seed=0),
        "trace": lambda: hs.trace(H, rtol=None, max_matvecs=10 if setting.tiny else 40, seed=0),
    }.items():
        wait(setting.device)
        started = time.perf_counter()
        found = work()
        took = time.perf_counter() - started
        said = f"{found}".splitlines()[0]
        yield Row(name, f"{found.num_matvecs} products, {took:.1f} s: {said}")
        if isinstance(found, hs.Eigenpairs):
            yield from certificate(found, k, setting)


def certificate(pairs: hs.Eigenpairs, k: int, setting: Setting) -> Iterator[Row]:
    good = int(pairs.converged.sum())
    yield Row("values", ", ".join(f"{float(x):.4g}" for x in pairs.eigenvalues))
    yield Row("converged", f"{good} of {k}", setting.tiny or good == k)
    yield Row("certificate", f"{pairs.certificate}")
