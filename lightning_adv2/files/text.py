"""Names from other programs, such as a file's or a class's, as text that no terminal obeys."""

from __future__ import annotations


def visible(text: str, keep: str = "") -> str:
    """Return the text with all characters written out that cannot be seen: ``\\n``, ``\\x1b``, ``\\u202e``.

    These are the characters that a terminal obeys (control characters, line breaks), that turn the reading direction or
    have no shape, and the half characters of file names that are no UTF-8, which no file and no font takes.

    Args:
        text: any.
        keep: such characters that are kept, for instance the line breaks of a text of our own.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
