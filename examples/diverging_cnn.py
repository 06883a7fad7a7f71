"""My CNN learns for some steps, and then forgets all. Why, and which learning rate holds?"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import hesscope as hs

data = load_digits()
images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
labels = torch.tensor(data.target)


def train(lr, steps=60):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for step in range(steps):
        batch = torch.arange(128 * step, 128 * step + 128) % len(labels)
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"lr {lr:.2g}: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    return model, optimizer


train(lr=3.0)
model, optimizer = train(lr=3.0, steps=3)  # again, up to where it still learns
problem = hs.Problem(model, F.cross_entropy, (images[:512], labels[:512]))
print(hs.diagnose(problem, optimizer, batch_size=128).headline)

suggestion = hs.suggest_lr(problem, optimizer, batch_size=128)
print(suggestion)
train(lr=suggestion.lr)
