"""Checkpoints: the files of a committed round, on a local path or behind any URI that pyarrow.fs knows.

A checkpoint exists once its manifest, which holds the hash of every file, has been written last: object stores have no
atomic rename.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.errors import CheckpointError, ConfigError
from cluster.state.history import History
from cluster.state.lease import Lease
from cluster.state.manifest import FileEntry, Manifest, decode_manifest, digest, encode_manifest
from cluster.state.place import UNREADABLE, Place
from probe.names import plain_name

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_FOLDER = re.compile(r"round-(\d{5,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A folder with a manifest."""

    place_in_time: tuple[int, int, int]
    """Epoch of the lease under which it was written, finished rounds, attempt: later ones are newer."""
    folder: str
    manifest: Manifest | None
    """None where it is damaged."""
    damage: str = ""
    """What is wrong with the manifest."""

    @property
    def rounds_done(self) -> int:
        return self.place_in_time[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """What lies in a place."""

    in_force: Sequence[_Found]
    """The checkpoints of the run as it went, newest first: those that no newer one has replaced."""
    replaced: Sequence[_Found]
    """Those of the run that a newer one has replaced, the most rounds first."""
    foreign: Sequence[_Found]
    """Those of other runs."""
    unfinished: Sequence[str]
    """Folders without a manifest, which were never finished."""


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
        self.history = History(self.place)
        """What the run has reported, which its checkpoints name."""
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
        return sorted(found.rounds_done for found in self._survey().in_force)

    def load(self, rounds_done: int | None = None) -> tuple[int, dict[str, bytes]] | None:
        """Number and files of a checkpoint, by default the newest one that is whole; None when there is none at all.

        A damaged one is passed over for the one before, which is told.

        Raises:
            CheckpointError: that round has no checkpoint, none is whole, or they are another run's.
        """
        survey = self._survey()
        every = survey.in_force or survey.foreign
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
        for found in self._survey().replaced:
            self._remove(found.folder)

    def check_unused(self) -> None:
        """Check that a new run finds no checkpoint here, which it would take for its own.

        Raises:
            ConfigError: there is one, or the place cannot be read.
        """
        try:
            survey = self._survey()
        except CheckpointError as error:
            raise ConfigError(f"checkpoint.path: {error}; name another place") from error
        if numbers := sorted({found.rounds_done for found in (*survey.in_force, *survey.replaced, *survey.foreign)}):
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

    def _survey(self) -> _Survey:
        found, unfinished = [], []
        for number, epoch, attempt, folder in self._folders():
            moment = epoch, number, attempt
            try:
                manifest = decode_manifest(self.place.read(f"{folder}/{_MANIFEST}"))
                if (manifest.epoch, manifest.rounds_done) != (epoch, number):
                    raise CheckpointError("belongs to another folder")
                found.append(_Found(place_in_time=moment, folder=folder, manifest=manifest))
            except FileNotFoundError:
                unfinished.append(folder)
            except (CheckpointError, *UNREADABLE) as error:
                why = str(error) if isinstance(error, CheckpointError) else f"cannot be read: {error}"
                damage = f"{self.place.path(folder)}/{_MANIFEST} {why}"
                found.append(_Found(place_in_time=moment, folder=folder, manifest=None, damage=damage))
        foreign = [item for item in found if self._is_foreign(item.manifest)]
        own = sorted((item for item in found if item not in foreign), key=lambda item: item.place_in_time, reverse=True)
        in_force: list[_Found] = []
        for item in own:
            if not in_force or item.rounds_done < in_force[-1].rounds_done:
                in_force.append(item)
        replaced = sorted((item for item in own if item not in in_force), key=lambda item: item.rounds_done, reverse=True)
        return _Survey(in_force=in_force, replaced=replaced, foreign=foreign, unfinished=unfinished)

    def _is_foreign(self, manifest: Manifest | None) -> bool:
        """Whether it says that it is another run's; a damaged one does not."""
        return manifest is not None and None not in (self._run, manifest.run) and manifest.run != self._run

    def _files_of(self, found: _Found) -> dict[str, bytes]:
        """Raises CheckpointError: it is another run's, or something is damaged or missing."""
        manifest = found.manifest
        if manifest is None:
            raise CheckpointError(found.damage)
        if self._is_foreign(manifest):
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
        survey = self._survey()
        for found in (*survey.replaced, *reversed(survey.in_force[self._keep :])):
            self._remove(found.folder)
        for folder in survey.unfinished:
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
