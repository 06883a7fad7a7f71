"""Kills a watched training again and again: `python -m tests.monitor.killed FOLDER ROUNDS SEED`.

Each round is a child that takes up the run and trains until it is killed, at a random moment of its
start, its checks or its writes. Prints what each round has left, and fails where something that was
written before is lost or has changed. The parent computes no gradient, so that children may.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import hesscope as hs
from hesscope import store
from hesscope.results.history import History

LONGEST = 0.6  # seconds until a child is killed


def train(folder: Path, told: int) -> None:
    """Trains for ever, each step with a check; says each step when it has been made."""
    torch.manual_seed(0)
    x = torch.randn(24, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = hs.Problem(model, nn.CrossEntropyLoss(), (x, (x[:, 0] > 0).long()))
    keys = ["loss", "lambda_max", "density"]
    monitor = hs.Monitor(problem, optimizer, every=1, to=folder, quantities=keys)
    while True:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
        os.write(told, f"{monitor._step - 1}\n".encode())


def killed(folder: Path, wait: float, *, trained: bool) -> list[int]:
    """The steps that a child has told before it was killed; so long after its first, if asked."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            train(folder, writing)
        finally:
            os._exit(1)
    os.close(writing)
    if trained:
        select.select([reading], [], [], 60.0)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().split("\n")[:-1]
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself: {status}"
    return [int(line) for line in lines]


def checked(folder: Path, steps: list[int], before: History) -> History:
    """What the folder holds, after a look at whether it holds all that it has to."""
    found: History = hs.load(folder)
    known = found.get("loss").steps.tolist()
    assert known == list(range(len(known))), known
    assert not steps or known[-1] >= steps[-1], (known[-1:], steps[-1:])
    for key in before:
        old = before[key]
        assert len(found[key]) >= len(old)
        assert torch.equal(found[key].values[: len(old)], old.values), key
    assert list(found.results.get("density", {})) == known
    assert not found.events, found.events
    return found


def main() -> None:
    """Round after round on one folder."""
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _ = hs.Monitor, hs.Problem  # imported once, not by each child
    chance, before, empty = random.Random(seed), History({}), 0
    for i in range(rounds):
        steps = killed(folder, chance.uniform(0, LONGEST), trained=i % 3 > 0)
        if not store.holds_run(folder):
            empty += 1
            continue
        before = checked(folder, steps, before)
        print(f"round {i}: {len(steps)} steps told, {len(before)} known", flush=True)
    print(f"{rounds} kills, {len(before)} steps, {empty} before anything was written", flush=True)


if __name__ == "__main__":
    main()
