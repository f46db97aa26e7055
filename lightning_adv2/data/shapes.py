"""The embedded dataset: textured shapes, drawn when needed. No download, exact masks."""

from __future__ import annotations

from typing import get_args

import numpy as np

from lightning_adv2.data.data_module import ImageDataModule, Split
from lightning_adv2.data.images import ImageDataset, Mask, Pixels
from lightning_adv2.data.rendering import SHAPES, render


class ShapesDataset(ImageDataset):
    """Pictures of one shape each, with its exact mask; the shape is the class.

    Picture ``i`` depends on (seed, split, i, image_size) only, and the classes take turns. The whole split is drawn at
    the first access and kept in memory (16 KB per picture at 64 pixels).

    Args:
        num_images: how many.
        seed: 0 or more.
        split: train, val or test; their pictures differ.
        image_size: height and width in pixels, at least 32.

    Raises:
        ValueError: an argument is out of its range.
    """

    classes = tuple(SHAPES)

    def __init__(self, num_images: int, seed: int = 0, split: Split = "train", image_size: int = 64) -> None:
        if num_images < 1:
            raise ValueError(f"num_images={num_images}: give at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed}: give 0 or more")
        if split not in get_args(Split):
            raise ValueError(f"split={split!r}: take one of {', '.join(get_args(Split))}")
        if image_size < 32:
            raise ValueError(f"image_size={image_size}: the shapes need at least 32 pixels to be told apart")
        self.num_images, self.seed, self.split, self.side = num_images, seed, split, image_size
        self._drawn: tuple[Pixels, Mask] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return self.side, self.side

    def __len__(self) -> int:
        return self.num_images

    def label(self, index: int) -> int:
        """Return the shape, an index into :attr:`classes`."""
        return index % len(self.classes)

    def image_id(self, index: int) -> str:
        """Return seed, split and number, which name the picture."""
        return f"shapes-{self.seed}/{self.split}/{index:05d}"

    def load(self, index: int) -> tuple[Pixels, Mask]:
        """Return the picture ``(H, W, 3)`` uint8 and its shape's mask ``(H, W)`` bool."""
        pixels, masks = self._draw()
        return pixels[index], masks[index]

    def prepare(self) -> None:
        """Draw the whole split, once."""
        self._draw()

    def _draw(self) -> tuple[Pixels, Mask]:
        if self._drawn is None:
            pixels = np.empty((self.num_images, self.side, self.side, 3), np.uint8)
            masks = np.empty((self.num_images, self.side, self.side), np.bool_)
            stream = get_args(Split).index(self.split)
            for i in range(self.num_images):
                rng = np.random.default_rng((self.seed, stream, i))
                pixels[i], masks[i] = render(rng, self.classes[self.label(i)], self.side)
            self._drawn = pixels, masks
        return self._drawn


class ShapesDataModule(ImageDataModule):
    """The embedded dataset's three splits; see :class:`ShapesDataset`.

    Args:
        num_train: training pictures.
        num_val: validation pictures.
        num_test: test pictures.
        image_size: height and width in pixels, at least 32.
        seed: of all pictures.
        batch_size: images per batch.
        num_workers: worker processes per loader.

    Raises:
        ValueError: an argument is out of its range.
    """

    name = "shapes"
    classes = ShapesDataset.classes

    def __init__(
        self,
        num_train: int = 8000,
        num_val: int = 500,
        num_test: int = 1000,
        image_size: int = 64,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.num_images: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.image_size, self.seed = image_size, seed

    def build(self, split: Split) -> ShapesDataset:
        """Return the pictures of a split."""
        return ShapesDataset(self.num_images[split], self.seed, split, self.image_size)
