from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import spawn

from lightning_adv2.runtime import ownership
from lightning_adv2.runtime.ownership import FILE, FolderInUseError, is_owned, owned
from runtime.owner import own, start


def lock(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    return content


def rewrite(folder: Path, **changes: Any) -> None:
    (folder / FILE).write_text(json.dumps(lock(folder) | changes))


def test_a_second_process_is_told_who_has_the_folder_and_harms_nothing(tmp_path: Path) -> None:
    first = start(tmp_path / "run", tmp_path / "leave")
    before = (tmp_path / "run" / FILE).read_bytes()
    second = spawn.start(own, tmp_path / "run", tmp_path / "leave", folder=tmp_path)
    assert second.wait(60) != 0
    said = second.stderr
    assert f"in use by process {first.pid} on " in said
    assert f"since {lock(tmp_path / 'run')['since']}" in said
    assert f"rm {tmp_path / 'run' / FILE}" in said
    assert (tmp_path / "run" / FILE).read_bytes() == before
    (tmp_path / "leave").touch()
    assert first.wait(60) == 0
    assert (first.stdout, first.stderr) == ("mine\n", "")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_owner_is_followed_at_once(tmp_path: Path) -> None:
    start(tmp_path / "run", tmp_path / "leave").kill()
    begin = time.monotonic()
    with owned(tmp_path / "run"):
        assert lock(tmp_path / "run")["process"] == os.getpid()
    assert time.monotonic() - begin < 2


def test_a_dead_process_that_nobody_has_waited_for_is_no_owner(tmp_path: Path) -> None:
    with owned(tmp_path):
        left = lock(tmp_path)
    with subprocess.Popen(["true"]) as dead:
        stat = Path(f"/proc/{dead.pid}/stat")
        end = time.monotonic() + 30
        while (fields := stat.read_text().rpartition(")")[2].split())[0] != "Z":
            assert time.monotonic() < end
            time.sleep(0.01)
        (tmp_path / FILE).write_text(json.dumps(left | {"process": dead.pid, "started": fields[19]}))
        with owned(tmp_path):
            assert lock(tmp_path)["process"] == os.getpid()


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
    several = [spawn.start(own, tmp_path, tmp_path / "leave", folder=tmp_path) for _ in range(4)]
    end = time.monotonic() + 60
    while sum(one.poll() is None for one in several) > 1:
        assert time.monotonic() < end
        time.sleep(0.02)
    (tmp_path / "leave").touch()
    assert sorted((one.wait(60), one.stdout) for one in several) == [(0, "mine\n"), (1, ""), (1, ""), (1, "")]


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
