"""Names that become parts of paths and log keys."""

from __future__ import annotations

import re


def check_name(argument: str, name: object) -> None:
    """Check that a name can stand in a file's path and in a log key.

    Args:
        argument: the argument that gave the name, for the error.
        name: the name.

    Raises:
        ValueError: the name has other characters than lower-case letters, digits, ``.``, ``_`` and ``-``, begins with a
            dot, or is empty.
    """
    if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[a-z0-9._-]+", name):
        raise ValueError(
            f"{argument}: the name {name!r} becomes part of files and log keys; "
            "take lower-case letters, digits, '.', '_' and '-' only, such as 'adv2-smooth'"
        )
