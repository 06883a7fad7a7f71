"""`python -m tests.planted [words]`: how often each planted fault is called by its name."""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

from tests.planted.census import DTYPES, names_found
from tests.planted.faults import FAULTS
from tests.planted.healthy import HEALTHY


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("words", nargs="*", help="only those whose names hold one of these")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    expected = {**{n: f for n, (f, _) in FAULTS.items()}, **dict.fromkeys(HEALTHY, "")}
    right = {"faults": 0, "healthy": 0}
    total = Counter[str]()
    for name, finding in expected.items():
        if asked.words and not any(word in name for word in asked.words):
            continue
        started = time.process_time()
        found = [names_found(name, dtype, s) for dtype in DTYPES for s in range(asked.seeds)]
        kind = "faults" if finding else "healthy"
        hits = sum(one == finding for one in found)
        right[kind] += hits
        total[kind] += len(found)
        others = Counter(one or "nothing" for one in found if one != finding)
        seconds = (time.process_time() - started) / len(found)
        said = "" if not others else f"  {dict(others)} for {finding or 'nothing'}"
        print(f"{name:<44} {hits:>3} of {len(found)}  {seconds:5.2f} s{said}", flush=True)
    for kind, count in total.items():
        print(f"{kind}: {right[kind]} of {count} ({right[kind] / count:.1%})")


if __name__ == "__main__":
    main()
