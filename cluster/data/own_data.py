"""Your own model: which client has which files of `data.path`, when the run begins and when clients join."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.columns import named
from actors.data.files import found_columns, read_table
from actors.data.folders import absolute, data_files, is_folder_of_files, is_hidden, no_files, unread_files
from actors.data.formats.by_name import KINDS, reader_of
from actors.data.partition import split_rows
from actors.data.reader import no_examples
from actors.data.records import read_checked
from actors.errors import DataError, SafeFedError, given_in
from actors.seeding import stream
from cluster.config.schema import RunConfig
from cluster.data.token_files import TokenFiles
from cluster.errors import ConfigError
from cluster.state.membership import Files

KEY = "data.path"
_MOST_NAMED = 3
"""Passed-over files that a remark names."""

Group = Sequence[Path]
"""The files of one client."""
_Stamps = tuple[object, ...]
"""Name, size in bytes and modification time of each file of an entry."""


def client_names(count: int) -> list[str]:
    """Ids that sort in order of their number."""
    return [f"client-{i:03d}" for i in range(count)]


def local_names(config: RunConfig) -> list[str]:
    """Ids of the clients that the run begins with and that train on the cluster."""
    return [name for name in client_names(config.clients.count) if name not in config.gateway.remote]


def next_names(known: Mapping[str, Files], count: int) -> list[str]:
    """Ids of `count` clients that join the known ones."""
    return client_names(len(known) + count)[len(known) :]


def first_groups(config: RunConfig) -> list[Group]:
    """The files of each client that the run begins with; one group where the rows of one file are split over the clients.

    Raises:
        ConfigError: data.path holds data of another number of clients. DataError: it holds none.
    """
    groups, count = _groups(config), len(local_names(config))
    if len(groups) in ((1, count) if count else (0,)):
        return groups
    more = len(groups) > count and isinstance(config.data.path, str)
    later = "; to let clients join later, add their files once the run is live, or start with data.watch=true"
    if config.gateway.remote:
        raise ConfigError(
            f"data.path holds data of {len(groups)} clients; {count} of clients.count={config.clients.count} are not in "
            "gateway.clients, and each of these needs a file or folder there"
        )
    raise ConfigError(
        f"data.path holds data of {len(groups)} clients, clients.count={count}: set clients.count={len(groups)}, "
        f"or give one file to split over the clients{later if more else ''}"
    )


def check_columns(config: RunConfig, groups: Sequence[Group]) -> None:
    """Raise ConfigError where no file has the columns that data.columns names: a slip that known names would hide."""
    wanted, files = config.data.columns.given, [path for group in groups for path in group]
    with given_in(KEY):
        found = (found_columns(read_table(path, mapping=wanted)) for path in files)
        if wanted and not any(set(wanted.values()) <= set(names) for names in found):
            names = found_columns(read_table(files[0]))
            raise ConfigError(
                f"data.columns names {named(sorted(wanted.values()))}; no file of data.path has all of these, "
                f"{files[0]} has {named(names)}"
            )


def first_files(config: RunConfig, groups: Sequence[Group], folder: Path) -> dict[str, Files]:
    """Client id -> its files when the run begins.

    Args:
        groups: Of `first_groups`.
        folder: The run's data folder; split rows are written there.

    Raises:
        DataError: a file or a row cannot be used.
    """
    clients = local_names(config)
    if len(groups) == 1 and len(clients) > 1:
        return split_over(config, clients, groups[0], folder, KEY)
    return {client: _absolute(group) for client, group in zip(clients, groups, strict=True)}


def first_watched(config: RunConfig, tokens: TokenFiles) -> dict[str, Files]:
    """Encode the first clients.count usable clients of the watched directory; the others join at the first round boundary.

    Raises:
        ConfigError: the directory holds fewer.
    """
    root, count = Path(str(config.data.path)), config.clients.count
    if not root.is_dir():
        raise ConfigError(f"data.watch=true needs a directory with a file or folder per client; data.path={root} is none")
    found, refused = _usable(_entries(root), {}, tokens, count)
    if len(found) < count:
        raise ConfigError(
            f"data.path={root} holds usable data of {len(found)} clients, the run begins with clients.count={count}; add "
            f"files, or set clients.count={max(1, len(found))}{'; ' if refused else ''}{'; '.join(refused.values())}"
        )
    return found


def check_trainable(tokens: TokenFiles, files: Mapping[str, Files], key: str, max_length: int) -> None:
    """What one client's data lacks costs that client; raises DataError, which names `key`, where no client has a row to train on.

    Args:
        files: Client id -> its files, all of them encoded.
    """
    if not any(map(tokens.can_train, files)):
        with given_in(key) if key else nullcontext():
            raise no_examples(f"data file {next(iter(files.values()))[0]}", max_length)


def new_files(config: RunConfig, known: Mapping[str, Files], begun_with: Iterable[str], count: int) -> dict[str, Files]:
    """Files of `count` clients that join: those in data.path that no client has, or had when the run began.

    Args:
        begun_with: The files of data.path that the run began with, under their names in `names_in`.

    Raises:
        ConfigError: data.path holds data of fewer clients.
    """
    if config.data.watch:
        raise ConfigError(
            f"data.watch=true: clients join by themselves, and {count} more than the {len(known)} known have not; add a file or "
            f"folder for each to data.path={config.data.path}; a client joins once its files stay the same for a round"
        )
    taken, first = _taken(known), set(begun_with)
    free = [group for group in _groups(config) if not (taken & set(_absolute(group)) or first & set(names_in(config, [group])))]
    if len(free) < count:
        raise ConfigError(
            f"data.path={config.data.path} holds data for {len(free)} more clients, {count} are needed; "
            "add a file or folder for each (one file that was split over the clients cannot be split again)"
        )
    return {name: _absolute(group) for name, group in zip(next_names(known, count), free, strict=False)}


def names_in(config: RunConfig, groups: Iterable[Group]) -> list[str]:
    """The files of groups relative to data.path, so that a run can be resumed where data.path lies elsewhere."""
    root = Path(config.data.path) if isinstance(config.data.path, str) else Path()
    return [str(path.relative_to(root) if path.is_relative_to(root) else path) for group in groups for path in group]


def unread(config: RunConfig) -> list[str]:
    """What lies in data.path and is passed over because of its name; a sentence, or none."""
    paths = config.data.path
    entries = [paths] if isinstance(paths, str) else [entry for entry in paths or () if isinstance(entry, str)]
    passed_over = [file for entry in entries for file in unread_files(Path(entry))]
    if not passed_over:
        return []
    named = ", ".join(map(str, passed_over[:_MOST_NAMED])) + (" ..." if len(passed_over) > _MOST_NAMED else "")
    return [f"data.path: {len(passed_over)} files are none of {KINDS} and are not read: {named}"]


class WatchedDirectory:
    """Clients whose files appear in a directory while a run is live; it looks once at every round boundary.

    A client joins once its entry was the same at two looks, so that no client joins with half of its files. The constructor
    takes the first look.
    """

    def __init__(self, directory: Path, tokens: TokenFiles) -> None:
        """`tokens`: encodes the files of each client that joins."""
        self._directory, self._tokens = directory, tokens
        self._refused: dict[Path, str] = {}
        self._seen = self._look()

    def arrivals(self, known: Mapping[str, Files]) -> tuple[dict[str, Files], frozenset[str]]:
        """Look again.

        Args:
            known: Client id -> its files, of every client so far.

        Returns:
            New clients with their files, in order of file name, and the errors of entries that cannot be used. An entry is read
            again once it has changed.
        """
        before, self._seen = self._seen, self._look()
        settled = [entry for entry, stamps in self._seen.items() if before.get(entry) == stamps]
        kept = {entry: why for entry, why in self._refused.items() if entry in settled}
        joined, refused = _usable([entry for entry in settled if entry not in kept], known, self._tokens)
        self._refused = kept | refused
        return joined, frozenset(self._refused.values())

    def _look(self) -> dict[Path, _Stamps]:
        return {entry: _stamps(entry) for entry in _entries(self._directory)}


def file_groups(path: str | Sequence[str | Sequence[str]]) -> list[Group]:
    """Files of each client: an entry of a list, or a file or sub-directory of a directory, in sorted order."""
    if not isinstance(path, str):
        return [data_files(Path(entry)) if isinstance(entry, str) else [Path(part) for part in entry] for entry in path]
    root = Path(path)
    if not is_folder_of_files(root):
        return [[root]]
    if found := _entries(root):
        return [data_files(entry) for entry in found]
    raise no_files(root)


def split_over(config: RunConfig, clients: Sequence[str], paths: Sequence[Path], folder: Path, key: str) -> dict[str, Files]:
    """Write a Parquet file per client into `folder` and return client id -> its files.

    Args:
        paths: The files whose rows are split.
        key: The setting that names them; the random draw depends on it.

    Raises:
        DataError: a file or a row cannot be used, or there are too few rows or values for the clients.
    """
    with given_in(key):
        column = config.data.partition.column
        names, mapping = () if column is None else (column,), config.data.columns.given
        tables = [read_checked(path, names, mapping) for path in paths]
        table = pa.concat_tables(tables, promote_options="default")
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


def _entries(root: Path) -> list[Path]:
    """The files and folders of a directory that may each be a client's, in sorted order; none where the directory is gone."""
    if not root.is_dir():
        return []
    shown = [entry for entry in root.iterdir() if not is_hidden(entry)]
    return sorted(entry for entry in shown if entry.is_dir() or reader_of(entry) is not None)


def _absolute(paths: Group) -> Files:
    return tuple(map(absolute, paths))


def _groups(config: RunConfig) -> list[Group]:
    """All of data.path, which the schema asks for."""
    with given_in(KEY):
        return file_groups(config.data.path or ())


def _usable(
    entries: Iterable[Path], known: Mapping[str, Files], tokens: TokenFiles, most: int | None = None
) -> tuple[dict[str, Files], dict[Path, str]]:
    """New clients of the entries of a directory, at most so many, all encoded; and unusable entry -> its error."""
    taken, joined, refused = _taken(known), {}, {}
    for entry in entries:
        if len(joined) == most:
            break
        (name,) = next_names({**known, **joined}, 1)
        try:
            files = _absolute(data_files(entry))
            if not taken & set(files):
                tokens.encode(name, files)
                joined[name] = files
        except (SafeFedError, OSError) as error:
            refused[entry] = str(error)
    return joined, refused


def _taken(known: Mapping[str, Files]) -> set[str]:
    return {path for files in known.values() for path in files}


def _stamps(entry: Path) -> _Stamps:
    """Of all files of a folder, whatever their names: some programs copy under a temporary name first."""
    try:
        found = [(path, path.stat()) for path in (sorted(entry.iterdir()) if entry.is_dir() else [entry])]
    except OSError as error:  # The entry has just gone, or cannot be read; `arrivals` reports it if that lasts.
        return (str(error),)
    return tuple((path.name, status.st_size, status.st_mtime_ns) for path, status in found)
