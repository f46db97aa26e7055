from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lab import attack_data, idls, map_qualities, shapes, trainer, untrained_rts, victim
from scipy.stats import spearmanr
from torch import Tensor

from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.functional.randomisation import randomised
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import IDLS, RTSModule
from lightning_adv2.report.findings import Findings, read_findings
from lightning_adv2.studies import MapQualityEvaluation
from lightning_adv2.studies.map_quality import MEASURES, heading_of


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
    found = map_qualities(tmp_path)
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


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_measures_of_one_interpreter_and_their_log_keys(stage: str, tmp_path: Path) -> None:
    loop = trainer(tmp_path, study := MapQualityEvaluation())
    (logged,) = getattr(loop, stage)(idls(), shapes(num_val=20), verbose=False)
    (own,) = map_qualities(tmp_path).values()
    prefix = f"{'test' if stage == 'test' else 'val'}/benign/cam"
    names = ["area", "preserved", "destroyed", "shuffled", "localisation_iou", "deletion", "insertion", "gap"]
    assert own.keys() == {*names, "random_deletion", "random_insertion"}
    for name, value in own.items():
        assert -(name == "gap") <= value <= 1
        assert logged[f"{prefix}/{name}"] == pytest.approx(value, rel=1e-6)
    assert not [key for key in logged if key.startswith(prefix) and key.removeprefix(f"{prefix}/") not in own]
    found = read_findings(tmp_path, "map_quality")
    assert found is not None
    assert found.findings.rows == study.rows
    assert [column.key for column in found.tables[0].columns] == ["interpreter", *own], "those that are measured"
    (figure,) = (MapQualityEvaluation.figure(found.findings),)
    assert figure is not None
    heights = {
        label.get_text(): bar.get_height()
        for axis in figure.axes
        if axis.axison
        for label, bar in zip(axis.get_xticklabels(), axis.patches, strict=True)
    }
    assert heights == {heading_of(name): value for name, value in own.items()}


def test_several_interpreters_are_measured_as_each_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for names in (["rts", "cam"], ["rts"], ["cam"]):
        loop = trainer(tmp_path, MapQualityEvaluation(order=False))
        (logged,) = loop.test(idls(*names), shapes(), verbose=False)
        content = map_qualities(tmp_path)
        assert list(content) == names
        for name in names:
            assert logged[f"test/benign/{name}/preserved"] == pytest.approx(content[name]["preserved"], rel=1e-6)
        found["-".join(names)] = content
    assert found["rts-cam"] == {**found["rts"], **found["cam"]}
    assert "preserved" in capsys.readouterr().out


def test_each_validation_of_fit_is_measured(tmp_path: Path) -> None:
    loop = trainer(
        tmp_path, MapQualityEvaluation(order=False), max_steps=2, max_epochs=-1, val_check_interval=1,
        num_sanity_val_steps=1,
    )  # fmt: skip
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=1), shapes())
    folders = sorted(path.parent for path in tmp_path.rglob("map_quality.json"))
    assert [path.name for path in folders] == ["step_000001", "step_000002"], "none of the sanity check"
    last = map_qualities(folders[-1])["rts"]
    assert loop.callback_metrics["val/benign/rts/preserved"] == pytest.approx(last["preserved"], rel=1e-6)


def test_negative_means_are_within_the_axis() -> None:
    rows = [{"interpreter": name} | dict.fromkeys(MEASURES) | {"gap": gap} for name, gap in (("a", 0.5), ("b", -0.25))]
    figure = MapQualityEvaluation.figure(Findings(rows))
    assert figure is not None
    assert figure.axes[0].get_ylim()[0] < -0.25


def test_without_being_asked_nothing_is_compared(tmp_path: Path) -> None:
    trainer(tmp_path, MapQualityEvaluation(order=False)).test(idls("cam"), datamodule=attack_data(), verbose=False)
    (found,) = map_qualities(tmp_path).values()
    assert found.keys() >= {"gap", "preserved"}
    assert not found.keys() & {"agreement_l1", "agreement_iou", "randomised_correlation"}


def test_a_reference_that_is_not_there_is_named(tmp_path: Path) -> None:
    run = trainer(tmp_path, MapQualityEvaluation(reference="rts"))
    with pytest.raises(ValueError, match=r"reference='rts'.*cam, grad"):
        run.test(idls("cam", "grad"), datamodule=attack_data(), verbose=False)
