"""Every public call that computes, once each, on a problem that takes milliseconds."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesscope as hs
from hesscope.system.contexts import derivatives_on

INPUTS = torch.linspace(-2, 2, 72, dtype=torch.float32).reshape(24, 3).sin()
LABELS = torch.arange(24) % 3


def made(seed: int = 0) -> nn.Sequential:
    """A perceptron of 24 parameters in float32, made on the CPU wherever it goes."""
    torch.manual_seed(seed)
    own = {"dtype": torch.float32, "device": "cpu"}
    return nn.Sequential(nn.Linear(3, 3, **own), nn.Tanh(), nn.Linear(3, 3, **own))


class Stage:
    """A model that has made a step, its problem, and results that other calls begin with."""

    def __init__(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32, *, shard: bool = False
    ) -> None:
        self.device = device
        self.model = made().to(device, dtype)
        self.other = made(1).to(device, dtype)
        self.data = inputs, labels = INPUTS.to(device, dtype), LABELS.to(device)
        self.wide = inputs.double(), labels
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        F.cross_entropy(self.model(inputs), labels).backward()
        self.optimizer.step()
        self.problem = hs.Problem(self.model, F.cross_entropy, self.data, batch_size=8, shard=shard)
        self.v = torch.linspace(-1, 1, self.problem.n, dtype=dtype, device=device)
        own = {"dtype": torch.float64, "device": device}
        self.matrix = torch.diag(torch.linspace(-1, 3, 30, **own))
        self.eye = torch.eye(7, **own)

    def __getattr__(self, name: str) -> Any:
        """Results that are made when they are first needed, outside of any context."""
        if name not in MADE:
            raise AttributeError(name)
        value = MADE[name](self)
        setattr(self, name, value)
        return value


def _run(s: Stage) -> hs.History:
    with torch.inference_mode(mode=False):
        model = copy.deepcopy(s.other)  # trained anew
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, F.cross_entropy, s.data)
    with hs.Monitor(problem, optimizer, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            with ExitStack() as stack:
                derivatives_on(stack)
                F.cross_entropy(model(s.data[0]), s.data[1]).backward()
            optimizer.step()
    return monitor.history


MADE: dict[str, Callable[[Stage], Any]] = {
    "hessian": lambda s: hs.Hessian(s.problem),
    "pairs": lambda s: hs.eigsh(s.hessian, 2, seed=0),
    "spectrum": lambda s: hs.spectrum(s.hessian),
    "density": lambda s: hs.spectral_density(s.hessian, 12, seed=0),
    "map": lambda s: hs.layer_map(s.problem),
    "line": lambda s: hs.interpolate(s.problem, s.problem.theta, 0.9 * s.problem.theta, 5),
    "slice": lambda s: hs.loss_slice(s.problem, "filter", num_points=5, max_matvecs=10),
    "one_direction": lambda s: hs.loss_slice(
        s.problem, hs.directions(s.problem, num=1), num_points=5, max_matvecs=10
    ),
    "path": lambda s: hs.loss_path(
        s.problem, s.problem.theta, 0.5 * s.problem.theta, num_steps=3, num_points=5
    ),
    "basin": lambda s: hs.basin(s.problem, num_directions=1, max_matvecs=30),
    "measures": lambda s: hs.sharpness(s.problem, m=8, num_parts=2, num_pairs=1, steps=2),
    "examination": lambda s: hs.diagnose(s.problem, lr=0.1, effort="quick", seed=0),
    "history": _run,
    "nets": lambda s: hs.ensemble.initialise((3, 4, 3), 3, seed=0, device=s.device),
}
OPERATORS: dict[str, Callable[[Stage], hs.SymmetricOperator]] = {
    "Hessian": lambda s: hs.Hessian(s.problem),
    "Hessian, graphs rebuilt": lambda s: hs.Hessian(s.problem, memory=0),
    "Hessian, lean": lambda s: hs.Hessian(s.problem, product="lean"),
    "Hessian, forward mode": lambda s: hs.Hessian(s.problem, "forward-over-reverse"),
    "Hessian, differences": lambda s: hs.Hessian(s.problem, hs.CentralDifference(1e-2)),
    "GaussNewton": lambda s: hs.GaussNewton(s.problem),
    "Fisher": lambda s: hs.Fisher(s.problem),
    "Fisher, sampled": lambda s: hs.Fisher(s.problem, 2, seed=0),
    "EmpiricalFisher": lambda s: hs.EmpiricalFisher(s.problem),
    "GradientCovariance": lambda s: hs.GradientCovariance(s.problem),
    "TangentKernel": lambda s: hs.TangentKernel(s.problem.subsample(4)),
    "PreconditionedHessian": lambda s: hs.PreconditionedHessian(s.problem, s.optimizer),
    "Identity": lambda s: 2.0 * hs.Identity(7, device=s.device) + hs.as_operator(s.eye),
    "as_operator": lambda s: hs.as_operator(s.matrix),
    "as_operator of a function": lambda s: hs.as_operator(
        lambda V: s.matrix @ V, n=30, device=s.device
    ),
    "sum": lambda s: hs.Hessian(s.problem) - 0.5 * hs.GaussNewton(s.problem),
    "submatrix": lambda s: hs.Hessian(s.problem).submatrix(slice(3, 20)),
}


def _product(make: Callable[[Stage], hs.SymmetricOperator]) -> Callable[[Stage], Tensor]:
    def product(s: Stage) -> Tensor:
        A = make(s)
        return A @ torch.ones(A.n, dtype=A.dtype, device=A.device)

    return product


def _dense(make: Callable[[Stage], hs.SymmetricOperator]) -> Callable[[Stage], Any]:
    return lambda s: (make(s).to_dense(), hs.spectrum(make(s)).eigenvalues)


PROBLEM: dict[str, Callable[[Stage], Any]] = {
    "Problem": lambda s: hs.Problem(s.model, F.cross_entropy, s.data).loss(),
    "Problem of its own loss": lambda s: hs.Problem(_Own(s.model), data=[s.data]).gradient(),
    "Problem.from_closure": lambda s: hs.Problem.from_closure(
        s.model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [s.data]
    ).gradient(),
    "Problem.from_function": lambda s: hs.Problem.from_function(
        lambda t: t.sin().sum(), torch.ones(2, dtype=torch.float64, device=s.device)
    ).gradient(),
    "Problem.loss": lambda s: s.problem.loss(),
    "Problem.gradient": lambda s: s.problem.gradient(),
    "Problem.theta": lambda s: s.problem.theta,
    "Problem.at": lambda s: s.problem.at(s.v).gradient(),
    "Problem.at numbers": lambda s: s.problem.at([0.1] * s.problem.n).theta,
    "Problem.loss_at": lambda s: s.problem.loss_at(s.v),
    "Problem.block": lambda s: s.problem.block("0.*").gradient(),
    "Problem.blocks": lambda s: [block.gradient() for block in s.problem.blocks().values()],
    "Problem.subsample": lambda s: s.problem.subsample(7).loss(),
    "Problem.with_batches": lambda s: s.problem.with_batches([s.data]).loss(),
    "Problem.in_double": lambda s: s.problem.in_double([s.data]).gradient(),
    "Problem.frozen_copy": lambda s: s.problem.frozen_copy().gradient(),
    "Problem.alone": lambda s: _alone(s.problem),
    "Problem.write": lambda s: _written(s.problem.frozen_copy(), s.v),
    "Problem.evaluation": lambda s: _evaluated(s.problem),
    "check_problem": lambda s: hs.check_problem(s.problem),
    "suggest_lr": lambda s: hs.suggest_lr(s.problem, s.optimizer, 8, seed=0),
    "plan": lambda s: hs.plan(s.problem).num_matvecs,
    "diagnose": lambda s: hs.diagnose(s.problem, s.optimizer, effort="quick", seed=0),
    "diagnose, an lr": lambda s: hs.diagnose(s.problem, lr=0.1, effort="quick", seed=0),
    "class_decomposition": lambda s: hs.class_decomposition(s.problem, s.pairs),
    "decompose": lambda s: hs.decompose(s.problem, s.pairs),
    "layer_map": lambda s: hs.layer_map(s.problem),
    "sampling_error": lambda s: hs.sampling_error(s.problem, s.pairs),
    "batch_sharpness": lambda s: hs.batch_sharpness(s.problem, 4, num_batches=4),
    "batch_stability": lambda s: hs.batch_stability(s.problem, 8, rounds=1),
    "escape": lambda s: hs.escape(s.problem),
    "kick": lambda s: hs.kick(s.problem, 0.1, seed=0),
    "interpolate": MADE["line"],
    "loss_path": MADE["path"],
    "loss_slice": MADE["slice"],
    "directions": lambda s: hs.directions(s.problem, "filter", 2),
    "basin": MADE["basin"],
    "sharpness": MADE["measures"],
    "critical_sharpness": lambda s: hs.critical_sharpness(s.problem),
    "trace_penalty": lambda s: _penalty(s, hs.trace_penalty(*_batch(s), 2, seed=0)),
    "spectral_penalty": lambda s: _penalty(
        s, hs.spectral_penalty(*_batch(s), curvature="ggn", seed=0).value
    ),
    "gram_spectrum": lambda s: hs.gram_spectrum(s.problem.subsample(5)).eigenvalues,
    "Monitor": _run,
    "postmortem": lambda s: hs.postmortem(
        s.problem, {i: _moved(s.model, i) for i in range(6)}, quantities=["loss", "lambda_max"]
    ),
}
ALGORITHMS: dict[str, Callable[[Stage], Any]] = {
    "eigsh": lambda s: hs.eigsh(s.hessian, 2, seed=0),
    "spectra": lambda s: hs.spectra(
        s.problem, {1: s.problem.model.state_dict()}, 2, trace_matvecs=8, density_matvecs=12
    ),
    "compare": lambda s: hs.compare(s.density, s.density),
    "Inverse": lambda s: hs.Inverse(s.matrix, 2.0) @ s.matrix[0],
    "solve": lambda s: hs.solve(s.hessian, s.problem.gradient(), 0.5, max_matvecs=12),
    "influence": lambda s: hs.influence(s.problem, s.problem.subsample(4), damping=0.5),
    "eigsh of a matrix": lambda s: hs.eigsh(s.matrix, 3, seed=0),
    "eigsh of an array": lambda s: hs.eigsh(s.matrix.cpu().numpy(), 3, seed=0),
    "spectrum of a matrix": lambda s: hs.spectrum(s.matrix),
    "spectral_density": lambda s: hs.spectral_density(s.hessian, 12, seed=0),
    "trace": lambda s: hs.trace(s.hessian, seed=0),
    "frobenius_norm": lambda s: hs.frobenius_norm(s.hessian, seed=0),
    "diagonal": lambda s: hs.diagonal(s.hessian, 8, seed=0),
    "trace_function": lambda s: hs.trace_function(s.hessian, torch.exp, seed=0),
    "logdet": lambda s: hs.logdet(hs.GaussNewton(s.problem), 1e-2, seed=0),
    "effective_dimension": lambda s: hs.effective_dimension(
        hs.GaussNewton(s.problem), 1e-2, seed=0
    ),
    "conditioning": lambda s: hs.conditioning(s.hessian, seed=0),
    "check_operator": lambda s: hs.check_operator(s.hessian),
    "outliers": lambda s: hs.outliers(s.pairs, 3),
    "verdicts": lambda s: hs.verdicts(s.history),
    "ensemble.initialise": lambda s: (
        hs.ensemble.initialise((3, 4, 3), 3, seed=0, device=s.device).theta
    ),
    "ensemble.losses": lambda s: hs.ensemble.losses(s.nets, *s.wide),
    "ensemble.gradients": lambda s: hs.ensemble.gradients(s.nets, *s.wide),
    "ensemble.hessians": lambda s: hs.ensemble.hessians(s.nets, *s.wide),
    "ensemble.spectra": lambda s: hs.ensemble.spectra(s.nets, *s.wide),
    "ensemble.train": lambda s: hs.ensemble.train(s.nets, *s.wide, lr=0.5, steps=5),
    "rmt.MarchenkoPastur": lambda s: _law(hs.rmt.MarchenkoPastur(0.5)),
    "rmt.Semicircle": lambda s: _law(hs.rmt.Semicircle()),
    "rmt.spikes": lambda s: (
        hs.rmt.additive_spike(2.0),
        hs.rmt.additive_strength(2.5),
        hs.rmt.covariance_spike(4.0, 0.5),
        hs.rmt.covariance_strength(4.5, 0.5),
    ),
    "rmt.saddles": lambda s: (
        hs.rmt.index_curve([1.0, 0.5, 0.25, 0.2], [0.3, 0.2, 0.05, 0.01]),
        hs.rmt.negative_share([1.0, 0.5], 0.1, 0.3),
    ),
}
RESULTS: dict[str, Callable[[Stage], Any]] = {
    "SpectralDensity": lambda s: (
        s.density.count(0.0, 1.0),
        s.density.cdf(0.1),
        s.density.negative(),
        s.density.picture(),
        *s.density.columns().values(),
    ),
    "Spectrum": lambda s: (s.spectrum.count(0.0), s.spectrum.trace, s.spectrum.picture()),
    "Eigenpairs": lambda s: (s.pairs.interval(0), *s.pairs.columns().values()),
    "LayerMap": lambda s: (s.map.frobenius, *s.map.columns().values()),
    "LossLine": lambda s: (s.line.chord, s.line.picture()),
    "Slice": lambda s: (s.slice.second_differences, s.slice.predicted(0), s.slice.picture()),
    "Basin": lambda s: tuple(s.basin.columns().values()),
    "Sharpness": lambda s: s.measures.compare(s.measures),
    "Examination": lambda s: (s.examination.judge(), s.examination.columns()),
    "Examination.to_html": lambda s: _page(s.examination),
    "save and load": lambda s: _kept(s.pairs),
    "History": lambda s: (s.history["loss"].at(1), s.history["loss"].picture()),
    "to_dict": lambda s: s.pairs.to_dict(),
}
FIGURES: dict[str, Callable[[Stage], Any]] = {
    "plots.basin": lambda s: hs.plots.basin(s.basin),
    "plots.contour": lambda s: hs.plots.contour(s.slice),
    "plots.density": lambda s: hs.plots.density(s.density),
    "plots.eigenvalues": lambda s: hs.plots.eigenvalues(s.pairs),
    "plots.eigenvalues_over_checkpoints": lambda s: hs.plots.eigenvalues_over_checkpoints(
        hs.spectra(s.problem, {1: s.problem.model.state_dict()}, 2, density_matvecs=12)
    ),
    "plots.heatmap": lambda s: hs.plots.heatmap(s.matrix),
    "plots.interpolation": lambda s: hs.plots.interpolation(s.line),
    "plots.layer_map": lambda s: hs.plots.layer_map(s.map),
    "plots.line": lambda s: hs.plots.line(s.one_direction),
    "plots.path": lambda s: hs.plots.path(s.path),
    "plots.sharpness": lambda s: hs.plots.sharpness([s.measures, s.measures]),
    "plots.spectra_over_training": lambda s: hs.plots.spectra_over_training(
        [0, 1], [s.density, s.density]
    ),
    "plots.spectrum_histogram": lambda s: hs.plots.spectrum_histogram(s.spectrum),
    "plots.surface": lambda s: hs.plots.surface(s.slice),
}
CALLS: dict[str, Callable[[Stage], Any]] = {
    **{f"{name} @ v": _product(make) for name, make in OPERATORS.items()},
    **{f"spectrum of {name}": _dense(make) for name, make in OPERATORS.items()},
    **PROBLEM,
    **ALGORITHMS,
    **RESULTS,
}


class _Own(nn.Module):
    """A model that computes its own loss."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.body(inputs), labels)


def _written(problem: hs.Problem, theta: Tensor) -> list[Tensor]:
    problem.write(theta)
    return [problem.theta, problem.gradient()]


def _evaluated(problem: hs.Problem) -> list[Any]:
    with problem.evaluation() as e:
        return [e.mean(e.gradient), *[e.outputs(batch)[0].detach() for batch in e.batches]]


def _alone(problem: hs.Problem) -> list[Tensor]:
    with problem.alone() as own:
        return [own.gradient(), hs.Hessian(own) @ own.theta]


def _moved(model: nn.Module, step: int) -> dict[str, Tensor]:
    return {name: tensor * (1 + 0.1 * step) for name, tensor in model.state_dict().items()}


def _batch(s: Stage) -> tuple[Any, ...]:
    return s.model, F.cross_entropy, s.data


def _penalty(s: Stage, value: Tensor) -> list[Tensor]:
    with ExitStack() as stack:
        derivatives_on(stack)
        return [value.detach(), *torch.autograd.grad(value, list(s.model.parameters()))]


def _page(examination: hs.Examination) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return examination.to_html(f"{folder}/page.html").stat().st_size > 10_000


def _kept(result: hs.Result) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return hs.load(hs.save(result, folder))


def _law(law: Any) -> list[Any]:
    sample = law.sample(40)
    return [law.edges, law.density([0.1, 0.5]), law.cdf([0.1, 0.5]), sample, law.fit(sample)]


MEASURED = {"seconds", "took", "check_seconds", "gradient_seconds"}  # by a clock


def numbers(value: Any) -> Iterator[Any]:
    """All numbers and words of a value, in order; no times."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name not in MEASURED and field.name != "facts":
                yield from numbers(getattr(value, field.name))
    elif isinstance(value, dict):
        for key in value:
            if key not in MEASURED:
                yield key
                yield from numbers(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    else:
        yield value


def differences(found: Any, expected: Any, rtol: float = 1e-5) -> list[str]:
    """Where two values differ; numbers by more than rounding in float32 may."""
    ours, theirs = list(numbers(found)), list(numbers(expected))
    if len(ours) != len(theirs):
        return [f"{len(ours)} numbers, {len(theirs)} expected"]
    return [
        f"{a!r:.80} for {b!r:.80}"
        for a, b in zip(ours, theirs, strict=True)
        if not _same(a, b, rtol)
    ]


def _same(a: Any, b: Any, rtol: float) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device or a.is_inference():
            return False
        scale = float(b.abs().max()) if b.numel() and b.is_floating_point() else 0.0
        atol = rtol * scale if math.isfinite(scale) else 0.0
        return torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=rtol, abs_tol=1e-7) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and (a == b)
