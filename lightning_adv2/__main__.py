"""``python -m lightning_adv2``, and the entry point of the command ``lightning-adv2``."""

from __future__ import annotations

import sys

from lightning_adv2.runtime.early import WATCH  # all that is imported before signals are heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RUNS = {"fit", "validate", "test", "predict"}
"""The subcommands that end cleanly at a signal."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; errors that a user can mend are printed without a traceback.

    Args:
        args: the words of the command line; None takes the process's.

    Raises:
        SystemExit: after help, or after an error that was printed.
    """
    if args is None and RUNS & {*sys.argv}:
        WATCH.start()
    from pathlib import Path

    from lightning_adv2.cli import main as run
    from lightning_adv2.errors import short_errors

    words = list(sys.argv[1:] if args is None else args)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # class paths of a user's own files: class_path: my_interpreter.InputGradient
    with short_errors("--traceback" in words):
        try:
            return run([word for word in words if word != "--traceback"])
        except BaseException:
            WATCH.hold()
            raise


if __name__ == "__main__":
    sys.exit(main())
