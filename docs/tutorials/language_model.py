"""
A language model
================

**Situation.** A transformer that computes its own loss. Can its curvature be measured at all,
what does it look like, and is the step right?
"""

import argparse
import inspect

import torch
from transformers import GPT2Config, GPT2LMHeadModel, logging

import hesscope as hs

logging.set_verbosity_error()
text = inspect.getsource(argparse).encode()[: 32 * 1024]  # bytes of a text that Python ships with
tokens = torch.tensor(list(text)).view(-1, 32)
tokens = tokens[torch.randperm(len(tokens), generator=torch.manual_seed(0))]
train, unseen = tokens[:992], tokens[992:]
torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=256, n_positions=32, n_embd=32, n_layer=1, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)


def descend(steps):
    """On batches of 16 lines of 32 bytes."""
    for _ in range(steps):
        batch = train[torch.randint(len(train), (16,))]
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


descend(300)

# %%
# **Bring it.** No loss is given: the model has its own. What it averages over is measured and
# printed.


def problem_of(rows):
    """What is minimised, in batches of 16."""
    return hs.Problem(model, data=[{"input_ids": b, "labels": b} for b in rows.split(16)])


problem = problem_of(train[:32])
print(problem)

# %%
# **The question.** With the optimiser as it stands, and data that it has not seen.

examined = hs.diagnose(problem, optimizer, effort="quick", held_out=problem_of(unseen), seed=0)
print(examined.headline)
print()
for name in ("learnt?", "memorised?", "step size"):
    print(f"{name:12} {examined.verdict(name).claim}")

# %%
# **How to read it.** Chance level is what the frequencies of the bytes alone would give.
# Something was learnt, and as much on unseen text. The limit of AdamW is one of ``P⁻¹H``, the
# curvature as Adam's own scaling sees it. What is *undecided* asks for more examples than these
# 32 lines.
#
# **What to do next.** What it says: go on training.

before = problem_of(unseen).loss()
descend(50)
print(f"unseen text: {before:.3f} before, {problem_of(unseen).loss():.3f} fifty steps later")

# %%
# **Which layers are sharp?** A layer is a smaller problem, so everything works on it. And the
# spectrum of the whole:

for name in ("transformer.wte", "transformer.h.0.mlp.c_fc"):
    top = hs.eigsh(hs.Hessian(problem.block(name + ".*")), k=1, tol=0.05, verify=False, seed=0)
    print(f"{name:32} λmax = {float(top.eigenvalues[0]):.3g} ± {float(top.residuals[0]):.1g}")

density = hs.spectral_density(hs.Hessian(problem), max_matvecs=30, seed=0)
ax = hs.plots.density(density, kind="curve")

# sphinx_gallery_start_ignore
assert examined.verdict("learnt?").claim.startswith("yes")
assert problem_of(unseen).loss() < before
# sphinx_gallery_end_ignore

# %%
# The fused attention kernels have no second derivative; inside a look, and only there, the
# mathematical form is used. ``effort="deep"`` narrows what is undecided, ``hs.plan(problem)``
# tells the cost before. While a trainer of transformers runs, ``hs.monitor.HuggingFaceMonitor``
# does this at every hundredth step: :doc:`/watching`. Other forms of batches and losses:
# :doc:`/problems`.
