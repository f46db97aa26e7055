#!/usr/bin/env bash
# jsonargparse 4.53.0: a part read from a file, whose class is of the wrong kind, is reported as a loop of files.
#
# A good guess: a file that is given as the value of an argument, and that names a class which is no subclass of the
# argument's type, is refused as the same value on the command line is: "does not correspond to a subclass of Network".
# Seen: "Config file loop detected: part.yaml -> part.yaml", though the file refers to no other file. The class and the
# type that was expected are not named. A file with a class of the right kind is read as it should be.
# Where it hurts: configurations in parts (LightningCLI: a classifier or a data module in a file of its own). A user
# who forgot to inherit from the base class looks for a circular reference.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'jsonargparse[signatures]==4.53.0'

cd "$folder"
echo 'class_path: __main__.Small' >right.yaml
echo 'class_path: __main__.Unrelated' >wrong.yaml
cat >part.py <<'PYTHON'
import sys

from jsonargparse import ArgumentError, ArgumentParser


class Network:
    pass


class Small(Network):
    def __init__(self, width: int = 8):
        self.width = width


class Unrelated:
    pass


parser = ArgumentParser(exit_on_error=False)
parser.add_argument("--network", type=Network, sub_configs=True)


def refused(value: str) -> str:
    try:
        parser.parse_args(["--network", value])
    except ArgumentError as error:
        return str(error)
    return ""


by_file, by_value = refused("wrong.yaml"), refused('{"class_path": "__main__.Unrelated"}')
print(f"right.yaml: {refused('right.yaml') or 'read'}\nwrong.yaml: {by_file}\nthe same as a value: {by_value}")
reason = "does not correspond to a subclass of Network"
if refused("right.yaml") or "file loop detected: wrong.yaml -> wrong.yaml" not in by_file or reason in by_file:
    sys.exit("changed: a class of the wrong kind in a file is no longer reported as a loop")
if reason not in by_value:
    sys.exit("changed: a class of the wrong kind given as a value is told in other words")
PYTHON
"$folder/venv/bin/python" part.py
