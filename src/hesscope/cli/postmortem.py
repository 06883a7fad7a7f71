"""The command on checkpoints around a spike, or on the folder of a run that was watched."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hesscope.cli.checkpoint_files import checkpoint_files

if TYPE_CHECKING:
    from hesscope.results.postmortem import Postmortem


def add_postmortem_arguments(parser: argparse.ArgumentParser) -> None:
    """What is looked at, and what is known of it."""
    parser.add_argument(
        "what",
        nargs="+",
        metavar="CKPTS TARGET",
        help="files, patterns or folders of checkpoints, with the step in each name "
        "and then the target; or nothing but the folder of a run (Monitor's to=)",
    )
    parser.add_argument(
        "--optimizer",
        action="append",
        default=[],
        metavar="STATES",
        help="files, a pattern or a folder of optimiser states with the steps in their names, once "
        "or several times; same: the checkpoints hold them, too",
    )
    parser.add_argument(
        "--batch", type=Path, metavar="FILE.pt", help="a batch under suspicion, by torch.save"
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", dest="kept", help="keeps the numbers, to go on later"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all random starts (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--save", type=Path, metavar="DIR", help="save the result to a folder")


def postmortem(options: argparse.Namespace) -> Postmortem:
    """What the command finds.

    Raises:
        ValueError: if what is given is neither checkpoints with a target nor a run.
    """
    import hesscope as hs
    from hesscope import store
    from hesscope.cli.target import load_problem
    from hesscope.problem.checkpoints import read_plain

    *patterns, last = options.what
    options.names = ()
    if not patterns:
        if not store.holds_run(last):
            msg = f"{last} is no folder of a run; give one, or checkpoints and a target."
            raise ValueError(msg)
        return hs.postmortem(last)
    checkpoints = checkpoint_files(patterns)
    same = options.optimizer == ["same"]
    states = checkpoints if same else checkpoint_files(options.optimizer)
    batch = None
    if options.batch is not None:
        cure = "Save tensors alone: torch.save((inputs, targets), path)."
        batch = read_plain(options.batch, cure, "batch")
    problem = load_problem(last)
    options.names = (*dict(problem.model.named_modules()), *problem.layout.names)
    return hs.postmortem(
        problem,
        checkpoints,
        optimizers=states or None,
        batch=batch,
        to=options.kept,
        seed=options.seed,
    )
