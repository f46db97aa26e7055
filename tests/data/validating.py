"""Started by test_loaders.py: validations on 1, 2 or 3 processes, and a fit with a validation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import shapes, trainer, untrained_rts, victim

from lightning_adv2.modules import ClassifierModule, RTSModule

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    pl.seed_everything(3, verbose=False)
    options = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
    found: dict[str, object] = {}
    for batch_size in (3, 20):
        data = shapes(num_val=13, batch_size=batch_size)
        modules = {"classifier": ClassifierModule(victim()), "rts": RTSModule(victim(), untrained_rts())}
        for name, module in modules.items():
            (logged,) = trainer(folder, **options).validate(module, data, verbose=False)
            found[f"{batch_size} {name}"] = logged
    # Five batches of validation, which two or three processes cannot share evenly: with uneven counts this would hang.
    loop = trainer(folder, max_epochs=1, **options)
    loop.fit(ClassifierModule(victim(), learning_rate=1e-12), shapes(num_train=12 * devices, num_val=13, batch_size=3))
    found["fit"] = loop.global_step
    if loop.is_global_zero:
        (folder / f"{devices}.json").write_text(json.dumps(found))
