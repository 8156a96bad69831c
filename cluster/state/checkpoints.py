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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from cluster.errors import CheckpointError, ConfigError

SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
_FOLDER = re.compile(r"round-(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class _Complete:
    """A checkpoint that exists."""

    folder: str
    manifest: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, a folder `round-00007` for each; the number counts finished rounds.

    A round that is saved again gets another folder, `round-00007.1`, and the one before goes when that is complete: at no time
    is there none.
    """

    def __init__(self, location: str, keep: int, run: str | None = None) -> None:
        """`location`: a directory, or a URI such as s3://bucket/runs/mine. `keep`: how many of the newest stay.

        Args:
            run: The run's id, which every manifest carries; None: of whom a checkpoint is, is not asked.

        Raises:
            ConfigError: no file system answers to the URI.
        """
        self.location, self._keep, self._run = location, keep, run
        try:
            self._files, self._root = _file_system(location)
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"checkpoint.path={location}: {error}; name a directory or a URI that pyarrow.fs reads") from error

    def save(self, rounds_done: int, files: Mapping[str, bytes]) -> None:
        """Write a checkpoint, then remove the one that it replaces and those that `keep` no longer covers.

        Raises:
            CheckpointError: another run writes to this place; nothing was written.
        """
        complete = self._complete()
        for found in complete.values():
            self._check_own(found)
        folder = self._unused_folder(rounds_done)
        self._files.create_dir(folder)
        for name, content in files.items():
            self._write(f"{folder}/{name}", content)
        hashes = {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in files.items()}
        manifest = {"schema_version": SCHEMA_VERSION, "run": self._run, "rounds_done": rounds_done, "files": hashes}
        self._write(f"{folder}/{_MANIFEST}", json.dumps(manifest, indent=2).encode())
        self._remove_old(complete | {rounds_done: _Complete(folder, manifest)})

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
        number = list(complete)[-1] if rounds_done is None else rounds_done
        if number not in complete:
            raise CheckpointError(
                f"--from-round {number}: {self.location} has no checkpoint after {number} rounds, it has {list(complete)}; "
                "raise checkpoint.keep to keep more"
            )
        found = complete[number]
        if found.manifest["schema_version"] != SCHEMA_VERSION:
            raise CheckpointError(
                f"{found.folder} has schema_version {found.manifest['schema_version']}, this release reads {SCHEMA_VERSION}"
            )
        self._check_own(found)
        return number, {name: self._read(found.folder, name, about["sha256"]) for name, about in found.manifest["files"].items()}

    def remove_after(self, rounds_done: int) -> None:
        """Remove the checkpoints of later rounds: the run goes another way from here."""
        for number, folders in self._folders().items():
            if number > rounds_done:
                for folder in folders:
                    self._remove(folder)

    def check_unused(self) -> None:
        """For a new run, which would take what lies here for its own.

        Raises:
            ConfigError: there is a checkpoint, or the place cannot be read.
        """
        try:
            numbers = self.complete()
        except (ArrowException, OSError) as error:
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
            with self._files.open_input_stream(path) as file:
                found = file.read()
            self._files.delete_file(path)
        except (ArrowException, OSError) as error:
            raise CheckpointError(
                f"cannot write to {self.location}: {error}; name another place, or let this user write"
            ) from error
        if found != content:
            raise CheckpointError(f"{self.location} does not give back what is written to it; name another place")

    def _folders(self) -> dict[int, list[str]]:
        """Rounds, ascending -> their folders, complete or not, in the order in which they were begun."""
        entries = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
        names = [match for e in entries if e.type == FileType.Directory and (match := _FOLDER.fullmatch(e.base_name))]
        folders: dict[int, list[str]] = {}
        for name in sorted(names, key=lambda name: (int(name[1]), int(name[2] or 0))):
            folders.setdefault(int(name[1]), []).append(f"{self._root}/{name[0]}")
        return folders

    def _complete(self) -> dict[int, _Complete]:
        """Rounds, ascending -> the newest complete checkpoint."""
        found: dict[int, _Complete] = {}
        for number, folders in self._folders().items():
            for folder in folders:
                if (manifest := self._manifest(folder)) is not None:
                    found[number] = _Complete(folder, manifest)
        return found

    def _unused_folder(self, rounds_done: int) -> str:
        name, begun = f"{self._root}/round-{rounds_done:05d}", self._folders().get(rounds_done)
        if not begun:
            return name
        last = _FOLDER.fullmatch(begun[-1].rpartition("/")[2])
        return f"{name}.{int(last[2] or 0) + 1}"

    def _remove_old(self, complete: Mapping[int, _Complete]) -> None:
        """Remove the folders of rounds that `keep` does not cover, and those that a complete one replaces."""
        oldest = sorted(complete)[-self._keep :][0]
        for number, folders in self._folders().items():
            for folder in folders:
                if number < oldest or (number in complete and folder != complete[number].folder):
                    self._remove(folder)

    def _check_own(self, found: _Complete) -> None:
        """Raises CheckpointError when it is another run's; those of earlier releases do not say whose they are."""
        run = found.manifest.get("run")
        if self._run is not None and run is not None and run != self._run:
            raise CheckpointError(
                f"{found.folder} was written by another run ({run}, this one is {self._run}); give each its own checkpoint.path"
            )

    def _manifest(self, folder: str) -> dict | None:
        """None where the manifest is missing or was cut short: that checkpoint was never finished."""
        try:
            with self._files.open_input_stream(f"{folder}/{_MANIFEST}") as file:
                return json.loads(file.read())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _read(self, folder: str, name: str, sha256: str) -> bytes:
        path = f"{folder}/{name}"
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
