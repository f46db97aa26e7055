from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from full_disk import SmallDisk, small_disk

from lightning_adv2.files import write_json, write_text, written_whole

__all__ = ["small_disk"]


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"a": [1, 2.5, None], "b": "ümlaut"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5, None], "b": "ümlaut"}
    assert path.read_text().endswith("}\n")
    write_text(path, "ümlaut")
    assert path.read_bytes() == "ümlaut".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "other users may read it as any other file"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_of_another_file_stays_that_file_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"elsewhere") as raised, written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text((tmp_path / "elsewhere").read_text())
    assert "a.txt" not in str(raised.value)


def test_promise_24_a_full_disk_leaves_the_old_file_and_says_what_to_do(small_disk: SmallDisk) -> None:
    path = small_disk.folder / "results.json"
    write_json(path, {"old": 1})
    small_disk.fill()
    with pytest.raises(OSError, match=r"No space left.*untouched: free space.*results\.json") as raised:
        write_json(path, {"new": "x" * 10_000})
    assert raised.value.errno == errno.ENOSPC
    assert json.loads(path.read_text()) == {"old": 1}
    assert small_disk.names() == {"results.json"}
    small_disk.free()
    write_json(path, {"new": "x" * 10_000})
    assert json.loads(path.read_text()) == {"new": "x" * 10_000}
    assert small_disk.names() == {"results.json"}


def test_promise_24_a_disk_that_fills_up_inside_a_write(small_disk: SmallDisk) -> None:
    """The first blocks still find room: what must not come into place is a file cut in the middle."""
    path = small_disk.folder / "results.json"
    write_text(path, "old")
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "x" * 2_000_000)
    assert path.read_text() == "old"
    assert small_disk.names() == {"results.json"}
    write_text(path, "x" * 500_000)
    assert path.stat().st_size == 500_000


def test_a_folder_that_must_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    code = """
        import os, sys
        from lightning_adv2.files import write_text
        if os.geteuid() == 0:
            os.seteuid(65534)  # to root, nothing is forbidden
        try:
            write_text(sys.argv[1], "new")
        except PermissionError as error:
            print(error)
    """
    done = run(code, tmp_path / "a.txt")
    tmp_path.chmod(0o755)
    assert "Permission denied; the file is not written" in done.stdout, done.stderr
    assert "permit writing" in done.stdout
    assert "a.txt" in done.stdout
    assert not list(tmp_path.iterdir())


def test_promise_24_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.txt"
    code = """
        import sys
        from lightning_adv2.files import write_text
        while True:
            for letter in "ab":
                write_text(sys.argv[1], letter * 1_000_000)
                print(letter, flush=True)
    """
    moments = random.Random(0)
    for _ in range(10):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert path.read_text() in ("a" * 1_000_000, "b" * 1_000_000)
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert all(name.startswith(".records.txt.") and name.endswith(".tmp") for name in left)
    assert [p.name for p in tmp_path.glob("records*")] == ["records.txt"], "what was left is never taken for content"
    write_text(path, "after")
    assert path.read_text() == "after"


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    failed: list[OSError] = []

    def write(letter: str) -> None:
        try:
            for _ in range(20):
                write_text(path, letter * 100_000)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_text() in {letter * 100_000 for letter in "abc"}
    assert not failed, "one took the other's temporary file"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose fsync fails with the errno that FSYNC names: what a file system does that has none."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to take fsync away from a process")
    folder = tmp_path_factory.mktemp("fsync")
    (folder / "refuse.c").write_text(
        "#include <errno.h>\n#include <stdlib.h>\n"
        'int fsync(int d) { (void)d; errno = atoi(getenv("FSYNC")); return -1; }\n'
    )
    library = folder / "refuse.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "refuse.c"], check=True)
    return library


def write_twice(library: Path, number: int, folder: Path) -> subprocess.CompletedProcess[str]:
    code = """
        import sys
        from pathlib import Path
        from lightning_adv2.files import write_text
        write_text(Path(sys.argv[1]) / "a" / "1.txt", "new")
        write_text(Path(sys.argv[1]) / "b" / "2.txt", "new")
    """
    environment = os.environ | {"LD_PRELOAD": str(library), "FSYNC": str(number)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS", "EOPNOTSUPP", "EROFS"])
def test_a_file_system_without_fsync_gets_its_files_and_one_warning(refusing: Path, name: str, tmp_path: Path) -> None:
    done = write_twice(refusing, getattr(errno, name), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("refuses fsync") == 1
    assert f"{tmp_path}/a: the file system refuses fsync ({os.strerror(getattr(errno, name))})" in done.stderr
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == {"a/1.txt", "b/2.txt"}
    assert all(path.read_text() == "new" for path in tmp_path.rglob("*.txt"))


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
def test_promise_24_a_disk_that_fails_at_the_end_leaves_the_old_file(refusing: Path, name: str, tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "1.txt", "old")
    done = write_twice(refusing, getattr(errno, name), tmp_path)
    assert done.returncode == 1
    assert f"{os.strerror(getattr(errno, name))}; the file is not written and what was there" in done.stderr
    assert "refuses fsync" not in done.stderr
    assert (tmp_path / "a" / "1.txt").read_text() == "old"
    assert [path.name for path in tmp_path.rglob("*.*")] == ["1.txt"]
