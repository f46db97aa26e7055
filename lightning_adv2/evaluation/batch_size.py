"""The batch size of an evaluation with ``batch_size: auto``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lightning_adv2.attacks import AcceleratedCopy, Attack
from lightning_adv2.attacks.footprint import step_bytes
from lightning_adv2.data.scan import eval_mode
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier

# Larger batches are no faster: see the batch sizes in benchmarks/README.md.
MOST = 256
MOST_ON_CPU = 64
# Of the free memory, for graphs; the rest is for weights, the attack's copies of the images and single layers' needs.
SHARE = 0.5
CGROUP = Path("/sys/fs/cgroup")


def fitting_batch(
    classifier: Classifier,
    attacks: Iterable[tuple[Interpreter, list[Attack]]],
    image: Tensor,
    device: torch.device,
    processes: int = 1,
) -> int:
    """The largest power of 2 of images whose graphs fit into the free memory under every attack; at least 1.

    Their size is measured with one image on the victim itself, where it is now: the attacks' copy of it takes half, but
    attacks are diagnosed on the victim. A batch that is too large after all is halved when it is attacked.

    Args:
        classifier: the victim.
        attacks: each interpreter with the attacks fitted to it.
        image: ``(C, H, W)`` in [0, 1].
        device: where the attacks will run.
        processes: that share the device's memory.
    """
    image, largest = image.to(classifier.mean), 1
    for interpreter, own in attacks:
        with eval_mode(classifier), eval_mode(interpreter):
            victim = AcceleratedCopy(classifier, interpreter)
            largest = max([largest, *(step_bytes(attack, victim, image) for attack in own)])
    fitting = int(SHARE * free_memory(device) / processes / largest)
    most = MOST_ON_CPU if device.type == "cpu" else MOST
    return 1 << (max(1, min(most, fitting)).bit_length() - 1)


def free_memory(device: torch.device) -> int:
    """The free memory of a device in bytes, within the limit of a container or a job."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")  # Linux
    lines = table.read_text(encoding="ascii").splitlines() if table.exists() else []
    kilobytes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    free = int(kilobytes.get("MemAvailable", 8 * 2**20)) * 1024  # elsewhere, what any machine has
    limit, used = (CGROUP / "memory.max"), (CGROUP / "memory.current")
    if limit.exists() and (most := limit.read_text(encoding="ascii").strip()).isdigit():
        free = min(free, int(most) - int(used.read_text(encoding="ascii")))
    return max(0, free)
