"""A small GPT with Adam: its loss jumps at the start. Would a warm-up help?"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs

text = Path(__file__).read_text("utf-8")
letters = sorted(set(text))
windows = torch.tensor([letters.index(c) for c in text]).unfold(0, 25, 12)
inputs, targets = windows[:, :-1], windows[:, 1:]


def gpt(model, x):
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return model[2](model[1](model[0](x), mask)).transpose(1, 2)


def train(warmup, steps):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 48, 0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.Embedding(len(letters), 24), layer, nn.Linear(24, len(letters)))
    adam = torch.optim.Adam(model.parameters(), lr=0.2)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.2 * min(1, (step + 1) / (warmup + 1))
        adam.zero_grad()
        loss = F.cross_entropy(gpt(model, inputs), targets)
        loss.backward()
        adam.step()
    print(f"{warmup} steps of warm-up: loss {loss.item():.2f} at step {step}")
    return hs.Problem(model, F.cross_entropy, (inputs, targets), forward=gpt), adam


print(hs.diagnose(*train(warmup=0, steps=2), effort="quick").headline)
train(warmup=0, steps=50)
train(warmup=20, steps=50)
