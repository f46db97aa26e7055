"""``lightning-adv2 fetch``: public data and published weights, downloaded to where the configurations look for them."""

from __future__ import annotations

import hashlib
import socket
import tarfile
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from lightning_adv2.files.data_root import data_root

_SECONDS = 60  # without a word from a server


@dataclass(frozen=True)
class Source(ABC):
    """A file or folder below the data root, and the download that it is made from.

    Attributes:
        path: below the root, with ``/``.
        url: of the download.
        checksum: ``md5:`` or ``sha256:``, and the first digits of the download's or all of them.
        about: what it is, whose, and under which licence.
        replaces: paths below the root that are read in its place; where one of them is there, nothing is downloaded.
    """

    path: str
    url: str
    checksum: str
    about: str
    replaces: tuple[str, ...] = ()

    @abstractmethod
    def make(self, download: Path, folder: Path) -> Path:
        """Make the file or folder inside the empty ``folder``, and return where it is."""

    def check(self, download: Path) -> None:
        """Raise a ``ValueError`` where a download is not what was published."""
        kind, _, digits = self.checksum.partition(":")
        with download.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if not found.startswith(digits):
            raise ValueError(f"{download.name} is damaged or another file: its {kind} is {found}, not {digits}")


@dataclass(frozen=True)
class Archive(Source):
    """A folder out of an archive; the folder has the name that it has in there."""

    def make(self, download: Path, folder: Path) -> Path:
        """Unpack."""
        from torchvision.datasets.utils import extract_archive

        extract_archive(str(download), str(folder))
        return folder / PurePosixPath(self.path).name


@dataclass(frozen=True)
class PublishedResNet(Source):
    """A published checkpoint of :class:`CifarResNet`, kept as ``.safetensors``.

    Attributes:
        depth: of the network.
    """

    depth: int = 20

    def make(self, download: Path, folder: Path) -> Path:
        """Load the weights into the network, which names what does not fit, and write the network's."""
        from lightning_adv2.models import CifarResNet, save_weights

        network = CifarResNet(self.depth, weights=str(download))
        return save_weights(network.state_dict(), folder / PurePosixPath(self.path).name)


_RESNETS = "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/d5489e8995e81e91ce6b1d69dcc98ad579b0b153"
_RESNETS_ABOUT = "github.com/akamaster/pytorch_resnet_cifar10, (c) 2018 Yerlan Idelbayev, BSD 2-clause"
SOURCES: Mapping[str, Sequence[Source]] = {
    "cifar10": (
        Archive(
            path="cifar10/cifar-10-batches-py",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            checksum="md5:c58f30108f718f92721af3b95e74349a",
            about="the images (Krizhevsky 2009), as torchvision reads and checks them; 170 MB",
            replaces=tuple(f"cifar10/{split}{kind}" for split in ("train", "test") for kind in ("", ".zip")),
        ),
        *(
            PublishedResNet(
                path=f"cifar10/resnet{depth}.safetensors",
                url=f"{_RESNETS}/pretrained_models/resnet{depth}-{digits}.th",
                checksum=f"sha256:{digits}",
                about=f"ResNet-{depth}; {_RESNETS_ABOUT}",
                depth=depth,
            )
            for depth, digits in ((20, "12fca82f"), (56, "4bfd9763"))
        ),
    )
}
"""What can be fetched, by the name that it is asked for."""


def fetch(name: str, sources: Mapping[str, Sequence[Source]] = SOURCES) -> None:
    """Bring what is missing of ``name`` below :func:`data_root`, each file or folder whole or not at all.

    What is there is left alone. A download that lies in the folder where its product belongs is used without a network.

    Args:
        name: a key of ``sources``.
        sources: what there is to fetch.

    Raises:
        RuntimeError: something is missing still; says what, why, and what to put where.
    """
    root, failures = data_root(), list[str]()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)  # neither torch's download nor urllib's has one
    try:
        for source in sources[name]:
            if there := next((path for path in (source.path, *source.replaces) if (root / path).exists()), None):
                print(f"{root / there} is there")
                continue
            print(f"{root / source.path} from {source.url}", flush=True)
            try:
                _bring(source, root / source.path)
            except (OSError, HTTPException, ValueError, RuntimeError, tarfile.TarError) as error:
                failures.append(f"{root / source.path} from {source.url} ({source.checksum}): {error}")
    finally:
        socket.setdefaulttimeout(before)
    if failures:
        folders = sorted({str((root / source.path).parent) for source in sources[name]})
        raise RuntimeError(
            f"fetch {name}: {len(failures)} of {len(sources[name])} are missing:\n" + "\n".join(failures) + "\n"
            f"Run the same command again where there is a network; or download these files elsewhere, put them as they "
            f"are into {', '.join(folders)}, and run the same command again: it checks, unpacks and converts them"
        )


def _bring(source: Source, target: Path) -> None:
    """Make one file or folder, from a download that lies beside it or from the network."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
        folder = Path(temporary, "made")
        folder.mkdir()
        name = PurePosixPath(source.url).name
        download = target.with_name(name)
        if not download.is_file():
            from torch.hub import download_url_to_file

            download = Path(temporary, name)
            download_url_to_file(source.url, str(download))
        source.check(download)
        source.make(download, folder).rename(target)


def main(options: Namespace) -> None:
    """Run ``lightning-adv2 fetch``.

    Args:
        options: of :func:`lightning_adv2.cli.options.fetch`.

    Raises:
        RuntimeError: something is still missing; see :func:`fetch`.
    """
    if options.list:
        for name, sources in SOURCES.items():
            print(name)
            for source in sources:
                there = any((data_root() / path).exists() for path in (source.path, *source.replaces))
                print(f"  {data_root() / source.path}: {'there' if there else 'missing'}; {source.about}")
                print(f"    {source.url} ({source.checksum})")
    else:
        fetch(options.name)
