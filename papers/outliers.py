"""The largest eigenvalues: three levels, the gradient among them, and walks with and without.

python papers/outliers.py            all parts; resumes
python papers/outliers.py --tiny     the same in seconds, for tests
"""

from common.study import Part, Study, run
from top import gradient, levels, walks
from top.sizes import TINY, Sizes

HEAD = """A few eigenvalues stand above the bulk. Papyan (2020) explains them by the classes,
Gur-Ari, Roberts and Dyer (2018) find the gradient among their eigenvectors, and Song, Ahn and Yun
(2024) find that training happens elsewhere. Here in small networks on digits. Ranges are median
[least, most] over seeds."""

STUDY = Study(
    name="outliers",
    title="Outliers: classes, gradients, and walks in the top directions and in the others",
    head=HEAD,
    parts={
        "levels": Part("Three levels", levels.measure),
        "gradient": Part("The gradient in the top subspace", gradient.measure),
        "walks": Part("Top only, bulk only", walks.measure),
        "rates": Part("Rates of their own for the top directions", walks.rates),
    },
    full=Sizes(),
    tiny=TINY,
)

if __name__ == "__main__":
    run(STUDY)
