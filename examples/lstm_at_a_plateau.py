"""An LSTM has to add two marked numbers of a long sequence, and its loss does not move. Why?"""

import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs

LENGTH = 50


class Adding(nn.Module):
    """Reads numbers and marks, and says the sum of the marked ones."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


torch.manual_seed(0)
numbers, marks = torch.rand(96, LENGTH), torch.zeros(96, LENGTH)
marks[:, :2] = 1  # the two that count are the first
inputs, sums = torch.stack([numbers, marks], 2), (numbers * marks).sum(1, keepdim=True)
model = Adding()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(61):
    optimizer.zero_grad()
    loss = F.mse_loss(model(inputs), sums)
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.4f}")

examined = hs.diagnose(hs.Problem(model, F.mse_loss, (inputs, sums)), optimizer, effort="quick")
print(examined.headline, examined.verdict("through time"), sep="\n\n")
