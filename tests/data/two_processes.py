"""Started by test_attack_data.py: one evaluation on two processes, each of which writes down its batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from test_attack_data import Collect, attack_data

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name, num_images in (("few", 2), ("all", 10)):
        module = Collect()
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            logger=False,
            enable_progress_bar=False,
            inference_mode=False,
            default_root_dir=folder / name,
        )
        trainer.test(module, attack_data(num_images=num_images), verbose=False)
        found = [(batch["batch_index"], batch["image_id"]) for batch in module.batches]
        (folder / f"{name}-{trainer.global_rank}.json").write_text(json.dumps(found))
