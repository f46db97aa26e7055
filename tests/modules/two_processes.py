"""Started by test_rts_module.py: RTS trained on two processes, through both phases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import shapes, trainer, untrained_rts, victim

from lightning_adv2.models import weights_hash
from lightning_adv2.modules import RTSModule

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    module = RTSModule(victim(), untrained_rts(), selector_steps=2)
    frozen = weights_hash(module.classifier)
    loop = trainer(folder, devices=2, strategy="ddp", max_steps=4, max_epochs=-1)
    loop.fit(module, shapes(num_train=24, batch_size=4))
    content = {
        "steps": loop.global_step,
        "frozen": weights_hash(module.classifier) == frozen,
        "embedding": weights_hash(module.interpreter.network.embedding),
        "logged": {name: float(value) for name, value in loop.callback_metrics.items() if name.startswith("val/")},
    }
    (folder / f"rank-{loop.global_rank}.json").write_text(json.dumps(content))
