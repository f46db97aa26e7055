from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lab import idls, shapes, test_batch, trainer
from safetensors import safe_open

from lightning_adv2.modules import MapWriter


@pytest.mark.parametrize("names", [["cam"], ["rts", "cam"]], ids="-".join)
def test_maps_of_every_interpreter(names: list[str], tmp_path: Path) -> None:
    module, batch = idls(*names), test_batch()
    trainer(tmp_path, MapWriter()).predict(module, shapes(), return_predictions=False)
    with torch.no_grad():
        predicted = module.classifier(batch["images"]).argmax(1)
    for name, interpreter in zip(names, module.interpreters, strict=True):
        below = Path(name) if len(names) > 1 else Path()
        files = sorted((tmp_path / "maps" / below).glob("*.safetensors"))
        assert [path.name for path in files] == [f"batch_{i:05d}.safetensors" for i in range(3)]
        ids: list[str] = []
        maps: list[torch.Tensor] = []
        for path in files:
            with safe_open(path, framework="pt") as file:
                ids += json.loads(file.metadata()["image_id"])
                maps.append(file.get_tensor("attribution_map"))
        assert ids == batch["image_id"]
        expected = interpreter.explain(module.classifier, batch["images"], predicted).attribution_map
        assert torch.allclose(torch.cat(maps), expected, atol=1e-5)
        assert (tmp_path / "figures" / below / "maps.png").stat().st_size > 5000
