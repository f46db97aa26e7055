"""Names from anywhere, such as a file's or a class's, as text that nothing obeys."""

from __future__ import annotations


def visible(text: str, keep: str = "") -> str:
    """The text with all written out that has no look of its own: ``\\n``, ``\\x1b``, ``\\u202e``.

    That is what a terminal obeys (control characters, line breaks), what turns the reading direction or stands for
    nothing at all, and the half characters of file names that are no UTF-8, which no file and no font takes.

    Args:
        text: any.
        keep: such characters that are kept, a line break for instance where the lines are our own.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
