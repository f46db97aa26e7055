"""How files are written and read: whole, sealed, and where a run keeps what. Needs no torch."""

from lightning_adv2.files.whole import write_json, write_text, written_whole

__all__ = ["write_json", "write_text", "written_whole"]
