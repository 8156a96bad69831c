"""The files of a base model: whole, and no adapter among them. Weights are not loaded: headers say enough."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from actors.errors import ModelError

_POINTER = b"version https://git-lfs.github.com/spec/"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TORCH, _TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

Shapes = Mapping[str, tuple[int, ...]]


def find_folder(path: str) -> Path | None:
    """The directory itself, or where a hub's files are cached on this machine; None: nothing is cached.

    Raises:
        ModelError: an absolute path that is no directory.
    """
    from transformers.utils.hub import cached_file

    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_absolute():
        raise ModelError("there is no such directory on this machine")
    config = cached_file(
        path,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(config).parent if config else None


def check_no_adapter(path: str) -> None:
    """Raises ModelError when an adapter lies in the directory or the hub's repository: transformers would load it silently."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if (found := find_adapter_config_file(path)) is not None:
        raise ModelError(
            f"{found} makes the base an adapter; merge it into its base (peft: merge_and_unload) and name the merged model, "
            "or remove adapter_config.json and adapter_model.*"
        )


def find_gguf(path: str) -> str | None:
    """Name of the GGUF file that a directory without `config.json` holds; None: another directory, or a hub's name.

    Raises:
        ModelError: it holds several.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    names = sorted(file.name for file in folder.glob("*.gguf"))
    if len(names) > 1:
        raise ModelError(f"it holds {len(names)} GGUF files, {', '.join(names[:3])}; name a directory that holds one of them")
    for name in names:
        refuse_pointer(folder / name)
    return names[0] if names else None


def read_shapes(path: str) -> Shapes | None:
    """Shape of every saved tensor, by its name in the files; None: weights in torch files or GGUF, or a hub's not cached yet.

    Raises:
        ModelError: a file is missing, damaged or a Git LFS pointer; names it and the fix.
    """
    folder, is_local = find_folder(path), Path(path).is_dir()
    if folder is None or find_gguf(path):
        return None
    if (folder / _SINGLE).is_file():
        return _header(folder / _SINGLE)
    if (folder / _INDEX).is_file():
        return _sharded(folder, folder / _INDEX, is_local=is_local)
    if (folder / _TORCH_INDEX).is_file() and not (folder / _TORCH).is_file():
        archives = sorted({folder / name for name in _weight_map(folder / _TORCH_INDEX).values()})
    else:
        archives = [folder / _TORCH]
    if is_local and (missing := [file for file in archives if not file.is_file()]):
        raise ModelError(f"{missing[0]} is missing, and there is no {_SINGLE} either; download the weights again")
    for file in archives:
        _check_archive(file)
    return None


def find_pointer(folder: Path) -> Path | None:
    """The first file that is a Git LFS pointer in place of its contents."""
    return next((file for file in sorted(folder.iterdir()) if is_pointer(file)), None)


def is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def refuse_pointer(file: Path) -> None:
    """Raises ModelError when the file is a Git LFS pointer."""
    if is_pointer(file):
        raise ModelError(
            f"{file} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull` there, or download it again"
        )


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    refuse_pointer(file)
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise ModelError(f"{file} is cut off or damaged at {size} bytes ({error}); download it again") from error


def _sharded(folder: Path, index: Path, *, is_local: bool) -> Shapes | None:
    weight_map = _weight_map(index)
    shards = sorted({folder / name for name in weight_map.values()})
    if missing := [shard for shard in shards if not shard.is_file()]:
        if not is_local:
            return None
        raise ModelError(f"{missing[0]} is missing, which {index.name} names; download it again")
    headers = {shard.name: _header(shard) for shard in shards}
    if lacking := sorted(name for name, shard in weight_map.items() if name not in headers[Path(shard).name]):
        raise ModelError(
            f"{folder / weight_map[lacking[0]]} lacks {lacking[0]}, which {index.name} places there; download both again"
        )
    return {name: shape for header in headers.values() for name, shape in header.items()}


def _weight_map(index: Path) -> dict[str, str]:
    refuse_pointer(index)
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        return {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} has no readable weight_map ({type(error).__name__}: {error}); download it again") from error


def _check_archive(file: Path) -> None:
    """torch writes zip archives, whose directory stands at the end."""
    refuse_pointer(file)
    if not file.is_file():
        return
    with file.open("rb") as opened:
        is_archive = opened.read(2) == b"PK"
    if file.stat().st_size == 0 or (is_archive and not zipfile.is_zipfile(file)):
        raise ModelError(f"{file} is cut off or damaged at {file.stat().st_size} bytes; download it again")
