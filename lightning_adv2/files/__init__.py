"""Writing and reading of files, whole and sealed, and the places of a run's files. Needs no torch."""

from lightning_adv2.files.regular import open_regular, open_table, read_bytes, read_json, read_text, text_limit
from lightning_adv2.files.whole import write_json, write_text, written_whole

__all__ = [
    "open_regular", "open_table", "read_bytes", "read_json", "read_text", "text_limit", "write_json", "write_text",
    "written_whole",
]  # fmt: skip
