"""`python -m tests.clinic [words]`: how often each case is right, undecided or wrong."""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter

from tests.clinic.case import outcome
from tests.clinic.cases import CASES
from tests.clinic.sanity import CASES as SANITY
from tests.clinic.sanity import named

# torch.func.jvp imports torch._decomp, which still calls torch.jit.script
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.clinic", description=__doc__)
    parser.add_argument("words", nargs="*", help="only cases whose names hold one of these")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sanity", action="store_true", help="the cases of sanity instead")
    asked = parser.parse_args()
    cases, judged = (SANITY, named) if asked.sanity else (CASES.values(), outcome)
    chosen = [c for c in cases if not asked.words or any(w in c.name for w in asked.words)]
    total: Counter[str] = Counter()
    print(f"{'case':<46}  right  undecided  wrong  seconds")
    for case in chosen:
        started, found, notes = time.process_time(), Counter[str](), Counter[str]()
        for seed in range(asked.seeds):
            result, why = judged(case, case.examine(seed))
            found[result] += 1
            notes.update(f"{result}: {reason}" for reason in why)
        total += found
        seconds = (time.process_time() - started) / asked.seeds
        counts = f"{found['right']:>5}  {found['undecided']:>9}  {found['wrong']:>5}"
        print(f"{case.name:<46}  {counts}  {seconds:>7.2f}", flush=True)
        for note, times in notes.items():
            print(f"    {times} x {note}", flush=True)
    print(f"{len(chosen)} cases: " + ", ".join(f"{n} {what}" for what, n in total.items()))


if __name__ == "__main__":
    main()
