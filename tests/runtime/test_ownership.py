from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_adv2.runtime import ownership
from lightning_adv2.runtime.ownership import FILE, FolderInUseError, is_owned, owned

SCRIPT = Path(__file__).with_name("owner.py")


def start(folder: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, SCRIPT, folder], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def lock(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    return content


def rewrite(folder: Path, **changes: Any) -> None:
    (folder / FILE).write_text(json.dumps(lock(folder) | changes))


def test_a_second_process_is_told_who_has_the_folder_and_harms_nothing(tmp_path: Path) -> None:
    first = start(tmp_path / "run")
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    before = (tmp_path / "run" / FILE).read_bytes()
    second = start(tmp_path / "run")
    _, said = second.communicate(timeout=60)
    assert second.returncode != 0
    assert f"in use by process {first.pid} on " in said
    assert f"since {lock(tmp_path / 'run')['since']}" in said
    assert f"rm {tmp_path / 'run' / FILE}" in said
    assert (tmp_path / "run" / FILE).read_bytes() == before
    assert first.communicate("\n", timeout=60) == ("", "")
    assert first.returncode == 0
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_owner_is_followed_at_once(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    first.kill()
    end = time.monotonic() + 30
    while ownership._started(first.pid) is not None:  # not waited for: a dead process that still has its number
        assert time.monotonic() < end
        time.sleep(0.01)
    begin = time.monotonic()
    with owned(tmp_path):
        assert lock(tmp_path)["process"] == os.getpid()
    assert time.monotonic() - begin < 2
    first.communicate()


def test_a_number_that_belongs_to_a_later_process_is_no_owner(tmp_path: Path) -> None:
    with owned(tmp_path):
        rewrite(tmp_path, started="1")
        with owned(tmp_path):
            assert lock(tmp_path)["started"] == ownership._started(os.getpid())


def test_one_of_many_takes_a_dead_owners_folder(tmp_path: Path) -> None:
    with owned(tmp_path):
        rewrite(tmp_path, started="1")
        left = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(left)
    several = [start(tmp_path) for _ in range(4)]
    said = []
    for one in several:
        assert one.stdout is not None
        said.append(one.stdout.readline())
    assert sorted(said) == ["", "", "", "mine\n"]
    for one in several:
        one.communicate("\n", timeout=60)


def test_another_machines_lock_counts_while_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PATIENCE_SECONDS", 2.0)
    with owned(tmp_path):
        rewrite(tmp_path, machine="elsewhere", host="elsewhere", job="12")
    assert (tmp_path / FILE).exists(), "only its owner's own lock goes at the end"
    ended = threading.Event()
    path = tmp_path / FILE

    def renew() -> None:
        while not ended.wait(0.1):
            os.utime(path)

    alive = threading.Thread(target=renew)
    alive.start()
    try:
        with pytest.raises(FolderInUseError, match=r"on elsewhere \(SLURM job 12\)"), owned(tmp_path):
            pass
    finally:
        ended.set()
        alive.join()
    begin = time.monotonic()
    with owned(tmp_path):
        assert 1.5 < time.monotonic() - begin < 10
        assert lock(tmp_path)["host"] != "elsewhere"


def test_the_owner_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    with owned(tmp_path):
        os.utime(tmp_path / FILE, (0, 0))
        end = time.monotonic() + 20
        while not (tmp_path / FILE).stat().st_mtime:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with owned(tmp_path), pytest.raises(FolderInUseError), owned(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_thread_is_no_owner(tmp_path: Path) -> None:
    seen: list[object] = []

    def other() -> None:
        seen.append(is_owned(tmp_path))
        try:
            with owned(tmp_path):
                seen.append("both at work")
        except FolderInUseError as error:
            seen.append(str(error))

    assert not is_owned(tmp_path)
    with owned(tmp_path / "below" / ".."):
        assert is_owned(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert not is_owned(tmp_path)
    assert seen[0] is False
    assert f"in use by process {os.getpid()} on " in str(seen[1])
    assert not (tmp_path / FILE).exists()
