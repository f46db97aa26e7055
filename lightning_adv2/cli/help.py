"""The texts of ``--help`` that argparse does not make; they load nothing that a run needs."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from lightning_adv2.cli.commands import COMMANDS

ALL = "--help=all"
"""In place of ``--help``: Lightning's and jsonargparse's own help, with every option."""
_EVALUATE = "configs/evaluate/shapes_cam.yaml"
_EXAMPLES = {"fit": "configs/train/rts_shapes.yaml", "validate": "configs/train/rts_shapes.yaml", "test": _EVALUATE,
             "predict": _EVALUATE}  # fmt: skip
_CONFIGURATION = (
    ("-c --config", "FILE", "YAML or JSON; of several files, a later one overrides an earlier one"),
    ("--model", "CLASS", "the model: a class of lightning_adv2.modules, or your own"),
    ("--data", "CLASS", "the data: a class of lightning_adv2.data, or your own"),
    ("--model.help", "CLASS", "print the arguments of a model class and stop"),
    ("--data.help", "CLASS", "print the arguments of a data class and stop"),
    ("--print_config", None, "print the resulting configuration and stop"),
)
_RUN = (
    ("--trainer.default_root_dir", "DIR", "folder of the run; the same command continues the run in it"),
    ("--trainer.accelerator", "NAME", "cpu, gpu or auto (auto)"),
    ("--trainer.devices", "N", "number of devices, or auto (auto)"),
    ("--trainer.max_epochs", "N", "number of epochs"),
    ("--trainer.logger", "CLASS", "a logger, or false for none (W&B, in the folder of the run)"),
    ("--trainer.callbacks+", "CLASS", "add a callback, such as a class of lightning_adv2.studies"),
    ("--ckpt_path", "FILE", "load this checkpoint; fit continues from the run's own by default"),
    ("--seed_everything", "N", "seed of all random generators (0)"),
    ("--traceback", None, "show where an error was raised"),
)


def overview() -> str:
    """All subcommands, each with one line, in groups."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        "usage: lightning-adv2 COMMAND [options]",
        "",
        "Attack a classifier and its attribution map together (ADV2), measure the attack, and train interpreters that",
        "resist it (RTS, AID).",
    ]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:{width}}{one.about}" for name, one in COMMANDS.items() if one.group == group]
    lines += [
        "",
        "Options of every command:",
        "  -h, --help   list the command's options and stop",
        "  --traceback  show where an error was raised",
        "",
        "lightning-adv2 demo needs no data. A first evaluation of a published network on CIFAR-10:",
        "  lightning-adv2 fetch cifar10",
        "  lightning-adv2 test --config configs/evaluate/cifar10_cam.yaml",
        "docs/configuration.md explains the configurations; docs/cluster.md, runs on a cluster.",
        "",
    ]
    return "\n".join(lines)


def short_help(command: str) -> str:
    """The most used options of ``fit``, ``validate``, ``test`` or ``predict``, and where the others are listed."""
    parser = ArgumentParser(
        usage=f"lightning-adv2 {command} --config FILE [--config FILE ...] [--KEY VALUE ...]",
        description=f"{command}: {COMMANDS[command].about}",
        epilog=f"Example: lightning-adv2 {command} --config {_EXAMPLES[command]}\n"
        "Each key of a configuration is an option, such as --trainer.precision 64 (docs/configuration.md).\n"
        f"lightning-adv2 {command} {ALL} lists all options; for that it loads {COMMANDS[command].loads}.",
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
    )
    for title, options in (("configuration", _CONFIGURATION), ("run", _RUN)):
        group = parser.add_argument_group(title)
        for names, value, about in options:
            given = {"metavar": value} if value else {"action": "store_true"}
            if names != "--trainer.max_epochs" or command == "fit":
                group.add_argument(*names.split(), help=about, **given)  # type: ignore[arg-type]
    return parser.format_help()
