#!/usr/bin/env bash
# jsonargparse 4.53.0: a list of classes given anew merges with the old list by position, if both are as long.
#
# A good guess: a later list replaces an earlier one as a whole (one of another length does), and an argument that
# the later list leaves out has its class's default.
# Seen: over a file with [Sign(steps=1000), Momentum()], the list [Momentum, Sign] gives Momentum with steps 1000, not
# its default 50: the argument stays where the class changed, because the new class has one of that name. With one
# item, or three, the defaults hold. It is so for a second file and for the command line alike.
# Where it hurts: experiments described by lists of callbacks, attacks, transforms or metrics in LightningCLI. An
# override runs with the arguments of what it replaced, without a word; --print_config shows it.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'jsonargparse[signatures]==4.53.0'

cd "$folder"
cat >first.yaml <<'YAML'
attacks:
- class_path: __main__.Sign
  init_args: {steps: 1000}
- class_path: __main__.Momentum
YAML
cat >second.yaml <<'YAML'
attacks:
- class_path: __main__.Momentum
- class_path: __main__.Sign
YAML
cat >merge.py <<'PYTHON'
import sys

from jsonargparse import ArgumentParser


class Attack:
    pass


class Sign(Attack):
    def __init__(self, steps: int = 10):
        self.steps = steps


class Momentum(Attack):
    def __init__(self, steps: int = 50):
        self.steps = steps


parser = ArgumentParser()
parser.add_argument("--config", action="config")
parser.add_argument("--attacks", type=list[Attack])


def steps(*words: str) -> list[tuple[str, int]]:
    given = parser.parse_args(["--config", "first.yaml", *words]).attacks
    return [(one.class_path.rpartition(".")[2], one.init_args.steps) for one in given]


momentum, sign = '{"class_path": "__main__.Momentum"}', '{"class_path": "__main__.Sign"}'
found = {
    "as long, a second file": steps("--config", "second.yaml"),
    "as long, command line": steps("--attacks", f"[{momentum}, {sign}]"),
    "shorter": steps("--attacks", f"[{momentum}]"),
    "longer": steps("--attacks", f"[{momentum}, {sign}, {sign}]"),
}
for name, value in found.items():
    print(f"{name}: {value}")
kept = [("Momentum", 1000), ("Sign", 10)]
expected = [kept, kept, [("Momentum", 50)], [("Momentum", 50), ("Sign", 10), ("Sign", 10)]]
if list(found.values()) != expected:
    sys.exit("changed: lists of classes no longer merge as described")
PYTHON
"$folder/venv/bin/python" merge.py
