"""``python -m benchmarks``: how fast everything is, as ratios to what cannot be avoided.

Each part prints a table and writes ``results/<part>_<device>.json`` with the machine, the versions and every figure.
"""

from __future__ import annotations

import argparse
import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.options import Options
from lightning_adv2.files.data_root import data_root
from lightning_adv2.results import make_stamp

PARTS = {
    "steps": "a step of every attack against forward + backward, and against torchattacks and foolbox",
    "maps": "a map against its passes, and against captum and pytorch-grad-cam",
    "derivatives": "whether map gradients are right: plain, compiled and in-place networks against finite differences",
    "drift": "the last steps of a thousand against the first",
    "batches": "batch size and image size",
    "memory": "bytes per image, and the largest batch",
    "rounding": "single images under other batches, threads and kernels (real images; ten minutes)",
    "training": "images a second of RTS and AID",
    "quality": "IoU and ASR against gradient evaluations and seconds (an hour on two cores)",
}
BY_DEFAULT = [part for part in PARTS if part not in ("quality", "rounding")]


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    listed = "; ".join(f"{name}: {about}" for name, about in PARTS.items())
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help=f"{listed}. Without quality and rounding by default"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=data_root(), help="real weights; random ones elsewhere")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument("--threads", type=int, help="of a CPU; by default torch's own choice")
    parser.add_argument("--quick", action="store_true", help="only whether everything runs; writes nothing")
    parser.add_argument("--compile", action="store_true", help="also what is compiled")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    options = Options(torch.device(chosen.device), chosen.data, chosen.rounds, chosen.quick, chosen.compile)
    for part in chosen.parts or BY_DEFAULT:
        rows = import_module(f"benchmarks.{part}").run(options)
        show(rows, PARTS[part])
        if not chosen.quick:
            write(chosen.output / f"{part}_{options.device.type}.json", rows, options)


def show(rows: list[dict[str, Any]], title: str) -> None:
    """A table of rows that share their keys."""
    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        text = all(isinstance(row.get(name), str) for row in rows)
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for row in rows:
        values = [row.get(name, "") for name in names]
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    Console().print(table)


def write(path: Path, rows: list[dict[str, Any]], options: Options) -> None:
    """The rows, and on what machine they were measured."""
    cuda = options.device.type == "cuda"
    machine = torch.cuda.get_device_name(options.device) if cuda else f"{torch.get_num_threads()} CPU threads"
    stamp = make_stamp(machine=machine, rounds=options.rounds)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"stamp": stamp, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
