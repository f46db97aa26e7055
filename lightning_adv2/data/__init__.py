"""Datasets and data modules; the manifest of an evaluation and its batches."""

from lightning_adv2.data.attack import AttackDataModule
from lightning_adv2.data.attack_batches import AttackBatch, AttackBatches
from lightning_adv2.data.cifar10 import CIFAR10DataModule
from lightning_adv2.data.data_module import ImageDataModule
from lightning_adv2.data.folder import ImageFolderDataModule, ImageFolderDataset
from lightning_adv2.data.ham10000 import HAM10000DataModule, LesionDataset
from lightning_adv2.data.imagenet import ImageNetDataModule
from lightning_adv2.data.images import ImageDataset, ImageSubset, Item, UnreadableImageError
from lightning_adv2.data.manifest import Manifest, ManifestEntry
from lightning_adv2.data.sampling import BatchShard
from lightning_adv2.data.scan import build_manifest
from lightning_adv2.data.shapes import ShapesDataModule, ShapesDataset

__all__ = [
    "AttackBatch",
    "AttackBatches",
    "AttackDataModule",
    "BatchShard",
    "CIFAR10DataModule",
    "HAM10000DataModule",
    "ImageDataModule",
    "ImageDataset",
    "ImageFolderDataModule",
    "ImageFolderDataset",
    "ImageNetDataModule",
    "ImageSubset",
    "Item",
    "LesionDataset",
    "Manifest",
    "ManifestEntry",
    "ShapesDataModule",
    "ShapesDataset",
    "UnreadableImageError",
    "build_manifest",
]
