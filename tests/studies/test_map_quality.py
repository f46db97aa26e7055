from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import attack_data, idls, trainer
from scipy.stats import spearmanr
from torch import Tensor

from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.functional.randomisation import randomised
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import IDLS
from lightning_adv2.studies import MapQualityEvaluation


def explained(module: IDLS, data: Any) -> dict[str, Tensor]:
    """The maps of all images by interpreter, and under ``<name>!`` those of the shuffled networks."""
    shuffled = {
        name: randomised(part, 3) for name, part in (("", module.classifier), *module.interpreters.named_children())
    }
    maps: dict[str, list[Tensor]] = {}
    for batch in data.test_dataloader():
        for number, one in module.interpreters.named_children():
            asked = batch["images"], batch["label"]
            maps.setdefault(one.name, []).append(one.explain(module.classifier, *asked).attribution_map)
            other = shuffled[number].explain(shuffled[""], *asked).attribution_map
            maps.setdefault(one.name + "!", []).append(other)
    return {name: torch.cat(parts) for name, parts in maps.items()}


def test_promise_22_agreement_and_randomised_correlation(tmp_path: Path) -> None:
    module, data = idls("rts", "grad", "cam"), attack_data()
    before = weights_hash(module)
    run = trainer(tmp_path, MapQualityEvaluation(order=False, seed=3, reference="rts", randomise=True))
    logged = run.test(module, datamodule=data, verbose=False)[0]
    assert weights_hash(module) == before
    found = json.loads((tmp_path / "map_quality.json").read_text())
    maps = explained(module, data)
    assert maps["grad"].shape[-1] != maps["rts"].shape[-1], "sizes alike show nothing"
    for name in ("rts", "grad", "cam"):
        fitted = resize_map(maps[name], maps["rts"].shape[-2:])
        assert found[name]["agreement_l1"] == pytest.approx(float(map_l1(fitted, maps["rts"]).mean()), abs=1e-5)
        assert found[name]["agreement_iou"] == pytest.approx(float(map_iou(fitted, maps["rts"]).mean()), abs=0.02)
        pairs = zip(maps[name].flatten(1).numpy(), maps[name + "!"].flatten(1).numpy(), strict=True)
        expected = sum(spearmanr(*pair).statistic for pair in pairs) / len(fitted)
        assert found[name]["randomised_correlation"] == pytest.approx(expected, abs=0.01)
        assert logged[f"test/benign/{name}/agreement_l1"] == pytest.approx(found[name]["agreement_l1"], rel=1e-6)
    assert (found["rts"]["agreement_l1"], found["rts"]["agreement_iou"]) == (0, 1)


def test_without_being_asked_nothing_is_compared(tmp_path: Path) -> None:
    trainer(tmp_path, MapQualityEvaluation(order=False)).test(idls("cam"), datamodule=attack_data(), verbose=False)
    (found,) = json.loads((tmp_path / "map_quality.json").read_text()).values()
    assert found.keys() >= {"gap", "preserved"}
    assert not found.keys() & {"agreement_l1", "agreement_iou", "randomised_correlation"}


def test_a_reference_that_is_not_there_is_named(tmp_path: Path) -> None:
    run = trainer(tmp_path, MapQualityEvaluation(reference="rts"))
    with pytest.raises(ValueError, match=r"reference='rts'.*cam, grad"):
        run.test(idls("cam", "grad"), datamodule=attack_data(), verbose=False)
