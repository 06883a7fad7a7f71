"""A sweep over seeds on Slurm, a job for each; without Slurm, processes of this machine."""

import sys
from pathlib import Path

import submitit
import torch
from torch import nn
from torch.nn import functional as F

import hesscope as hs


def trained(seed):
    """The problem of a network after 100 steps of descent from the weights of a seed."""
    inputs = torch.linspace(0, 999, 1600).sin().reshape(200, 8)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    problem = hs.Problem(model, F.cross_entropy, (inputs, labels))
    for _ in range(100):
        problem.write(problem.theta - 0.5 * problem.gradient())
    return problem


def sharpness(seed):
    """Its largest eigenvalue; that of a seed which was measured before is read."""
    kept = Path("seeds", str(seed))
    if not kept.exists():
        hs.save(hs.eigsh(hs.Hessian(trained(seed)), 1, seed=0), kept)
    return float(hs.load(kept).eigenvalues[0])


if __name__ == "__main__":
    executor = submitit.AutoExecutor("jobs", cluster=sys.argv[1] if sys.argv[1:] else None)
    executor.update_parameters(timeout_min=10, slurm_array_parallelism=2)  # two at a time
    jobs = executor.map_array(sharpness, range(4))
    print("λmax of 4 seeds:", *(f"{job.result():.3f}" for job in jobs))
