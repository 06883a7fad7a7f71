"""25 million parameters: what it will cost, how far it is, and Ctrl-C without losing the work."""

import sys

import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs

WIDTH = int(sys.argv[1]) if len(sys.argv) > 1 else 3500  # 25 million parameters
torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(),
    nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 10),
)  # fmt: skip
problem = hs.Problem(model, F.cross_entropy, (torch.randn(32, 64), torch.arange(32) % 10))
print(f"n = {problem.n:,}")
print(hs.plan(problem, effort="quick"))  # diagnose(problem, effort="quick") would cost this

# Each product is kept in state/, so whatever ends this program, it goes on from there.
H = hs.as_operator(hs.Hessian(problem), scratch="state/")
with hs.progress():
    pairs = hs.eigsh(H, k=1, max_matvecs=8)  # try Ctrl-C: it returns what is known by then
print(pairs)

H = hs.as_operator(hs.Hessian(problem), scratch="state/")  # as the same program would, once more
again = hs.eigsh(H, k=1, tol=1e-2)  # the products of above are read, not made
print(again)
