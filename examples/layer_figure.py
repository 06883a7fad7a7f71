"""A figure for a paper: in which layers of a network is the curvature, and between which?"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import hesscope as hs

data = load_digits()
inputs = torch.tensor(data.data / 16, dtype=torch.float32)
labels = torch.tensor(data.target)
torch.manual_seed(0)
layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
model = nn.Sequential(*layers)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(30):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()

problem = hs.Problem(model, F.cross_entropy, (inputs, labels))
for name, block in problem.blocks().items():
    top = hs.eigsh(hs.Hessian(block), k=1, seed=0)
    print(f"layer {name}: n = {block.n}, λmax = {float(top.eigenvalues[0]):.3g}")
whole = hs.layer_map(problem, seed=0)
print(whole)

with hs.plots.paper_style(width="column"):
    hs.plots.layer_map(whole)
    plt.savefig("layers.pdf")
print("written: layers.pdf")
