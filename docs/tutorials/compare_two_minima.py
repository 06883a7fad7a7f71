"""
Compare two minima
==================

**Situation.** The same network, trained with small and with large batches. Which one is flatter,
and are the two in one valley?
"""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import hesscope as hs

digits = load_digits()
x = torch.tensor(digits.data / 16).float()
y = torch.tensor(digits.target)
x, y, unseen = x[:1200], y[:1200], (x[1200:], y[1200:])


def train(batch, lr, seed, target=0.1):
    """Until the loss on all training examples is at the target: sharpness falls with the loss."""
    torch.manual_seed(seed)
    layers = torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(4000):
        if F.cross_entropy(model(x), y) < target:
            return model
        i = torch.randint(len(x), (batch,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    msg = f"the loss did not come to {target}"
    raise RuntimeError(msg)


small, large = train(batch=16, lr=0.2, seed=1), train(batch=600, lr=0.2, seed=2)
at_small = hs.Problem(small, F.cross_entropy, (x, y))
at_large = hs.Problem(large, F.cross_entropy, (x, y))

# %%
# **Which is flatter?** Nine measures, as ratios of the two networks.

a, b = hs.sharpness(at_small, seed=0), hs.sharpness(at_large, seed=0)
print(a.compare(b))

# %%
# **How to read it.** There are ratios because the training losses agree to 10 %; where they do
# not, the answer is that the networks cannot be compared. The measures disagree: by λmax and
# trace the network of small batches is the flatter one, by the Keskar measures, which are lower
# bounds that were climbed for, the sharper one. So a paper has to say which it means. All but
# ASAM change when weights are rescaled so that the network stays the same function, and none of
# them is generalisation: for that there is the held-out loss.

for name, problem in (("small batches", at_small), ("large batches", at_large)):
    print(f"{name}: held-out loss {hs.Problem(problem.model, F.cross_entropy, unseen).loss():.3f}")

# %%
# **Are they in one valley?** The straight line between them meets a barrier. But hidden units
# have no order: with ``match=True`` those of the second network are permuted towards the first,
# and then a curve is trained.

found = hs.loss_path(at_small, small, large, match=True, num_steps=200, num_points=21, seed=0)
ax = hs.plots.path(found)
for name in ("line", "matched", "curve"):
    print(f"{name:8} barrier {getattr(found, name).barrier:.3f}")

# sphinx_gallery_start_ignore
assert a["λmax"].value < b["λmax"].value
assert a["trace"].value < b["trace"].value
assert a["Keskar box"].value > b["Keskar box"].value
assert found.curve.barrier < found.matched.barrier < found.line.barrier
# sphinx_gallery_end_ignore

# %%
# **What to do next.** One pair of networks is an anecdote: over seeds, at equal loss, see
# :doc:`/papers/flatness`. A barrier on a line says nothing of other paths; that of the curve is
# an upper bound of the lowest there is. More: :doc:`/landscapes`.
