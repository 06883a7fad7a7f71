"""The demonstration: a real network on real digits, from training to verdicts, offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hesscope import report
from hesscope.checks.check_problem import check_problem
from hesscope.curvature.hessian import Hessian
from hesscope.dense.spectrum import spectrum
from hesscope.examination import Examination, diagnose
from hesscope.examination.overview import overview
from hesscope.krylov.eigsh import eigsh
from hesscope.problem.problem import Problem
from hesscope.results.sharper import sharper
from hesscope.results.spectrum import Eigenpairs, Spectrum

LEARNING_RATE, STEPS, HIDDEN, TOP = 0.5, 300, 24, 10


def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits of 8 x 8 pixels, (1797, 64) in [0, 1], and their labels.

    From scikit-learn's copy of the UCI optical recognition data (Alpaydin and Kaynak 1998).

    Raises:
        RuntimeError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        msg = "the demonstration needs scikit-learn: pip install 'hesscope[demo]'."
        raise RuntimeError(msg) from error
    data = load_digits()
    return torch.from_numpy(data.data / 16.0), torch.from_numpy(data.target)


def trained_network(inputs: Tensor, labels: Tensor) -> nn.Module:
    """A 64-24-10 ReLU network after 300 steps of full-batch gradient descent, in float64."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)).double()
    torch.set_rng_state(generator_state)
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model


def run(say: Callable[[str], None], page: Path) -> Examination:
    """Trains, checks, computes the spectrum twice, diagnoses, and writes the report.

    Raises:
        RuntimeError: if an optional package is missing or the report cannot be written.
    """
    inputs, labels = digits()
    say(f"training a 64-{HIDDEN}-10 network on {len(inputs)} real digits, lr {LEARNING_RATE} ...")
    problem = Problem(
        trained_network(inputs, labels), nn.functional.cross_entropy, (inputs, labels)
    )
    correct = problem.model(inputs).argmax(1) == labels
    share = float(correct.double().mean())
    say(f"loss {problem.loss():.4f}, {share:.1%} right, {problem.n} parameters\n")
    say(str(check_problem(problem)) + "\n")
    H = Hessian(problem)
    exact = spectrum(H)
    say(str(exact) + "\n")
    pairs = eigsh(H, k=TOP, seed=0)
    say(beside(pairs, exact) + "\n")
    examined = sharpened(diagnose(problem, lr=LEARNING_RATE, check=False, seed=0), exact)
    say(str(examined) + "\n")
    results = {**examined.results, "largest_eigenvalues": pairs}
    results["outermost_eigenvalues"] = results.pop("eigenpairs")
    look = examined.measurements
    report.write(
        page,
        f"hesscope demo: a 64-{HIDDEN}-10 network on handwritten digits",
        examined.verdicts,
        results,
        examined.cost(),
        examined.headline,
        overview(look),
        {"seed": look.seed, **look.facts},
    )
    say(f"report: {page}")
    return examined


def sharpened(examined: Examination, exact: Spectrum) -> Examination:
    """The same look, judged with all eigenvalues in place of intervals."""
    look = examined.measurements
    values = sharper({**look.values, "exact_spectrum": exact})
    return Examination((), replace(look, values=values)).judge()


def beside(pairs: Eigenpairs, exact: Spectrum) -> str:
    """Matrix-free eigenvalues beside the exact ones, with the claimed and the true error."""
    lines = [
        f"{len(pairs)} largest, without the matrix: {pairs.num_matvecs} matvecs "
        f"instead of {len(exact)} columns"
    ]
    lines.append(
        f"  {'':>3}  {'matrix-free':>12}  {'± residual':>10}  {'exact':>12}  {'true error':>10}"
    )
    for i in range(len(pairs)):
        value, truth = float(pairs.eigenvalues[i]), float(exact.eigenvalues[-1 - i])
        lines.append(
            f"  {i + 1:>3}  {value:>12.8f}  {float(pairs.residuals[i]):>10.1e}  {truth:>12.8f}  "
            f"{abs(value - truth):>10.1e}"
        )
    return "\n".join([*lines, f"  {pairs.certificate}"])
