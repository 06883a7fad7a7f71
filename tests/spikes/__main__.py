"""`python -m tests.spikes [words]`: how often each planted cause is named, and how early."""

from __future__ import annotations

import argparse
import time
import warnings

from tests.spikes.cases import CASES

# torch.func.jvp imports torch._decomp, which still calls torch.jit.script
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.spikes", description=__doc__)
    parser.add_argument("words", nargs="*", help="only cases whose names hold one of these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--print", action="store_true", help="print what was found")
    asked = parser.parse_args()
    chosen = [c for c in CASES.values() if not asked.words or any(w in c.name for w in asked.words)]
    print(f"{'case':<42}  named  open  wrong  lead  seconds")
    planted, healthy, announced = [0, 0, 0], [0, 0], [0, 0]
    for case in chosen:
        began = time.process_time()
        found = [case.look(asked.first + i) for i in range(asked.seeds)]
        named = sum(one.cause == case.cause for one in found)
        wrong = sum(one.cause not in (case.cause, "") for one in found)
        counts = planted if case.cause else healthy
        counts[0], counts[-1] = counts[0] + named, counts[-1] + len(found)
        if case.cause:
            counts[1] += wrong
        if case.adam:
            announced[0] += sum(one.lead > 0 for one in found)
            announced[1] += len(found)
        leads = "/".join(str(one.lead) for one in found)
        seconds = (time.process_time() - began) / asked.seeds
        left = len(found) - named - wrong
        row = f"{case.name:<42}  {named:>5}  {left:>4}  {wrong:>5}  {leads:>8}  {seconds:>6.1f}"
        print(row, flush=True)
        for seed, one in enumerate(found, asked.first):
            if asked.print or one.cause != case.cause:
                print(f"--- seed {seed}\n{one}", flush=True)
    print(f"planted causes: {planted[0]} of {planted[2]} named, {planted[1]} wrong")
    print(f"healthy runs: nothing claimed in {healthy[0]} of {healthy[1]}")
    print(f"spikes of Adam: {announced[0]} of {announced[1]} announced before the loss moved")


if __name__ == "__main__":
    main()
