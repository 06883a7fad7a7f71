"""
What the numbers mean
=====================

For somebody who trains networks and has never met an eigenvalue. No formula here is longer than a
line, and every number is one that this page computes.
"""

import matplotlib.pyplot as plt
import torch

import hesscope as hs

# %%
# **A loss is a landscape.** A network with n parameters has a loss above each point of an
# n-dimensional space. Nobody can look at that, but along one straight line everybody can: from
# where the network stands, walk a distance t in some direction, and the loss is a curve over t.
# Near t = 0 it has a *slope* (how fast it changes) and a *curvature* (how fast the slope
# changes). Take two parameters and a loss that is steep along the first and gentle along the
# second:


def valley(theta):
    """A long valley: curvature 10 along the first parameter, 0.5 along the second."""
    return 0.5 * (10 * theta[0] ** 2 + 0.5 * theta[1] ** 2)


problem = hs.Problem.from_function(valley, torch.tensor([0.8, 2.5], dtype=torch.float64))
H = hs.Hessian(problem)
found = hs.spectrum(H)
print("eigenvalues:", [round(value, 6) for value in found.eigenvalues.tolist()])

t = torch.linspace(-3, 3, 121)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
grid = torch.stack(torch.meshgrid(t, t, indexing="xy"))
left.contour(t, t, valley(grid), levels=12, cmap="Blues_r")
to = {"arrowstyle": "<-"}
left.annotate("sharp", (0, 0), (1.2, -0.1), arrowprops=to)
left.annotate("flat", (0, 0), (-0.25, 2.3), arrowprops=to)
left.set(xlabel="first parameter", ylabel="second parameter", title="the loss from above")
right.plot(t, 5 * t**2, color="C3", label="along the sharp direction: 10")
right.plot(t, 0.25 * t**2, color="C0", label="along the flat one: 0.5")
right.set(xlabel="distance", ylabel="loss", ylim=(0, 8), title="the loss along two lines")
right.legend(loc="upper center", framealpha=1)

# sphinx_gallery_start_ignore
assert torch.allclose(found.eigenvalues, torch.tensor([0.5, 10.0], dtype=torch.float64))
# sphinx_gallery_end_ignore

# %%
# **The Hessian** H is the table from which the curvature along any direction can be read: it is
# v·Hv for a direction v of length 1. **Eigenvectors** are the directions that do not interfere
# with one another: walk along one and the slope along the others stays as it is. Their curvatures
# are the **eigenvalues**. There are n of them, and together they are the *spectrum*. The largest
# is **λmax**, also called the *sharpness*; the least is **λmin**. Their unit is loss per squared
# parameter.
#
# **λmax and 2/lr.** One step of gradient descent multiplies the distance to the bottom, along a
# direction of curvature λ, by 1 - lr λ. Below lr = 1/λ it creeps, at 1/λ it jumps right to the
# bottom, above it overshoots and comes back, and above 2/λ it overshoots by more than it came
# from, at every step. The sharpest direction is the first to do so: hence the limit 2/λmax.
# (Momentum and Adam have limits of their own: see :ref:`step size <verdict-step-size>`.)

figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for product in (0.3, 1.0, 1.8, 2.1):
    distances = [(1 - product) ** step for step in range(13)]
    ax.plot(distances, marker=".", label=f"lr · λ = {product}")
ax.axhline(0, color="grey", linewidth=0.8)
ax.set(xlabel="step", ylabel="distance from the bottom", ylim=(-3.5, 3.5))
ax.legend()

optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
print(hs.diagnose(problem, optimizer, seed=0).verdict("step size").claim)

# %%
# **Why training is slow.** The learning rate has to suit the sharpest direction; the flat ones
# then creep. In this valley lr is at most 2/10, and along the flat direction a step at half of
# that takes away 5 % of the distance. The ratio of the largest curvature to a small one is the
# **condition number** κ, here 20; at lr = 1/λmax descent needs about κ steps to gain a factor of
# three. In networks some curvatures are so near zero that nobody can tell them from it, so there
# is no one κ: hesscope gives ratios to stated quantiles, and *infinite* where eigenvalues are
# zero.
#
# **Negative curvature.** Where an eigenvalue is negative, the loss along that direction is a hill
# and not a bowl: on either side it goes down. A point without slope and with a negative
# eigenvalue is a **saddle** and no minimum. Networks nearly always have some negative
# eigenvalues; they matter where training stands still.

saddle = hs.Problem.from_function(
    lambda theta: 0.5 * (theta[0] ** 2 - 0.2 * theta[1] ** 2) + theta[1] ** 4,
    torch.zeros(2, dtype=torch.float64),
)
print(hs.diagnose(saddle, lr=0.1, seed=0).verdict("minimum?").claim)

# sphinx_gallery_start_ignore
assert "saddle" in hs.diagnose(saddle, lr=0.1, seed=0).verdict("minimum?").claim
# sphinx_gallery_end_ignore

# %%
# **Zero.** A zero eigenvalue says that the loss does not curve in that direction; how far it
# stays flat is another question (``hs.basin``). A computer cannot tell zero from very small, so
# every count of zeros states its threshold, tau.
#
# **Numbers on the whole spectrum.**
#
# ====================  ===============================================================
# number                in words
# ====================  ===============================================================
# trace                 the sum of all eigenvalues: n times the curvature along a random
#                       direction
# Frobenius norm        the root of the sum of their squares: the size of the matrix
# effective rank        the sum of all eigenvalues, signs left out, over the largest: how
#                       many directions carry the curvature
# outliers, bulk        few large eigenvalues apart from the many near zero; in
#                       classifiers often about as many as classes, less one
# density               a histogram of all eigenvalues, from products alone
# ====================  ===============================================================
#
# **How sure?** No eigenvalue of a large network is known exactly. An interval λ ± residual
# certainly holds one; a *certificate* says how probable it is that one was skipped; a standard
# error says how much of a number is the luck of random vectors, and a *data error* how much is
# the luck of the examples. *Proven*, *certified*, *measured* and *undecided* are what a verdict
# can be: :doc:`/verdicts`.
#
# **What they do not say.** Curvature is that of this point, on this data. Rescale the weights of
# a ReLU network so that it stays the same function, and λmax changes. Flat is not the same as
# generalising: :doc:`/papers/flatness`.
