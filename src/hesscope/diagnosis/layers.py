"""Does every layer learn? Gradients that vanish or explode, and layers that dominate or are dead.

The thresholds were set between what healthy networks show and what planted faults show; the
figures in the comments are from networks at torch's initial weights (2 to 8 layers; ReLU, tanh,
GELU, SiLU, softplus), trained to a loss of 1e-6, small convolutional and transformer networks.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, field

from hesscope.diagnosis import words
from hesscope.results.layers import LayerStatistics, UnitStatistics, listed
from hesscope.results.verdict import Verdict, known

SOURCE = (
    "vanishing and exploding gradients: Glorot and Bengio 2010, He, Zhang, Ren and Sun 2015; "
    "dead units: Lu, Shin, Su and Karniadakis 2020"
)
# One learning rate serves all layers: at this ratio the first layer makes one step of a given size
# while the last one makes 30,000, as many as a usual run has. Healthy: at most 10^4.2 (eight
# softplus layers); eight sigmoid layers: 10^5.6; twenty: 10^12. From SLOW on it is remarked upon.
ORDERS, SLOW = 4.5, 2.0
# From the output of the first layer to that of the last but one (the last one's is in the units of
# the targets). Healthy and trained: at most 50.
SIGNAL_GROWTH = 1e4
# A layer that multiplies white inputs by 4, in a network of five or more: 4^5 = 1,000. He's
# initialisation has 1.4; trained networks at most 3.2 (sigmoid: 5, for its slope is 1/4, so that
# one sign of an explosion is asked for besides).
LARGE_GAIN, DEEP = 4.0, 5
SIGNS = {"signal": 10.0, "orders": 1.5, "saturated": 0.5}
# One layer's gain against the median of the others. Healthy: at most 4; planted: 1,000.
OUTSTANDING = 30.0
# The largest gradient entry (rms) against the second largest among matrix layers. Healthy: 30.
DOMINATES = 1e3
# Trained ReLU networks have up to 40 % dead units in a layer, small convolutions at their initial
# weights 60 %, but most of those only just, and they revive: only units count that are further from
# life than their inputs range. A share in few units, or over few values, is chance. Where the units
# that live are mostly always on, depth has made the layer blind to its inputs: that is the fault of
# the initial weights, not of dead units.
MANY_DEAD, ENOUGH_UNITS, ENOUGH_SEEN = 0.5, 16, 32
NEARLY_ALL = 0.9  # dead: then it does not matter by how much, the few left are a bottleneck
# Of the largest gradient rms; such layers are named, without alarm: queries and keys of attention
# at small initial weights, or weights whose effect a normalisation takes out.
HARDLY = 1e-6
# Hidden tanh or sigmoid layers; trained networks reach 70 %.
SATURATED = 0.9

LABELS = {
    "gradient_rms_first": "rms gradient, first third",
    "gradient_rms_last": "rms gradient, last third",
    "gradient_growth": "per layer towards the input",
    "signal_growth": "growth of hidden signals",
    "largest_gain": "largest gain",
    "largest_dead_share": "largest dead share",
    "largest_saturated_share": "largest saturated share",
    "unused_parameters": "unused parameters",
    "dead_inputs": "dead inputs",
    "top_vector_share": "largest share of the top eigenvector",
}


@dataclass
class _Notes:
    """What was found, in the order of its weight, and what is only worth a remark."""

    findings: list[tuple[str, str]] = field(default_factory=list)  # claim, advice
    remarks: list[str] = field(default_factory=list)


def layers(stats: LayerStatistics) -> Verdict:
    """The verdict "layers" from norms per layer and idle units.

    A finding is a dead layer, a gradient that falls or grows by more than 4.5 orders of magnitude
    between the two ends of the network, signals that explode, one layer whose weights or gradient
    stand out from all others, half of a layer dead, or hidden units saturated nearly always.
    Unused parameters, dead inputs and single dead units are remarked upon and are no finding.
    Undecided where the whole gradient is zero.

    >>> import torch, hesscope as hs
    >>> from hesscope.anatomy.layer_statistics import layer_statistics
    >>> p = hs.Problem.from_function(lambda t: (t**2).sum(), torch.tensor([3.0, 4.0]))
    >>> layers(layer_statistics(p, p.gradient())).claim
    'one layer: nothing to compare'
    """
    evidence = _evidence(stats)
    total = float(stats.gradient_norm.square().sum())
    if total == 0:
        return _verdict(
            "undecided: the gradient is exactly zero, so layers cannot be compared",
            evidence,
            "if this is not the optimum: look for dead units, zero weights or a loss that is flat "
            "for all examples; at other parameters or on other data the layers can be told apart",
            confidence_undecided=True,
        )
    notes = _Notes()
    if not math.isfinite(total):
        names = [n for n, g in zip(stats.layers, stats.gradient_norm, strict=True) if not g < 1e300]
        advice = "lower the learning rate or the initial weights; look for overflow in these layers"
        notes.findings.append((f"the gradient of {words.layers(names)} is not finite", advice))
    else:
        cut_off = _dead_layers(stats, notes)
        _ends(stats, evidence, notes, explained=cut_off or bool(stats.zero_weights))
        _outstanding(stats, notes)
        _dead_and_saturated(stats, notes)
    _remarks(stats, notes)
    return _conclude(stats, notes, evidence)


def _conclude(stats: LayerStatistics, notes: _Notes, evidence: dict[str, float]) -> Verdict:
    remarks = "; ".join(notes.remarks)
    if notes.findings:
        claim = "; ".join(claim for claim, _ in notes.findings)
        advice = "; ".join(dict.fromkeys(advice for _, advice in notes.findings))
        return _verdict(claim, evidence, f"{advice} ({remarks})" if remarks else advice, True)
    claim = _healthy(stats)
    return _verdict(f"{claim}; {remarks}" if remarks else claim, evidence, "")


def _healthy(stats: LayerStatistics) -> str:
    order = stats.in_depth(matrices=False)
    learning = [i for i in order if float(stats.gradient_norm[i]) > 0]
    first, last = _end_sizes(stats)
    if len(order) < 2:
        return "one layer: nothing to compare"
    every = len(learning) == len(order)
    claim = f"{f'all {len(order)}' if every else f'{len(learning)} of {len(order)}'} layers learn"
    if first > 0 and last > 0:
        claim += f": gradient entries of {first:.2g} in the first ones and {last:.2g} in the last"
    return claim


def _verdict(
    claim: str,
    evidence: dict[str, float],
    advice: str,
    finding: bool = False,
    confidence_undecided: bool = False,
) -> Verdict:
    return Verdict(
        key="layers",
        name="layers",
        claim=claim,
        **known(*((key, LABELS[key], value) for key, value in evidence.items())),
        assumptions=(
            "gradients and units on the given data at these parameters",
            "the order of layers is that of the first forward pass",
        ),
        confidence="undecided" if confidence_undecided else "measured",
        advice=advice,
        source=SOURCE,
        finding=finding,
    )


# The numbers


def _evidence(stats: LayerStatistics) -> dict[str, float]:
    first, last = _end_sizes(stats)
    hidden = [u.saturated for u in stats.units if u.hidden and not math.isnan(u.saturated)]
    gains = [float(stats.gain[i]) for i in stats.in_depth()]
    evidence = {
        "gradient_rms_first": first,
        "gradient_rms_last": last,
        "gradient_growth": 10 ** -_slope(stats),
        "signal_growth": _signal_growth(stats),
        "largest_gain": max(gains, default=math.nan),
        "largest_dead_share": max((u.share_dead for u in stats.units), default=math.nan),
        "largest_saturated_share": max(hidden, default=math.nan),
        "unused_parameters": float(len(stats.unused)),
        "dead_inputs": float(len(stats.dead_inputs)),
    }
    if stats.curvature_share is not None:
        evidence["top_vector_share"] = float(stats.curvature_share.max())
    return evidence


def _end_sizes(stats: LayerStatistics) -> tuple[float, float]:
    """The largest gradient rms in the first and in the last third of all layers, by depth.

    The largest, because within a block they differ for good reasons (queries and keys of attention
    learn slowly at first), and gradient that reaches any of them has not vanished on its way.
    """
    order = stats.in_depth(matrices=False)
    placed = tuple(i for i in order if stats.depth[i] >= 0) or order
    third = max(1, len(placed) // 3)
    rms = [float(stats.gradient_rms[i]) for i in placed]
    if len(rms) < 2:
        return math.nan, math.nan
    return max(rms[:third]), max(rms[-third:])


def _slope(stats: LayerStatistics) -> float:
    """Orders of magnitude of the gradient rms per matrix layer towards the output (Theil-Sen)."""
    rms = [float(stats.gradient_rms[i]) for i in stats.in_depth()]
    known = [(at, math.log10(r)) for at, r in enumerate(rms) if 0 < r < math.inf]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(known, 2)]
    return statistics.median(slopes) if slopes else math.nan


def _signal_growth(stats: LayerStatistics) -> float:
    signals = [float(stats.signal[i]) for i in stats.in_depth()[:-1]]
    signals = [s for s in signals if s > 0]
    return signals[-1] / signals[0] if len(signals) > 1 else math.nan


# The judgements


def _dead_layers(stats: LayerStatistics, notes: _Notes) -> bool:
    """Layers all of whose units are dead; the last one first, for it cuts off those before it."""
    dead = [u for u in stats.units if u.num and len(u.dead) == u.num]
    if not dead:
        return False
    names = list(dict.fromkeys(u.layer or u.activation for u in reversed(dead)))
    order = stats.in_depth(matrices=False)
    still = [i for i in order if float(stats.gradient_norm[i]) == 0]
    sizes = f"all {dead[-1].num} units" if len(names) == 1 else "all units"
    claim = f"{sizes} of {words.layers(names)} are dead: their output never changes"
    if still:
        claim += f"; {len(still)} of {len(order)} layers get no gradient"
    advice = (
        f"no training revives {words.layer(names[0])}: reset its bias to 0 and its weights (He's "
        "initialisation), lower the learning rate that has killed it, or use a leaky ReLU"
    )
    notes.findings.append((claim, advice))
    return True


def _ends(
    stats: LayerStatistics, evidence: dict[str, float], notes: _Notes, explained: bool
) -> None:
    """Gradients that vanish or explode between the two ends, and signals that explode."""
    first, last = _end_sizes(stats)
    if math.isnan(first) or (explained and 0 in (first, last)):
        return
    orders = _orders(last, first)
    depth, rate = len(stats.in_depth()), evidence["gradient_growth"]
    if orders >= ORDERS:
        by = "to nothing" if math.isinf(orders) else f"by 10^{orders:.1f}"
        claim = f"vanishing gradients: they fall {by} from the last layers to the first"
        if depth > 2 and not math.isnan(rate):
            claim += f", by a factor {rate:.2g} at each layer"
        claim += ", so the first layers hardly learn"
        advice = (
            "He's (ReLU) or Glorot's (tanh) initialisation, normalisation or skip connections, "
            "ReLU or GELU in place of sigmoid; or a learning rate per layer that grows towards "
            "the input (Adam does about that)"
        )
        notes.findings.append((claim, advice))
        return
    if orders >= SLOW:
        notes.remarks.append(f"gradients fall by 10^{orders:.1f} from the last layers to the first")
    growth = evidence["signal_growth"]
    if -orders >= ORDERS or growth >= SIGNAL_GROWTH or _amplifies(stats, growth, -orders):
        gains = statistics.median([float(stats.gain[i]) for i in stats.in_depth()] or [math.nan])
        claim = f"exploding: each layer makes its inputs about {words.plain(gains)} times larger"
        claim += f"; over the depth signals grow {words.plain(growth)} times" if growth > 1 else ""
        claim += f", gradients 10^{-orders:.1f} times towards the input" if orders < 0 else ""
        advice = (
            "initialise with smaller weights (He's: standard deviation √(2/inputs); Glorot's for "
            "tanh), add normalisation, and clip the gradient norm until then"
        )
        notes.findings.append((claim, advice))


def _orders(last: float, first: float) -> float:
    if first == 0 or last == 0:
        return math.inf if last > 0 else -math.inf
    return math.log10(last / first)


def _amplifies(stats: LayerStatistics, growth: float, orders: float) -> bool:
    """A deep network with large weights throughout, and a sign that they do harm."""
    gains = [float(stats.gain[i]) for i in stats.in_depth()]
    if len(gains) < DEEP or statistics.median(gains) < LARGE_GAIN:
        return False
    tanh = [u.saturated for u in stats.units if u.hidden and u.activation.startswith("Tanh")]
    saturated = statistics.median(tanh) if tanh else 0.0
    return growth >= SIGNS["signal"] or orders >= SIGNS["orders"] or saturated >= SIGNS["saturated"]


def _outstanding(stats: LayerStatistics, notes: _Notes) -> None:
    """One layer whose weights, or else whose gradient, are out of proportion."""
    order = stats.in_depth()
    if len(order) < 2:
        return
    if all(float(stats.gain[i]) == 0 for i in order):
        claim = f"the weights of all {len(order)} layers are exactly zero: all units are the same"
        notes.findings.append((claim, "draw the initial weights at random (He's or Glorot's)"))
        return
    gains = {i: float(stats.gain[i]) for i in order}
    i = max(gains, key=lambda i: gains[i])
    others = statistics.median([gain for j, gain in gains.items() if j != i])
    if gains[i] >= OUTSTANDING * max(others, 1.0):
        name = stats.layers[i]
        claim = (
            f"the weights of {words.layer(name)} are out of proportion: it makes its inputs "
            f"{words.plain(gains[i])} times larger, the other layers {words.plain(others)} times"
        )
        advice = (
            f"initialise {words.layer(name)} like the others (scale its weights by about "
            f"{max(others, 1.0) / gains[i]:.1g}); if it must be so (large targets, tiny inputs), "
            "bring the data to a standard deviation of 1"
        )
        notes.findings.append((claim, advice))
        return
    rms = sorted(((float(stats.gradient_rms[i]), i) for i in order), reverse=True)
    if not notes.findings and rms[1][0] > 0 and rms[0][0] >= DOMINATES * rms[1][0]:
        name, ratio = stats.layers[rms[0][1]], rms[0][0] / rms[1][0]
        claim = (
            f"{words.layer(name)} dominates: its gradient entries are {words.plain(ratio)} times "
            "those of any other"
        )
        advice = (
            f"give {words.layer(name)} a learning rate about {1 / ratio:.1g} times that of the "
            "others, or bring what it is fed with to a standard deviation of 1"
        )
        notes.findings.append((claim, advice))


def _dead_and_saturated(stats: LayerStatistics, notes: _Notes) -> None:
    many = [u for u in stats.units if _many_dead(u)]
    if many:
        worst = max(many, key=lambda u: u.share_dead)
        share = words.share(worst.share_dead)
        claim = f"{share} of the units are dead: {'; '.join(map(_idle, many[:3]))}"
        advice = (
            f"a lower learning rate, He's initialisation with bias 0, or a leaky ReLU after "
            f"{words.layer(worst.layer)}; or a narrower layer, if the fit is good"
        )
        notes.findings.append((claim, advice))
    for units in stats.units:
        if units.hidden and units.saturated >= SATURATED and units.num >= ENOUGH_UNITS:
            where = words.layer(units.layer)
            claim = (
                f"{words.share(units.saturated)} of {units.activation} after {where} is saturated"
            )
            advice = f"smaller weights in {where}, or normalisation before the activation"
            notes.findings.append((claim, advice))


def _idle(units: UnitStatistics) -> str:
    """Which units, as a reader says it."""
    never = "change" if units.activation.startswith(("Tanh", "Sigmoid", "Hardsig")) else "fire"
    some = f"{len(units.dead)} of {units.num} units never {never}"
    return f"{words.layer(units.layer)}: {some} ({listed(units.dead)})"


def _many_dead(units: UnitStatistics) -> bool:
    alive = units.num - len(units.dead)
    if alive == 0 or units.num < ENOUGH_UNITS or units.num_seen < ENOUGH_SEEN:
        return False
    far = units.far_dead >= MANY_DEAD * units.num and units.always_on < alive / 2
    return far or units.share_dead >= NEARLY_ALL


def _remarks(stats: LayerStatistics, notes: _Notes) -> None:
    remarks = notes.remarks
    if stats.unused:
        remarks.append(f"the loss does not use {listed(stats.unused)}: connect or freeze them")
    still = [n for n in stats.zero_gradient if n not in stats.unused]
    if still and stats.zero_weights:
        remarks.append(
            f"{listed(still)} get no gradient yet, for {listed(stats.zero_weights)} start at zero"
        )
    largest = float(stats.gradient_rms.max())
    weak = [
        name
        for name, rms in zip(stats.layers, stats.gradient_rms, strict=True)
        if 0 < float(rms) < HARDLY * largest
    ]
    if weak and not notes.findings:
        remarks.append(
            f"{words.layers(weak)} hardly learn (gradient below {HARDLY:g} of the largest)"
        )
    few = [u for u in stats.units if u.dead and len(u.dead) < u.num and not _many_dead(u)]
    if few:
        remarks.append("; ".join(map(_idle, few[:3])))
    if stats.dead_inputs:
        remarks.append(
            f"inputs {listed(stats.dead_inputs)} (of {stats.num_inputs}) are always zero, so their "
            "weights do not matter"
        )
