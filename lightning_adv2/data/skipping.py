"""Unreadable images are left out by name, up to a limit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from lightning_adv2.data.images import ImageDataset, Item, UnreadableImageError


def read_items(images: ImageDataset, indices: Iterable[int], replace: bool) -> tuple[list[Item], list[tuple[str, str]]]:
    """Return the readable images, and id and reason of each unreadable image that was asked for.

    Args:
        images: the dataset.
        indices: the images' numbers, from 0.
        replace: whether the next readable image replaces an unreadable one.

    Raises:
        RuntimeError: ``replace``, and no image at all can be read.
    """
    items: list[Item] = []
    skipped: list[tuple[str, str]] = []
    for index in indices:
        for turn in range(len(images) if replace else 1):
            try:
                items.append(images[(index + turn) % len(images)])
                break
            except UnreadableImageError as error:
                if not turn:
                    skipped.append((error.image_id, error.reason))
        else:
            if replace:
                raise RuntimeError(f"none of the {len(images)} images can be read; the first: {skipped[0][1]}")
    return items, skipped


class Skipped(dict[str, str]):
    """The images of a split that this process had to leave out: image id -> reason.

    Args:
        split: the split's name, for messages.
        num_images: how many images the split has.
        limit: the largest share of them that may be left out, in [0, 1].
        total: adds a number up over all processes.
    """

    def __init__(self, split: str, num_images: int, limit: float, total: Callable[[int], int]) -> None:
        super().__init__()
        self.split, self.num_images, self.limit, self.total = split, num_images, limit, total

    def note(self, found: Iterable[tuple[str, str]]) -> None:
        """Note images left out, each with a warning the first time.

        Args:
            found: pairs of an image's id and the reason.

        Raises:
            RuntimeError: this process alone left out more than the limit.
        """
        for image_id, reason in found:
            if image_id not in self:
                self[image_id] = reason
                warnings.warn(f"left out: cannot read the image {image_id} ({reason})", stacklevel=2)
        self.check(len(self))

    def check(self, count: int) -> None:
        """Check a number of unreadable images against the limit.

        Raises:
            RuntimeError: the images are too many; the error names the first five.
        """
        if count > self.limit * self.num_images:
            first = ", ".join(f"{name} ({reason})" for name, reason in list(self.items())[:5])
            raise RuntimeError(
                f"{count} of the {self.num_images} images of the {self.split} split cannot be read, more than "
                f"max_skipped={self.limit:g} allows: {first or 'see the other processes'}. Replace or remove them, or "
                "raise max_skipped"
            )
