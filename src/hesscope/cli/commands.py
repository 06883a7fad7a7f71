"""The commands, their arguments and their exit status.

Arguments are parsed before torch is imported, so that --help answers at once.
Exit status: 0 healthy, 1 findings, nothing learnt yet, or unconverged values, 2 could not be
measured (or told), 130 interrupted, 143 terminated. A result is saved before it is told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hesscope import __version__
from hesscope.cli import runs
from hesscope.cli.comparing import add_compare_arguments, compared
from hesscope.cli.giving import complain, give, plain_warnings
from hesscope.cli.language_model import add_language_model_arguments, language_model
from hesscope.cli.outputs import check_outputs, held
from hesscope.cli.postmortem import add_postmortem_arguments, postmortem
from hesscope.cli.processes import add_process_arguments, is_first, joined
from hesscope.cli.slice_arguments import add_slice_arguments
from hesscope.cli.spectra import (
    add_spectrum_arguments,
    is_series,
    is_whole,
    series,
    told_if_it_ends,
)
from hesscope.cli.starting import add_init_arguments, write_target
from hesscope.cli.stopping import stoppable
from hesscope.cli.streams import Output
from hesscope.cli.words import printable, remark, told
from hesscope.system import interrupts
from hesscope.system.malloc import keep_large_buffers

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hesscope.problem.problem import Problem

HEALTHY, FINDINGS, FAILED = 0, 1, 2
STATUSES = (
    "0 healthy, 1 findings or nothing learnt yet, 2 could not be measured, 130 interrupted, "
    "143 terminated"
)

WITHOUT_TARGET = ("demo", "init", "watch", "report", "show", "compare")
TARGET = """\
a target is a function without arguments that returns a hesscope.Problem, or (model, data) where the
model computes its own loss (transformers, Lightning), or (model, loss_fn, data):
  train.py:make_problem          a function in a file
  package.module:make_problem    a function in an importable module
"""


def run() -> NoReturn:
    """The console script: what the target prints when Python ends must not follow the JSON."""
    status = main()
    if "--json" in sys.argv[1:]:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(2, 1)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    options = _parser().parse_args(arguments)
    keep_large_buffers()
    with stoppable() as stop, Output(apart=getattr(options, "json", False)) as options.output:
        options.saved = None
        try:
            before = interrupts.so_far()
            with plain_warnings(options):
                status = _work(options)
            return stop.status if interrupts.so_far() > before else status
        except KeyboardInterrupt:
            kept = f"the result is in {options.saved}" if options.saved else "nothing was finished"
            remark(f"\ninterrupted; {kept}")
            return stop.status
        except BrokenPipeError:  # the reader, `head` for example, has seen enough
            return HEALTHY
        except SystemExit as error:
            complain(options, f"the target's code has called sys.exit({error.code!r}).")
        except (ValueError, RuntimeError) as error:
            complain(options, str(error))
        except BaseException as error:
            complain(options, told(error))
        return FAILED


def _work(options: argparse.Namespace) -> int:
    with joined(options):
        check_outputs(options)
        save = getattr(options, "save", None)
        with held(None if is_series(options) else save):  # a series locks its folder itself
            status = int(options.run(options))
            return status if is_first() else HEALTHY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hesscope",
        description="Looks at the Hessian of a neural network and says what it sees.",
        epilog=f"{TARGET}\nexit status: {STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hesscope {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = _command(commands, "demo", _demo, "a real network on real digits, end to end, offline")
    demo.add_argument("--report", type=Path, default=Path("report.html"), help="page to write")
    text = "write a target to begin with, from a training script or a model folder"
    add_init_arguments(_command(commands, "init", _init, text))
    check = _command(commands, "check", _check, "can the second derivatives be trusted?")
    _add_target(check)
    diagnose = _command(commands, "diagnose", _diagnose, "where am I, and is the step right?")
    _add_target(diagnose)
    diagnose.add_argument("--lr", type=float, help="learning rate of gradient descent to judge")
    diagnose.add_argument(
        "--optimizer",
        metavar="STATE.pt",
        help="a saved optimiser state: its real next update is judged (or: none)",
    )
    diagnose.add_argument("--effort", choices=("quick", "standard", "deep"), default="standard")
    diagnose.add_argument("--max-matvecs", type=int, help="in place of the effort's")
    diagnose.add_argument("--batch-size", type=int, help="of the training, for the noise verdict")
    diagnose.add_argument(
        "--held-out", metavar="TARGET", help="the same model and loss on data it has not seen"
    )
    text = "keeps the products of the Hessian, and goes on from there when the run was killed"
    diagnose.add_argument("--resume", type=Path, metavar="DIR", help=text)
    diagnose.add_argument("--plan", action="store_true", help="say what it will cost, and stop")
    diagnose.add_argument("--report", type=Path, metavar="PAGE.html", help="write a page")
    spectrum = _command(commands, "spectrum", _spectrum, "eigenvalues of the Hessian")
    _add_target(spectrum)
    add_spectrum_arguments(spectrum)
    sliced = _command(commands, "slice", _slice, "the loss along a line, a plane or a path")
    _add_target(sliced)
    add_slice_arguments(sliced)
    dead = _command(commands, "postmortem", _postmortem, "why has this run spiked or diverged?")
    add_postmortem_arguments(dead)
    _add_readers(commands)
    return parser


def _add_readers(commands: Any) -> None:
    """The commands that read what was written, and measure nothing."""
    watch = _command(commands, "watch", runs.watch, "a training that is being watched, live")
    runs.add_watch_arguments(watch)
    page = _command(commands, "report", runs.report, "a run as one page to look at offline")
    runs.add_report_arguments(page)
    show = _command(commands, "show", _show, "print a result that --save has written, or a run")
    show.add_argument("folder", type=Path)
    show.add_argument("--report", type=Path, metavar="PAGE.html", help="write a page")
    show.add_argument("--json", action="store_true", help="print JSON on standard output")
    text = "saved results side by side: what differs for certain"
    add_compare_arguments(_command(commands, "compare", _compare, text))


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=TARGET if name not in WITHOUT_TARGET else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", help="FILE.py:FUNCTION or MODULE:FUNCTION")
    parser.add_argument("--weights", type=Path, help="a .safetensors or .pt state dict to load")
    parser.add_argument("--seed", type=int, help="of all random starts (default: a fresh one)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--save", type=Path, metavar="DIR", help="save the result to a folder")
    add_language_model_arguments(parser)
    add_process_arguments(parser)


def _demo(options: argparse.Namespace) -> int:
    from hesscope.demo import run
    from hesscope.system.progress_bar import progress

    with progress():
        run(print, options.report)
    return HEALTHY


def _init(options: argparse.Namespace) -> int:
    for line in write_target(options.source, options.to):
        options.output.tell(printable(line))
    return HEALTHY


def _check(options: argparse.Namespace) -> int:
    import hesscope as hs
    from hesscope.system.progress_bar import progress

    problem = _problem(options)
    with progress():
        result = hs.check_problem(problem)
    give(result, options)
    return HEALTHY if result.ok else FINDINGS


def _diagnose(options: argparse.Namespace) -> int:
    import hesscope as hs
    from hesscope.cli.resuming import resumable
    from hesscope.cli.target import load_problem
    from hesscope.examination.efforts import EFFORTS
    from hesscope.system.progress_bar import progress

    problem = _problem(options)
    optimizer = _optimizer(problem, options.optimizer)
    asked: dict[str, Any] = {
        "lr": options.lr,
        "effort": options.effort,
        "max_matvecs": options.max_matvecs,
        "batch_size": options.batch_size,
    }
    asked["held_out"] = None if options.held_out is None else load_problem(options.held_out)
    if options.plan:
        options.output.tell(printable(str(hs.plan(problem, optimizer, **asked))))
        return HEALTHY
    most = options.max_matvecs or EFFORTS[options.effort].max_matvecs
    with resumable(problem, options, options.resume, most) as (_, done), progress():
        kept = {"seed": options.seed, "scratch": options.resume}
        result = hs.diagnose(problem, optimizer, **asked, **kept)
        give(result, options)
        done.whole = True
    return HEALTHY if result.healthy else FINDINGS


def _spectrum(options: argparse.Namespace) -> int:
    from hesscope.cli.resuming import resumable
    from hesscope.cli.spectrum import check_question, exact, measure, most_products
    from hesscope.system.progress_bar import progress

    problem = _problem(options)
    if is_series(options):
        return _series(problem, options)
    if options.exact:
        with progress():
            _give_all(exact(problem, options), options)
        return HEALTHY
    check_question(problem, options)
    folder = options.resume or options.scratch
    with resumable(problem, options, folder, most_products(options)) as (H, done), progress():
        found = measure(problem, H, options)
        _give_all(found, options)
        done.whole = bool(found["eigenvalues"].converged.all())
    return HEALTHY if done.whole else FINDINGS


def _give_all(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Gives one result as it is, several by their names."""
    give(next(iter(found.values())) if len(found) == 1 else found, options)


def _series(problem: Problem, options: argparse.Namespace) -> int:
    """Spectra over checkpoints, each of which is saved when it ends."""
    from hesscope.system.progress_bar import progress

    kept, options.save = options.save, None
    options.folder = kept or Path(options.checkpoints[0]).parent
    with told_if_it_ends(kept), progress():
        found = series(problem, options, kept)
    options.saved = kept
    give(found, options)
    if kept is not None:
        (remark if options.json else options.output.tell)(f"saved: {kept}")
    return HEALTHY if is_whole(found) else FINDINGS


def _slice(options: argparse.Namespace) -> int:
    from hesscope.cli.slices import draw, measure
    from hesscope.system.progress_bar import progress

    problem = _problem(options)
    with progress():
        found = measure(problem, options)
    give(found, options)
    if options.figure is not None:
        drawn = draw(found, options.figure, log=options.log)
        (remark if options.json else options.output.tell)(f"figure: {drawn}")
    return HEALTHY


def _postmortem(options: argparse.Namespace) -> int:
    from hesscope.system.progress_bar import progress

    with progress():
        found = postmortem(options)
    give(found, options)
    return HEALTHY if found.healthy else FINDINGS


def _show(options: argparse.Namespace) -> int:
    import hesscope as hs
    from hesscope.results.history import History
    from hesscope.results.record import read_provenance

    options.save, options.names = None, ()
    found = hs.load(options.folder)
    give(found, options)
    if not options.json:
        of_run = isinstance(found, History)
        made = found.facts["provenance"] if of_run else read_provenance(options.folder)
        told = "made with " + ", ".join(f"{name} {value}" for name, value in made.items())
        options.output.tell(printable(told, [told]))
    return HEALTHY


def _compare(options: argparse.Namespace) -> int:
    options.save, options.names = None, ()
    give(compared(options), options)
    return HEALTHY


def _problem(options: argparse.Namespace) -> Problem:
    from hesscope.cli.target import load_problem
    from hesscope.problem.checkpoints import load_weights

    if (options.target is None) == (options.hf is None) or (options.text and options.hf is None):
        msg = "give a target, FILE.py:FUNCTION, or in its place --hf DIR --text FILE."
        raise ValueError(msg)
    problem = load_problem(options.target) if options.hf is None else language_model(options)
    options.target = options.target or str(options.hf)
    if options.weights is not None:
        load_weights(problem.model, options.weights)
    kinds = {type(module).__name__ for module in problem.model.modules()}
    options.names = (*kinds, *dict(problem.model.named_modules()), *problem.layout.names)
    return problem


def _optimizer(problem: Problem, path: str | None) -> Optimizer | None:
    from hesscope.steps.state import load_optimizer

    return None if path in (None, "none") else load_optimizer(problem.model, Path(str(path)))
