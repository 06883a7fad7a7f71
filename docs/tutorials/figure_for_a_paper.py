"""
A figure for a paper
====================

**Situation.** A column-wide figure of a Hessian's spectrum before and after training, whose
numbers can be defended.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import hesscope as hs

digits = load_digits()
x = torch.tensor(digits.data / 16)
y = torch.tensor(digits.target)
torch.manual_seed(0)
layers = torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)
model = torch.nn.Sequential(*layers).double()
problem = hs.Problem(model, F.cross_entropy, (x, y))
H = hs.Hessian(problem)  # of wherever the model stands

before = hs.spectral_density(H, max_matvecs=100, seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for _ in range(300):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
after = hs.spectral_density(hs.Hessian(problem), max_matvecs=100, seed=0)
print(after)

# %%
# **How to read it.** 100 products do not give 1,810 eigenvalues. They give intervals that hold
# the counts, and the outliers one by one. ``within ±tau`` counts what cannot be told from zero; a
# paper has to state this tau.
#
# **The figure.** ``paper_style`` sets width and letters; any figure of ``hs.plots`` draws on the
# axes it is given.

with hs.plots.paper_style(width="column"):
    figure, ax = plt.subplots(layout="constrained")
    hs.plots.density(before, kind="curve", ax=ax, label="at initialisation", color="C0")
    hs.plots.density(after, kind="curve", ax=ax, label="trained", color="C1")
    figure.savefig("/dev/null", format="pdf")  # or "spectrum.pdf"

# %%
# The curve is the picture that everybody draws: nodes smoothed by a Gaussian whose width the axis
# states. It shows mass where no eigenvalue is. Beside it belongs what holds: counts per bin with
# their intervals, hatched where there may be none.

ax = hs.plots.density(after, kind="counts")

# %%
# **What to do next.** This network is small enough to check the picture against every eigenvalue:

exact = hs.spectrum(hs.Hessian(problem))
for low, high in ((-1e9, -1e-4), (-1e-4, 1e-4), (1e-4, 1e9)):
    truth, said = exact.count(low, high), after.count(low, high)
    print(f"{truth} eigenvalues in [{low:g}, {high:g}]; said: {said.low:.0f} to {said.high:.0f}")

# sphinx_gallery_start_ignore
for low, high in ((-1e9, -1e-4), (-1e-4, 1e-4), (1e-4, 1e9)):
    assert exact.count(low, high) in after.count(low, high)
# sphinx_gallery_end_ignore

# %%
# ``hs.save(after, folder)`` keeps the result with its seed, cost and provenance, and the figure
# can be drawn again from it without the model. What is proven and what is a picture:
# :doc:`/spectra`.
