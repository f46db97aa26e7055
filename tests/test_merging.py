"""A list given anew, or another class, is what a fresh file with it would be; what is not given anew stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_adv2.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = ["cifar10_grad", "cifar10_cam", "ablation_grad"]


def bare(attacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same attacks with their defaults."""
    return [{"class_path": attack["class_path"]} for attack in attacks]


def turned(attacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same attacks in another order, one of them changed."""
    first, *others = bare(attacks)
    return [*others, {**first, "init_args": {"steps": 7}}]


def fewer(attacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but one."""
    return bare(attacks)[1:]


def change(callbacks: list[dict[str, Any]], way: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Give the evaluation among the callbacks other attacks."""
    (evaluation,) = [one for one in callbacks if one["class_path"].endswith("AttackEvaluation")]
    evaluation["init_args"]["attacks"] = way(evaluation["init_args"]["attacks"])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["test", *arguments, "--print_config"])
    out, err = capsys.readouterr()
    assert ended.value.code in (0, None), err
    return yaml.safe_load(out)


def written(folder: Path, content: dict[str, Any], name: str = "given.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(content))
    return str(folder / name)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("attacks", [bare, turned, fewer])
@pytest.mark.parametrize("way", ["file", "flag"])
def test_a_list_given_anew_is_the_one_of_a_fresh_file(capsys, tmp_path, run, attacks, way):
    base = CONFIGS / "evaluate" / f"{run}.yaml"
    fresh = yaml.safe_load(base.read_text())
    callbacks = fresh["trainer"]["callbacks"]
    change(callbacks, attacks)
    expected = printed(capsys, "--config", written(tmp_path, fresh))
    if way == "file":
        again = ["--config", written(tmp_path, {"trainer": {"callbacks": callbacks}}, "over.yaml")]
    else:
        again = ["--trainer.callbacks", json.dumps(callbacks)]
    assert printed(capsys, "--config", str(base), *again) == expected


def test_a_nested_list_is_replaced_as_a_whole(capsys, tmp_path):
    """A list among the arguments of a class that stays."""
    source = {"class_path": "lightning_adv2.data.ShapesDataModule"}
    first = {"source": source, "num_images": 5}
    base = written(tmp_path, {"data": {"class_path": "lightning_adv2.data.AttackDataModule", "init_args": first}})
    model = ["--model", "lightning_adv2.modules.IDLS", "--model.classifier", "lightning_adv2.models.CifarResNet"]
    ensemble = "lightning_adv2.interpreters.Ensemble"

    def members(*given: dict[str, Any]) -> list[str]:
        content = {"class_path": ensemble, "init_args": {"members": list(given)}}
        return ["--model.interpreter", json.dumps(content)]

    grad, smooth = ({"class_path": f"lightning_adv2.interpreters.{name}"} for name in ("Gradient", "SmoothGrad"))
    pooled = [{**one, "init_args": {"pool": 3}} for one in (grad, smooth)]
    expected = printed(capsys, "--config", base, *model, *members(grad, smooth))
    found = printed(capsys, "--config", base, *model, *members(*pooled), *members(grad, smooth))
    assert found == expected


@pytest.mark.parametrize("way", ["file", "flag"])
def test_another_class_starts_from_its_own_defaults(capsys, tmp_path, way):
    """MASK and SmoothGrad both have a sigma; MASK's is in pixels."""
    base = str(CONFIGS / "evaluate" / "cifar10_grad.yaml")
    mask = {"class_path": "lightning_adv2.interpreters.MASK", "init_args": {"sigma": 5.0}}
    first = ["--config", written(tmp_path, {"model": {"init_args": {"interpreter": mask}}}, "mask.yaml")]
    if way == "file":
        other = {"model": {"init_args": {"interpreter": {"class_path": "lightning_adv2.interpreters.SmoothGrad"}}}}
        second = ["--config", written(tmp_path, other)]
    else:
        second = ["--model.init_args.interpreter", "lightning_adv2.interpreters.SmoothGrad"]
    found = printed(capsys, "--config", base, *first, *second)
    assert found == printed(capsys, "--config", base, *second)
    assert found["model"]["init_args"]["interpreter"]["init_args"]["sigma"] != 5.0


def test_what_is_not_given_anew_stays(capsys):
    base = str(CONFIGS / "evaluate" / "cifar10_grad.yaml")
    before = printed(capsys, "--config", base)
    noise = "lightning_adv2.callbacks.NoiseEvaluation"
    after = printed(
        capsys, "--config", base, "--model.init_args.interpreter.init_args.pool", "3", f"--trainer.callbacks+={noise}"
    )
    assert after["model"]["init_args"]["interpreter"]["init_args"]["pool"] == 3
    assert after["trainer"]["callbacks"][:-1] == before["trainer"]["callbacks"]
    assert after["trainer"]["callbacks"][-1]["class_path"] == noise
    after["model"]["init_args"]["interpreter"]["init_args"]["pool"] = None
    assert after["model"] == before["model"]
