"""The intended name behind a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable


def alike(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``, in any letter case; None where no name is similar."""
    from difflib import get_close_matches  # needed after a mistake alone

    plain = {one.casefold().replace("_", ""): one for one in sorted(known)}
    close = get_close_matches(name.casefold().replace("_", ""), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None
