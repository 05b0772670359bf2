"""Printing to the terminal: which characters may be printed, and streams to which writing never fails."""

import io
import os
import re
import select
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, TextIO

import rich.console
import rich.table
from rich.segment import Segment
from rich.text import Text

from ...html import printable

_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")  # the last is typer's


class Console(rich.console.Console):
    """rich's console for texts that hold ids, titles, paths and the like: a string is one line and shown as it is.

    No string has markup, emoji codes or line breaks (for styles there is `rich.text.Text`, for lines another `print`),
    and no control character but rich's own reaches the stream, from whatever is printed.
    """

    def __init__(self, **options: Any):
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**plain | options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)

    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, lines=True), segment.style)


class Table(rich.table.Table):
    """rich's table, on any console, where a cell that is a string is one line and shown as it is."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def spinner(console: rich.console.Console) -> str:
    """The name of a spinner that the console's encoding holds."""
    return "dots" if console.encoding.startswith("utf") else "line"


def prepare_streams(environ: MutableMapping[str, str] = os.environ) -> None:
    """Makes the standard streams of this process robust, and unsets sizes that no terminal can have."""
    for name in _SIZES:
        if not re.fullmatch("[1-9][0-9]{0,3}", environ.get(name, "1")):
            del environ[name]
    sys.stdout, sys.stderr = robust_stream(sys.stdout), robust_stream(sys.stderr)


def robust_stream(stream: TextIO | None) -> TextIO:
    """Wraps a standard stream (None: it was closed when Python started) so that writing never fails: letters that the
    encoding lacks are replaced, and output is dropped once writing fails. So a run goes on to its own exit code after
    `| head -1`, in a terminal that was closed, and with a full disk under `> log`."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):  # of a notebook or a test, which has its own ways
        return stream
    raw = _RobustRaw(stream)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]
        stream.encoding,
        "replace" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _RobustRaw(io.RawIOBase):
    """The raw end of such a stream."""

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream  # which would close its raw end once nobody had it any more
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        self._lost = False
        self._terminal = stream.isatty()  # later, a terminal that is gone would be none, and its bars never stopped

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        return self._raw.fileno()

    def write(self, data: Any) -> int:
        """Takes all of it."""
        rest = memoryview(data)
        while rest and not self._lost:
            try:
                written = self._raw.write(rest)
                if written is None:  # someone has made the pipe non-blocking, and it is full
                    select.select([], [self._raw], [])
                rest = rest[written or 0 :]
            except (OSError, ValueError):  # broken pipe, no terminal, full disk; or it was closed
                self._lost = True
        return len(data)
