"""A PINN for u'' = -sin(4x), u(0) = u(3) = 0: its loss creeps. What is in the way, what helps?"""

import torch
from torch import nn

import hesscope as hs

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
model.double()
inside = torch.linspace(0, 3, 60, dtype=torch.float64)[:, None]
ends = torch.tensor([[0.0], [3.0]], dtype=torch.float64)


def residual(model, batch):
    x, ends = batch[0].detach().requires_grad_(), batch[1]
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return ((bend + torch.sin(4 * x)) ** 2).mean() + 10 * (model(ends) ** 2).mean()


optimizer = torch.optim.SGD(model.parameters(), lr=2e-3)
for _ in range(200):
    optimizer.zero_grad()
    loss = residual(model, (inside, ends))
    loss.backward()
    optimizer.step()
print(f"200 steps of gradient descent: {loss.item():.4f}")

problem = hs.Problem.from_closure(model, residual, [(inside, ends)], count=1)
print(hs.diagnose(problem, optimizer, effort="quick").verdict("conditioning"))

newton = hs.optim.SaddleFreeNewton(problem)
for _ in range(20):
    newton.zero_grad()
    residual(model, (inside, ends)).backward()
    newton.step()
print(f"20 steps of Newton's method after them: {problem.loss():.2g}")
