"""``python -m benchmarks.tampering RUN``: change one value somewhere in a run, ask verify, put it back; many times.

A file is drawn, then a place in it, and the value there becomes another one that might as well be true: a number moves
by some percent, a text changes a letter, a row of a table changes place with the next, one element of a tensor changes.
Who knows the format can seal what was changed anew, so each change is made twice: as it is, and with the file's own
seal and ``SHA256SUMS`` written to fit. What is then still noticed is noticed because it contradicts the records.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lightning_adv2.audit.verify import verify
from lightning_adv2.files.sealed import SEAL as RECORD_SEAL
from lightning_adv2.files.sealed import read_sealed
from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.files.sums import left_files, write_sums
from lightning_adv2.files.twice import SEAL, copy_of, write_twice
from lightning_adv2.models import save_weights


@dataclass
class Outcome:
    """How many changes were made, and which verify did not notice, by kind of file.

    Attributes:
        made: changes.
        missed: what was not noticed though nothing was made to fit.
        unseen: what was not noticed once the seals and the sums were written to fit.
        raised: exceptions of verify; must be empty.
    """

    made: Counter[str] = field(default_factory=Counter)
    missed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unseen: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    raised: list[str] = field(default_factory=list)


def tamper(run: Path, draws: int, seed: int = 0) -> Outcome:
    """Change a run's files one value at a time; see the module. The run is as it was when this returns.

    Args:
        run: the folder of a finished run for which verify finds nothing wrong. A copy is best.
        draws: how many changes.
        seed: of the changes.

    Raises:
        ValueError: verify finds something wrong as it is.
    """
    if found := verify(run)[0]:
        raise ValueError(f"{run}: {found[0]}; give a run that holds")
    draw, outcome = random.Random(seed), Outcome()
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in left_files(run):
        kinds[kind_of(path)].append(path)
    sums = (run / SUMS).read_bytes()
    for _ in range(draws):
        path, how = draw.choice(kinds[draw.choice(sorted(kinds))]), draw.random()
        outcome.made[kind_of(path)] += 1
        before = {one: one.read_bytes() for one in (path, _first(path), copy_of(path)) if one.exists()}
        for fitting, kept in ((False, outcome.missed), (True, outcome.unseen)):
            what = change(path, random.Random(how), fitting)
            if fitting:
                write_sums(run)
            try:
                if not verify(run)[0]:
                    kept[kind_of(path)].append(f"{path.relative_to(run)}: {what}")
            except Exception as error:
                outcome.raised.append(f"{path.relative_to(run)}: {what}: {error!r}")
            for one, content in before.items():
                one.write_bytes(content)
            (run / SUMS).write_bytes(sums)
    if found := verify(run)[0]:
        raise RuntimeError(f"{run} is not as it was: {found[0]}")
    return outcome


def _first(path: Path) -> Path:
    """The file that a copy is of; any other is itself."""
    return path.with_name(path.name.replace(".copy.", "."))


def kind_of(path: Path) -> str:
    """Files of one kind are drawn together, so that many records do not hide the rest."""
    return {".png": "figure", ".safetensors": "record"}.get(path.suffix, path.name)


def change(path: Path, draw: random.Random, fitting: bool) -> str:
    """Change one value in a file; returns which. ``fitting`` writes its seal, and that of its copy, anew."""
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        sealed = content.pop(SEAL, None) if isinstance(content, dict) and path.stem.split(".")[0] in _SEALED else None
        what = _change_leaf(content, draw)
        if sealed and fitting:
            write_twice(_first(path), content)
        else:
            path.write_text(
                json.dumps(content | {SEAL: sealed} if sealed else content, indent=1) + "\n", encoding="utf-8"
            )
        return what
    if path.suffix == ".csv":
        return _change_table(path, draw)
    if path.suffix == ".safetensors":
        return _change_record(path, draw, fitting)
    content, place = bytearray(path.read_bytes()), 0
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return f"byte {place}"


_SEALED = ("experiment", "manifest")


def _leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Place, container and key of each number, text, truth or null; and of each list that is not empty, as a whole."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        if isinstance(value, (dict, list)):
            yield from _leaves(value, f"{place}.{key}")
        else:
            yield f"{place}.{key}".lstrip("."), content, key


def _change_leaf(content: Any, draw: random.Random) -> str:
    place, container, key = draw.choice(list(_leaves(content)))
    old = container[key]
    container[key] = _other(old, draw)
    return f"{place}: {old!r} -> {container[key]!r}"


def _other(value: Any, draw: random.Random) -> Any:
    """Another value that might as well be true."""
    if value is None:
        return round(draw.random(), 3)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.choice([1, 2, 10]) if value < 1 else value + draw.choice([-1, 1])
    if isinstance(value, float):
        return value * (1 + draw.choice([-1, 1]) * draw.uniform(0.001, 0.2)) if value else 0.01
    place = draw.randrange(len(value)) if value else 0
    letter = draw.choice([one for one in "0123456789abcdefgx" if one != value[place : place + 1]])
    return f"{value[:place]}{letter}{value[place + 1 :]}"


def _change_table(path: Path, draw: random.Random) -> str:
    with path.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    kind = draw.choices(["cell", "swap", "twice", "header"], [20, 1, 1, 1])[0]
    row = draw.randrange(1, len(lines))
    what = f"{kind} of row {row}"
    if kind == "swap" and len(lines) > 2:
        other = row % (len(lines) - 1) + 1
        lines[row], lines[other] = lines[other], lines[row]
    elif kind == "twice":
        lines.insert(row, lines[row])
    else:
        row = 0 if kind == "header" else row
        column = draw.randrange(len(lines[0]))
        old = lines[row][column]
        try:
            value: Any = int(old)
        except ValueError:
            try:
                value = float(old)
            except ValueError:
                value = {"True": True, "False": False, "": None}.get(old, old)
        lines[row][column] = str(_other(value, draw))
        what = f"row {row}, {lines[0][column]}: {old!r} -> {lines[row][column]!r}"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    return what


def _change_record(path: Path, draw: random.Random, fitting: bool) -> str:
    metadata, arrays = read_sealed(path)
    arrays = {name: array.copy() for name, array in arrays.items()}
    if draw.random() < 0.3:
        header = json.loads(metadata["header"])
        what = f"header, {_change_leaf(header, draw)}"
        metadata["header"] = json.dumps(header)
    else:
        name = draw.choice([name for name, array in arrays.items() if array.size])
        flat = arrays[name].reshape(-1)
        place = draw.randrange(flat.size)
        old = flat[place]
        if flat.dtype == bool:
            flat[place] = not old
        elif flat.dtype.kind == "f":
            flat[place] = draw.random()
        else:
            flat[place] = int(old) + (1 if old < 1 else -1 if old > 254 else draw.choice([-1, 1]))
        what = f"{name}[{place}]: {old} -> {flat[place]}"
    if fitting:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_weights(tensors, path, {key: value for key, value in metadata.items() if key != RECORD_SEAL})
    else:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1
        path.write_bytes(content)
    return what


def show(outcome: Outcome) -> None:
    """A line for each kind of file, then what was not noticed, by name."""
    for kind, made in sorted(outcome.made.items()):
        missed, unseen = len(outcome.missed[kind]), len(outcome.unseen[kind])
        print(f"{kind:28s} {made:4d} changes: {made - missed:4d} noticed; made to fit {made - unseen:4d}")
    total, missed, unseen = (
        outcome.made.total(),
        *(sum(map(len, one.values())) for one in (outcome.missed, outcome.unseen)),
    )
    print(f"all: {total} changes, {total - missed} noticed; made to fit {total - unseen}")
    print(f"{len(outcome.raised)} exceptions")
    for title, lines in (("not noticed", outcome.missed), ("not noticed when made to fit", outcome.unseen)):
        for line in (line for kind in sorted(lines) for line in lines[kind]):
            print(f"{title}: {line}")
    for line in outcome.raised:
        print(f"exception: {line}")


def main() -> None:
    """Change a copy of the run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tampering", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = shutil.copytree(options.run, Path(temporary) / "run", ignore=shutil.ignore_patterns("images", "wandb"))
        show(tamper(run, options.draws, options.seed))


if __name__ == "__main__":
    main()
