"""Started twice by test_attack_metrics.py: each process sees its own shard, both compute the mean over all images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from lightning_adv2.metrics import attack_metrics
    from metrics.test_attack_metrics import FIELDS, fill_quality, make_fields, take

    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    fields, metrics = make_fields(), attack_metrics()
    # Uneven: nine images in two updates here, two in one update there.
    for part in ([range(0, 5), range(5, 9)], [range(9, 11)])[rank]:
        metrics.update(**take(fields, list(part)))
    assert set(fields) == set(FIELDS)
    values = {name: float(value) for name, value in metrics.compute().items()}
    quality = fill_quality([range(0, 3)] if rank == 0 else [range(3, 4)])
    (folder / f"values-{rank}.json").write_text(json.dumps({"attack": values, "quality": quality.compute()}))
    dist.destroy_process_group()
