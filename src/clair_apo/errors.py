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
    """A run that waits for something that is done outside of it; not a mistake of anybody's."""


class BudgetError(ClairApoError):
    """A run that the money it was given does not suffice for; what was answered is kept."""


class StoreError(ClairApoError):
    """A request store that is damaged, of another version, or cannot be written."""


class WriteError(ClairApoError):
    """A file that cannot be written: no room, no permission, no such place."""


class RunError(ClairApoError):
    """A run folder that does not belong to what was asked of it."""


class TrainingError(ClairApoError):
    """A training run that cannot start or must not go on."""


@contextmanager
def reported_errors(interrupted: str = "") -> Iterator[None]:
    """Turn a user's mistake into one line and exit status 2, and Ctrl+C into 130.

    So is what the system refuses, whatever part of the program asked it.

    A run that waits for something else ends with status 3.

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
