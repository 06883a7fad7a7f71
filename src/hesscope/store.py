"""The run folder: numbers in SQLite, spectra beside it, written as a run goes on.

`run.sqlite` holds a row for each number, `results/KEY/STEP/` what `hs.save` writes. A check is one
transaction, made after its files are in place, so a run that is killed at any moment keeps what was
written before. One writer at a time (a lock that ends with its process); readers never wait.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import torch

from hesscope.results import record
from hesscope.results.history import Event, History, Series
from hesscope.results.plain import as_plain
from hesscope.results.result import Result
from hesscope.system.closing import Closing
from hesscope.system.contexts import public
from hesscope.system.locks import Locked

FILE, RESULTS = "run.sqlite", "results"
FORMAT, SCHEMA = "hesscope run", 1
PATIENCE = 10.0  # seconds until a reader's or writer's transaction has to be done
TABLES = """
BEGIN;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS quantities (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS numbers (
    quantity INTEGER NOT NULL, step INTEGER NOT NULL, value REAL, PRIMARY KEY (quantity, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    key TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (key, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (step INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
COMMIT;
"""  # SQLite has no NaN: it is NULL there; infinities are themselves
ADD_NUMBER = """
INSERT OR REPLACE INTO numbers SELECT id, ?2, ?3 FROM quantities WHERE key = ?1
"""
_open: WeakValueDictionary[str, RunFolder] = WeakValueDictionary()  # of this process


class RunFolder(Closing):
    """A run folder that is being written.

    A folder of an earlier run is taken up again: what it holds stays, and a step that is measured
    once more replaces what was known of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, RunFolder(folder) as run:
    ...     run.add(10, {"loss": 0.5})
    ...     read(folder)["loss"].last
    0.5
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens the folder, which is made if needed.

        Raises:
            RuntimeError: if another process or host writes to it, or it cannot be written.
            ValueError: if it holds something else, or a run of a newer schema.
        """
        self.folder = Path(folder)
        self._key = os.path.realpath(folder)
        if self._key in _open:
            msg = f"{folder} is being written by this process already; close() that Monitor first."
            raise RuntimeError(msg)
        self._lock = Locked(self.folder)
        try:
            self._lock.__enter__()
        except OSError as error:
            msg = f"cannot write to {folder}: {error.strerror}. Choose another folder."
            raise RuntimeError(msg) from error
        try:
            self._db = _opened(self.folder)
        except BaseException:
            self._lock.close()
            raise
        _open[self._key] = self

    def close(self) -> None:
        """Lets go of the folder; others may write to it then."""
        if _open.pop(self._key, None) is self:
            self._db.close()
            self._lock.close()

    def add(
        self,
        step: int,
        numbers: Mapping[str, float],
        *,
        results: Mapping[str, Result] | None = None,
        earlier: Iterable[tuple[str, int, float]] = (),
        events: Iterable[Event] = (),
        afresh: bool = False,
    ) -> None:
        """Writes what was found at a step, all of it or nothing.

        Args:
            step: of training.
            numbers: by quantity.
            results: spectra and the like, by quantity.
            earlier: (quantity, step, value) of steps before, such as training losses.
            events: of the watching itself.
            afresh: whether what was known of the step goes.

        Raises:
            RuntimeError: if it cannot be written.
        """
        results = results or {}
        rows = [*earlier, *((key, step, value) for key, value in numbers.items())]
        for key, result in results.items():
            record.save(result, result_folder(self.folder, key, step))
        with _told(self.folder, "write to"), self._db:
            if afresh:
                self._forget("= ?", step)
            keys = dict.fromkeys((row[0],) for row in rows)  # in the order of the table of rows
            self._db.executemany("INSERT OR IGNORE INTO quantities (key) VALUES (?)", keys)
            self._db.executemany(ADD_NUMBER, rows)
            self._db.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?)", [(key, step) for key in results]
            )
            self._db.executemany(
                "INSERT INTO events VALUES (?, ?, ?)", [(e.step, e.kind, e.text) for e in events]
            )

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Writes facts about the run; those of the same name are replaced.

        Raises:
            RuntimeError: if they cannot be written.
        """
        with _told(self.folder, "write to"):
            _tell(self._db, facts)

    def forget_after(self, step: int) -> None:
        """Removes what is known of later steps: training went back to a checkpoint.

        Files of later results stay until they are replaced; nothing refers to them.

        Raises:
            RuntimeError: if it cannot be written.
        """
        with _told(self.folder, "write to"), self._db:
            self._forget("> ?", step)

    def _forget(self, which: str, step: int) -> None:
        for table in ("numbers", "results", "events"):
            self._db.execute(f"DELETE FROM {table} WHERE step {which}", (step,))


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds a run."""
    return (Path(folder) / FILE).is_file()


def read(folder: str | Path, *, results: bool = True) -> History:
    """The history of a run folder as far as it has been written; its writer is not disturbed.

    Args:
        folder: that a Monitor writes or has written.
        results: whether the spectra beside the numbers are read, too.

    Raises:
        ValueError: if it holds no run, or one of a newer schema.
        RuntimeError: if it is damaged.
    """
    folder = Path(folder)
    if not holds_run(folder):
        msg = f"{folder} holds no {FILE}; give a folder that a Monitor has written (`to=`)."
        raise ValueError(msg)
    with _told(folder, "read"), closing(_reader(folder)) as db:
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return History({})  # its writer makes it just now, or was killed when it did
        facts = _facts(db)
        _refuse_other(folder, facts)
        keys = db.execute("SELECT id, key FROM quantities ORDER BY id").fetchall()
        series = {key: _series(db, number) for number, key in keys}
        events = tuple(Event(*row) for row in db.execute("SELECT * FROM events ORDER BY step"))
        found = db.execute("SELECT key, step FROM results ORDER BY key, step").fetchall()
    loaded: dict[str, dict[int, Result]] = {}
    for key, step in found if results else ():
        loaded.setdefault(key, {})[step] = record.load(result_folder(folder, key, step))
    return History(series, events, facts, loaded)


@public
def load(folder: str | Path) -> Any:
    """Reads what a folder holds: a result that `hs.save` wrote, or the `History` of a run.

    Raises:
        ValueError: if it holds neither, or one of a newer schema.
        RuntimeError: if it is damaged.

    >>> import tempfile, hesscope as hs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(hs.save(hs.Estimate(1.5, 0.25, 10), folder))
    Estimate(value=1.5, stderr=0.25, num_matvecs=10)
    """
    return read(folder) if holds_run(folder) else record.load(folder)


def result_folder(folder: Path, key: str, step: int) -> Path:
    """Where the result of a quantity at a step lies."""
    return folder / RESULTS / quote(key, safe="") / f"{step:09d}"


def _opened(folder: Path) -> sqlite3.Connection:
    """The database of a folder for writing, with its tables.

    Raises:
        RuntimeError: if it cannot be written.
        ValueError: if it is no run, or one of a newer schema.
    """
    with _told(folder, "write to"):
        new = not holds_run(folder)
        db = sqlite3.connect(folder / FILE, timeout=PATIENCE, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(TABLES)
            known = _facts(db)
            _refuse_other(folder, known)
            if "format" not in known:
                _tell(db, {"format": FORMAT, "schema": SCHEMA, "provenance": record.provenance()})
        except BaseException:
            db.close()
            for end in ("", "-wal", "-shm") if new else ():  # half a run is none
                (folder / f"{FILE}{end}").unlink(missing_ok=True)
            raise
    return db


@contextmanager
def _told(folder: Path, what: str) -> Iterator[None]:
    """Errors of SQLite as ours.

    Raises:
        RuntimeError: in their place.
    """
    try:
        yield
    except sqlite3.Error as error:
        msg = (
            f"cannot {what} {folder / FILE}: {error}. If it is damaged, move it away: what lies in "
            f"{RESULTS}/ beside it can be loaded one by one."
        )
        raise RuntimeError(msg) from error


def _reader(folder: Path) -> sqlite3.Connection:
    address = f"{(folder / FILE).resolve().as_uri()}?mode=ro"
    db = sqlite3.connect(address, timeout=PATIENCE, uri=True)
    try:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:  # a folder that cannot be written to has no place for locks
        db.close()
        db = sqlite3.connect(f"{address}&immutable=1", uri=True)
        db.execute("BEGIN")
    return db


def _tell(db: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    rows = [(name, json.dumps(as_plain(value))) for name, value in facts.items()]
    with db:
        db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)


def _facts(db: sqlite3.Connection) -> dict[str, Any]:
    return {name: json.loads(text) for name, text in db.execute("SELECT name, value FROM facts")}


def _series(db: sqlite3.Connection, quantity: int) -> Series:
    command = "SELECT step, value FROM numbers WHERE quantity = ? ORDER BY step"
    rows = db.execute(command, (quantity,)).fetchall()
    values = [math.nan if value is None else value for _, value in rows]
    return Series(
        torch.tensor([step for step, _ in rows], dtype=torch.int64),
        torch.tensor(values, dtype=torch.float64),
    )


def _refuse_other(folder: Path, facts: Mapping[str, Any]) -> None:
    if facts.get("format", FORMAT) != FORMAT:
        msg = f"{folder / FILE} was not written by hesscope; choose another folder."
        raise ValueError(msg)
    if facts.get("schema", SCHEMA) > SCHEMA:
        msg = (
            f"{folder} has schema {facts['schema']}, this hesscope reads up to {SCHEMA}: upgrade "
            "with `pip install -U hesscope`."
        )
        raise ValueError(msg)
