"""A place that a run writes to: a directory, or a URI that pyarrow.fs knows. Every file is written whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from cluster.errors import CheckpointError, ConfigError

UNREADABLE = (ArrowException, OSError)
_TEMPORARY = ".tmp"


class Place:
    """Paths in it are relative to its root."""

    def __init__(self, location: str, go_on: str = "") -> None:
        """Open the place; nothing is written yet.

        Args:
            location: A directory, or a URI such as s3://bucket/runs/mine.
            go_on: How a person goes on once the place can be written again; errors say it.

        Raises:
            ConfigError: no file system answers to the URI.
        """
        self.location, self._go_on, self._writer = location, go_on, uuid.uuid4().hex[:12]
        try:
            if "://" in location:
                self._files, root = FileSystem.from_uri(location)
                self._root = root.rstrip("/")
            else:
                self._files, self._root = LocalFileSystem(), str(Path(location).resolve())
        except (*UNREADABLE, ValueError) as error:
            raise ConfigError(f"checkpoint.path={location}: {error}; name a directory or a URI that pyarrow.fs reads") from error
        self.is_local = isinstance(self._files, LocalFileSystem)

    def path(self, name: str) -> str:
        """What a message calls the file."""
        return f"{self._root}/{name}" if name else self._root

    def entries(self, folder: str = "") -> list[tuple[str, bool]]:
        """Names in a folder, sorted, each with whether it is a folder itself; none where there is no such folder."""
        selector = FileSelector(self.path(folder), allow_not_found=True)
        return sorted((entry.base_name, entry.type == FileType.Directory) for entry in self._files.get_file_info(selector))

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, OSError or ArrowException."""
        with self._files.open_input_stream(self.path(name)) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole; on a local disk it replaces the one before in one step, once it is safe on the disk.

        Raises:
            CheckpointError: it cannot be written; the file before is as it was.
        """
        path = self.path(name)
        folder, _, last = path.rpartition("/")
        with self._told(path, "written"):
            self._files.create_dir(folder)
            if not self.is_local:
                with self._files.open_output_stream(path) as stream:
                    stream.write(content)
                return
            temporary = Path(folder) / f".{last}.{self._writer}{_TEMPORARY}"
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            _sync_folder(folder)

    def sync(self, folder: str = "") -> None:
        """Make the names in a folder safe on a local disk."""
        if self.is_local:
            with self._told(self.path(folder), "written"):
                _sync_folder(self.path(folder))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; nothing where it is not there.

        Raises:
            CheckpointError: it cannot be removed.
        """
        path = self.path(name)
        with self._told(path, "removed"):
            kind = self._files.get_file_info(path).type
            if kind == FileType.File:
                self._files.delete_file(path)
            elif kind == FileType.Directory:
                self._files.delete_dir(path)

    def remove_temporary(self) -> None:
        """Remove what writers that died left half written in the place itself; only its owner may call it."""
        for name, is_folder in self.entries():
            if is_temporary(name) and not is_folder:
                self.remove(name)

    @contextmanager
    def _told(self, path: str, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            then = f", then go on with: {self._go_on}" if self._go_on else ""
            raise CheckpointError(
                f"{path} cannot be {what}: {error}; make room there or let this user write{then or ', or name another place'}"
            ) from error


def is_temporary(name: str) -> bool:
    """Whether it is a file that somebody is writing, or was when they died."""
    return name.startswith(".") and name.endswith(_TEMPORARY)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
