"""Over another configuration, a list or another class means what it means in a file of its own."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_adv2.cli import main
from lightning_adv2.reproduction.configuration import read_configuration

CONFIGS = Path(__file__).parents[2] / "configs"
BASES = ("cifar10_grad", "cifar10_all", "shapes_cam")
ATTACKS = "lightning_adv2.attacks."
EVALUATION = "lightning_adv2.evaluation.AttackEvaluation"
STUDIES = "lightning_adv2.studies."
LISTS: dict[str, tuple[str, Any]] = {
    "attacks": (
        "trainer.callbacks",
        [
            {
                "class_path": EVALUATION,
                "init_args": {"attacks": [{"class_path": ATTACKS + name} for name in ("pgd", "adv2_grad", "adv2_cam")]},
            }
        ],
    ),
    "callbacks": (
        "trainer.callbacks",
        [{"class_path": name} for name in (STUDIES + "MapQualityEvaluation", EVALUATION)],
    ),
    "interpreters": (
        "model.init_args.interpreter",
        [{"class_path": f"lightning_adv2.interpreters.{name}"} for name in ("SmoothGrad", "MASK")],
    ),
    "one of three": ("model.init_args.interpreter", [{"class_path": "lightning_adv2.interpreters.SmoothGrad"}]),
}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main(["test", *words, "--print_config"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 0, err
    content = yaml.safe_load(out)
    assert isinstance(content, dict)
    return content


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *above, last = key.split(".")
    part = content
    for name in above:
        part = part.setdefault(name, {})
    part[last] = value
    return content


def write(path: Path, content: Any) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("way", ["file", "flag", "file of the list", "flag after another list"])
@pytest.mark.parametrize(("base", "name"), product(BASES, LISTS))
def test_a_list_given_anew_is_as_in_a_fresh_file(
    base: str, name: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, (key, value) = CONFIGS / "evaluate" / f"{base}.yaml", LISTS[name]
    fresh = printed(capsys, "--config", write(tmp_path / "fresh.yaml", put(read_configuration(file), key, value)))
    over = {
        "file": ["--config", write(tmp_path / "over.yaml", put({}, key, value))],
        "flag": [f"--{key}={yaml.safe_dump(value, default_flow_style=True)}"],
        "file of the list": [f"--{key}", write(tmp_path / "list.yaml", value)],
        "flag after another list": [
            f"--{key}={yaml.safe_dump(LISTS['callbacks' if 'callbacks' in key else 'interpreters'][1])}",
            f"--{key}={yaml.safe_dump(value, default_flow_style=True)}",
        ],
    }[way]
    assert printed(capsys, "--config", str(file), *over) == fresh


MASK = {"class_path": "lightning_adv2.interpreters.MASK", "init_args": {"sigma": 5.0}}
SMOOTH = {"class_path": "lightning_adv2.interpreters.SmoothGrad"}


@pytest.mark.parametrize("way", ["file", "flag", "short name", "file of the class"])
@pytest.mark.parametrize("before", [MASK, [MASK], [MASK, MASK]], ids=["class", "one", "two"])
@pytest.mark.parametrize("after", [SMOOTH, [SMOOTH], [SMOOTH, SMOOTH]], ids=["class", "one", "two"])
def test_another_class_starts_from_its_own_defaults(
    before: Any, after: Any, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "model.init_args.interpreter"
    content = read_configuration(CONFIGS / "evaluate" / "shapes_cam.yaml")
    fresh = printed(capsys, "--config", write(tmp_path / "fresh.yaml", put(content, key, after)))
    base = write(tmp_path / "base.yaml", put(content, key, before))
    over = {
        "file": ["--config", write(tmp_path / "over.yaml", put({}, key, after))],
        "flag": [f"--{key}={yaml.safe_dump(after, default_flow_style=True)}"],
        "short name": [f"--{key}={'SmoothGrad' if after is SMOOTH else yaml.safe_dump(after)}"],
        "file of the class": [f"--{key}", write(tmp_path / "part.yaml", after)],
    }[way]
    assert printed(capsys, "--config", base, *over) == fresh


def test_the_same_class_merges_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(CONFIGS / "evaluate" / "shapes_cam.yaml")
    over = write(tmp_path / "over.yaml", {"data": {"init_args": {"batch_size": 3}}})
    words = ["--config", base, "--config", over, "--data.init_args.num_images=5"]
    words += ["--trainer.callbacks.init_args.seed=7", f"--trainer.callbacks+={STUDIES}NoiseEvaluation"]
    before, content = printed(capsys, "--config", base), printed(capsys, *words)
    last = before["trainer"]["callbacks"][-1]
    before["data"]["init_args"] |= {"batch_size": 3, "num_images": 5}
    last["init_args"]["seed"] = 7
    assert content["data"] == before["data"]
    assert content["trainer"]["callbacks"][:-1] == before["trainer"]["callbacks"]
    assert content["trainer"]["callbacks"][-1]["class_path"] == STUDIES + "NoiseEvaluation"
