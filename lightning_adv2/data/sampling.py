"""The split of images into parts, batches and processes, and their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, DistributedSampler, Sampler

from lightning_adv2.runtime.seeds import derived


class BatchShard(DistributedSampler[int]):
    """The batches of rank r of W: r, r + W, r + 2W, ..., with no padding and no duplicates.

    Every rank gets equally many batches, because the others would wait for a rank with more: where the batches run out,
    the rank gets the empty one (number ``num_batches``). Being a DistributedSampler keeps Lightning from replacing it
    with its own, which pads with duplicates.

    Args:
        num_batches: N.
        num_replicas: W.
        rank: r.

    Raises:
        ValueError: ``rank`` is not in [0, ``num_replicas``).
    """

    def __init__(self, num_batches: int, num_replicas: int = 1, rank: int = 0) -> None:
        batches = cast("Dataset[int]", range(num_batches))
        super().__init__(batches, num_replicas, rank, shuffle=False)
        rounds = max(-(-num_batches // num_replicas), 1)
        self._own = [min(turn * num_replicas + rank, num_batches) for turn in range(rounds)]

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class EpochOrder(Sampler[list[int]]):
    """One rank's part of each training batch, in an order that (seed, epoch) alone determine.

    Step j takes images jWb to (j + 1)Wb of the epoch's permutation; rank r of W takes every W-th of them. W processes
    with batches of b therefore take the steps of one process with batches of Wb. The incomplete last step is left out
    where there is another step.

    Args:
        num_images: N.
        batch_size: b.
        seed: of all orders.
        num_replicas: W.
        rank: r.
        labels: the N true classes, for an epoch of N images drawn with replacement, of every class equally often on
            average; None for each image once.

    Raises:
        ValueError: fewer images than processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        labels: Sequence[int] | None = None,
    ) -> None:
        if num_images < num_replicas:
            raise ValueError(f"the training split has {num_images} images for {num_replicas} processes; start fewer")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.num_replicas, self.rank, self.epoch = num_replicas, rank, 0
        self.images_per_step = min(batch_size, num_images // num_replicas) * num_replicas
        self._weight = None if labels is None else balancing(labels)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, at least 0, whose order the next iterator gives; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = Generator().manual_seed(derived(self.seed, "order", self.epoch))
        if self._weight is None:
            order = torch.randperm(self.num_images, generator=generator).tolist()
        else:
            order = torch.multinomial(self._weight, self.num_images, True, generator=generator).tolist()
        for step in range(len(self)):
            start = step * self.images_per_step
            yield order[start + self.rank : start + self.images_per_step : self.num_replicas]

    def __len__(self) -> int:
        return self.num_images // self.images_per_step


def balancing(labels: Sequence[int]) -> Tensor:
    """Return for each image the reciprocal of its class's number of images, ``(N,)`` float64."""
    classes = torch.tensor(labels)
    return 1 / classes.bincount()[classes].double()


class Rest(Sampler[Any]):
    """The items of a sampler without the first ``start``.

    Args:
        whole: the sampler.

    Attributes:
        start: how many items are left out; 0 at first.
    """

    def __init__(self, whole: Sampler[Any]) -> None:
        self.whole, self.start = whole, 0

    def __iter__(self) -> Iterator[Any]:
        for number, indices in enumerate(self.whole):
            if number >= self.start:
                yield indices

    def __len__(self) -> int:
        return len(cast("Any", self.whole)) - self.start


def hold_out(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices kept and the indices held out, both ascending; each class is split at random.

    Every class keeps an image and, if it has two or more, holds one out.

    Args:
        labels: the N true classes.
        fraction: the share of each class to hold out, in [0, 1).
        seed: of the choice.
    """
    generator = Generator().manual_seed(seed)
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    held: set[int] = set()
    for _, members in sorted(by_class.items()):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.update(members[place] for place in torch.randperm(len(members), generator=generator)[:count].tolist())
    return [index for index in range(len(labels)) if index not in held], sorted(held)
