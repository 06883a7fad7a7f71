"""
My loss spikes
==============

**Situation.** Training went well, then the loss jumped. There are checkpoints of the weights and
of the optimiser, and no other record of the run.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import hesscope as hs

digits = load_digits()
x = torch.tensor(digits.data[:800] / 16).float()
y = torch.tensor(digits.target[:800])
weights, states = {}, {}  # the checkpoints, by step


def train(schedule, steps=220):
    """Momentum on batches of 128, a checkpoint every 10 steps."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for step in range(steps):
        if step % 10 == 0:
            weights[step] = copy.deepcopy(model.state_dict())
            states[step] = copy.deepcopy(optimizer.state_dict())
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        scheduler.step()
    return hs.Problem(model, F.cross_entropy, (x, y))


# The schedule has a slip: from step 150 on the learning rate grows, and nothing stops it.
problem = train(lambda step: 0.05 * max(1, step - 149))

# %%
# **The question.** ``hs.postmortem`` measures loss, gradient, curvature and step at each
# checkpoint, on a copy of the model, and looks for what left its place *before* the loss did.

found = hs.postmortem(problem, weights, optimizers=states, seed=0)
print(found)

# %%
# **How to read it.** The lines of dots are the time axis, filled from the step on at which a
# signal had left its place for good. The learning rate moves first. Then ``lr over its limit``
# passes 1, and at the same checkpoint the loss has risen: what lies within ten steps cannot be
# ordered by checkpoints that are ten steps apart. The causes come from the most specific to the
# most general; the first is the one to act on. Each verdict says how much of the growth came from
# the learning rate and how much from the curvature itself.

run = found.history
figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6.4, 4.2), layout="constrained")
above.semilogy(run["loss"].steps, run["loss"].values)
above.set_ylabel("loss")
ratio = run["sharpness_over_limit"]
below.semilogy(ratio.steps, ratio.values, color="C3")
below.axhline(1, color="grey", linestyle="--", label="steps grow above")
below.set(xlabel="step", ylabel="lr / largest stable lr")
below.legend()

# sphinx_gallery_start_ignore
assert found.cause == "warm_up", found.cause
assert found.signals[0].key == "lr"
# sphinx_gallery_end_ignore

# %%
# **What to do next.** End the rise well below the peak that the verdict names, here at 0.5, and
# see whether the spike is gone.

problem = train(lambda step: min(0.5, 0.05 * max(1, step - 149)))
again = hs.postmortem(problem, weights, optimizers=states, seed=0)
print(f"loss {problem.loss():.3f}")
print(again)

# sphinx_gallery_start_ignore
assert again.kind == "none"
# sphinx_gallery_end_ignore

# %%
# Where nothing explains a spike the answer is *undecided*, and says what would decide it:
# checkpoints closer to the onset, the optimiser's states, or the batch of that step (``batch=``).
# All causes: :doc:`/postmortem`; what each asks for: :ref:`after a spike <spike-warm-up>`.
