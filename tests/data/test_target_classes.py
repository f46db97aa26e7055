"""The class that an attack aims at, given by the user: one for all, one for each true class, or one for each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from data.collect import Collect, attack_data
from jsonargparse import ArgumentParser
from lab import trainer
from toys import Oracle

from lightning_adv2.data import AttackDataModule, Manifest, build_manifest
from lightning_adv2.data.shapes import ShapesDataset
from lightning_adv2.data.target_classes import target_classes
from lightning_adv2.runtime.experiment import DifferentExperimentError

SHAPES = ShapesDataset(28, seed=0, split="test", image_size=32)
NAMES = SHAPES.classes


def chosen(target_class: Any, num_images: int | None = None) -> Manifest:
    return build_manifest(SHAPES, "shapes", "test", Oracle(SHAPES), num_images, 3, target_class=target_class)


def table(path: Path, *rows: tuple[str, str], columns: str = "file,target_class") -> str:
    path.write_text("\n".join([columns, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


@pytest.mark.parametrize("given", [3, NAMES[3], "3"])
def test_one_class_for_all_images_but_its_own(given: int | str) -> None:
    manifest = chosen(given)
    assert {entry.target_class for entry in manifest.entries} == {3}
    assert len(manifest.entries) == manifest.considered == 24
    assert 3 not in {entry.label for entry in manifest.entries}
    drawn = [entry.image_id for entry in chosen(None).entries if entry.label != 3]
    assert [entry.image_id for entry in manifest.entries] == drawn


def test_a_class_for_each_true_class() -> None:
    targets = [1, NAMES[2], 3, None, 5, 6, "0"]
    manifest = chosen(targets)
    wanted = {0: 1, 1: 2, 2: 3, 4: 5, 5: 6, 6: 0}
    assert {(entry.label, entry.target_class) for entry in manifest.entries} == set(wanted.items())
    assert len(chosen(targets, num_images=5).entries) == 5


def test_a_class_for_each_image_of_a_file(tmp_path: Path) -> None:
    rows = [(SHAPES.image_id(0), "6"), (SHAPES.image_id(8), NAMES[0]), (SHAPES.image_id(20), "5")]
    for columns in ("file,target_class", "image_id,target_class"):
        manifest = chosen(table(tmp_path / "t.csv", *rows, columns=columns))
        found = {entry.image_id: entry.target_class for entry in manifest.entries}
        assert found == {SHAPES.image_id(0): 6, SHAPES.image_id(8): 0, SHAPES.image_id(20): 5}
    assert manifest.targets == chosen(table(tmp_path / "u.csv", *reversed(rows))).targets
    assert manifest.targets != chosen(table(tmp_path / "u.csv", *rows[:2])).targets


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, r"target_class=7: 7 is no class; give an index in \[0, 7\)"),
        (-1, "-1 is no class"),
        ("no such", f"'no such' is no class; .*{NAMES[0]}"),
        ([1, 2], "2 targets for 7 classes; give one for each true class"),
        ([1, 1, 3, 4, 5, 6, 0], f"entry 1 is the class '{NAMES[1]}' itself"),
        ([1, 2, 3, 4, 5, 6, 9], "9 is no class"),
        ([None] * 7, "leaves no image to attack"),
    ],
)
def test_targets_that_cannot_be_are_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        target_classes(given, SHAPES)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([("nobody", "1")], "file,target_class", "line 2: no image 'nobody' .* names such as 'shapes-0/test/00000'"),
        ([("shapes-0/test/00000", "0")], "file,target_class", "line 2: 0 is the true class of 'shapes-0/test/00000'"),
        ([("shapes-0/test/00000", "7")], "file,target_class", "line 2: '7' is no class"),
        ([("shapes-0/test/00000", "")], "file,target_class", "line 2: '' is no class"),
        ([("shapes-0/test/00000", "1")] * 2, "file,target_class", "line 3: the image .* comes twice"),
        ([("shapes-0/test/00000", "1")], "file,target", "it needs file .* and target_class"),
        ([], "file,target_class", "leaves no image to attack"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_line(
    tmp_path: Path, rows: list[tuple[str, str]], columns: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        target_classes(table(tmp_path / "t.csv", *rows, columns=columns), SHAPES)
    with pytest.raises(FileNotFoundError, match=r"target_class='nowhere\.csv' does not exist"):
        target_classes("nowhere.csv", SHAPES)


def test_digits_that_name_a_class_are_its_name() -> None:
    class Digits(ShapesDataset):
        classes = ("0", "1", "10", "2", "3", "4", "5")

    assert set(target_classes("10", Digits(7)).of_image.values()) == {2}
    assert set(target_classes("2", Digits(7)).of_image.values()) == {3}
    assert set(target_classes(2, Digits(7)).of_image.values()) == {2}


def test_manifests_of_drawn_targets_are_the_text_that_they_were() -> None:
    manifest = chosen(None, num_images=3)
    assert "targets" not in json.loads(manifest.to_json())
    assert Manifest.from_json(manifest.to_json()) == manifest
    given = chosen(2, num_images=3)
    assert json.loads(given.to_json())["targets"] == "class 2"
    assert Manifest.from_json(given.to_json()) == given


def test_a_run_goes_on_with_the_same_targets_alone(tmp_path: Path) -> None:
    for target in (5, NAMES[5]):
        module, data = Collect(), attack_data(target_class=target)
        trainer(tmp_path).test(module, data, verbose=False)
        assert {int(one) for batch in module.batches for one in batch["target_class"]} == {5}
    for other in (None, 6, [5, 5, 5, 5, 5, 6, 5]):
        with pytest.raises(DifferentExperimentError, match=r"targets: class 5 before, .* now"):
            trainer(tmp_path).test(Collect(), attack_data(target_class=other), verbose=False)
    fresh, drawn = tmp_path / "drawn", attack_data()
    trainer(fresh).test(Collect(), drawn, verbose=False)
    with pytest.raises(DifferentExperimentError, match="targets: drawn at random before, class 0 now"):
        trainer(fresh).test(Collect(), attack_data(target_class=0), verbose=False)


@pytest.mark.parametrize("given", ["3", NAMES[3], "[1, 2, 3, 4, 5, null, 0]", "[1, ring, 3, 4]", "t.csv", "null"])
def test_the_configuration_takes_every_form(given: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AttackDataModule, "data")
    source = "--data.source=lightning_adv2.data.ShapesDataModule"
    asked = yaml.safe_load(given)
    for found in (
        parser.parse_args([source, f"--data.target_class={given}"]),
        parser.parse_string(f"data:\n  source: {{class_path: {source.split('=')[1]}}}\n  target_class: {given}\n"),
    ):
        assert parser.instantiate_classes(found).data.target_class == asked
        assert yaml.safe_load(parser.dump(found, skip_none=False))["data"]["target_class"] == asked
