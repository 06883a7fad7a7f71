"""
It plateaus
===========

**Situation.** The loss sits at one value and nothing moves. Is this a minimum, a saddle, a step
that is too small, or a network that is dead?
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import hesscope as hs

digits = load_digits()
x = torch.tensor(digits.data[:800]).float()
x = x[:, x.std(0) > 0.8]
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(digits.target[:800])

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(x.shape[1], 32), torch.nn.Tanh(),
    torch.nn.Linear(32, 32), torch.nn.Tanh(),
    torch.nn.Linear(32, 10),
)  # fmt: skip
with torch.no_grad():
    for parameter in model.parameters():
        parameter.mul_(0.02)  # the slip: initial weights fifty times too small
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []


def train(steps):
    """Gradient descent on all examples."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())


train(300)
print(f"first {losses[0]:.4f}, last {losses[-1]:.4f}")

# %%
# **The question.**

problem = hs.Problem(model, F.cross_entropy, (x, y))
examined = hs.diagnose(problem, optimizer, seed=0)
print(examined.headline)
print()
print(examined.verdict("minimum?"))

# %%
# **How to read it.** The headline names the cause: the outputs are alike whatever the input, so
# the loss is that of a constant answer, at chance level. And it is no minimum: ``λmin`` is
# negative, beyond its error, so there is a direction along which the loss curves down. Gradient
# descent hardly sees it, because the gradient is tiny there; that is what a saddle looks like
# from inside.
#
# **What to do next.** Start again with larger weights, as the headline says. Or leave from here:
# ``hs.escape`` walks along the direction of negative curvature, and says what it predicted and
# what it measured.

way_out = hs.escape(problem, seed=0)
print(way_out)
problem.write(way_out.theta)
train(300)
print(f"last {losses[-1]:.4f}")

figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
ax.plot(losses)
ax.axvline(300, color="grey", linestyle="--", label="escape")
ax.set(xlabel="step", ylabel="loss")
ax.legend()

# sphinx_gallery_start_ignore
assert examined.headline.cause == "collapse"
assert examined.verdict("minimum?").evidence["lambda_min"] < 0
assert losses[-1] < 0.8 * losses[299]
# sphinx_gallery_end_ignore

# %%
# The same question in a run that is watched is answered by the verdict ``plateau``. All words of
# the answer: :ref:`minimum? <verdict-critical-point>`, :ref:`collapse <cause-collapse>`.
