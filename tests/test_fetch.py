"""``lightning-adv2 fetch``, from a server on this machine that has small files in place of the published ones."""

from __future__ import annotations

import functools
import hashlib
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from lightning_adv2.cli import main
from lightning_adv2.fetch import SOURCES, Archive, PublishedResNet, Source, fetch
from lightning_adv2.models import CifarResNet

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGES = {"data_batch_1": b"five of them", "test_batch": b"and one"}


class Handler(SimpleHTTPRequestHandler):
    """A folder's files; of a file with ``half`` in its name the first half, and then the connection ends."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "half" in self.path:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server:
    """What is served, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        handler = type("Asked", (Handler,), {"asked": self.asked})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"

    def stop(self) -> None:
        """Once or several times."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "published"
    folder.mkdir()
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for name, content in IMAGES.items():
        (batches / name).write_bytes(content)
    with tarfile.open(folder / "images.tar.gz", "w:gz") as archive:
        archive.add(batches, batches.name)
    torch.manual_seed(3)
    tensors = {f"module.{name}": value for name, value in CifarResNet(8).state_dict().items()}  # as they were published
    torch.save({"state_dict": tensors, "best_prec1": 91.7}, folder / "resnet8.th")
    (folder / "resnet8_half.th").write_bytes((folder / "resnet8.th").read_bytes())
    running = Server(folder)
    yield running
    running.stop()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_ADV2_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def sources(server: Server) -> tuple[Source, Source]:
    """The archive and one network, as SOURCES has them."""

    def digits(name: str, kind: str) -> str:
        return f"{kind}:{hashlib.new(kind, (server.folder / name).read_bytes()).hexdigest()}"

    return (
        Archive(
            "cifar10/cifar-10-batches-py",
            server.url("images.tar.gz"),
            digits("images.tar.gz", "md5"),
            "images",
            SOURCES["cifar10"][0].replaces,
        ),
        PublishedResNet(
            "cifar10/resnet8.safetensors",
            server.url("resnet8.th"),
            digits("resnet8.th", "sha256")[: len("sha256:") + 8],
            "a network",
            depth=8,
        ),
    )


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder, hidden ones too, and when it was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_all_of_it_comes_once_and_is_what_was_published(
    server: Server, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = {"cifar10": sources(server)}
    fetch("cifar10", table)
    shown = capfd.readouterr()
    assert str(root / "cifar10" / "resnet8.safetensors") in shown.out
    assert "100%" in shown.err
    for name, content in IMAGES.items():
        assert (root / "cifar10" / "cifar-10-batches-py" / name).read_bytes() == content
    weights = root / "cifar10" / "resnet8.safetensors"
    torch.manual_seed(3)
    published, network = CifarResNet(8).state_dict(), CifarResNet(8, weights=str(weights)).state_dict()
    assert all(torch.equal(network[name], value) for name, value in published.items())
    brought = files(root)
    assert set(brought) == {"cifar10/resnet8.safetensors", *(f"cifar10/cifar-10-batches-py/{name}" for name in IMAGES)}
    asked = len(server.asked)
    fetch("cifar10", table)
    assert len(server.asked) == asked
    assert files(root) == brought


@pytest.mark.parametrize(
    ("name", "checksum", "says"),
    [
        ("resnet8.th", "sha256:00000000", "resnet8.th is damaged or another file"),
        ("resnet8_half.th", None, "resnet8_half.th"),
        ("gone.th", None, "404"),
        ("images.tar.gz", "", "images.tar.gz"),  # whole, and no weights
    ],
)
def test_what_fails_leaves_nothing_and_keeps_nothing_else_back(
    name: str, checksum: str | None, says: str, server: Server, root: Path
) -> None:
    images, network = sources(server)
    bad = replace(network, url=server.url(name))
    if checksum is not None:
        bad = replace(bad, checksum=checksum or images.checksum)
    with pytest.raises(RuntimeError, match="fetch cifar10: 1 of 2 are missing") as raised:
        fetch("cifar10", {"cifar10": (bad, images)})
    assert says in str(raised.value)
    assert str(root / bad.path) in str(raised.value)
    assert set(files(root)) == {f"cifar10/cifar-10-batches-py/{image}" for image in IMAGES}
    fetch("cifar10", {"cifar10": (network, images)})
    assert (root / network.path).is_file()


def test_without_a_network_it_says_what_to_put_where_and_takes_it_from_there(server: Server, root: Path) -> None:
    table = {"cifar10": sources(server)}
    server.stop()  # nobody answers at this address
    with pytest.raises(RuntimeError, match="2 of 2 are missing") as raised:
        fetch("cifar10", table)
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    for source, line in zip(table["cifar10"], lines[1:], strict=False):
        assert str(root / source.path) in line
        assert source.url in line
        assert source.checksum in line
    assert f"into {root / 'cifar10'}," in lines[-1]
    assert files(root) == {}
    for name in ("images.tar.gz", "resnet8.th"):
        (root / "cifar10" / name).write_bytes((server.folder / name).read_bytes())
    fetch("cifar10", table)
    assert all((root / source.path).exists() for source in table["cifar10"])
    assert (root / "cifar10" / "resnet8.th").is_file(), "a user's file is left alone"


def test_images_that_are_read_in_place_of_the_archive_are_left_alone(server: Server, root: Path) -> None:
    """With ``cifar-10-batches-py`` beside it ``test.zip`` would be read no more: other images in the same command."""
    (root / "cifar10").mkdir(parents=True)
    (root / "cifar10" / "test.zip").write_bytes(b"somebody's own")
    fetch("cifar10", {"cifar10": sources(server)})
    assert set(files(root)) == {"cifar10/test.zip", "cifar10/resnet8.safetensors"}


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fetch", "--list"])
    text = capsys.readouterr().out
    for source in SOURCES["cifar10"]:
        assert f"{root / source.path}: missing" in text
        assert f"{source.url} ({source.checksum})" in text
    (root / "cifar10").mkdir(parents=True)
    for source in SOURCES["cifar10"]:
        (root / source.path).write_bytes(b"")
    main(["fetch", "cifar10"])
    assert capsys.readouterr().out.count("is there") == len(SOURCES["cifar10"])
    for words in (["fetch"], ["fetch", "cifar11"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert "cifar10" in capsys.readouterr().err


def test_it_brings_every_file_that_the_configurations_of_cifar10_read() -> None:
    def texts(content: object) -> Iterator[str]:
        if isinstance(content, dict | list):
            for value in content.values() if isinstance(content, dict) else content:
                yield from texts(value)
        elif isinstance(content, str):
            yield content

    asked = {text for path in CONFIGS.rglob("*.yaml") for text in texts(yaml.safe_load(path.read_text()))}
    wanted = {text.removeprefix("data/") for text in asked if text.startswith("data/cifar10")}
    brought = {source.path for source in SOURCES["cifar10"]}
    assert wanted - {"cifar10"} == {path for path in brought if path.endswith(".safetensors")}
    assert "cifar10" in wanted, "the root of CIFAR10DataModule, which reads cifar-10-batches-py"
    for source in SOURCES["cifar10"]:
        assert isinstance(source, Archive) or source.checksum.partition(":")[2] in Path(source.url).name
