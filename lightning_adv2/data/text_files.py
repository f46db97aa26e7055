"""Text and CSV files that people write: with any line end, with or without a byte order mark."""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

from lightning_adv2.files import regular


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form: the same on a Mac, which may store it decomposed, as elsewhere."""
    return unicodedata.normalize("NFC", name)


def read_text(path: str | Path, option: str, expected: str) -> str:
    """Return a UTF-8 file's text, without a byte order mark, and with its line ends as they are.

    Args:
        path: the file.
        option: the argument that named it, for errors.
        expected: the required content, for errors, such as "a CSV with the column wnid".

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no regular file, is too large (see :func:`~lightning_adv2.files.regular.text_limit`) or
            not UTF-8.
    """
    try:
        return regular.read_text(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{option}={str(path)!r} does not exist; give {expected}") from error
    except OSError as error:
        raise ValueError(f"{option}={str(path)!r} cannot be read ({error.strerror}); give {expected}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}={str(path)!r} is no UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_rows(path: str | Path, option: str, expected: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV file, and each row with the number of its last line; empty rows are left out.

    Blanks around a column's name or a value do not count; a value that a row lacks is an empty string.

    Args:
        path: the file.
        option: the argument that named it, for errors.
        expected: the required content, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not UTF-8, is no CSV, or has two columns of one name.
    """
    reader = csv.reader(io.StringIO(read_text(path, option, expected), newline=""))
    try:
        lines = [(reader.line_num, [nfc(value.strip()) for value in line]) for line in reader]
    except csv.Error as error:
        raise ValueError(f"{option}={str(path)!r}, line {reader.line_num}: {error}; give {expected}") from error
    lines = [(number, line) for number, line in lines if any(line)]
    columns = lines[0][1] if lines else []
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ValueError(f"{option}={str(path)!r} has the column {', '.join(twice)} twice; keep the one that counts")
    blank = dict.fromkeys(columns, "")
    return columns, [(number, blank | dict(zip(columns, line, strict=False))) for number, line in lines[1:]]
