"""``python -m lightning_adv2``, and the entry point of the command ``lightning-adv2``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_adv2.errors import short_errors


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; what needs neither torch nor Lightning starts without them."""
    words = list(sys.argv[1:] if args is None else args)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # class paths of one's own files: class_path: my_interpreter.InputGradient
    if "--traceback" not in words:
        with short_errors(False):
            return _run(words, args)
    words = [word for word in words if word != "--traceback"]
    with short_errors(True):
        return _run(words, words)


def _run(words: list[str], args: Sequence[str] | None) -> int:
    """Run the command; ``args`` is None where jsonargparse is to read the command line itself."""
    if words[:1] == ["verify"]:
        from lightning_adv2.audit.verify import main as verify

        return verify(words[1:])
    if words[:1] == ["export"]:
        from lightning_adv2.audit.export import main as export

        return export(words[1:])
    if {"fit", "validate", "test", "predict"} & set(words):
        from lightning_adv2.runtime.early import note_early

        note_early()  # before the seconds that torch and Lightning take
    from lightning_adv2.cli import main as cli

    cli(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
