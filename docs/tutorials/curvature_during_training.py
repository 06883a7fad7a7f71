"""
Curvature during training
=========================

**Situation.** How does curvature change while a network trains, and who decides how sharp it
gets?
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import hesscope as hs

digits = load_digits()
x = torch.tensor(digits.data[:300] / 16).float()
y = F.one_hot(torch.tensor(digits.target[:300]), 10).float()


def run(lr, steps=2400):
    """Full-batch gradient descent, looked at every 60 steps."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 24), torch.nn.Tanh(), torch.nn.Linear(24, 10)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    problem = hs.Problem(model, F.mse_loss, (x, y))
    with hs.Monitor(problem, optimizer, every=60) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    return monitor


runs = {lr: run(lr) for lr in (0.45, 0.8)}
for lr, monitor in runs.items():
    print(f"lr {lr}")
    for verdict in monitor.verdicts():
        print(verdict)

# %%
# **How to read it.** Nothing here is a finding: these are things that networks do. λmax rises as
# the loss falls (*progressive sharpening*). At lr 0.8 it meets 2/lr, the dashed line, and stays
# there (*edge of stability*); at lr 0.45 the line lies higher, and λmax is still on its way. So
# the learning rate decides how sharp the network gets. Each check costs about five products,
# since it starts from the eigenvector of the one before.

figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6.4, 4.4), layout="constrained")
for i, (lr, monitor) in enumerate(runs.items()):
    history = monitor.history
    above.semilogy(history["loss"].steps, history["loss"].values, color=f"C{i}", label=f"lr {lr}")
    below.plot(history["lambda_max"].steps, history["lambda_max"].values, color=f"C{i}")
    below.axhline(2 / lr, color=f"C{i}", linestyle="--")
above.set_ylabel("loss")
below.set(xlabel="step", ylabel="λmax")
above.legend()

# sphinx_gallery_start_ignore
keys = {lr: {verdict.key for verdict in monitor.verdicts()} for lr, monitor in runs.items()}
assert "progressive_sharpening" in keys[0.45]
assert "edge_of_stability" in keys[0.8]
# sphinx_gallery_end_ignore

# %%
# **What to do next.** Leave the monitor on: ``overhead=0.05`` holds it to 5 % of the time,
# ``to="run/"`` writes the numbers as they come, ``hesscope watch run/`` shows them live. What
# each verdict asks for: :ref:`on a run <verdict-edge-of-stability>`; callbacks of trainers:
# :doc:`/watching`.
