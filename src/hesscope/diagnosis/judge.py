"""All verdicts on one look, from its record alone: a table of rules, one row a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hesscope.diagnosis.conditioning import conditioning
from hesscope.diagnosis.convexity import convexity
from hesscope.diagnosis.critical_point import VISIBLE, critical_point
from hesscope.diagnosis.data import data
from hesscope.diagnosis.headline import without_echoes
from hesscope.diagnosis.initialisation import initialisation
from hesscope.diagnosis.labels import labels
from hesscope.diagnosis.layers import layers
from hesscope.diagnosis.learning_rate import learning_rate
from hesscope.diagnosis.learnt import learnt
from hesscope.diagnosis.memorised import memorised
from hesscope.diagnosis.model_fault import model_fault
from hesscope.diagnosis.noise import noise
from hesscope.diagnosis.outliers import outliers
from hesscope.diagnosis.outputs import outputs
from hesscope.diagnosis.smoothness import smoothness
from hesscope.diagnosis.step_size import step_size
from hesscope.diagnosis.stuck import stuck
from hesscope.diagnosis.through_time import through_time
from hesscope.diagnosis.trained_layers import trained_layers
from hesscope.results.learning_rate import LearningRate
from hesscope.results.measurements import Measurements
from hesscope.results.verdict import Verdict


@dataclass(frozen=True)
class Rule:
    """How one verdict follows from the numbers.

    Where a quantity that it needs is missing the verdict is undecided and says why; where the look
    did not go that far there is none.
    """

    key: str
    name: str
    needs: tuple[str, ...]
    judge: Callable[[Measurements], Verdict]

    def verdict(self, look: Measurements) -> Verdict | None:
        """The verdict on this look, if it has one."""
        why = [look.missing[key] for key in self.needs if key in look.missing]
        if why:
            claim = f"undecided: {why[0]}"
            return Verdict(self.name, claim, confidence="undecided", key=self.key)
        return self.judge(look) if all(key in look for key in self.needs) else None


def judge(look: Measurements) -> tuple[Verdict, ...]:
    """The verdicts in the order in which a reader wants them; pure, nothing is measured.

    A fault that `check_problem` has found makes all numbers doubtful, and is then the only verdict.

    >>> from hesscope.results.step import Step
    >>> [v.claim for v in judge(Measurements({"step": Step(1.0, 0.5, 0.5, 0.0)}))]
    ['safe at this point up to lr 4 = 2/λmax; ...']
    """
    check = look.get("check")
    if check is not None and not check.ok:
        return (model_fault(check),)
    verdicts = (rule.verdict(look) for rule in RULES)
    return without_echoes([verdict for verdict in verdicts if verdict is not None])


def _outputs(look: Measurements) -> Verdict:
    stats = look.get("layers")
    return outputs(look["predictions"], () if stats is None else stats.zero_weights)


def _memorised(look: Measurements) -> Verdict:
    return memorised(look["loss"], look["held_out_loss"], look.get("constant_loss", math.nan))


def _step_size(look: Measurements) -> Verdict:
    descent = look.get("descent")
    noisy = descent is not None and descent.gradient_norm <= VISIBLE * descent.gradient_noise
    return step_size(look["step"], look.get("batch_stability"), _suggested(look), noisy=noisy)


def _conditioning(look: Measurements) -> Verdict:
    descent, step = look["descent"], look.get("step")
    critical = descent.gradient_norm <= max(descent.rounding, descent.tolerance)
    unclear = critical or step is None or step.cancels
    return conditioning(
        look["conditioning"],
        look.get("gradient_in_top", math.nan),
        (len(look["eigenpairs"]) + 1) // 2,
        lr=None if step is None or step.adaptive else step.lr or None,  # 0 says nothing
        gradient_curvature=math.nan if unclear else step.g_dot_Hg / step.g_dot_g,
        feature_ratio=look.get("feature_ratio", math.nan),
    )


def _noise(look: Measurements) -> Verdict:
    descent = look["descent"]
    return noise(
        descent.gradient_norm,
        descent.gradient_noise,
        look["num_examples"],
        look.asked.get("batch_size"),
        look.get("sampling_error"),
        look.get("unit", "examples"),
    )


def _suggested(look: Measurements) -> LearningRate:
    descent, size = look.get("descent"), look.asked.get("batch_size")
    return learning_rate(
        look["step"],
        math.nan if descent is None else descent.gradient_noise,
        look.get("num_examples", math.nan),
        size if look.get("unit", "examples") == "examples" else None,
        look.get("batch_stability"),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "learnt",
        "learnt?",
        ("loss", "constant_loss"),
        lambda look: learnt(
            look["loss"], look["constant_loss"], look.get("predictions"), look.get("trained")
        ),
    ),
    Rule("memorised", "memorised?", ("loss", "held_out_loss"), _memorised),
    Rule(
        "critical_point",
        "minimum?",
        ("descent", "curvature"),
        lambda look: critical_point(look["descent"], look["curvature"]),
    ),
    Rule(
        "stuck_high",
        "stuck high",
        ("loss", "constant_loss", "descent", "curvature"),
        lambda look: stuck(
            look["loss"],
            look["constant_loss"],
            look["descent"],
            look["curvature"],
            look.get("density"),
        ),
    ),
    Rule(
        "step_size",
        "step size",
        ("step",),
        _step_size,
    ),
    Rule(
        "data",
        "data",
        ("data_summary",),
        lambda look: data(look["data_summary"], look.get("feature_ratio", math.nan)),
    ),
    Rule("labels", "labels", ("neighbours",), lambda look: labels(look["neighbours"])),
    Rule("outputs", "outputs", ("predictions",), _outputs),
    Rule(
        "trained_layers",
        "what trains",
        ("trained",),
        lambda look: trained_layers(look["trained"]),
    ),
    Rule("conditioning", "conditioning", ("descent", "conditioning", "eigenpairs"), _conditioning),
    Rule("layers", "layers", ("layers",), lambda look: layers(look["layers"])),
    Rule(
        "through_time",
        "through time",
        ("time_signals",),
        lambda look: through_time(look["time_signals"]),
    ),
    Rule(
        "initialisation",
        "initialisation",
        ("signals",),
        lambda look: initialisation(look["signals"]),
    ),
    Rule("noise", "noise", ("descent", "num_examples"), _noise),
    Rule(
        "convexity",
        "convexity",
        ("curvature",),
        lambda look: convexity(look["curvature"], look.get("convexity_probes")),
    ),
    Rule("outliers", "outliers", ("outliers",), lambda look: outliers(look["outliers"])),
    Rule("smoothness", "smoothness", ("smoothness",), lambda look: smoothness(look["smoothness"])),
)
