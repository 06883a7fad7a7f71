"""The same network at two checkpoints: which of the two minima is flatter, and is that certain?"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import hesscope as hs

data = load_digits()
inputs = torch.tensor(data.data / 16, dtype=torch.float32)
labels = torch.tensor(data.target)


def trained(batch_size, lr, epochs):
    """The problem of a network after SGD, until the loss is 0.1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    problem = hs.Problem(model, F.cross_entropy, (inputs, labels))
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        if problem.loss() < 0.1:
            break
    return problem


problems = {
    "large batches": trained(batch_size=900, lr=0.5, epochs=400),
    "small batches": trained(batch_size=32, lr=0.5, epochs=40),
}
found = [hs.diagnose(p, effort="quick", check=False, seed=0) for p in problems.values()]
print(hs.compare(*found, labels=list(problems)))
