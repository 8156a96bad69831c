"""Clients whose files appear in a directory while a run is live."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.data.own_data import absolute, entries, next_names, readable_groups
from cluster.state.membership import Files

Stamps = tuple[object, ...]
"""Name, bytes and time of change of each file of an entry, as far as one look tells."""


class Watch:
    """Looks at a directory once at every round boundary.

    An entry is taken once it was the same at two looks, so that no client joins with half of its files; what is there when the
    run begins has been looked at once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = self._look()

    def arrivals(self, known: Mapping[str, Files]) -> tuple[dict[str, Files], frozenset[str]]:
        """Look again: new clients with their files, in order of name; and why others that have settled cannot be read."""
        before, self._seen = self._seen, self._look()
        settled = [entry for entry, stamps in self._seen.items() if before.get(entry) == stamps]
        groups, unreadable = readable_groups(settled, known)
        names = next_names(known, len(groups))
        return {name: absolute(group) for name, group in zip(names, groups, strict=True)}, unreadable

    def _look(self) -> dict[Path, Stamps]:
        return {entry: _stamps(entry) for entry in entries(self._directory)}


def _stamps(entry: Path) -> Stamps:
    """Of all files of a folder, whatever they are called: some programs copy under another name first."""
    try:
        found = [(path, path.stat()) for path in (sorted(entry.iterdir()) if entry.is_dir() else [entry])]
    except OSError as error:  # it has just gone, or may not be read, which is told where it stays so
        return (str(error),)
    return tuple((path.name, status.st_size, status.st_mtime_ns) for path, status in found)
