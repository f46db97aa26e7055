"""Target maps m_t (paper section 4): the benign map, a patch, another image's map, or a map from a file."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from lightning_adv2.files import open_regular, read_bytes
from lightning_adv2.files.images import image_limit, opened_png
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.functional.patches import random_patch
from lightning_adv2.functional.random import per_image
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier


@dataclass
class TargetRequest:
    """The inputs of a target map; every field is per image, so that no image's map depends on its neighbours.

    Attributes:
        classifier: the victim, in eval mode.
        interpreter: whose maps are attacked.
        images: ``(B, C, H, W)`` in [0, 1], benign.
        label: ``(B,)`` in [0, K), the true class.
        target_class: ``(B,)`` in [0, K), c_t.
        benign_map: ``(B, 1, h, w)`` in [0, 1], of the benign images for their true class.
        image_id: B strings.
        generators: B CPU generators, for the target's random numbers.
        other_images: ``(B, C, H, W)`` in [0, 1], another image for each, or None.
        other_label: ``(B,)`` in [0, K), their true classes, or None.
    """

    classifier: Classifier
    interpreter: Interpreter
    images: Tensor
    label: Tensor
    target_class: Tensor
    benign_map: Tensor
    image_id: list[str]
    generators: Sequence[Generator]
    other_images: Tensor | None = None
    other_label: Tensor | None = None


class Target(ABC):
    """Makes the target maps m_t of a batch (paper section 4).

    Attributes:
        name: short and lower case, for tables and log keys.
    """

    name: str

    @abstractmethod
    def __call__(self, request: TargetRequest) -> Tensor:
        """The target maps.

        Args:
            request: of B images.

        Returns:
            ``(B, 1, h, w)`` in [0, 1], with the size, dtype and device of the benign maps.

        Raises:
            ValueError: the request lacks an input of the target.
        """


class BenignMap(Target):
    """The image's own benign map: the attack on the classifier shall keep the explanation (paper section 4)."""

    name = "benign"

    def __call__(self, request: TargetRequest) -> Tensor:
        """The benign maps of the request, ``(B, 1, h, w)`` in [0, 1]."""
        return request.benign_map


class RandomPatch(Target):
    """A rectangle or ellipse per image (paper section 4): :func:`~lightning_adv2.functional.patches.random_patch`."""

    name = "patch"

    def __call__(self, request: TargetRequest) -> Tensor:
        """One patch per image, ``(B, 1, h, w)`` of zeros and ones, from the generators of the request.

        Raises:
            ValueError: maps of a single pixel.
        """
        height, width = request.benign_map.shape[-2:]
        drawn = per_image(lambda g: random_patch((height, width), g), request.generators, request.benign_map)
        return drawn.view(request.benign_map.shape)


class RandomClass(Target):
    """The benign map of another image, of a class other than the target class (paper section 4)."""

    name = "class"

    def __call__(self, request: TargetRequest) -> Tensor:
        """The maps of the request's other images for their true classes, ``(B, 1, h, w)`` in [0, 1].

        Raises:
            ValueError: the batch has no other images, or one of them is of the target class.
        """
        if request.other_images is None or request.other_label is None:
            raise ValueError(
                "other_images, other_label: the target 'class' needs another image for each image, and this batch has "
                "none; load it with AttackDataModule(partners=True)"
            )
        same = request.other_label == request.target_class
        if same.any():
            image_id = request.image_id[int(same.nonzero()[0])]
            raise ValueError(
                f"other_label: the other image for {image_id!r} is of its target class; the target 'class' needs one "
                "of another class (AttackDataModule(partners=True) chooses them so)"
            )
        explained = request.interpreter.explain(request.classifier, request.other_images, request.other_label)
        return explained.attribution_map


class MapFile(Target):
    """Maps from files, resized bilinearly to the interpreter's map size.

    A file is a ``.npy`` array ``(h, w)``, with leading dimensions of size 1 if you like, with values in [0, 1]; or a
    grey ``.png`` of 8 or 16 bits, black for 0 and white for 1.

    Args:
        path: one file, for all images; or a folder with a file per image, named after the whole image id plus
            ``.npy`` or ``.png``: the map of ``val/dog/7.jpg`` is ``<folder>/val/dog/7.jpg.npy``.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: ``path`` is a file of another type, or no regular file.
    """

    name = "file"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"path={str(path)!r} does not exist; give a .npy or .png file, or a folder of them")
        if not self.path.is_dir() and self.path.suffix.lower() not in _READERS:
            raise ValueError(f"path={str(path)!r}: cannot read maps of this type; give a .npy or a grey .png file")
        if not self.path.is_dir() and not self.path.is_file():
            raise ValueError(f"path={str(path)!r}: it is no regular file; give a .npy or a grey .png file")

    def __call__(self, request: TargetRequest) -> Tensor:
        """The maps from the files, resized to the benign maps: ``(B, 1, h, w)`` in [0, 1].

        Raises:
            FileNotFoundError: an image has no file.
            ValueError: a file holds no map, or an image's id leads out of the folder.
        """
        like = request.benign_map
        if not request.image_id:
            return like.new_empty(like.shape)
        if self.path.is_file():
            return _read(self.path, like).expand(len(request.image_id), -1, -1, -1).contiguous()
        return torch.cat([_read(self._find(image_id), like) for image_id in request.image_id])

    def description(self) -> dict[str, str]:
        """The hash of all maps, by which runs are compared wherever the files lie.

        Raises:
            OSError: a file cannot be read.
        """
        digest = sha256()
        files = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        for file in files:
            if file.suffix in _READERS and file.is_file():
                name = file.suffix if file == self.path else file.relative_to(self.path).as_posix()
                with open_regular(file) as stream:
                    digest.update(os.fsencode(f"{name}\0{file_digest(stream, 'sha256').hexdigest()}\n"))
        return {"maps": digest.hexdigest()}

    def _find(self, image_id: str) -> Path:
        if ".." in PurePath(image_id).parts or PurePath(image_id).is_absolute():
            raise ValueError(f"path={str(self.path)!r}: the image id {image_id!r} leads out of it; rename the image")
        candidates = [self.path / f"{image_id}{suffix}" for suffix in _READERS]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(
            f"path={str(self.path)!r}: image {image_id!r} has no map; put one there as {candidates[0]} (or .png)"
        )


def _read(file: Path, like: Tensor) -> Tensor:
    """``(1, 1, h, w)`` in [0, 1], with the size, dtype and device of ``like``."""
    try:
        values = _READERS[file.suffix.lower()](file)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise ValueError(f"{file}: cannot be read as a map ({error}); write it again") from error
    if values.size == 0 or values.ndim < 2 or values.shape[:-2].count(1) != values.ndim - 2:
        raise ValueError(f"{file}: its shape is {values.shape}; a map is one image of shape (h, w)")
    # not (... and ...): comparisons with NaN are false
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"{file}: its values lie in [{values.min():.3g}, {values.max():.3g}]; a map lies in [0, 1] without NaN "
            "(divide 8-bit values by 255)"
        )
    grid = torch.from_numpy(values.reshape(1, 1, *values.shape[-2:]))
    return resize_map(grid, like.shape[-2:]).clamp(0, 1).to(device=like.device, dtype=like.dtype)


def _read_npy(file: Path) -> NDArray[np.float64]:
    values = np.load(io.BytesIO(read_bytes(file, image_limit())), allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise ValueError("it holds no array of real numbers")
    return values.astype(np.float64)


def _read_image(file: Path) -> NDArray[np.float64]:
    with opened_png(file) as image:
        if image.mode not in ("1", "L") and not image.mode.startswith("I"):
            raise ValueError(f"it is not grey but of mode {image.mode!r}; convert it with Image.convert('L')")
        values = np.asarray(image, dtype=np.float64)
        levels = {"1": 1, "L": 255}.get(image.mode, 65535)
    return values / levels


_READERS = {".npy": _read_npy, ".png": _read_image}
