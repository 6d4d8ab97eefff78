"""The errors that a user can mend. The command line prints them in one line and exits with 2."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class ClairApoError(ValueError):
    """Something the user can mend: the message says what was wrong, where, and what to do."""


class ConfigError(ClairApoError):
    """A configuration that cannot be used: unknown key, wrong value, unreadable file."""


class DataError(ClairApoError):
    """Input data that cannot be used; the message names file and line where there is one."""


class ModelNotFoundError(ClairApoError):
    """A model name that leads to no weights."""


class RequestError(ClairApoError):
    """A language model that cannot be asked at all: no key, no server, no permission."""


class WaitingError(ClairApoError):
    """A run that waits for something outside of it, such as a batch; nobody made a mistake."""


class BudgetError(ClairApoError):
    """A run whose next request could exceed its budget; what was answered is kept."""


class StoreError(ClairApoError):
    """A request store or reference folder that is damaged, of another version, or not writable."""


class WriteError(ClairApoError):
    """A file that cannot be written: a full disk, no permission, no such folder."""


class RunError(ClairApoError):
    """A run folder that does not fit the command."""


class BusyError(RunError):
    """A run folder in which another process is at work."""


class TrainingError(ClairApoError):
    """A training run that cannot start or must not go on."""


@contextmanager
def reported_errors(interrupted: str = "") -> Iterator[None]:
    """Turn errors that a user can mend into one line and an exit status.

    The status is 2 for a `ClairApoError` and for what the system refuses, 3 for a run that waits
    for something else, and 130 for Ctrl+C.

    Args:
        interrupted: how to go on after Ctrl+C; printed with it, unless it says so itself.
    """
    # where a CPU has AVX-512, its import warns of a kernel that four bits in training do not use
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
    try:
        yield
    except WaitingError as waiting:
        sys.stderr.write(f"clair-apo: {waiting}\n")
        raise SystemExit(3) from None
    except ClairApoError as error:
        sys.stderr.write(f"clair-apo: error: {error}\n")
        raise SystemExit(2) from None
    except OSError as error:  # such as a name that is too long, or a disk that is gone
        place = f"{error.filename!r}: " if error.filename else ""
        sys.stderr.write(f"clair-apo: error: {place}{error.strerror or error}\n")
        raise SystemExit(2) from None
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding() or error.encoding == "utf-8":
            raise
        sys.stderr.write(
            f"clair-apo: error: {error.object!a} can be no file's name in this locale, whose "
            f"encoding is {error.encoding}; set PYTHONUTF8=1\n"
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt as interruption:
        how = str(interruption) or interrupted
        sys.stderr.write("clair-apo: interrupted" + (f"; {how}\n" if how else "\n"))
        raise SystemExit(130) from None
