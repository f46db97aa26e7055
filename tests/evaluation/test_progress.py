"""What a person sees while an evaluation runs: in a real terminal, and in a file."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import spawn
from lab import attack_data, idls, short_attacks, trainer
from pytorch_lightning.callbacks import RichProgressBar

from lightning_adv2.attacks import adv2_cam, pgd
from lightning_adv2.evaluation import AttackEvaluation, progress
from lightning_adv2.evaluation.pace import Pace, make_pace
from lightning_adv2.evaluation.progress import ProgressBar
from lightning_adv2.results.records import record_path

LINE = re.compile(
    r"batch (\d) of 3, (pgd fast|adv2 fast cam)(, ASR (\d+)%, IoU \d\.\d\d)?, "
    r"[\d.]+ (images/s|s/image), \d:\d\d:\d\d left"
)


def watch(folder: Path, seconds: float, quiet: bool = False) -> None:
    """An evaluation with Lightning's rich bar, or without; a line in a file every so many seconds."""
    progress.LINE_SECONDS = seconds
    attacks = AttackEvaluation([pgd(steps=25), adv2_cam(steps=25)])
    bars = [] if quiet else [RichProgressBar()]
    loop = trainer(folder, attacks, *bars, enable_progress_bar=not quiet)
    print("begin", flush=True)
    loop.test(idls("cam"), attack_data(num_images=12), verbose=False)


def in_terminal(folder: Path, columns: int) -> str:
    """All that a terminal of that width is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = spawn.environment(folder, TERM="xterm-256color")
    command = [sys.executable, *spawn.call(watch, folder / "run", 0)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=folder) as process:
        os.close(theirs)
        sent = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            sent += part
    os.close(ours)
    assert process.returncode == 0, sent.decode()[-3000:]
    return sent.decode()


def screen(sent: str) -> list[str]:
    """What is left to see of it, line by line, in a terminal that never scrolls."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]", sent):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.startswith("\x1b["):
            number = int(re.sub(r"\D", "", token) or 1)
            if token.endswith("A"):
                row = max(0, row - number)
            elif token.endswith("K"):
                lines[row] = "" if token == "\x1b[2K" else lines[row][:column]
        else:
            lines[row] = lines[row].ljust(column)[:column] + token + lines[row][column + 1 :]
            column += 1
    return lines


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.slow)])
def test_a_terminal_shows_pace_and_means_and_keeps_nothing(columns: int, tmp_path: Path) -> None:
    sent = in_terminal(tmp_path, columns)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert re.search(r"[\d.]+ (images/s|s/image), 0:\d\d:\d\d left", shown)
    assert re.search(r"ASR \d+%, IoU \d\.\d\d", shown), "from the second batch on"
    assert "adv2 fast cam" in shown
    left = screen(sent)
    assert any("adv2" in line and "cam" in line for line in left), "the table is there"
    traces = re.compile(r"images/s|s/image,|:\d\d left|adv2 fast cam")  # the table's last column is called s/image
    assert [line for line in left if traces.search(line)] == []


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    done = spawn.start(watch, tmp_path / "run", 0, folder=tmp_path)
    assert done.wait(240) == 0, done.stderr
    found = [match for line in done.stdout.splitlines() if (match := LINE.fullmatch(line))]
    assert len(found) == 3 * 2 * 25, "each step, at this interval"
    assert [match[1] for match in found] == sorted(match[1] for match in found)
    assert {match[1] for match in found} == {"1", "2", "3"}
    assert {match[1] for match in found if match[3]} == {"2", "3"}, "of the batches before"
    assert "\x1b" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "quiet"), [(3600, False), (0, True)])
def test_a_pipe_gets_none_before_the_time_or_without_a_bar(seconds: float, quiet: bool, tmp_path: Path) -> None:
    done = spawn.start(watch, tmp_path / "run", seconds, quiet, folder=tmp_path)
    assert done.wait(240) == 0, done.stderr
    assert "begin" in done.stdout
    assert "batch " not in done.stdout


def test_the_pace_by_hand() -> None:
    pace = Pace(batches=5)
    assert pace.describe(10, 0.0, 3.0) == ""
    assert pace.describe(10, 0.5, 5.0) == "1.0 images/s, 0:00:45 left"  # half a batch took 5 s, 4.5 are left
    pace.add(10, 20.0)
    pace.add(10, 20.0)
    assert pace.describe(5, 0.5, 10.0) == "2.2 s/image, 0:00:50 left"  # 22.5 images in 50 s, 2.5 batches at 20 s
    assert Pace(None, processes=4).describe(10, 1.0, 5.0) == "8.0 images/s"


def test_finished_batches_cost_nothing(tmp_path: Path) -> None:
    found: list[int | None] = []

    class Ask(AttackEvaluation):
        def on_test_batch_end(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            found.append(make_pace(args[0], ["cam"]).batches)  # type: ignore[arg-type]
            super().on_test_batch_end(*args, **kwargs)  # type: ignore[arg-type]

    trainer(tmp_path, Ask(short_attacks())).test(idls("cam"), attack_data(num_images=13), verbose=False)
    assert found == [4, 3, 2, 1]
    record_path(tmp_path / "records", "cam", 2).unlink()
    again = Ask(short_attacks())
    trainer(tmp_path, again).test(idls("cam"), attack_data(num_images=13), verbose=False)
    assert found[4:] == [1, 1, 1, 0]
    assert (again._pace.batches, again._pace.done, again._pace.images) == (1, 1, 4)


def test_the_bar_of_a_training_without_a_number_of_epochs(tmp_path: Path) -> None:
    for options, shown in (({"max_steps": 3, "max_epochs": -1}, "Epoch 1"), ({"max_epochs": 5}, "Epoch 1/4")):
        bar = ProgressBar()
        bar._trainer = trainer(tmp_path, **options)
        assert bar._get_train_description(1).strip() == shown
