"""Pictures inside an HTML page: each embedded once, as small as it can be without showing it."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image as PillowImage

from lightning_adv2.files import read_bytes, text_limit
from lightning_adv2.report.figures import Image

SMALL = 100
"""Pixels of a side up to which images are kept exactly and enlarged without smoothing."""


class Pictures:
    """What the galleries of a page show: each picture is a rule of the style sheet, whoever shows it and how often.

    Attributes:
        size: bytes of all pictures so far, as they stand in the page.
    """

    def __init__(self) -> None:
        self.size = 0
        self._numbers: dict[str, int] = {}
        self._uris: list[str] = []

    def add(self, picture: Image, exact: bool = False) -> int:
        """The number of a picture; a picture that was added before keeps its number.

        Args:
            picture: ``(H, W, 3)`` uint8.
            exact: keep every pixel of a small picture, as for images and perturbations.
        """
        digest = sha256(repr((picture.shape, exact)).encode() + picture.tobytes()).hexdigest()
        if digest not in self._numbers:
            self._numbers[digest] = len(self._uris)
            stream = BytesIO()
            small = max(picture.shape[:2]) <= SMALL
            options = {"lossless": True} if exact and small else {"quality": 90 if small else 82}
            PillowImage.fromarray(picture).save(stream, "WEBP", **options)
            self._uris.append(_uri(stream.getvalue(), "webp"))
            self.size += len(self._uris[-1])
        return self._numbers[digest]

    @property
    def rules(self) -> list[str]:
        """The rules of the style sheet; picture 0 has the class ``p0``, and so on."""
        return [f".p{number}{{background-image:url({uri})}}" for number, uri in enumerate(self._uris)]


def figure_uri(path: Path) -> str:
    """A PNG file as the URI of an ``<img>``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return _uri(read_bytes(path, text_limit()), "png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
