"""Names that become parts of paths and log keys."""

from __future__ import annotations

import re


def check_name(argument: str, name: object) -> None:
    """Raise a ValueError for a name that cannot stand in a file's path or a log key."""
    if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[a-z0-9._-]+", name):
        raise ValueError(
            f"{argument}: the name {name!r} becomes part of files and log keys; "
            "take lower-case letters, digits, '.', '_' and '-' only, such as 'adv2-smooth'"
        )
