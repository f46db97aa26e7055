"""Plans: what they refuse, what they compose, and that every one in configs/ is a configuration of the command line."""

import re
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

from lightning_adv2.cli import main
from lightning_adv2.reproduction.command import chosen_items
from lightning_adv2.reproduction.items import ITEMS
from lightning_adv2.reproduction.plan import ROLES, Plan, PlannedRun, chosen, compose, merge, read_plan

ROOT = Path(__file__).parents[2]
PLANS = sorted((ROOT / "configs" / "reproduce").glob("*.yaml"))


def write(folder: Path, content) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"title": "x"}, "expected the keys"),
        ({"runs": {}, "images": 3}, "unknown key images"),
        ({"runs": {"attacks": {"command": "test"}}}, "expected 'config'"),
        ({"runs": {"attacks": {"config": "a.yaml", "wight": 1}}}, "wight"),
        ({"runs": {"atacks": {"config": "a.yaml"}}}, "take one of attacks"),
        ({"runs": {"attacks": {"config": "a.yaml", "after": ["rts"]}}}, "comes after 'rts'"),
        ({"runs": {"weights": {"config": "a.yaml", "command": "fit"}}}, "makes"),
    ],
)
def test_a_bad_plan_says_what_is_wrong(tmp_path, content, named):
    with pytest.raises(ValueError, match=named):
        read_plan(write(tmp_path, content))


def test_a_missing_plan_or_configuration_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        read_plan(tmp_path / "nowhere.yaml")
    plan = Plan("x", tmp_path, {"attacks": PlannedRun(["nowhere.yaml"])})
    with pytest.raises(FileNotFoundError, match=r"run 'attacks': config 'nowhere\.yaml'"):
        compose(plan, "attacks", 0)


def test_only_what_a_table_needs_is_run_and_what_comes_before_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan("configs/reproduce/cifar10.yaml")
    assert set(chosen(plan, {"aid"})) == {"rts", "rts_a", "aid"}
    assert set(chosen(plan, None)) == set(plan.runs)
    assert [item.key for item in chosen_items(["5", "3"])] == ["3", "5"]
    with pytest.raises(ValueError, match="no table '7'"):
        chosen_items(["3", "7"])


def test_later_files_lie_over_earlier_ones_and_another_class_drops_the_old_arguments():
    config = {"data": {"class_path": "A", "init_args": {"x": 1, "y": 2}}, "list": [1, 2]}
    merge(config, {"data": {"init_args": {"y": 3}}, "list": [4]})
    assert config == {"data": {"class_path": "A", "init_args": {"x": 1, "y": 3}}, "list": [4]}
    merge(config, {"data": {"class_path": "B", "init_args": {"z": 1}}})
    assert config["data"] == {"class_path": "B", "init_args": {"z": 1}}


def test_the_papers_scale_changes_images_and_schedule_but_not_the_curves(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    plan = read_plan("configs/reproduce/cifar10.yaml")
    plan = Plan(plan.title, tmp_path, plan.runs, 1000, (0, 7), paper_schedule=True)
    config = compose(plan, "attacks", 7)
    assert config["data"]["init_args"]["num_images"] == 1000
    assert config["data"]["init_args"]["seed"] == 7
    assert config["trainer"]["default_root_dir"] == str(tmp_path / "attacks_seed7")
    (evaluation,) = (c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("AttackEvaluation"))
    assert [a["init_args"]["schedule"] for a in evaluation["init_args"]["attacks"]] == ["paper", "paper"]
    assert evaluation["init_args"]["seed"] == 7
    (curves,) = (c for c in compose(plan, "steps", 0)["trainer"]["callbacks"] if "attacks" in c.get("init_args", {}))
    assert {a["init_args"].get("steps") for a in curves["init_args"]["attacks"]} > {10, 100}


ATTACKS = ("pgd", "stadv", "ADV2", "adv2_cam", "adv2_rts", "adv2_grad", "adv2_mask", "adv2_ensemble")


def with_attacks(folder, *class_paths, role="attacks"):
    """A plan of one run with these attacks, each of three steps."""
    attacks = [{"class_path": path, "init_args": {"steps": 3, "name": "x"}} for path in class_paths]
    evaluation = {"class_path": "lightning_adv2.evaluation.AttackEvaluation", "init_args": {"attacks": attacks}}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "x"}, "trainer": {"callbacks": [evaluation]}}))
    return Plan("x", folder, {"one": PlannedRun([str(config)], role)}, paper_schedule=True)


def attacks_of(config):
    return config["trainer"]["callbacks"][0]["init_args"]["attacks"]


@pytest.mark.parametrize("name", ATTACKS)
def test_every_recipe_takes_the_published_schedule_whatever_its_name(tmp_path, name):
    path = f"lightning_adv2.attacks.{name}"
    (attack,) = attacks_of(compose(with_attacks(tmp_path, path), "one", 0))
    assert attack == {"class_path": path, "init_args": {"schedule": "paper", "name": "x"}}
    made = resolve_name(path)(**attack["init_args"])
    assert made.schedule == "paper"
    (kept,) = attacks_of(compose(with_attacks(tmp_path, path, role="curves"), "one", 0))
    assert kept["init_args"] == {"steps": 3, "name": "x"}


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_can_be_run_at_the_papers_scale(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = replace(read_plan(path), paper_schedule=True)
    seen = {}
    for name, run in plan.runs.items():
        if run.command == "test" and (run.role or name) != "curves":
            callbacks = compose(plan, name, 0)["trainer"]["callbacks"]
            found = [attack for one in callbacks for attack in one.get("init_args", {}).get("attacks", [])]
            seen[name] = {attack["init_args"]["schedule"] for attack in found}
    assert seen["attacks"] == {"paper"}
    assert all(schedules <= {"paper"} for schedules in seen.values()), seen


def test_short_names_are_those_of_the_package(tmp_path):
    """As on the command line: the seed and the schedule reach them, too."""
    plan = with_attacks(tmp_path, "ADV2")
    config = tmp_path / "run.yaml"
    config.write_text(config.read_text().replace("lightning_adv2.evaluation.", ""))
    evaluation = compose(plan, "one", 5)["trainer"]["callbacks"][0]
    assert evaluation["init_args"]["seed"] == 5
    assert evaluation["init_args"]["attacks"][0]["init_args"]["schedule"] == "paper"


def test_a_recipe_of_a_user_takes_it_too(tmp_path, monkeypatch):
    (tmp_path / "my_recipes.py").write_text("def gentle(steps=None, schedule='fast', name='gentle'): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    (attack,) = attacks_of(compose(with_attacks(tmp_path, "my_recipes.gentle"), "one", 0))
    assert attack["init_args"] == {"schedule": "paper", "name": "x"}


@pytest.mark.parametrize(
    "path", ["lightning_adv2.attacks.Attack", "lightning_adv2.attacks.no_such", "no_such_module.attack", "no_such"]
)
def test_an_attack_without_a_published_schedule_is_refused_by_name(tmp_path, path):
    """Attack's own 'schedule' is a label: a run that kept its steps under it would be no published one."""
    plan = with_attacks(tmp_path, "lightning_adv2.attacks.pgd", path)
    with pytest.raises(
        ValueError, match=rf"run 'one': the attack {re.escape(path)} is not found by this path, or has no .*"
    ):
        compose(plan, "one", 0)


def test_every_item_asks_for_roles_that_there_are():
    assert {role for item in ITEMS for role in item.roles} <= set(ROLES)


def runs():
    for path in PLANS:
        for name in read_plan(path).runs:
            yield pytest.param(path, name, id=f"{path.stem}-{name}")


@pytest.mark.parametrize(("path", "name"), runs())
def test_every_planned_run_is_a_configuration_of_the_command_line(path, name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    plan = read_plan(path)
    written = tmp_path / "run.yaml"
    written.write_text(yaml.safe_dump(compose(plan, name, 0)))
    with pytest.raises(SystemExit) as stopped:
        main([plan.runs[name].command, "--config", str(written), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    if plan.runs[name].command == "test":
        assert printed["trainer"]["default_root_dir"] == str(plan.folder(name, 0))
    else:
        assert plan.runs[name].makes.startswith(printed["trainer"]["default_root_dir"])
