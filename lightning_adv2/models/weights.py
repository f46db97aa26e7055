"""Weights on disk: nothing is unpickled, and every tensor that does not match is an error."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lightning_adv2.files import open_regular, written_whole
from lightning_adv2.files.sealed import SEAL, Stored, check_seal, read_metadata, seal_of

# Older files lack BatchNorm's step counter, which nothing here reads.
_OPTIONAL_SUFFIX = "num_batches_tracked"
# Where training scripts put the tensors in a checkpoint, and what wrappers put before their names.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


def read_weights(path: str | Path, *, missing_hint: str = "check the path") -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU.

    Args:
        path: ``.safetensors``, whose seal is checked if there is one (:func:`save_weights` writes one); or
            ``.pth``/``.pt``/``.th`` (read with ``weights_only=True``).
        missing_hint: the remedy in the error for a missing file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, of an unknown kind, or holds anything but tensors.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"weights={str(path)!r}: no such file; {missing_hint}")
    try:
        if path.suffix == ".safetensors":
            metadata = read_metadata(path)
            content: Any = load_file(path)
            check_seal(metadata, _stored(content))
        else:
            with open_regular(path) as stream:
                content = torch.load(stream, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"weights={str(path)!r}: the file is damaged or no weights file ({error}); copy it again, or make it anew"
        ) from error
    except Exception as error:  # pickle.UnpicklingError and what it may wrap
        raise ValueError(
            f"weights={str(path)!r}: refused, it holds more than tensors ({type(error).__name__}); "
            "convert it to .safetensors where you trust it"
        ) from error
    while isinstance(content, dict) and (inner := next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), "")):
        content = content[inner]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        found = (
            f"a mapping with {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content)
        )
        raise ValueError(
            f"weights={str(path)!r}: expected a flat mapping of names to tensors, or one under {', '.join(_WRAPPERS)}; "
            f"found {found}. Save the network's state_dict()"
        )
    return _with_versions(content, getattr(content, "_metadata", None))


def without_prefix(tensors: dict[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    """The tensors under the module's names, without the prefixes that wrappers add.

    Args:
        tensors: of any shapes by name, from :func:`read_weights`.
        wanted: the module's names.

    Returns:
        ``tensors`` unchanged where one of their names is wanted, or where no known prefix is common to all names.
    """
    found = tensors
    while found and not any(name in wanted for name in found):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            return tensors
        versions = getattr(found, "_metadata", {})
        found = _with_versions(
            {name.removeprefix(prefix): value for name, value in found.items()},
            {path.removeprefix(prefix[:-1]).removeprefix("."): value for path, value in versions.items() if path},
        )
    return found


def put_weights(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into a module, with the version numbers that some networks' loading rules need.

    Args:
        module: receives the tensors; its other tensors stay.
        tensors: by name, of the module's shapes.

    Raises:
        RuntimeError: a tensor has another shape than the module's.
    """
    versions = getattr(tensors, "_metadata", None) or getattr(module.state_dict(), "_metadata", None)
    module.load_state_dict(_with_versions(tensors, versions), strict=False)


def _with_versions(tensors: dict[str, Tensor], versions: dict[str, Any] | None) -> dict[str, Tensor]:
    """The tensors with the version of each submodule where ``load_state_dict`` looks for it."""
    given = OrderedDict(tensors)
    if versions is not None:
        given._metadata = versions  # type: ignore[attr-defined]
    return given


def load_weights(
    module: nn.Module,
    path: str | Path,
    *,
    missing_hint: str = "check the path",
    optional_prefix: str | None = None,
    without: str | None = None,
) -> bool:
    """Load every tensor of a file into a module; a tensor that is left over, missing or of another shape is an error.

    Args:
        module: the file must hold its tensors.
        path: see :func:`read_weights`.
        missing_hint: the remedy in the error for a missing file.
        optional_prefix: the tensors of the module under this prefix may be missing, all of them.
        without: the tensors under this prefix stay as the module has them, whatever the file holds.

    Returns:
        Whether the file holds the tensors under ``optional_prefix``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first tensors that do not fit or are not finite.
    """
    wanted: dict[str, Tensor] = module.state_dict()
    given = without_prefix(read_weights(path, missing_hint=missing_hint), wanted)
    versions = getattr(given, "_metadata", None)
    if without is not None:
        given, wanted = ({n: v for n, v in part.items() if not n.startswith(without)} for part in (given, wanted))
    whole = optional_prefix is None or any(name.startswith(optional_prefix) for name in given)
    if optional_prefix is not None and not whole:
        wanted = {name: value for name, value in wanted.items() if not name.startswith(optional_prefix)}
    missing = [n for n in wanted if n not in given and not n.endswith(_OPTIONAL_SUFFIX)]
    unexpected = [n for n in given if n not in wanted]
    shapes = [
        f"{n} is {tuple(given[n].shape)}, the model's is {tuple(wanted[n].shape)}"
        for n in wanted
        if n in given and given[n].shape != wanted[n].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("of another shape", shapes), ("missing", missing), ("unknown to the model", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"weights={str(path)!r} do not fit {type(module).__name__}: {'; '.join(problems)}. "
            "Check the architecture and num_classes"
        )
    bad = [n for n, value in given.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise ValueError(f"weights={str(path)!r}: NaN or infinity in {', '.join(bad[:3])}; the file is damaged")
    put_weights(module, _with_versions(given, versions))
    return whole


def save_weights(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> Path:
    """Write named tensors as ``.safetensors`` with a seal, all or nothing: a reader never sees half a file.

    Tied or shared tensors are written as independent tensors.

    Args:
        tensors: of any shapes by name.
        path: of the file; its folder is made.
        metadata: texts by name, stored beside the tensors.

    Returns:
        The path.

    Raises:
        OSError: the disk is full, or the folder cannot be written; an old file is unchanged.
        ValueError: the format has no name for a tensor's type.
    """
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    uses = Counter(value.untyped_storage().data_ptr() for value in content.values())
    tied = [name for name, value in content.items() if uses[value.untyped_storage().data_ptr()] > 1]
    content |= {name: content[name].clone() for name in tied}
    stored, metadata = _stored(content), metadata or {}
    try:
        written = save(content, {**metadata, SEAL: seal_of(metadata, stored)})
    except KeyError as error:
        unknown = [f"{name} ({value.dtype})" for name, value in content.items() if value.dtype == error.args[0]]
        raise ValueError(f"tensors: safetensors has no such type: {', '.join(unknown)}; convert them") from error
    with written_whole(path) as temporary:
        temporary.write_bytes(written)  # the library's own writing reports a full disk as an unknown error
    return Path(path)


def _stored(tensors: dict[str, Tensor]) -> dict[str, Stored]:
    return {n: Stored(str(v.dtype).removeprefix("torch."), v.shape, _bytes(v)) for n, v in tensors.items()}


def _bytes(value: Tensor) -> memoryview:
    """Without a copy where the tensor lies in the CPU's memory, and in order."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a module's parameters and buffers, as 64 hexadecimal digits.

    Buffers that no file holds count too: with another normalisation the network is another. Equal values in single and
    in double precision give the same hash, because ``Trainer(precision="64-true")`` converts a module in place.

    Args:
        module: of any kind; step counters of BatchNorm do not count.
    """
    digest = hashlib.sha256()
    for name, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        if name.endswith(_OPTIONAL_SUFFIX):
            continue
        if value.dtype == torch.float64 and torch.equal(value.float(), value):
            value = value.float()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()
