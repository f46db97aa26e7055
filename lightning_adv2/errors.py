"""Error messages of a few lines that end with the remedy; imports neither torch nor Lightning."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_adv2.runtime.rank import rank

SWITCH = "LIGHTNING_ADV2_TRACEBACK"
_LINES, _WIDTH = 8, 400


def shorten(message: str) -> str:
    """The message in at most 8 lines of 400 characters: beginning and end, where the remedy stands.

    Control characters in it are written out.
    """
    from lightning_adv2.files.text import visible  # not before there is an error

    lines = [visible(line.rstrip(), keep="\t") for line in message.split("\n") if line.strip()]
    if len(lines) > _LINES:
        lines = [*lines[:3], "  ...", *lines[-(_LINES - 4) :]]
    half = _WIDTH // 2 - 3
    return "\n".join(line if len(line) <= _WIDTH else f"{line[:half]} ... {line[-half:]}" for line in lines)


@contextmanager
def short_errors(traceback_wanted: bool) -> Iterator[None]:
    """Print an error that a user can correct, without its traceback, and exit with code 1.

    An error of another kind (AttributeError, KeyError, ...) is a fault in code, and keeps its traceback. Of several
    processes only the first prints the whole message; each of the others prints one line.

    Args:
        traceback_wanted: print the traceback instead; ``LIGHTNING_ADV2_TRACEBACK=1`` does so, too.

    Raises:
        SystemExit: in place of the error, with code 1; of Ctrl-C, with code 130.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if _wanted(traceback_wanted):
            _print_traceback()
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from error
    except _mendable() as error:
        if _wanted(traceback_wanted):
            _print_traceback()
            raise SystemExit(1) from error
        if rank() == "0":
            print(f"error: {shorten(str(error) or type(error).__name__)}", file=sys.stderr)
            for note in getattr(error, "__notes__", ()):
                print(f"  {note}", file=sys.stderr)
            print("(--traceback shows where it was raised)", file=sys.stderr)
        else:
            print(f"error in process {rank()}: {(shorten(str(error)).splitlines() or [''])[0]}", file=sys.stderr)
        raise SystemExit(1) from error


def _mendable() -> tuple[type[Exception], ...]:
    pickle = sys.modules.get("pickle")  # what has not been loaded has raised nothing
    unpickling = (pickle.UnpicklingError,) if pickle else ()
    return ValueError, TypeError, RuntimeError, OSError, ImportError, EOFError, *unpickling


def _print_traceback() -> None:
    from traceback import print_exc

    print_exc()


def _wanted(traceback_wanted: bool) -> bool:
    return traceback_wanted or os.environ.get(SWITCH, "") not in ("", "0")
