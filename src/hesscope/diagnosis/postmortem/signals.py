"""The signals: which quantities have left their places, and since when."""

from __future__ import annotations

import math
from statistics import median

from hesscope.diagnosis.postmortem.evidence import Evidence
from hesscope.results.history import Series
from hesscope.results.postmortem import Signal

EDGE = 1.0  # of lr·sharpness over its limit
LAG = 3.0  # of ‖g‖ over what the second moments remember of it
ZEROS = 0.2  # the share of the gradient lost to underflow that matters
DIVIDED_BY_EPS = 0.01  # and that of second moments: a few such parameters carry a run away
NOISE = 3.0  # of the noise of the mean gradient over its norm
JUMP, OTHERS = 5.0, 1.7  # a layer's growth from its usual place, and what the others may do
BATCH_ERRORS, BATCH_TIMES = 6.0, 3.0  # standard errors of its loss, and times its usual gradient
RECENT = 3  # checks before the onset in which an odd batch is looked for
ODD, CALM = 4.0, 2.0  # times the usual: of the odd batch, and of the probe data beside it
OWN = 2.0  # times the growth of the layer that comes next


def signals(evidence: Evidence) -> tuple[Signal, ...]:
    """All of them, earliest first."""
    own = (
        evidence.over("sharpness_over_limit", EDGE, "lr over its limit"),
        evidence.over("preconditioner_lag", LAG, "gradient over its memory"),
        evidence.over("gradient_underflow", ZEROS, "share of the gradient that underflows"),
        evidence.over("moment_underflow", DIVIDED_BY_EPS, "share of second moments that underflow"),
        evidence.grown("update_norm", "update norm"),
        evidence.grown("gradient_norm", "gradient norm"),
        evidence.grown("lambda_max", "λmax"),
        noisy(evidence),
        odd_batch(evidence),
        layer_alone(evidence),
        evidence.grown("lr", "lr"),
    )
    return tuple(sorted((s for s in own if s is not None), key=lambda signal: signal.step))


def noisy(evidence: Evidence) -> Signal | None:
    """Where the noise of the mean gradient is several times its norm."""
    noise, norm = evidence.before("gradient_noise"), evidence.before("gradient_norm")
    ratios = _ratio(noise, norm)
    found = [(step, x) for step, x in ratios.items() if x > NOISE]
    if not found or len(found) < len(ratios) / 2:
        return None
    step, _ = found[0]
    largest = max(x for _, x in found)
    return Signal("gradient_noise", "noise over gradient", step, largest, NOISE)


def odd_batch(evidence: Evidence) -> Signal | None:
    """A batch unlike the others: the suspect's excess, or what training met before the onset."""
    return _suspect(evidence) or _odd_among_training(evidence)


def _suspect(evidence: Evidence) -> Signal | None:
    """The batch under suspicion, as it looked to the model before the loss moved."""
    for key, label, limit in (
        ("batch_gradient_excess", "the batch's gradient over that of others", BATCH_TIMES),
        ("batch_loss_excess", "the batch's loss in standard errors", BATCH_ERRORS),
    ):
        seen = evidence.history.get(key).between(-math.inf, evidence.onset - 1)
        seen = seen if len(seen) else evidence.before(key)
        if len(seen) and seen.last > limit:
            return Signal(key, label, int(seen.steps[-1]), seen.last, limit)
    return None


def _odd_among_training(evidence: Evidence) -> Signal | None:
    """The loss or gradient of one step far off, where that of the probe data was as before.

    What training met the step before must be usual: a run that leaves its course does so by and by.
    """
    for key, probe, label in (
        ("training_gradient_norm", "gradient_norm", "gradient of one batch over the usual"),
        ("train_loss", "loss", "loss of one batch over the usual"),
    ):
        calm = evidence.before(probe)
        excesses = _excesses(evidence.history.get(key), calm, evidence.onset)
        if len(excesses) < 2 * RECENT:
            continue
        earlier = [x for _, x in excesses[:-RECENT]]
        usual, most = median(earlier), max(earlier)
        place = max(range(-RECENT, 0), key=lambda i: excesses[i][1])
        (_, last), (step, value) = excesses[place - 1 :][:2]
        odd = value > max(ODD * usual, 1.5 * most) and last <= max(CALM * usual, most)
        if odd and _is_calm(calm, step):
            return Signal(key, label, step, value / usual, ODD)
    return None


def _excesses(trained: Series, calm: Series, onset: int) -> list[tuple[int, float]]:
    """(step, what training met over what the probe data had at the check before), up to the onset.

    Infinite where it is not finite.
    """
    before = trained.between(-math.inf, onset - 1)
    pairs = zip(before.steps.tolist(), before.values.tolist(), strict=True)
    return [
        (step, x / calm.at(step) if math.isfinite(x) else math.inf)
        for step, x in pairs
        if calm.at(step) > 0
    ]


def _is_calm(calm: Series, step: int) -> bool:
    """Whether the probe data was as before at this step."""
    earlier = calm.between(-1, step - 1).values.tolist()[-2 * RECENT :]
    return bool(earlier) and calm.at(step) <= CALM * median(earlier)


def layer_alone(evidence: Evidence) -> Signal | None:
    """A layer whose step (over its weights) or weights have left their place, and no other's.

    Compared are the growths from the usual place (the median of the checks before) at the first
    check at which any layer has grown by a factor of five: later on, all of them do. It has to stay
    there up to the onset.
    """
    weights = evidence.layers("weight_norm")
    updates = evidence.layers("update_norm")
    relative = {
        name: _over(series, weights[name]) for name, series in updates.items() if name in weights
    }
    found = [
        _first_alone(group, what, evidence.onset)
        for what, group in (("update", relative), ("weight norm", weights))
    ]
    return min((s for s in found if s is not None), key=lambda s: s.step, default=None)


def _first_alone(group: dict[str, Series], what: str, onset: int) -> Signal | None:
    if len(group) < 2:
        return None
    steps = next(iter(group.values())).steps.tolist()
    for i in range(2, len(steps)):
        growths = {name: _growth(series, i) for name, series in group.items()}
        name = max(growths, key=lambda one: growths[one])
        others = sorted(growth for other, growth in growths.items() if other != name)
        if growths[name] < JUMP:
            continue
        if median(others) > OTHERS or growths[name] < OWN * others[-1]:
            return None
        rest = [j for j in range(i, len(steps)) if steps[j] < onset]
        if any(_growth(group[name], j, i) < JUMP for j in rest):
            return None
        return Signal(f"layer/{name}/{what}", f"{what} of {name}", steps[i], growths[name], JUMP)
    return None


def _growth(series: Series, i: int, first: int | None = None) -> float:
    """The value at a place over the median of those before, or before another place."""
    if i >= len(series):
        return 0.0
    values = series.values.tolist()
    usual = median(values[: i if first is None else first])
    return values[i] / usual if usual > 0 else 0.0


def _over(series: Series, other: Series) -> Series:
    shared = [step for step in series.steps.tolist() if other.at(step) > 0]
    inside = [step in shared for step in series.steps.tolist()]
    values = [series.at(step) / other.at(step) for step in shared]
    kept = series.steps[[i for i, yes in enumerate(inside) if yes]]
    return Series(kept, series.values.new_tensor(values))


def _ratio(over: Series, under: Series) -> dict[int, float]:
    return {s: over.at(s) / under.at(s) for s in over.steps.tolist() if under.at(s) > 0}
