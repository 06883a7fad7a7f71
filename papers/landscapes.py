"""Loss landscapes: what stays the same from network to network, and what connects minima.

python papers/landscapes.py            all parts; resumes
python papers/landscapes.py --tiny     the same in seconds, for tests
"""

from common.study import Part, Study, run
from land import architecture, bulk, classes, connected, surface, symmetries
from land.sizes import TINY, Sizes

HEAD = """What an essay on loss landscapes says of all networks, asked of small ones in float64,
whose Hessians are known to the last eigenvalue: perceptrons, a CNN and a transformer, on digits, on
text, on a table and on a function, by SGD and Adam. Ranges are median [least, most] over seeds."""

STUDY = Study(
    name="landscapes",
    title="Landscapes: bulk, outliers, symmetries and connected minima",
    head=HEAD,
    parts={
        "surface": Part("The surface", surface.measure),
        "bulk": Part("The bulk everywhere", bulk.measure),
        "architecture": Part("What moves the bulk and what moves the top", architecture.measure),
        "connected": Part("From one minimum to another", connected.measure),
        "symmetries": Part("Zeros, symmetries and the number of examples", symmetries.measure),
        "classes": Part("Outliers and classes", classes.measure),
        "categories": Part("Other categories", classes.categories),
    },
    full=Sizes(),
    tiny=TINY,
)

if __name__ == "__main__":
    run(STUDY)
