"""`hesscope watch`: a run in the terminal, drawn anew whenever its folder has grown."""

from __future__ import annotations

import contextlib
import math
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hesscope import store
from hesscope.cli.sparkline import is_wide, sparkline
from hesscope.results.history import History, Series
from hesscope.results.limits import factor, lambda_max_limit

NAME, VALUE, NOTE = 16, 10, 30  # characters of the columns beside the curve
WIDEST, NARROWEST = 72, 8  # of the curve
EVENTS, MOST = 5, 4  # that are shown, the latest, and lines of each
TRIES = 5  # to read a folder, one after another, before its damage is told
NEAR = 0.95  # of the limit: from here on it is told in colour


@dataclass(frozen=True)
class _Line:
    """A quantity as it is shown: its name, and what else is said of it."""

    name: str
    series: Series
    note: str
    style: str = ""
    reach: tuple[float, float] | None = None


def watch(folder: Path, *, once: bool, every: float) -> None:
    """Shows a run until Ctrl-C; once where that is asked for or the output is no terminal.

    Raises:
        ValueError: if the folder holds no run.
        RuntimeError: if it is damaged.
    """
    console = Console()
    if once or not console.is_terminal:
        console.print(
            view(store.read(folder, results=False), folder, console.width), soft_wrap=True
        )
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            for history, age in _growing(folder, every):
                live.update(view(history, folder, console.width, age=age), refresh=True)
    except KeyboardInterrupt:  # this is how it is ended
        return


def view(history: History, folder: Path, width: int, *, age: float | None = None) -> Text:
    """What is shown of a run, in lines of at most so many characters.

    Args:
        history: of the run.
        folder: that it was read from.
        width: of the terminal.
        age: seconds since the folder was written to, if it is to be said.
    """
    lines = [_head(history, folder, age)]
    if len(history):
        steps = history.steps
        span = int(steps[0]), int(steps[-1])
        lines += [_drawn(line, width, span) for line in _lines(history)]
    else:
        lines.append(Text("nothing has been written yet", style="dim"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    lines += _events(history, width)
    return Text("\n").join(lines)


def _growing(folder: Path, every: float) -> Iterator[tuple[History, float]]:
    """The history each time something was written, and its age every time it is asked for.

    Raises:
        ValueError: if the folder holds no run.
        RuntimeError: if it cannot be read, several times one after another.
    """
    seen, history = math.nan, store.read(folder, results=False)
    failures = 0
    while True:
        written = _written(folder)
        if written != seen:
            try:
                history, seen, failures = store.read(folder, results=False), written, 0
            except RuntimeError:  # its writer opens or closes it just now
                failures += 1
                if failures >= TRIES:
                    raise
        yield history, max(0.0, time.time() - written)
        time.sleep(every)


def _written(folder: Path) -> float:
    """When the folder was last written to; the journal beside the database counts."""
    times = [0.0]
    for name in (store.FILE, f"{store.FILE}-wal"):
        with contextlib.suppress(FileNotFoundError):  # a journal goes when its writer closes it
            times.append((folder / name).stat().st_mtime)
    return max(times)


def _head(history: History, folder: Path, age: float | None) -> Text:
    facts = history.facts
    known = [
        f"step {history.last_step:,}" if len(history) else "",
        str(facts.get("optimizer") or ""),
        f"n = {facts['n']:,}" if "n" in facts else "",
        "" if age is None else f"written {_duration(age)} ago",
    ]
    return Text(" · ".join([*(text for text in known if text), str(folder)]), style="bold")


def _duration(seconds: float) -> str:
    """A time as one says it.

    >>> _duration(9.6), _duration(180), _duration(7300)
    ('10 s', '3 min', '2 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _lines(history: History) -> list[_Line]:
    """The quantities that are known, with what is to be said of each."""
    found = [
        _plain(history, "train_loss", "training loss"),
        _plain(history, "loss", "loss"),
        _plain(history, "held_out_loss", "held-out loss"),
        _plain(history, "gradient_norm", "gradient norm"),
        _plain(history, "lambda_max", "λmax", _of_lambda_max),
        _plain(history, "step_sharpness", "step sharpness", _of_step),
        _ratio(history),
        _plain(history, "critical_sharpness", "critical sharpn.", _of_critical),
        _plain(history, "batch_sharpness", "batch sharpness", _of_batches),
        _plain(history, "lambda_min", "λmin"),
        _plain(history, "trace", "trace"),
    ]
    return [line for line in found if len(line.series)]


def _plain(
    history: History, key: str, name: str, more: Callable[[History], str] | None = None
) -> _Line:
    series = history.get(key)
    told = more(history) if more is not None else ""
    return _Line(name, series, told or _range(series.finite()))


def _range(known: Series) -> str:
    if not len(known):
        return ""
    low, high = float(known.values.min()), float(known.values.max())
    return f"{low:.4g} to {high:.4g}{', log' if is_wide(low, high) else ''}"


def _of_lambda_max(history: History) -> str:
    """Its limit, and the proof from above."""
    limit, upper = lambda_max_limit(history), history.get("lambda_max_upper").finite()
    parts = [f"limit {limit.last:.4g}"] if len(limit) else []
    parts += [f"≤ {upper.last:.4g} at {int(upper.steps[-1]):,}"] if len(upper) else []
    return ", ".join(parts)


def _of_step(history: History) -> str:
    limit = factor(history)
    return f"limit {limit.last:.4g}" if len(limit) else ""


def _of_critical(history: History) -> str:
    ends = [history.get(f"critical_sharpness_{end}").last for end in ("lower", "upper")]
    return f"{ends[0]:.4g} to {ends[1]:.4g} at last"


def _of_batches(history: History) -> str:
    """Its standard error, and how far it is from where it was published to rest."""
    error = history.get("batch_sharpness_stderr").last
    over = history.get("batch_sharpness_over_limit")
    return f"± {error:.2g}" + (f", {over.last:.2g} of 2/lr" if len(over) else "")


def _ratio(history: History) -> _Line:
    """The sharpness over its limit, on a scale from 0 to 1 unless it is above."""
    series = history.get("sharpness_over_limit")
    known = series.finite().values
    top = max(1.0, float(known.max())) if len(known) else 1.0
    above = int((known > 1).sum())
    note = f"above 1 at {above} of {len(known)}" if above else "steps are stable below 1"
    style = "red" if series.last > 1 else "yellow" if series.last > NEAR else ""
    return _Line("over its limit", series, note, style, (0.0, top))


def _drawn(line: _Line, width: int, span: tuple[int, int]) -> Text:
    """Name, value, curve and note; the note goes where there is no room for it."""
    beside = NAME + VALUE + 2
    room = width - beside - NOTE - 2
    noted = room >= NARROWEST
    curve = min(WIDEST, room if noted else width - beside)
    text = Text(f"{line.name:<{NAME}}")
    text.append(f"{line.series.last:>{VALUE}.4g}  ", style=line.style or "bold")
    if curve >= NARROWEST:
        drawn = sparkline(line.series, curve, span, reach=line.reach)
        text.append(drawn, style=line.style or "cyan")
    if noted:
        text.append(f"  {line.note}", style="dim")
    return text


def _events(history: History, width: int) -> list[Text]:
    """The latest, and how many there were before."""
    before = len(history.events) - EVENTS
    told = [f"{before} earlier events"] if before > 0 else []
    told += [str(event) for event in history.events[-EVENTS:]]
    wrapped = [textwrap.wrap(text, width, subsequent_indent="  ", max_lines=MOST) for text in told]
    return [Text(line, style="yellow") for lines in wrapped for line in lines]
