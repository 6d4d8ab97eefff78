"""Keeps a command running whose standard output or error cannot be written.

A pipe that its reader closed, a terminal that is gone or knows few characters, and a stream that
was closed before the command began are no reason to lose what is being computed.
"""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

NARROWEST = 20
"""Columns: a terminal that says it has fewer is taken for one of unknown size."""

_ERRORS = "clair-apo"
_PLAIN = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{HORIZONTAL ELLIPSIS}": "...",
        "\N{RIGHTWARDS ARROW}": "->",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{NO-BREAK SPACE}": " ",
    }
)
# its reader has gone, as `head` does: nobody misses what is not written
_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN)


@contextmanager
def steady_output() -> Iterator[None]:
    """Keep standard output and error usable while the block runs, whatever they are.

    A terminal size in the environment that is too small is ignored.
    A character that the encoding lacks is replaced, a minus sign by a hyphen. What a reader that
    has gone was to get is dropped; what a full disk was to get is reported when the block ends.

    Raises:
        SystemExit: 2, at the end of a block that would have ended with 0, where a part of standard
            output could not be written.
    """
    _open_what_is_closed()
    for name in ("COLUMNS", "LINES"):  # with 0 of them, rich and typer write nothing at all
        if (size := os.environ.get(name, "")).isdigit() and int(size) < NARROWEST:
            del os.environ[name]
    codecs.register_error(_ERRORS, _replaced)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _steady(sys.stdout, 1), _steady(sys.stderr, 2)
    try:
        try:
            yield
        except SystemExit as end:
            if not end.code:
                _report_what_was_lost()
            raise
        _report_what_was_lost()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_what_is_closed() -> None:
    """A stream that is closed has its number free, which the next file would get: a store, say."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class _SteadyFile(io.FileIO):
    """A file that takes what it cannot write, and remembers why it could not."""

    fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.fault is None or self.fault.errno in _GONE:
                self.fault = error
            return memoryview(data).nbytes


def _steady(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None and not _is_real(stream, number):
        return stream  # somebody who calls the command from Python reads it
    encoding = "utf-8" if stream is None else stream.encoding
    file = io.BufferedWriter(_SteadyFile(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding, _ERRORS, line_buffering=number == 2 or os.isatty(1))


def _is_real(stream: TextIO, number: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    except (OSError, ValueError):  # closed, or none of the system's
        return False


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "replace").decode(), error.end


def _report_what_was_lost() -> None:
    sys.stdout.flush()
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    fault = file.fault if isinstance(file, _SteadyFile) else None
    if fault is not None and fault.errno not in _GONE:
        sys.stderr.write(
            f"clair-apo: error: standard output cannot be written ({fault.strerror}); the command "
            "has done its work, but what it was to say there is lost\n"
        )
        raise SystemExit(2)
