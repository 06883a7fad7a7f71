"""
Which learning rate?
====================

**Situation.** A new network, an optimiser, and no idea of the scale of the learning rate. A sweep
costs a day.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import hesscope as hs

digits = load_digits()
x = torch.tensor(digits.data / 16).float()
y = torch.tensor(digits.target)
make = {
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "Adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
}


def setup(name, lr=1e-3):
    """A network, its optimiser, and what is minimised."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    model = torch.nn.Sequential(*layers)
    return hs.Problem(model, F.cross_entropy, (x, y)), make[name](model.parameters(), lr=lr)


def train(problem, optimizer, steps):
    """On batches of 128."""
    torch.manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        F.cross_entropy(problem.model(x[batch]), y[batch]).backward()
        optimizer.step()
    return problem.loss()


found = {}
for name in make:
    problem, optimizer = setup(name)
    found[name] = hs.suggest_lr(problem, optimizer, batch_size=128, seed=0)
    print(found[name])

# %%
# **How to read it.** The suggestion is the smaller of two things: half of the limit above which
# repeated steps grow, and the single step that lowers the loss most when the noise of such
# batches is counted in. ``limited_by`` says which. Adam has no second moments before its first
# step, so its limit is not known (nan) and the first step alone speaks. The cost is a few dozen
# gradients.
#
# **Is it right?** Here a sweep is cheap: 100 steps from the start at multiples of the suggestion.

factors = [1 / 64, 1 / 16, 1 / 4, 1, 4, 16]
figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name in make:
    losses = [train(*setup(name, factor * found[name].lr), 100) for factor in factors]
    ax.loglog(factors, losses, marker="o", label=f"{name}, suggested {found[name].lr:.2g}")
    print(name, [f"{loss:.3g}" for loss in losses])
ax.axvline(1, color="grey", linestyle="--")
ax.set(xlabel="multiple of the suggested learning rate", ylabel="loss after 100 steps")
ax.legend()

# %%
# On this network the suggestion is the best of the six. It is not always so near. With
# ``batch_size`` the limit is a safe side, and while Adam has seen few gradients it can be far on
# the safe side:

problem, optimizer = setup("Adam")
train(problem, optimizer, 20)
for batch_size in (None, 128):
    again = hs.suggest_lr(problem, optimizer, batch_size=batch_size, seed=0)
    print(f"batch_size={batch_size}: lr {again.lr:.2g}, limited by {again.limited_by}")

# %%
# **What to do next.** Begin at the suggestion, and ask again after a few hundred steps: curvature
# changes as training goes on. For a class of optimiser of your own no limit is known;
# ``hs.critical_sharpness`` then measures from which multiple of its own next step on the loss
# rises, by six losses.

problem, optimizer = setup("Adam", found["Adam"].lr)
train(problem, optimizer, 20)
print(hs.critical_sharpness(problem, optimizer))

# sphinx_gallery_start_ignore
for name in make:
    losses = [train(*setup(name, factor * found[name].lr), 100) for factor in (1 / 64, 1, 16)]
    assert losses[1] < losses[0], (name, losses)
    assert losses[1] < losses[2], (name, losses)
# sphinx_gallery_end_ignore

# %%
# The formulas and how far they hold: :ref:`step size <verdict-step-size>`.
