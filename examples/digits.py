"""A Problem for the command line: hesscope diagnose examples/digits.py:make_problem --lr 0.5."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hesscope as hs


def make_problem() -> hs.Problem:
    """A network on handwritten digits, fifty steps of gradient descent after initialisation."""
    data = load_digits()
    inputs = torch.tensor(data.data / 16.0, dtype=torch.float32)
    labels = torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(50):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=256)
    return hs.Problem(model, nn.functional.cross_entropy, loader)


if __name__ == "__main__":
    print(hs.diagnose(make_problem(), lr=0.5))
