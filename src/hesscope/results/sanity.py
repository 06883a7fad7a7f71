"""What comes before curvature: outputs, data, and which parts of a network are trained at all."""

from __future__ import annotations

from dataclasses import dataclass

from hesscope.results.result import Result


@dataclass(frozen=True)
class Predictions(Result):
    """What the outputs do over a sample of the data, beside what no network is needed for."""

    num_examples: int
    size: float  # rms of the outputs; of logits, of what is left without their mean over classes
    spread: float  # rms of the same around the mean output of the sample
    target_spread: float  # rms of the targets around theirs; NaN for labels
    accuracy: float  # share of labels that are the largest output; NaN without labels
    guessing: float  # share of the commonest label; NaN without labels
    probabilities: bool  # outputs lie in [0, 1] throughout, and the loss takes them for logits


@dataclass(frozen=True)
class DataSummary(Result):
    """A sample of the data as the model and the loss are given it."""

    num_examples: int
    features: int  # numbers in an example's input; 0 where it is no floating tensor
    size: float  # rms of the inputs; NaN where they are not known
    off_centre: float  # median over features of |mean| over standard deviation
    same_inputs: bool  # all examples have one input
    same_targets: bool  # all examples have one target
    target: float  # its size then; NaN otherwise
    labels: bool  # targets are labels of classes
    telling: int  # features that tell the target alone
    telling_feature: int  # the one that tells most of it; -1 where none is known
    told: float  # share of the target's variance that this feature tells
    copied: float  # share of target tokens that equal the input token in their place
    normalised: bool  # the model has normalisation layers


@dataclass(frozen=True)
class Neighbours(Result):
    """Labels beside those of the nearest examples (standardised inputs, plain distance)."""

    num_examples: int
    decided: int  # examples whose neighbours agree on a label, beyond chance
    contradicted: tuple[int, ...]  # of them, those that bear another label: their places


@dataclass(frozen=True)
class Trained(Result):
    """Which layers training moves."""

    head: str  # the last layer with a matrix in the forward pass; empty where there is none
    frozen: tuple[str, ...]  # layers without a parameter that requires gradients
    unmoved: tuple[str, ...]  # layers that the optimiser does not hold, or with learning rate 0
    num_layers: int
    steps: float  # that the optimiser has made; NaN where it does not count them


@dataclass(frozen=True)
class TimeSignal(Result):
    """The gradient with respect to what a recurrent layer is given, along the sequence."""

    layer: str
    length: int
    first: float  # rms at the first step
    last: float
    largest: float
