"""Does training move the layers that it has to move, the last one above all?"""

from __future__ import annotations

from hesscope.diagnosis import words
from hesscope.results.sanity import Trained
from hesscope.results.verdict import Verdict, known

SOURCE = "requires_grad of the parameters, and the parameter groups of the optimiser"


def trained_layers(t: Trained) -> Verdict:
    """The verdict "what trains".

    A finding where the last layer stays as it is while others move: frozen, not held by the
    optimiser, or held with learning rate 0. Earlier layers that stay are how networks are tuned.

    >>> trained_layers(Trained("head", ("head",), (), 3, float("nan"))).claim
    'the head is frozen: training cannot change the last one, layer "head"'
    """
    claim, cause, advice = _judge(t)
    return Verdict(
        key="trained_layers",
        name="what trains",
        claim=claim,
        **known(
            ("layers", "layers", float(t.num_layers)),
            ("frozen", "of them frozen", float(len(t.frozen))),
            ("unmoved", "left alone by the optimiser", float(len(t.unmoved))),
        ),
        assumptions=("the layer that runs last makes the outputs",),
        confidence="proven",
        advice=advice,
        source=SOURCE,
        finding=bool(cause),
        cause=cause,
    )


def _judge(t: Trained) -> tuple[str, str, str]:
    still = len(set(t.frozen) | set(t.unmoved))
    if t.head in t.frozen and still < t.num_layers:
        return (
            f"the head is frozen: training cannot change the last one, {words.layer(t.head)}",
            "frozen_head",
            f"set requires_grad of {words.layer(t.head)} to True and give it to the optimiser; "
            "where features are reused, it is the earlier layers that stay frozen",
        )
    if t.head in t.unmoved and still < t.num_layers:
        return (
            f"the optimiser does not move the head: it does not hold the last one, "
            f"{words.layer(t.head)}, or with learning rate 0",
            "unheld_head",
            "make the optimiser after the last change of the model, from model.parameters()",
        )
    parts = []
    if t.frozen:
        parts.append(f"{len(t.frozen)} of {t.num_layers} frozen: {words.layers(t.frozen)}")
    if t.unmoved:
        parts.append(f"the optimiser leaves alone {words.layers(t.unmoved)}")
    every = f"all {t.num_layers} layers" if t.num_layers != 1 else "the only layer"
    return "; ".join(parts) or every, "", "right if you have meant it so" if parts else ""
