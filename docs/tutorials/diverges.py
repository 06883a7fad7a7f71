"""
It diverges
===========

**Situation.** The loss is NaN after a few steps. Is it the learning rate, and which one would do?
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes
from torch.nn import functional as F

import hesscope as hs

data = load_diabetes()
x = 20 * torch.tensor(data.data).float()  # 442 patients, ten standardised features
y = torch.tensor(data.target).float()[:, None]
y = (y - y.mean()) / y.std()


def setup(lr):
    """A network, its optimiser, and what is minimised."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return hs.Problem(model, F.mse_loss, (x, y)), optimizer


def train(problem, optimizer, steps=100):
    """On batches of 64, watched every second step."""
    with hs.Monitor(problem, optimizer, every=2) as monitor:
        for _ in range(steps):
            batch = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            loss = F.mse_loss(problem.model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    return monitor


first = train(*setup(lr=0.5))
for verdict in first.verdicts():
    if verdict.finding:
        print(verdict)

# %%
# **How to read it.** ``lr over its limit`` is the learning rate times the sharpest
# curvature, divided by what momentum 0.9 bears: below 1 steps shrink an error, above it they make
# it grow. It was passed within the first steps, long before the loss was NaN.
#
# **The question, before training.** One look at the untrained network, with the batch size:

problem, optimizer = setup(lr=0.5)
print(hs.diagnose(problem, optimizer, batch_size=64, seed=0).verdict("step size"))
suggested = hs.suggest_lr(problem, optimizer, batch_size=64, seed=0)
print(suggested)

# %%
# **What to do next.** Train with the suggestion.

second = train(*setup(suggested.lr))
print(f"loss {second.history['loss'].last:.3f}")

figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for monitor, label in ((first, "lr 0.5"), (second, f"lr {suggested.lr:.2g}")):
    told = monitor.history["sharpness_over_limit"].finite()
    ax.semilogy(told.steps, told.values, marker=".", label=label)
ax.axhline(1, color="grey", linestyle="--")
ax.set(xlabel="step", ylabel="lr / largest stable lr", ylim=(1e-2, 1e4))
ax.legend()

# sphinx_gallery_start_ignore
assert first.verdicts()[0].key == "divergence"
assert second.history["loss"].last < 1
assert not [v for v in second.verdicts() if v.finding]
# sphinx_gallery_end_ignore

# %%
# The limit holds where the network stands now. Early in training curvature grows by itself, so
# leave room, or warm up; :doc:`which_learning_rate` says how much. What each number means:
# :ref:`step size <verdict-step-size>`.
