"""H = G + R: where the Gauss-Newton part dominates, and what that is good for.

python papers/decomposition.py            all parts; resumes
python papers/decomposition.py --tiny     the same in seconds, for tests
"""

from common.study import Part, Study, run
from split import kernel, linear, penalty, training
from split.sizes import TINY, Sizes

HEAD = """The Hessian of a network's loss is a positive part G, which the slopes of the outputs make
(Gauss-Newton), and a residual R, which their curvatures make. How large is R along training, at
minima, and in wide networks? And where the outputs are linear in each layer, what is left of the
claim that minima are global? Ranges are median [least, most] over seeds; ± is a 95 % interval."""

STUDY = Study(
    name="decomposition",
    title="H = G + R: Gauss-Newton, the tangent kernel and deep linear networks",
    head=HEAD,
    parts={
        "training": Part("G and R along training", training.measure),
        "kernel": Part("The width, and the tangent kernel", kernel.measure),
        "linear": Part("Deep linear networks", linear.measure),
        "penalty": Part("A penalty on one layer's G", penalty.measure),
    },
    full=Sizes(),
    tiny=TINY,
)

if __name__ == "__main__":
    run(STUDY)
