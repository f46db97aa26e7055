"""What is loaded before the first line of help or of a run, and whether the help is complete and true."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from spawn import run_fresh_python

from lightning_adv2.cli import main, options
from lightning_adv2.cli.commands import COMMANDS, RUNS
from lightning_adv2.cli.dispatch import _prints_and_stops
from lightning_adv2.cli.help import overview, short_help
from lightning_adv2.runtime.rank import is_first, rank

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "evaluate" / "shapes_cam.yaml"
HEAVY = {
    "PIL", "jinja2", "jsonargparse", "lightning_fabric", "matplotlib", "numpy", "pytorch_lightning", "rich",
    "safetensors", "torch", "torchmetrics", "torchvision", "wandb", "yaml",
}  # fmt: skip
STARTED = re.compile(r"lightning-adv2 (\w+): started, loading (.+)")
_IMPORTED = re.compile(r"import time:.*\| +([\w.]+)$")


def events(folder: Path, *words: str, **environment: str) -> tuple[list[str], str]:
    """The lines on stderr, with ``import NAME`` for each module in the order in which its import ended, and stdout."""
    done = run_fresh_python("-X", "importtime", "-m", "lightning_adv2", *words, folder=folder, **environment)
    found = [_IMPORTED.match(line) for line in done.stderr.splitlines()]
    lines = [
        f"import {match[1]}" if match else line
        for match, line in zip(found, done.stderr.splitlines(), strict=True)
        if match or not line.startswith("import time:")
    ]
    return lines, done.stdout


def heavy(lines: list[str]) -> set[str]:
    return HEAVY & {line.split()[1].split(".")[0] for line in lines if line.startswith("import ")}


@pytest.mark.parametrize(
    "words",
    [[], ["tset"], ["--help"], ["-h"], ["fetch", "--list"], ["report"], *([name, "--help"] for name in COMMANDS)],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_help_and_mistakes_load_nothing_that_a_run_needs(words: list[str], tmp_path: Path) -> None:
    lines, out = events(tmp_path, *words)
    assert "import argparse" in lines, "the modules are listed"
    assert not heavy(lines)
    assert out or any("lightning-adv2" in line for line in lines)


@pytest.mark.parametrize(
    "words",
    [["test", "--config", str(CONFIG), "--trainer.accelerator=none"], ["report", "nowhere"]],
    ids=["test", "report"],
)
def test_a_run_says_that_it_has_started_before_it_loads_anything(words: list[str], tmp_path: Path) -> None:
    lines, out = events(tmp_path, *words)
    (place,) = [place for place, line in enumerate(lines) if STARTED.fullmatch(line)]
    assert lines[place] == f"lightning-adv2 {words[0]}: started, loading PyTorch and Lightning"
    assert not heavy(lines[:place])
    assert {"torch", "pytorch_lightning"} <= heavy(lines[place:])
    assert not out, "stdout is for results"


def test_the_line_is_not_for_a_pipe(tmp_path: Path) -> None:
    done = run_fresh_python("-m", "lightning_adv2", "test", "--config", CONFIG, "--print_config", folder=tmp_path)
    assert yaml.safe_load(done.stdout)["model"]["class_path"] == "lightning_adv2.modules.IDLS"
    assert "started" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("word", "prints"),
    [
        ("--print_config", True), ("--print_config=skip_default", True), ("--help", True), ("--data.help", True),
        ("--model.help=IDLS", True), ("--data", False), ("--config=print_config", False), ("a.help", False),
        ("--trainer.logger=x.help", False),
    ],
)  # fmt: skip
def test_options_that_print_and_stop(word: str, prints: bool) -> None:
    assert _prints_and_stops(word) is prints


def test_the_line_is_of_the_first_process(tmp_path: Path) -> None:
    done = run_fresh_python("-m", "lightning_adv2", "report", "nowhere", folder=tmp_path, LOCAL_RANK="1")
    assert "nowhere" in done.stderr
    assert "started" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "number", "first"),
    [
        ({}, "0", True),
        ({"LOCAL_RANK": "0"}, "0", True),
        ({"LOCAL_RANK": "1"}, "1", False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, "0", False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, "2", False),
        ({"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "1"}, "0", True),
        ({"SLURM_PROCID": "3"}, "3", False),
        ({"RANK": "0", "SLURM_PROCID": "3"}, "0", True),
    ],
    ids=lambda value: " ".join(f"{name}={number}" for name, number in value.items()) if isinstance(value, dict) else "",
)
def test_rank(variables: dict[str, str], number: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (rank(), is_first()) == (number, first)


def test_what_the_table_says_of_each_module_is_true(tmp_path: Path) -> None:
    """Also that nothing loads wandb before a run logs to it."""
    for loads, expected in (("", set[str]()), ("PyTorch and Lightning", {"torch", "pytorch_lightning"})):
        modules = {one.function.partition(":")[0] for one in COMMANDS.values() if one.loads == loads}
        done = run_fresh_python("-c", f"import sys, {', '.join(modules)}; print(*sys.modules)", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {"torch", "pytorch_lightning", "wandb"} & {*done.stdout.split()} == expected
    assert {command.loads for command in COMMANDS.values()} == {"", "PyTorch and Lightning"}
    for command in COMMANDS.values():
        module, _, name = command.function.partition(":")
        assert callable(getattr(import_module(module), name))


def test_the_overview_has_every_subcommand_with_a_line_in_one_of_few_groups() -> None:
    lines = overview().splitlines()
    for name, command in COMMANDS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name] and line.startswith("  ")]
        assert line.split(maxsplit=1)[1] == command.about
    assert len({command.group for command in COMMANDS.values()}) == 4
    assert all(len(line) <= 110 for line in lines)


@pytest.mark.parametrize("command", RUNS)
def test_short_help_is_true(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option is one of the whole list, the values in brackets are the defaults, and the example is taken."""
    text = short_help(command)
    with pytest.raises(SystemExit):
        main([command, "--help=all"])
    every = capsys.readouterr().out
    shown = set(re.findall(r"^  (?:-c FILE, )?(--[\w.]+\+?)", text, re.MULTILINE)) - {"--traceback"}
    assert len(shown) >= 13
    known = set(re.findall(r"--[\w.]+\+?", every))
    assert shown <= known
    example = re.search(r"^Example: lightning-adv2 (.+)$", text, re.MULTILINE)
    assert example is not None
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in example[1].split()]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for option, default in re.findall(r"^  --([\w.]+) [A-Z]+\s+[^()\n]*\((\w+)\)$", text, re.MULTILINE):
        found = printed
        for key in option.split("."):
            found = found[key]
        assert str(found) == default, option


def test_the_options_name_what_the_subcommands_take() -> None:
    """The parsers load nothing, and so cannot look these up."""
    from torchvision.datasets import CIFAR10

    from lightning_adv2.fetch import SOURCES
    from lightning_adv2.files.data_root import DATA
    from lightning_adv2.report.html.run_page import FILE as PAGE
    from lightning_adv2.report.wandb.files import FILE as STATE
    from lightning_adv2.reproduction.plan import PAPER_IMAGES

    assert f"{PAPER_IMAGES:,} images" in " ".join(options.reproduce().format_help().split())
    assert "--num-images" in options.demo().format_help()
    assert PAGE in options.report().format_help()
    assert STATE in options.sync().format_help()
    assert DATA in options.fetch().format_help()
    for name in SOURCES:
        assert options.fetch().parse_args([name]).name == name
    archive = SOURCES["cifar10"][0]
    assert (archive.url, archive.checksum) == (CIFAR10.url, f"md5:{CIFAR10.tgz_md5}")
