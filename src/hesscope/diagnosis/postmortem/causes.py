"""The causes: each a function of the signals, that explains them or says nothing."""

from __future__ import annotations

import math

from hesscope.diagnosis.postmortem.attribution import Crossing, crossing
from hesscope.diagnosis.postmortem.evidence import Evidence
from hesscope.diagnosis.postmortem.signals import (
    DIVIDED_BY_EPS,
    LAG,
    ZEROS,
    layer_alone,
    noisy,
    odd_batch,
)
from hesscope.results.history import History, Series
from hesscope.results.postmortem import Signal
from hesscope.results.verdict import Verdict, known

LAG_SOURCE = "Bai et al. 2025, arXiv 2506.04805; Cohen et al. 2022, section 3"
EDGE_SOURCE = "Cohen, Kaur, Li, Kolter and Talwalkar 2021"
LEAST = 0.5  # of the growth of lr·sharpness: what carries that much has carried it over
LONG = 20  # steps of memory below which second moments keep up, and that a bad lr does not last
MANY = 0.5  # of the examples: a batch of which so many are odd is odd as a whole
FAR = 4.0  # times the median loss of a batch's examples: the odd ones among them
CLIP = "clipping the gradient norm bounds what one batch can do"
SKIP = "skip steps whose loss or gradient is not finite, and look for NaN in the data"
WORST = 3  # examples that are named


def underflow(evidence: Evidence) -> Verdict | None:
    """Half precision has lost gradients or second moments."""
    return lost(evidence.before("gradient_underflow"), evidence.before("moment_underflow"))


def underflow_without_spike(history: History) -> Verdict | None:
    """The same for a run that has not spiked."""
    gradient, moment = (history.get(k).finite() for k in ("gradient_underflow", "moment_underflow"))
    return lost(gradient, moment)


def lost(gradient: Series, moment: Series) -> Verdict | None:
    """The verdict from the two shares over time: the last values count."""
    of_gradient = max(gradient.values.tolist()[-2:], default=0.0)
    of_moment = max(moment.values.tolist()[-2:], default=0.0)
    if of_gradient < ZEROS and of_moment < DIVIDED_BY_EPS:
        return None
    first = min(_first_over(gradient, ZEROS), _first_over(moment, DIVIDED_BY_EPS))
    if of_gradient < ZEROS or of_moment >= of_gradient:
        claim = f"{of_moment:.0%} of the second moments are zero in half precision"
        advice = "keep the optimiser's state in float32, and eps above the least number it can hold"
    else:
        claim = f"{of_gradient:.0%} of the gradient is zero in half precision"
        advice = "scale the loss (torch.amp.GradScaler), or train in bfloat16"
    return _verdict(
        "underflow",
        f"{claim}, from step {first:g} on; the probe data moves these parameters",
        ("gradient_underflow", "share of the gradient lost", of_gradient),
        ("moment_underflow", "share of the second moments lost", of_moment),
        ("first_step", "first step", first),
        against="the same spike with float32 gradients and optimiser state",
        advice=advice,
        source="Micikevicius et al. 2018, mixed precision training, section 3.2",
    )


def bad_batch(evidence: Evidence) -> Verdict | None:
    """One batch was unlike the others while the model was as before."""
    signal = odd_batch(evidence)
    if signal is None:
        return None
    of_loss = evidence.strictly_before("batch_loss_excess").last
    of_gradient = evidence.strictly_before("batch_gradient_excess").last
    named = _examples(evidence.history, signal.step)
    finite = math.isfinite(signal.value)
    return _verdict(
        "bad_batch",
        f"the batch of step {signal.step}: {signal.label}, {signal.value:.3g}, while the probe "
        f"data was as before{named if finite else '; it gives nothing finite'}",
        (signal.key, signal.label, signal.value),
        ("step", "step", float(signal.step)),
        ("batch_loss", "loss of the batch", evidence.strictly_before("batch_loss").last),
        ("batch_loss_errors", "its excess in standard errors", of_loss),
        ("batch_gradient_times", "its gradient over the usual", of_gradient),
        against="a spike at the same step with that batch left out",
        advice="look at that batch's inputs and labels, leave it out, go on from the checkpoint "
        "before; " + (CLIP if finite else SKIP),
    )


def layer(evidence: Evidence) -> Verdict | None:
    """One layer left its place, and not because its gradient grew with the whole's instability."""
    signal, over = layer_alone(evidence), crossing(evidence)
    if signal is None or signal.step > evidence.onset:
        return None
    name, _, what = signal.key.removeprefix("layer/").rpartition("/")
    if what == "update" and over is not None and _pushed(evidence, name, signal):
        return None
    return _verdict(
        "layer",
        f"layer {name} first: {signal.label} grew {signal.value:.3g} times by step {signal.step}, "
        "the other layers did not",
        (signal.key, signal.label, signal.value),
        ("step", "step", float(signal.step)),
        against=f"the same spike with {name} frozen",
        advice=f"look at the lr, the initialisation and the normalisation of {name}; lower its lr "
        "in a parameter group of its own, or clip its update",
    )


def _pushed(evidence: Evidence, name: str, signal: Signal) -> bool:
    """Whether the gradient of a layer has grown as its step has: then its step only follows."""
    gradient = evidence.history.get(f"layer/{name}/gradient_norm").finite()
    earlier = gradient.between(-math.inf, signal.step - 1).values
    if not len(earlier) or not float(earlier.median()) > 0:
        return True
    grown = gradient.at(signal.step) / float(earlier.median())
    return grown > 1 and math.log(grown) >= LEAST * math.log(signal.value)


def warm_up(evidence: Evidence) -> Verdict | None:
    """The lr was still rising when it went over what the curvature bears."""
    over = crossing(evidence)
    if over is None or not over.is_warm_up:
        return None
    if not over.from_the_start and over.of_lr < LEAST * over.total:
        return None
    top = evidence.before("lr").last
    return _verdict(
        "warm_up",
        f"the warm-up is too fast: at step {over.step} the learning rate goes over what is stable, "
        f"while it is still rising (to {top:.3g} at the onset)",
        *_crossed(over),
        ("lr", "lr at the onset", top),
        against="the same spike with a warm-up several times as long",
        advice=f"warm up over more steps, or keep the peak of the lr below {top / over.last:.2g}",
        source="Kalra and Barkeshli 2024, arXiv 2406.09405",
    )


def preconditioner_lag(evidence: Evidence) -> Verdict | None:
    """The second moments of an adaptive optimiser remember gradients that are no more."""
    memory = evidence.before("preconditioner_memory").last
    over, behind = (
        crossing(evidence),
        max(evidence.before("preconditioner_lag").values.tolist()[-3:], default=0.0),
    )
    if not memory >= LONG or over is None:
        return None
    if over.from_the_start and int(evidence.history.steps[0]) < LONG:
        return None
    if over.of_lr >= LEAST * over.total:
        return None
    if over.of_preconditioner < LEAST * over.total and behind < LAG:
        return None
    return _verdict(
        "preconditioner_lag",
        f"the optimiser's scales lag behind: they remember {memory:.4g} steps, the gradient is "
        f"{behind:.2g} times what they remember, and at step {over.step} the learning rate goes "
        "over what is stable",
        *_crossed(over),
        ("preconditioner_lag", "gradient over its memory", behind),
        ("preconditioner_memory", "memory of the second moments in steps", memory),
        against="the same spike at a smaller β₂, with the same lr",
        advice="take a smaller β₂ (0.95 for 0.999) or a lower lr; skipping or clipping updates "
        "bounds the damage",
        source=LAG_SOURCE,
    )


def lr_too_high(evidence: Evidence) -> Verdict | None:
    """Steps longer than the curvature bears."""
    over = crossing(evidence)
    if over is None:
        return None
    lr = evidence.before("lr").last
    since = "from the first check on" if over.from_the_start else f"from step {over.step} on"
    return _verdict(
        "lr_too_high",
        f"the learning rate is too large for the curvature: over what is stable {since}, "
        f"{over.last:.3g} times it at most",
        *_crossed(over),
        ("lr", "lr at the onset", lr),
        against="the same spike at a lr below its limit",
        advice=f"keep lr below {lr / over.last:.2g} here, or warm up to this one",
        source=EDGE_SOURCE,
    )


def noise(evidence: Evidence) -> Verdict | None:
    """Nothing went over a limit, and batches differ by more than the gradient itself."""
    signal = noisy(evidence)
    if signal is None or crossing(evidence) is not None:
        return None
    return _verdict(
        "noise",
        f"the luck of the batches: the noise of the mean gradient is {signal.value:.3g} times its "
        "norm, and no limit was passed",
        ("gradient_noise_ratio", "noise over gradient", signal.value),
        against="the same spike with other batches, or with larger ones",
        advice="larger batches or a lower lr; hs.batch_stability says what this batch size bears",
    )


def unknown(evidence: Evidence) -> Verdict:
    """What is said where nothing explains the excursion."""
    measured = "sharpness_over_limit" in evidence.history
    without = "" if measured else "; what is stable is not known without the optimiser's state"
    return Verdict(
        "cause",
        f"undecided: no signal came before the loss moved at step {evidence.onset}{without}",
        confidence="undecided",
        advice="checkpoints closer to the onset, the optimiser's states, and the batch of the step "
        "before it",
        key="unknown",
    )


CAUSES = (underflow, bad_batch, layer, warm_up, preconditioner_lag, lr_too_high, noise)
"""From the most specific on: one that explains why leaves the next as its consequence."""


def _crossed(over: Crossing) -> tuple[tuple[str, str, float], ...]:
    parts = (over.of_lr, over.of_curvature, over.of_preconditioner)
    shares = [round(part / over.total, 9) if over.total > 0 else math.nan for part in parts]
    return (
        ("crossing_step", "step at which it passes the limit", float(over.step)),
        ("sharpness_over_limit", "lr over its limit", over.last),
        ("share_of_lr", "share of its growth from the lr", shares[0]),
        ("share_of_curvature", "from λmax", shares[1]),
        ("share_of_preconditioner", "from the preconditioner", shares[2]),
    )


def _examples(history: History, step: int) -> str:
    """The odd examples of a batch under suspicion, in words."""
    known_at = history.results.get("batch_examples", {})
    losses = next((known_at[s] for s in sorted(known_at, reverse=True) if s <= step), None)
    if not isinstance(losses, Series) or len(losses) < 2:
        return ""
    values = losses.values
    usual = history.get("loss").at(step)
    odd = ~(values <= FAR * usual)
    if float(odd.double().mean()) >= MANY:
        return (
            f"; {int(odd.sum())} of its {len(values)} examples have more than {FAR:g} times the "
            "loss of the probe data: as a whole it is corrupted, or its labels are not its own"
        )
    if not bool(odd.any()):
        return ""
    worst = values.argsort(descending=True)[: min(WORST, int(odd.sum()))].tolist()
    places = ", ".join(str(i) for i in worst)
    return f"; {int(odd.sum())} of its {len(values)} examples are far off, the worst are {places}"


def _first_over(series: Series, limit: float) -> float:
    beyond = series.steps[series.values >= limit]
    return float(beyond[0]) if len(beyond) else math.inf


def _verdict(
    key: str,
    claim: str,
    *numbers: tuple[str, str, float],
    against: str,
    advice: str,
    source: str = "",
) -> Verdict:
    return Verdict(
        "cause",
        claim,
        **known(*numbers),
        assumptions=(
            "the probe data stands for what is trained on",
            f"would be contradicted by {against}",
        ),
        advice=advice,
        source=source,
        finding=True,
        key=key,
    )
