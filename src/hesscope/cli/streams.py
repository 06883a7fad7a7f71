"""Standard output: the result's own, and never the reason why a result is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from typing import IO, Any

from hesscope.cli.words import wrapped
from hesscope.system.closing import Closing


class Output(Closing):
    """Where the result is told; what the target prints goes to standard error if it is `apart`.

    Apart also is what libraries in C and child processes write. Text that the terminal's encoding
    does not have is told as escapes.
    """

    def __init__(self, *, apart: bool) -> None:
        self.apart = apart
        self.stream: IO[str] | None = None
        self.muted = False  # the result is told by another process
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Output:
        self.stream = sys.stdout
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                self._undo.callback(_restore, stream, stream.errors)
                stream.reconfigure(errors="backslashreplace")
        if self.apart:
            self.stream = self._set_apart(sys.stdout)
        return self

    def close(self) -> None:
        """Puts the streams back."""
        self._undo.close()

    def tell(self, text: str) -> None:
        """Prints the text.

        Raises:
            OSError: if that is not possible, for the disk is full or nobody reads, say.
        """
        if self.muted:
            return
        if self.stream is None or self.stream.closed:
            raise OSError(errno.EBADF, "it is closed")
        try:
            if self.stream.isatty() and not self.apart:
                text = wrapped(text, shutil.get_terminal_size().columns)
            print(text, file=self.stream, flush=True)
        except OSError:
            self._silence()  # Python tries to write what is left when it ends
            raise

    @property
    def is_unicode(self) -> bool:
        """Whether all text can be told as it is."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return encoding.lower().replace("_", "-") in ("utf-8", "utf8")

    def _set_apart(self, stream: Any) -> Any:
        """The stream under another name, while its own leads to standard error."""
        original: Any = sys.__stdout__
        self._undo.callback(setattr, sys, "stdout", stream)
        sys.stdout = sys.stderr
        real = stream is not None and stream is original
        if not real or stream.fileno() != 1:
            return stream
        stream.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        own = os.fdopen(kept, "w", encoding=stream.encoding, errors="backslashreplace")
        self._undo.callback(_back, own)
        return own

    def _silence(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            assert self.stream is not None
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def _restore(stream: Any, errors: str | None) -> None:
    with contextlib.suppress(OSError, ValueError):  # it is full, or closed by now
        stream.reconfigure(errors=errors)


def _back(own: IO[str]) -> None:
    sys.stdout.flush()
    os.dup2(own.fileno(), 1)
    own.close()
