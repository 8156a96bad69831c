"""Your own model: which files of data.path are whose.

The run's folder keeps which they were when it began, so that it goes on with them whatever has been added to data.path since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from actors.data.records import SUFFIXES, read_checked
from actors.data.references import data_files
from actors.errors import DataError, given_in
from cluster.config.schema import RunConfig
from cluster.data.splitting import split_over
from cluster.errors import ConfigError
from cluster.state.membership import Files

_KEY = "data.path"
_BEGUN_WITH = "begun-with.json"
"""In the run's data folder: the files of each client in order, relative to data.path; one client's, where they are split."""

Group = Sequence[Path]
"""The files of one client."""


def client_names(count: int) -> list[str]:
    """Ids that sort in order of their number."""
    return [f"client-{i:03d}" for i in range(count)]


def next_names(known: Mapping[str, Files], count: int) -> list[str]:
    """Ids of so many clients that join."""
    return client_names(len(known) + count)[len(known) :]


def files_to_begin_with(config: RunConfig, folder: Path) -> dict[str, Files]:
    """Client id -> its files: those of data.path, or those that the run began with when it is resumed.

    Args:
        folder: The run's data folder; what was split is written there.

    Raises:
        ConfigError: data.path holds data of another number of clients. DataError: a file or a row cannot be used.
    """
    clients, groups = client_names(config.clients.count), _begun_with(config, folder)
    if not groups:
        groups = _first_groups(config)
        _keep(config, folder, groups)
    if len(groups) == 1 and len(clients) > 1:
        return split_over(config, clients, groups[0], folder, _KEY)
    _check(path for group in groups for path in group)
    return {client: absolute(group) for client, group in zip(clients, groups, strict=True)}


def newcomers(config: RunConfig, folder: Path, known: Mapping[str, Files], count: int) -> list[Group]:
    """The files of so many clients in data.path that no client has, or had when the run began.

    Raises:
        ConfigError: data.path holds data of fewer. DataError: a file or a row cannot be used.
    """
    if config.data.watch:
        raise ConfigError(
            f"data.watch=true: clients join by themselves, and {count} more than the {len(known)} known have not; add a file or "
            f"folder for each to data.path={config.data.path}, it is taken once it has not changed from one round to the next"
        )
    taken = {path for group in _begun_with(config, folder) for path in absolute(group)} | _taken(known)
    with given_in(_KEY):
        free = [group for group in file_groups(config.data.path) if not taken & set(absolute(group))]
    if len(free) < count:
        raise ConfigError(
            f"data.path={config.data.path} holds data for {len(free)} more clients, {count} are needed; "
            "add a file or folder for each (one file that was split over the clients cannot be split again)"
        )
    _check(path for group in free[:count] for path in group)
    return free[:count]


def readable_groups(entries: Iterable[Path], known: Mapping[str, Files]) -> tuple[list[Group], frozenset[str]]:
    """The files of each of these entries of a directory that no client has; and why others cannot be read."""
    taken, readable, unreadable = _taken(known), [], set()
    for entry in entries:
        try:
            group = data_files(entry)
            if taken & set(absolute(group)):
                continue
            _check(group)
        except (DataError, OSError) as error:
            unreadable.add(str(error))
        else:
            readable.append(group)
    return readable, frozenset(unreadable)


def file_groups(path: str | Sequence[str | Sequence[str]]) -> list[Group]:
    """Files of each client: an entry of a list, or a file or sub-directory of a directory, in sorted order."""
    if not isinstance(path, str):
        return [data_files(Path(entry)) if isinstance(entry, str) else [Path(part) for part in entry] for entry in path]
    root = Path(path)
    if not root.is_dir():
        return [[root]]
    if found := entries(root):
        return [data_files(entry) for entry in found]
    raise DataError(f"data directory {root} holds no .parquet or .jsonl file")


def entries(root: Path) -> list[Path]:
    """A client's file or folder each, in sorted order; none where the directory is gone."""
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if entry.is_dir() or entry.suffix in SUFFIXES)


def absolute(paths: Group) -> Files:
    return tuple(str(path.resolve()) for path in paths)


def _first_groups(config: RunConfig) -> list[Group]:
    if config.data.watch:
        return _first_watched(config)
    with given_in(_KEY):
        groups, count = file_groups(config.data.path), config.clients.count
    if len(groups) in (1, count):
        return groups
    more = len(groups) > count and isinstance(config.data.path, str)
    later = "; clients that are to join later are added once the run is live, or lie there from the start with data.watch=true"
    raise ConfigError(
        f"data.path holds data of {len(groups)} clients, clients.count={count}: set clients.count={len(groups)}, "
        f"or give one file to split over the clients{later if more else ''}"
    )


def _first_watched(config: RunConfig) -> list[Group]:
    """The first clients.count clients of the watched directory; the others join at the first round boundary."""
    path, count = config.data.path, config.clients.count
    if not Path(path).is_dir():
        raise ConfigError(f"data.watch=true needs a directory with a file or folder per client; data.path={path} is none")
    found, unreadable = readable_groups(entries(Path(path)), {})
    if len(found) < count:
        raise ConfigError(
            f"data.path={path} holds readable data of {len(found)} clients, clients.count={count} begin; add files, or "
            f"set clients.count={max(1, len(found))}{'; ' if unreadable else ''}{'; '.join(sorted(unreadable))}"
        )
    return found[:count]


def _check(paths: Iterable[Path]) -> None:
    """Raises DataError when a file of data.path or one of its rows cannot be used."""
    with given_in(_KEY):
        for path in paths:
            read_checked(path)


def _taken(known: Mapping[str, Files]) -> set[str]:
    return {path for files in known.values() for path in files}


def _begun_with(config: RunConfig, folder: Path) -> list[Group]:
    """The groups that `_keep` kept; none where the run begins only now."""
    path = folder / _BEGUN_WITH
    groups = json.loads(path.read_text()) if path.is_file() else []
    return [[_root(config) / name for name in group] for group in groups]


def _keep(config: RunConfig, folder: Path, groups: Sequence[Group]) -> None:
    root = _root(config)
    names = [[str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in group] for group in groups]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _BEGUN_WITH).write_text(json.dumps(names, indent=2) + "\n")


def _root(config: RunConfig) -> Path:
    """What the names of kept files are relative to, so that a run can be resumed where data.path lies elsewhere."""
    return Path(config.data.path) if isinstance(config.data.path, str) else Path()
