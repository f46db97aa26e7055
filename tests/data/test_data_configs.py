from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from lightning_adv2.data import AttackDataModule, ImageDataModule

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_makes_a_data_module(path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    made = parser.instantiate_classes(parser.parse_args([f"--data={path}", "--data.batch_size=3"])).data
    assert isinstance(made, ImageDataModule)
    assert made.batch_size == 3


def test_attack_data_module_from_a_config() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(AttackDataModule, "data", sub_configs=True)
    options = [f"--data.source={CONFIGS / 'shapes.yaml'}", "--data.source.num_test=5", "--data.num_images=null"]
    made = parser.instantiate_classes(parser.parse_args(options)).data
    assert made.source.name == "shapes"
    assert len(made.source.dataset("test")) == 5
    assert made.num_images is None
