"""Your own model: which client has which files of `data.path`, when the run begins and when clients join.

A run keeps its first assignment in its folder, and resumes with it whatever files have been added to `data.path` since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.partition import split_rows
from actors.data.records import SUFFIXES, read_checked
from actors.data.references import data_files
from actors.errors import DataError, given_in
from actors.seeding import stream
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.state.membership import Files

_KEY = "data.path"
_FIRST_FILES = "begun-with.json"
"""In the run's data folder: the files of each client in order, relative to data.path; one entry where rows are split."""

Group = Sequence[Path]
"""The files of one client."""
_Stamps = tuple[object, ...]
"""Name, size in bytes and modification time of each file of an entry."""


def client_names(count: int) -> list[str]:
    """Ids that sort in order of their number."""
    return [f"client-{i:03d}" for i in range(count)]


def next_names(known: Mapping[str, Files], count: int) -> list[str]:
    """Ids of `count` clients that join the known ones."""
    return client_names(len(known) + count)[len(known) :]


def first_files(config: RunConfig, folder: Path) -> dict[str, Files]:
    """Client id -> its files when the run begins; a resumed run has the same again.

    Args:
        folder: The run's data folder; split rows are written there.

    Raises:
        ConfigError: data.path holds data of another number of clients. DataError: a file or a row cannot be used.
    """
    clients, groups = client_names(config.clients.count), _kept_groups(config, folder)
    if not groups:
        groups = _first_groups(config)
        _keep_groups(config, folder, groups)
    if len(groups) == 1 and len(clients) > 1:
        return split_over(config, clients, groups[0], folder, _KEY)
    _check(path for group in groups for path in group)
    return {client: _absolute(group) for client, group in zip(clients, groups, strict=True)}


def new_files(config: RunConfig, folder: Path, known: Mapping[str, Files], count: int) -> dict[str, Files]:
    """Files of `count` clients that join: those in data.path that no client has, or had when the run began.

    Raises:
        ConfigError: data.path holds data of fewer clients. DataError: a file or a row cannot be used.
    """
    if config.data.watch:
        raise ConfigError(
            f"data.watch=true: clients join by themselves, and {count} more than the {len(known)} known have not; add a file or "
            f"folder for each to data.path={config.data.path}; a client joins once its files stay the same for a round"
        )
    taken = {path for group in _kept_groups(config, folder) for path in _absolute(group)} | _taken(known)
    free = [group for group in _groups(config) if not taken & set(_absolute(group))]
    if len(free) < count:
        raise ConfigError(
            f"data.path={config.data.path} holds data for {len(free)} more clients, {count} are needed; "
            "add a file or folder for each (one file that was split over the clients cannot be split again)"
        )
    _check(path for group in free[:count] for path in group)
    return {name: _absolute(group) for name, group in zip(next_names(known, count), free, strict=False)}


class WatchedDirectory:
    """Clients whose files appear in a directory while a run is live; it looks once at every round boundary.

    A client joins once its entry was the same at two looks, so that no client joins with half of its files. The constructor
    takes the first look.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = self._look()

    def arrivals(self, known: Mapping[str, Files]) -> tuple[dict[str, Files], frozenset[str]]:
        """Look again.

        Args:
            known: Client id -> its files, of every client so far.

        Returns:
            New clients with their files, in order of file name, and the errors of unchanged entries that cannot be read.
        """
        before, self._seen = self._seen, self._look()
        settled = [entry for entry, stamps in self._seen.items() if before.get(entry) == stamps]
        groups, unreadable = _readable_groups(settled, known)
        names = next_names(known, len(groups))
        return {name: _absolute(group) for name, group in zip(names, groups, strict=True)}, unreadable

    def _look(self) -> dict[Path, _Stamps]:
        return {entry: _stamps(entry) for entry in _entries(self._directory)}


def file_groups(path: str | Sequence[str | Sequence[str]]) -> list[Group]:
    """Files of each client: an entry of a list, or a file or sub-directory of a directory, in sorted order."""
    if not isinstance(path, str):
        return [data_files(Path(entry)) if isinstance(entry, str) else [Path(part) for part in entry] for entry in path]
    root = Path(path)
    if not root.is_dir():
        return [[root]]
    if found := _entries(root):
        return [data_files(entry) for entry in found]
    raise DataError(f"data directory {root} holds no .parquet or .jsonl file")


def split_over(config: RunConfig, clients: Sequence[str], paths: Sequence[Path], folder: Path, key: str) -> dict[str, Files]:
    """Write a Parquet file per client into `folder` and return client id -> its files.

    Args:
        paths: The files whose rows are split.
        key: The setting that names them; the random draw depends on it.

    Raises:
        DataError: a file or a row cannot be used, or there are too few rows or values for the clients.
    """
    with given_in(key):
        table = pa.concat_tables([read_checked(path) for path in paths], promote_options="default")
    partition, values = config.data.partition, None
    if partition.by != "iid":
        if partition.column not in table.column_names:
            raise DataError(
                f"{key}: no column {partition.column} for data.partition.column (it has {sorted(table.column_names)})"
            )
        values = table.column(partition.column).to_pylist()
    parts = split_rows(table.num_rows, len(clients), partition, values, stream(config.seed, "partition", key))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for client, rows in zip(clients, parts, strict=True):
        path = folder / f"{client}.parquet"
        pq.write_table(table.take(pa.array(rows)), path)
        files[client] = (str(path.resolve()),)
    return files


def _readable_groups(entries: Iterable[Path], known: Mapping[str, Files]) -> tuple[list[Group], frozenset[str]]:
    """The files of each entry of a directory that no client has, and the errors of entries that cannot be read."""
    taken, readable, unreadable = _taken(known), [], set()
    for entry in entries:
        try:
            group = data_files(entry)
            if taken & set(_absolute(group)):
                continue
            _check(group)
        except (DataError, OSError) as error:
            unreadable.add(str(error))
        else:
            readable.append(group)
    return readable, frozenset(unreadable)


def _entries(root: Path) -> list[Path]:
    """The files and folders of a directory that may each be a client's, in sorted order; none where the directory is gone."""
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if entry.is_dir() or entry.suffix in SUFFIXES)


def _absolute(paths: Group) -> Files:
    return tuple(str(path.resolve()) for path in paths)


def _groups(config: RunConfig) -> list[Group]:
    """All of data.path, which the schema asks for."""
    with given_in(_KEY):
        return file_groups(config.data.path or ())


def _first_groups(config: RunConfig) -> list[Group]:
    if config.data.watch:
        return _first_watched(config)
    groups, count = _groups(config), config.clients.count
    if len(groups) in (1, count):
        return groups
    more = len(groups) > count and isinstance(config.data.path, str)
    later = "; to let clients join later, add their files once the run is live, or start with data.watch=true"
    raise ConfigError(
        f"data.path holds data of {len(groups)} clients, clients.count={count}: set clients.count={len(groups)}, "
        f"or give one file to split over the clients{later if more else ''}"
    )


def _first_watched(config: RunConfig) -> list[Group]:
    """The first clients.count clients of the watched directory; the others join at the first round boundary."""
    root, count = _root(config), config.clients.count
    if not root.is_dir():
        raise ConfigError(f"data.watch=true needs a directory with a file or folder per client; data.path={root} is none")
    found, unreadable = _readable_groups(_entries(root), {})
    if len(found) < count:
        raise ConfigError(
            f"data.path={root} holds readable data of {len(found)} clients, the run begins with clients.count={count}; add "
            f"files, or set clients.count={max(1, len(found))}{'; ' if unreadable else ''}{'; '.join(sorted(unreadable))}"
        )
    return found[:count]


def _check(paths: Iterable[Path]) -> None:
    """Raises DataError when a file of data.path or one of its rows cannot be used."""
    with given_in(_KEY):
        for path in paths:
            read_checked(path)


def _taken(known: Mapping[str, Files]) -> set[str]:
    return {path for files in known.values() for path in files}


def _kept_groups(config: RunConfig, folder: Path) -> list[Group]:
    """The groups that `_keep_groups` wrote; none where the run begins now."""
    path = folder / _FIRST_FILES
    groups = json.loads(path.read_text()) if path.is_file() else []
    return [[_root(config) / name for name in group] for group in groups]


def _keep_groups(config: RunConfig, folder: Path, groups: Sequence[Group]) -> None:
    root = _root(config)
    names = [[str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in group] for group in groups]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FIRST_FILES).write_text(json.dumps(names, indent=2) + "\n")


def _root(config: RunConfig) -> Path:
    """What the names of kept files are relative to, so that a run can be resumed where data.path lies elsewhere."""
    return Path(config.data.path) if isinstance(config.data.path, str) else Path()


def _stamps(entry: Path) -> _Stamps:
    """Of all files of a folder, whatever their names: some programs copy under a temporary name first."""
    try:
        found = [(path, path.stat()) for path in (sorted(entry.iterdir()) if entry.is_dir() else [entry])]
    except OSError as error:  # The entry has just gone, or cannot be read; `_readable_groups` reports it if that lasts.
        return (str(error),)
    return tuple((path.name, status.st_size, status.st_mtime_ns) for path, status in found)
