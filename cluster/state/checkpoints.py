"""Checkpoints: the files of a committed round, on a local path or behind any URI that pyarrow.fs knows.

A checkpoint exists once its manifest, which holds the hash of every file, has been written last: object stores have no
atomic rename.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from cluster.errors import CheckpointError, ConfigError

SCHEMA_VERSION = 2
_MANIFEST = "manifest.json"
_UNREADABLE = (ArrowException, OSError)
_FOLDER = re.compile(r"round-(\d+)(?:\.(\d+))?")


class _File(TypedDict):
    sha256: str
    bytes: int


class _Manifest(TypedDict):
    schema_version: int
    run: str | None
    rounds_done: int
    files: dict[str, _File]


_Complete = tuple[str, _Manifest]
"""Folder and manifest of a checkpoint that exists."""


class Checkpoints:
    """The checkpoints of one run, a folder `round-00007` for each; the number counts finished rounds.

    A round that is saved again gets another folder, `round-00007.1`; the one before is removed only when that is complete, so
    that there is always one.
    """

    def __init__(self, location: str, keep: int, run: str | None = None) -> None:
        """Open the place; nothing is written yet.

        Args:
            location: A directory, or a URI such as s3://bucket/runs/mine.
            keep: How many of the newest stay.
            run: The run's id, which every manifest carries; None: the checkpoints of any run are accepted.

        Raises:
            ConfigError: no file system answers to the URI.
        """
        self.location, self._keep, self._run = location, keep, run
        try:
            if "://" in location:
                self._files, root = FileSystem.from_uri(location)
                self._root = root.rstrip("/")
            else:
                self._files, self._root = LocalFileSystem(), str(Path(location).resolve())
        except (*_UNREADABLE, ValueError) as error:
            raise ConfigError(f"checkpoint.path={location}: {error}; name a directory or a URI that pyarrow.fs reads") from error

    def save(self, rounds_done: int, files: Mapping[str, bytes]) -> None:
        """Write a checkpoint, then remove the one that it replaces and those that `keep` no longer covers.

        Raises:
            CheckpointError: another run writes to this place; nothing was written.
        """
        complete = self._complete()
        for found in complete.values():
            self._check_own(*found)
        attempts = [attempt for number, attempt, _ in self._folders() if number == rounds_done]
        folder = f"{self._root}/round-{rounds_done:05d}" + (f".{attempts[-1] + 1}" if attempts else "")
        self._files.create_dir(folder)
        for name, content in files.items():
            self._write(f"{folder}/{name}", content)
        manifest: _Manifest = {
            "schema_version": SCHEMA_VERSION,
            "run": self._run,
            "rounds_done": rounds_done,
            "files": {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in files.items()},
        }
        self._write(f"{folder}/{_MANIFEST}", json.dumps(manifest, indent=2).encode())
        complete[rounds_done] = folder, manifest
        oldest = sorted(complete)[-self._keep :][0]
        for number, _, path in self._folders():
            if number < oldest or (number in complete and path != complete[number][0]):
                self._remove(path)

    def complete(self) -> list[int]:
        """Finished rounds of every complete checkpoint, ascending."""
        return list(self._complete())

    def load(self, rounds_done: int | None = None) -> tuple[int, dict[str, bytes]] | None:
        """Number and files of a checkpoint, by default the newest complete one; None when there is none at all.

        Raises:
            CheckpointError: that round has no checkpoint, it is another run's, or a file is missing or was changed.
        """
        complete = self._complete()
        if rounds_done is None and not complete:
            return None
        number = max(complete) if rounds_done is None else rounds_done
        if number not in complete:
            raise CheckpointError(
                f"--from-round {number}: {self.location} has no checkpoint after {number} rounds, it has {list(complete)}; "
                "raise checkpoint.keep to keep more"
            )
        folder, manifest = complete[number]
        if (version := manifest["schema_version"]) != SCHEMA_VERSION:
            raise CheckpointError(f"{folder} has schema_version {version}, this release reads {SCHEMA_VERSION}")
        self._check_own(folder, manifest)
        return number, {name: self._checked(f"{folder}/{name}", about["sha256"]) for name, about in manifest["files"].items()}

    def remove_after(self, rounds_done: int) -> None:
        """Remove the checkpoints of later rounds, which the run is about to repeat."""
        for number, _, folder in self._folders():
            if number > rounds_done:
                self._remove(folder)

    def check_unused(self) -> None:
        """Check that a new run finds no checkpoint here, which it would take for its own.

        Raises:
            ConfigError: there is one, or the place cannot be read.
        """
        try:
            numbers = self.complete()
        except _UNREADABLE as error:
            raise ConfigError(f"checkpoint.path: {self.location} cannot be read: {error}; name another place") from error
        if numbers:
            raise ConfigError(
                f"checkpoint.path: {self.location} holds checkpoints of another run (after rounds {numbers}); name another "
                "checkpoint.path or another run directory, or remove that folder"
            )

    def check_writable(self) -> None:
        """Write a small file, read it back and remove it; a directory that has to be made for it stays.

        Raises:
            CheckpointError: one of the three fails.
        """
        path, content = f"{self._root}/.writable-{uuid.uuid4().hex}", b"safe-fedllm"
        try:
            self._write(path, content)
            found = self._read(path)
            self._files.delete_file(path)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"cannot write to {self.location}: {error}; name another place, or let this user write"
            ) from error
        if found != content:
            raise CheckpointError(f"{self.location} does not give back what is written to it; name another place")

    def _folders(self) -> list[tuple[int, int, str]]:
        """Finished rounds, attempt and path of every folder, complete or not, ascending."""
        entries = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
        names = [match for e in entries if e.type == FileType.Directory and (match := _FOLDER.fullmatch(e.base_name))]
        return sorted((int(name[1]), int(name[2] or 0), f"{self._root}/{name[0]}") for name in names)

    def _complete(self) -> dict[int, _Complete]:
        """Rounds, ascending -> the newest complete checkpoint."""
        found: dict[int, _Complete] = {}
        for number, _, folder in self._folders():
            if (manifest := self._manifest(folder)) is not None:
                found[number] = folder, manifest
        return found

    def _check_own(self, folder: str, manifest: _Manifest) -> None:
        """Raises CheckpointError when it is another run's; a checkpoint of an early release does not say whose it is."""
        run = manifest.get("run")
        if self._run is not None and run is not None and run != self._run:
            raise CheckpointError(
                f"{folder} was written by another run ({run}, this one is {self._run}); give each its own checkpoint.path"
            )

    def _manifest(self, folder: str) -> _Manifest | None:
        """None where the manifest is missing or was cut short: that checkpoint was never finished."""
        try:
            return json.loads(self._read(f"{folder}/{_MANIFEST}"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _read(self, path: str) -> bytes:
        with self._files.open_input_stream(path) as file:
            return file.read()

    def _checked(self, path: str, sha256: str) -> bytes:
        fix = "remove that folder to resume from the checkpoint before it"
        try:
            content = self._read(path)
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
        """The manifest goes first, so that a checkpoint that is half removed does not exist."""
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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
