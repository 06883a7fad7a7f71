"""Sagun, Bottou and LeCun (2016) driven further: 70 hidden units, and gradients that vanish.

python papers/critical.py           all parts; resumes
python papers/critical.py --tiny    the same in seconds, for tests
"""

from common.study import Part, Study, run
from driven import far, narrow, small, wide, width
from driven.sizes import TINY, Sizes

HEAD = """What [the page of all figures](sagun2016.md) left open: the exact spectrum of 70 hidden
units, and the networks that gradient descent does not drive to the gradient norm that the paper
names, 0.0001. Can they be driven there, by what, and what is there? Everything is in float64.
Ranges are median [least, most] over starts. The paper does not state its step sizes: where a
minimum has the largest eigenvalue λmax, descent with constant steps can only stay if lr < 2/λmax,
which is all that can be inferred of them."""

STUDY = Study(
    name="critical",
    title="Sagun 2016 driven further",
    head=HEAD,
    parts={
        "width": Part("Figure 1 up to 70 hidden units, exactly", width.measure),
        "small": Part("Small networks, driven to where the gradient vanishes", small.measure),
        "far": Part("Minima at infinity", far.measure),
        "wide": Part("Random inputs", wide.measure),
        "narrow": Part("784-2-10 after convergence", narrow.measure),
    },
    full=Sizes(),
    tiny=TINY,
)

if __name__ == "__main__":
    run(STUDY)
