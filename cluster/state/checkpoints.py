"""Checkpoints: the files of a committed round, on a local path or behind any URI that pyarrow.fs knows.

A checkpoint exists once its manifest, which holds the hash of every file, has been written last: object stores have no
atomic rename.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.errors import CheckpointError, ConfigError
from cluster.state.lease import Lease
from cluster.state.manifest import FileEntry, Manifest, decode_manifest, digest, encode_manifest
from cluster.state.place import UNREADABLE, Place
from probe.names import plain_name

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_FOLDER = re.compile(r"round-(\d{5,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?")


@dataclass(frozen=True, slots=True, order=True)
class _Found:
    """A folder with a manifest, which may be damaged. Later ones in order of `epoch`, rounds and `attempt` are newer."""

    epoch: int
    """Of the lease under which it was written."""
    rounds_done: int
    attempt: int
    folder: str

    def manifest(self, place: Place) -> Manifest:
        """Raises CheckpointError: it is damaged, or not the one of this folder."""
        try:
            found = decode_manifest(place.read(f"{self.folder}/{_MANIFEST}"))
        except CheckpointError as error:
            raise CheckpointError(f"{place.path(self.folder)}/{_MANIFEST} {error}") from error
        except UNREADABLE as error:
            raise CheckpointError(f"{place.path(self.folder)}/{_MANIFEST} cannot be read: {error}") from error
        if (found.epoch, found.rounds_done) != (self.epoch, self.rounds_done):
            raise CheckpointError(f"{place.path(self.folder)}/{_MANIFEST} belongs to another folder")
        return found


class Checkpoints:
    """The checkpoints of one run, a folder `round-00007.<epoch>.<attempt>` for each; the first number counts finished rounds.

    A later owner's checkpoint replaces all of earlier owners that have as many rounds or more: the run went on from there. So a
    run that goes back rejects later checkpoints by one manifest, whatever is left of them.
    """

    def __init__(
        self,
        location: str,
        keep: int,
        run: str | None = None,
        *,
        lease: Lease | None = None,
        tell: Callable[[str], None] = _LOG.warning,
        go_on: str = "",
    ) -> None:
        """Open the place; nothing is written yet.

        Args:
            location: A directory, or a URI such as s3://bucket/runs/mine.
            keep: How many of the newest stay.
            run: The run's id, which every manifest carries; None: the checkpoints of any run are accepted.
            lease: Ownership of the place, without which nobody else may save at the same time.
            tell: Receives what a person should know: that a damaged checkpoint was passed over.
            go_on: As of `Place`.

        Raises:
            ConfigError: no file system answers to the URI.
        """
        self.place = Place(location, go_on)
        self.location, self._keep, self._run, self._lease, self._tell = location, keep, run, lease, tell

    def own(self, lease: Lease) -> None:
        """Save under this lease from now on."""
        self._lease = lease

    def save(self, rounds_done: int, files: Mapping[str, bytes]) -> None:
        """Write a checkpoint, then remove those that it replaces and those that `keep` no longer covers.

        Checkpoints that cannot be read and those of other runs stop nothing; the latter stay.

        Raises:
            CheckpointError: another driver owns the place now, or it cannot be written; every checkpoint is as it was.
            ValueError: a name that is no plain file name.
        """
        self._check_lease()
        epoch = self._lease.epoch if self._lease else 0
        taken = [attempt for number, other, attempt, _ in self._folders() if (number, other) == (rounds_done, epoch)]
        folder = f"round-{rounds_done:05d}.{epoch}.{max(taken, default=-1) + 1}"
        for name, content in files.items():
            self.place.write(f"{folder}/{plain_name(name)}", content)
        entries = {name: FileEntry(sha256=digest(content), bytes=len(content)) for name, content in files.items()}
        manifest = Manifest(run=self._run, rounds_done=rounds_done, epoch=epoch, files=entries)
        self._check_lease()
        self.place.write(f"{folder}/{_MANIFEST}", encode_manifest(manifest))
        self.place.sync()
        self._remove_surplus()

    def complete(self) -> list[int]:
        """Finished rounds of every checkpoint that can be resumed from, ascending."""
        return sorted(found.rounds_done for found in self._in_force)

    def load(self, rounds_done: int | None = None) -> tuple[int, dict[str, bytes]] | None:
        """Number and files of a checkpoint, by default the newest one that is whole; None when there is none at all.

        A damaged one is passed over for the one before, which is told.

        Raises:
            CheckpointError: that round has no checkpoint, none is whole, or they are another run's.
        """
        every = self._in_force
        if rounds_done is None and not every:
            return None
        candidates = [found for found in every if rounds_done in (None, found.rounds_done)]
        if not candidates:
            raise CheckpointError(
                f"--from-round {rounds_done}: {self.location} has no checkpoint after {rounds_done} rounds, it has "
                f"{self.complete()}; raise checkpoint.keep to keep more"
            )
        damage: list[str] = []
        for found in candidates:
            try:
                files = self._files_of(found)
            except CheckpointError as error:
                damage.append(str(error))
                continue
            for why in damage:
                self._tell(
                    f"{why}; the run goes on from the checkpoint after {found.rounds_done} rounds, the newest that is whole"
                )
            return found.rounds_done, files
        raise CheckpointError("; ".join(damage) + "; put back what was there, or go back with --from-round, or start another run")

    def remove_later(self) -> None:
        """Remove the checkpoints that a newer one has replaced, the newest first."""
        kept = set(self._in_force)
        for found in sorted(set(self._with_manifest()) - kept, key=lambda item: (-item.rounds_done, item)):
            if not self._is_foreign(found):
                self._remove(found.folder)

    def check_unused(self) -> None:
        """Check that a new run finds no checkpoint here, which it would take for its own.

        Raises:
            ConfigError: there is one, or the place cannot be read.
        """
        try:
            numbers = sorted({found.rounds_done for found in self._with_manifest()})
        except CheckpointError as error:
            raise ConfigError(f"checkpoint.path: {error}; name another place") from error
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
        name, content = f"writable-{uuid.uuid4().hex}", b"safe-fedllm"
        try:
            self.place.write(name, content)
            found = self.place.read(name)
            self.place.remove(name)
        except (CheckpointError, *UNREADABLE) as error:
            raise CheckpointError(
                f"cannot write to {self.location}: {error}; name another place, or let this user write"
            ) from error
        if found != content:
            raise CheckpointError(f"{self.location} does not give back what is written to it; name another place")

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _folders(self) -> list[tuple[int, int, int, str]]:
        """Finished rounds, epoch, attempt and name of every folder, whole or not, ascending."""
        try:
            names = [name for name, is_folder in self.place.entries() if is_folder]
        except UNREADABLE as error:
            raise CheckpointError(f"{self.location} cannot be read: {error}") from error
        found = [(match, name) for name in names if (match := _FOLDER.fullmatch(name))]
        return sorted((int(match[1]), int(match[2] or 0), int(match[3] or 0), name) for match, name in found)

    def _with_manifest(self) -> list[_Found]:
        """Every folder that has a manifest, whole or damaged, in order; one without was never finished."""
        return sorted(
            _Found(epoch, number, attempt, name) for number, epoch, attempt, name in self._folders() if self._has_manifest(name)
        )

    def _has_manifest(self, folder: str) -> bool:
        return (_MANIFEST, False) in self.place.entries(folder)

    @property
    def _in_force(self) -> list[_Found]:
        """The checkpoints of the run as it went, newest first: those that no newer one has replaced."""
        every = self._with_manifest()
        own = [found for found in every if not self._is_foreign(found)]
        kept: list[_Found] = []
        for found in reversed(own or every):
            if not kept or found.rounds_done < kept[-1].rounds_done:
                kept.append(found)
        return kept

    def _is_foreign(self, found: _Found) -> bool:
        """Whether it says that it is another run's; a damaged one does not."""
        try:
            run = found.manifest(self.place).run
        except CheckpointError:
            return False
        return None not in (self._run, run) and run != self._run

    def _files_of(self, found: _Found) -> dict[str, bytes]:
        """Raises CheckpointError: it is another run's, or something is damaged or missing."""
        manifest = found.manifest(self.place)
        if self._is_foreign(found):
            raise CheckpointError(
                f"{self.place.path(found.folder)} was written by another run ({manifest.run}, this one is {self._run}); give "
                "each its own checkpoint.path"
            )
        return {name: self._checked(f"{found.folder}/{name}", entry) for name, entry in manifest.files.items()}

    def _checked(self, name: str, entry: FileEntry) -> bytes:
        path = self.place.path(name)
        try:
            content = self.place.read(name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing") from error
        except UNREADABLE as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if digest(content) != entry.sha256:
            raise CheckpointError(f"{path} is not the file its manifest was written for (hash mismatch)")
        return content

    def _remove_surplus(self) -> None:
        """Remove replaced checkpoints, then old ones, then what was never finished."""
        self.remove_later()
        for found in reversed(self._in_force[self._keep :]):
            if not self._is_foreign(found):
                self._remove(found.folder)
        for _, _, _, folder in self._folders():
            if not self._has_manifest(folder):
                self.place.remove(folder)

    def _remove(self, folder: str) -> None:
        """The manifest goes first, so that a checkpoint that is half removed does not exist."""
        self.place.remove(f"{folder}/{_MANIFEST}")
        self.place.remove(folder)


def below(location: str, name: str) -> str:
    """A folder of that name in a directory or behind a URI, whose options after `?` stay at the end."""
    path, mark, options = location.partition("?") if "://" in location else (location, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def with_absolute_place(config: RunConfig) -> RunConfig:
    """A relative checkpoint.path is that of the directory in which the run began, wherever it is resumed."""
    path = config.checkpoint.path
    if path is None or "://" in path:
        return config
    absolute = str(Path(path).expanduser().absolute())
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"path": absolute})})
