"""Whether everything holds on a GPU, and what it costs there: `make gpu-check`, below 10 minutes.

    python benchmarks/gpu [--device cuda] [--tiny] [--only PART ...] [--json FILE]

Needs PyTorch, transformers and this repository, and no network. `--device cpu --tiny` runs every
line of it in half a minute, wherever there is no GPU. Results are written after every part, so
that a run that is cut short leaves what it had. Exit status 1 says that a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # tests/networks.py and tests/public_calls.py

import products  # noqa: E402
import public  # noqa: E402
import torch  # noqa: E402
from rows import Row, Setting, attempted  # noqa: E402

import dense  # noqa: E402
import hesscope as hs  # noqa: E402
import language  # noqa: E402

PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "products": products.check,
    "public": public.check,
    "language": language.check,
    "dense": dense.check,
}


def main() -> None:
    arguments = parse()
    setting = Setting(torch.device(arguments.device), arguments.tiny)
    report: dict[str, Any] = {"machine": machine(setting), "parts": {}}
    failed = False
    for name in arguments.only or PARTS:
        print(f"== {name}", flush=True)
        started, rows = time.perf_counter(), []
        for row in attempted(name, lambda name=name: PARTS[name](setting)):
            print(f"{'  ' if row.holds else '! '}{row.name:<58} {row.value}", flush=True)
            rows.append(row.as_dict())
        failed |= not all(row["holds"] for row in rows)
        seconds = time.perf_counter() - started
        print(f"   {len(rows)} rows, {seconds:.0f} s", flush=True)
        report["parts"][name] = {"seconds": seconds, "rows": rows}
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    sys.exit(failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="every line, on next to nothing")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--json", metavar="FILE", type=Path)
    return parser.parse_args()


def machine(setting: Setting) -> dict[str, Any]:
    """What the figures were measured on."""
    facts = {"torch": torch.__version__, "hesscope": hs.__version__, "tiny": setting.tiny}
    if setting.device.type == "cuda":
        card = torch.cuda.get_device_properties(setting.device)
        facts |= {"card": card.name, "bytes": card.total_memory, "cuda": torch.version.cuda}
    return facts | {"device": str(setting.device), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
