"""Checkpoints: the files of a committed round, on a local path or behind any URI that pyarrow.fs knows.

A checkpoint exists once its manifest, which holds the hash of every file, has been written last: object stores have no
atomic rename.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from cluster.errors import CheckpointError, ConfigError

SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
_PREFIX = "round-"


class Checkpoints:
    """The checkpoints of one run, a folder `round-00007` for each; the number counts finished rounds."""

    def __init__(self, location: str, keep: int) -> None:
        """`location`: a directory, or a URI such as s3://bucket/runs/mine. `keep`: how many of the newest stay.

        Raises:
            ConfigError: no file system answers to the URI.
        """
        self.location, self._keep = location, keep
        try:
            self._files, self._root = _file_system(location)
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"checkpoint.path={location}: {error}; name a directory or a URI that pyarrow.fs reads") from error

    def save(self, rounds_done: int, files: Mapping[str, bytes]) -> None:
        """Write a checkpoint, then remove those that `keep` no longer covers."""
        folder = self._folder(rounds_done)
        self._remove(folder)
        self._files.create_dir(folder)
        for name, content in files.items():
            self._write(f"{folder}/{name}", content)
        hashes = {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in files.items()}
        manifest = {"schema_version": SCHEMA_VERSION, "rounds_done": rounds_done, "files": hashes}
        self._write(f"{folder}/{_MANIFEST}", json.dumps(manifest, indent=2).encode())
        for old in self.complete()[: -self._keep]:
            self._remove(self._folder(old))

    def complete(self) -> list[int]:
        """Finished rounds of every complete checkpoint, ascending."""
        entries = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
        names = [entry.base_name for entry in entries if entry.type == FileType.Directory]
        numbers = sorted(int(n.removeprefix(_PREFIX)) for n in names if n.startswith(_PREFIX) and n[len(_PREFIX) :].isdigit())
        return [number for number in numbers if self._manifest(number) is not None]

    def load(self, rounds_done: int | None = None) -> tuple[int, dict[str, bytes]] | None:
        """Number and files of a checkpoint, by default the newest complete one; None when there is none at all.

        Raises:
            CheckpointError: that round has no checkpoint, or a file is missing or was changed.
        """
        numbers = self.complete()
        if rounds_done is None and not numbers:
            return None
        number = numbers[-1] if rounds_done is None else rounds_done
        if number not in numbers:
            raise CheckpointError(
                f"--from-round {number}: {self.location} has no checkpoint after {number} rounds, it has {numbers}; "
                "raise checkpoint.keep to keep more"
            )
        manifest = self._manifest(number)
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise CheckpointError(
                f"{self._folder(number)} has schema_version {manifest['schema_version']}, this release reads {SCHEMA_VERSION}"
            )
        return number, {name: self._read(number, name, entry["sha256"]) for name, entry in manifest["files"].items()}

    def remove_after(self, rounds_done: int) -> None:
        """Remove the checkpoints of later rounds: the run goes another way from here."""
        for number in self.complete():
            if number > rounds_done:
                self._remove(self._folder(number))

    def check_writable(self) -> None:
        """Write a small file, read it back and remove it; a directory that has to be made for it stays.

        Raises:
            CheckpointError: one of the three fails.
        """
        path, content = f"{self._root}/.writable-{uuid.uuid4().hex}", b"safe-fedllm"
        try:
            self._write(path, content)
            with self._files.open_input_stream(path) as file:
                found = file.read()
            self._files.delete_file(path)
        except (ArrowException, OSError) as error:
            raise CheckpointError(
                f"cannot write to {self.location}: {error}; name another place, or let this user write"
            ) from error
        if found != content:
            raise CheckpointError(f"{self.location} does not give back what is written to it; name another place")

    def _folder(self, rounds_done: int) -> str:
        return f"{self._root}/{_PREFIX}{rounds_done:05d}"

    def _manifest(self, rounds_done: int) -> dict | None:
        """None where the manifest is missing or was cut short: that checkpoint was never finished."""
        try:
            with self._files.open_input_stream(f"{self._folder(rounds_done)}/{_MANIFEST}") as file:
                return json.loads(file.read())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _read(self, number: int, name: str, sha256: str) -> bytes:
        path = f"{self._folder(number)}/{name}"
        fix = "remove that folder to resume from the checkpoint before it"
        try:
            with self._files.open_input_stream(path) as file:
                content = file.read()
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; {fix}") from error
        if _sha256(content) != sha256:
            raise CheckpointError(f"{path} is not the file its manifest was written for (hash mismatch); {fix}")
        return content

    def _write(self, path: str, content: bytes) -> None:
        self._files.create_dir(path.rpartition("/")[0])
        with self._files.open_output_stream(path) as file:
            file.write(content)

    def _remove(self, folder: str) -> None:
        """The manifest goes first, so that a half removed checkpoint is none."""
        for path in (f"{folder}/{_MANIFEST}", folder):
            kind = self._files.get_file_info(path).type
            if kind == FileType.File:
                self._files.delete_file(path)
            elif kind == FileType.Directory:
                self._files.delete_dir(path)


def below(location: str, name: str) -> str:
    """A folder of that name in a directory or behind a URI, whose options after `?` stay at the end."""
    path, mark, options = location.partition("?") if "://" in location else (location, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def _file_system(location: str) -> tuple[FileSystem, str]:
    if "://" not in location:
        return LocalFileSystem(), str(Path(location).resolve())
    files, root = FileSystem.from_uri(location)
    return files, root.rstrip("/")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
