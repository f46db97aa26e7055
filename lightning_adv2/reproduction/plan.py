"""What a reproduction runs: a YAML file that lists evaluations and trainings, each composed of configuration files."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import yaml

from lightning_adv2.files import read_text
from lightning_adv2.reproduction.configuration import read_configuration

PAPER_IMAGES = 1000
ROLES = {
    "attacks": "PGD and ADV2 on the first classifier",
    "second": "PGD and ADV2 on a second classifier",
    "localization": "do the maps find the object?",
    "squeezing": "the attacker who knows the squeezers",
    "stadv": "the attack that moves pixels",
    "patch": "a random patch as target map",
    "class": "another image's map as target map",
    "aid": "RTS against RTS-A",
    "curves": "success and IoU over epsilon and over steps",
    "skin": "the skin-cancer case",
    "weights": "a training that the others need",
}
"""What a run is for; the tables ask for runs by it."""


@dataclass(frozen=True)
class PlannedRun:
    """One call of ``lightning-adv2``.

    Attributes:
        config: configuration files, later ones over earlier ones; relative to the current folder.
        role: one of ``ROLES``; by default the run's own name.
        command: ``test`` leaves records, ``fit`` trains.
        after: names of runs that must be finished before.
        makes: the file that it is run for, of ``test`` below the run's folder (``results.json``, if nothing is said);
            where that of a ``fit`` is there, it is finished.
        needs: a file or folder without which it is left out, such as data that not everyone has.
        num_images: for a run that is too dear for the plan's number.
        set: dotted keys and their values, over all files.
    """

    config: list[str]
    role: str = ""
    command: Literal["test", "fit"] = "test"
    after: list[str] = field(default_factory=list)
    makes: str = ""
    needs: str = ""
    num_images: int | None = None
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A whole reproduction.

    Attributes:
        title: of the report.
        output: folder of its runs and its report.
        runs: name -> what to run, in the order of the report.
        num_images: per cell of a table.
        seeds: each evaluation is run under each of them; they choose images, target classes and starts.
        paper_schedule: take the published schedules in place of those that the files name.
    """

    title: str
    output: Path
    runs: dict[str, PlannedRun]
    num_images: int = 64
    seeds: tuple[int, ...] = (0,)
    paper_schedule: bool = False

    def of_role(self, *roles: str) -> dict[str, PlannedRun]:
        """The runs of these roles."""
        return {name: run for name, run in self.runs.items() if (run.role or name) in roles}

    def folder(self, name: str, seed: int) -> Path:
        """Where an evaluation leaves its files."""
        return self.output / name if seed == self.seeds[0] else self.output / f"{name}_seed{seed}"


def read_plan(path: str | Path) -> Plan:
    """Read ``configs/reproduce/*.yaml``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown or missing, or a run names another one that is not there.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config={str(path)!r} does not exist; try configs/reproduce/shapes.yaml")
    content = yaml.safe_load(read_text(path))
    if not isinstance(content, dict) or not isinstance(content.get("runs"), dict):
        raise ValueError(f"config={str(path)!r}: expected the keys title, output and runs")
    known = {"title", "output", "num_images", "seeds", "runs"}
    if unknown := set(content) - known:
        raise ValueError(f"config={str(path)!r}: unknown key {', '.join(sorted(unknown))}; known are {sorted(known)}")
    runs = {name: _planned(path, name, value) for name, value in content["runs"].items()}
    for name, run in runs.items():
        if missing := [other for other in run.after if other not in runs]:
            raise ValueError(f"config={str(path)!r}: run {name!r} comes after {missing[0]!r}, which is no run of it")
    return Plan(
        title=str(content.get("title") or Path(path).stem),
        output=Path(content.get("output") or f"runs/reproduce_{Path(path).stem}"),
        runs=runs,
        num_images=int(content.get("num_images", 64)),
        seeds=tuple(content.get("seeds", (0,))),
    )


def _planned(path: str | Path, name: str, value: Any) -> PlannedRun:
    try:
        config = value["config"]
        run = PlannedRun(**{**value, "config": [config] if isinstance(config, str) else list(config)})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"config={str(path)!r}: run {name!r} is {value!r}; expected 'config' (one or more files) and any of "
            f"{', '.join(PlannedRun.__dataclass_fields__)} ({error})"
        ) from error
    if (run.role or name) not in ROLES:
        raise ValueError(f"config={str(path)!r}: run {name!r} has role={run.role!r}; take one of {', '.join(ROLES)}")
    if run.command == "fit" and not run.makes:
        raise ValueError(f"config={str(path)!r}: run {name!r} is a fit; say by makes which file it is run for")
    return run


def chosen(plan: Plan, roles: set[str] | None) -> dict[str, PlannedRun]:
    """The runs of these roles (None: all), and those that they come after."""
    wanted = set(plan.runs if roles is None else plan.of_role(*roles))
    while more := {other for name in wanted for other in plan.runs[name].after} - wanted:
        wanted |= more
    return {name: run for name, run in plan.runs.items() if name in wanted}


def compose(plan: Plan, name: str, seed: int) -> dict[str, Any]:
    """The one configuration of a run: its files merged, with the plan's images, seed and schedule, and its folder.

    Raises:
        FileNotFoundError: a configuration file is not there.
        ValueError: the published schedules are asked for, and an attack has none.
    """
    run, config = plan.runs[name], dict[str, Any]()
    for part in run.config:
        if not Path(part).is_file():
            raise FileNotFoundError(f"run {name!r}: config {part!r} does not exist; call it from the repository's root")
        merge(config, read_configuration(part) or {})
    if run.command == "test":
        put(config, "trainer.default_root_dir", str(plan.folder(name, seed)))
        if _names(config["data"], "AttackDataModule"):
            put(config, "data.init_args.num_images", min(plan.num_images, run.num_images or plan.num_images))
            put(config, "data.init_args.seed", seed)
        put(config, "seed_everything", seed)
        for callback in config["trainer"].get("callbacks", []):
            if _names(callback, "AttackEvaluation"):
                callback.setdefault("init_args", {})["seed"] = seed
                if plan.paper_schedule and (run.role or name) != "curves":  # which vary the steps themselves
                    take_paper_schedule(name, callback["init_args"].get("attacks", []))
    for key, value in run.set.items():
        put(config, key, value)
    return config


def _names(part: dict[str, Any], name: str) -> bool:
    """Whether a class path ends in this class, or is its short name."""
    return str(part["class_path"]).rpartition(".")[2] == name


def merge(into: dict[str, Any], content: dict[str, Any]) -> None:
    """Lay a configuration over another, in place: dictionaries are merged, anything else is replaced."""
    for key, value in content.items():
        old = into.get(key)
        other_class = isinstance(old, dict) and isinstance(value, dict) and "class_path" in value
        if isinstance(old, dict) and isinstance(value, dict) and not (
            other_class and old.get("class_path", value["class_path"]) != value["class_path"]
        ):  # fmt: skip
            merge(old, value)
        else:
            into[key] = copy.deepcopy(value)


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *above, last = key.split(".")
    for part in above:
        config = config.setdefault(part, {})
    config[last] = value


def take_paper_schedule(run: str, attacks: list[Any]) -> None:
    """Give every attack the published schedule, in place of its own number of steps.

    Args:
        run: name, for the error.
        attacks: as a configuration has them; changed in place.

    Raises:
        ValueError: an attack is unknown, or has no optional argument ``schedule``.
    """
    for attack in attacks:
        if not has_schedules(attack["class_path"]):
            raise ValueError(
                f"run {run!r}: the attack {attack['class_path']} is not found by this path, or has no optional "
                "argument 'schedule', and so no published schedule; correct the path, leave out "
                "--paper-scale, or give the run the role curves, which keeps its steps"
            )
        arguments = attack.setdefault("init_args", {})
        arguments["schedule"] = "paper"
        arguments.pop("steps", None)


def has_schedules(class_path: str) -> bool:
    """Whether an attack has schedules to choose from: an optional argument ``schedule``.

    :class:`~lightning_adv2.attacks.Attack` itself takes the name of its schedule, which changes none of its steps; that
    argument has no default.

    Args:
        class_path: of a class or function; a name without a module is one of ``lightning_adv2.attacks``.
    """
    whole = class_path if "." in class_path else f"lightning_adv2.attacks.{class_path}"
    try:
        arguments = inspect.signature(resolve_name(whole)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return False
    return "schedule" in arguments and arguments["schedule"].default is not inspect.Parameter.empty
