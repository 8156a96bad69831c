"""Which data files a folder has. A folder that `save_to_disk` wrote counts as one file, and so does a name of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.data.formats.arrow_file import is_saved_dataset, saved_splits
from actors.data.formats.by_name import KINDS, reader_of
from actors.data.formats.hub import is_hub_name
from actors.errors import DataError


def data_files(path: Path) -> Sequence[Path]:
    """The file itself, or a folder's data files in order of name.

    Raises:
        DataError: the folder has none, or a folder in it, whose files would not be read.
    """
    if not is_folder_of_files(path):
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry))
    nested = [entry for entry in entries if is_folder_of_files(entry)]
    if nested:
        raise DataError(f"data directory {path} holds the folder {nested[0].name}, whose files would not be read; move them up")
    files = [entry for entry in entries if reader_of(entry) is not None]
    if not files:
        raise no_files(path)
    return files


def is_folder_of_files(path: Path) -> bool:
    """Whether a path is a folder, and not one data set that `save_to_disk` wrote.

    Raises:
        DataError: it holds several such data sets, of which only one can be meant.
    """
    splits = saved_splits(path)
    if splits:
        raise DataError(f"data directory {path} holds the splits {splits} of a data set; name one of them: {path / splits[0]}")
    return path.is_dir() and not is_saved_dataset(path)


def no_files(path: Path) -> DataError:
    """The error of a folder without data."""
    return DataError(f"data directory {path} holds no data file ({KINDS})")


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is some program's own, such as .git and the checkpoints of notebooks."""
    return path.name.startswith(".")


def unread_files(path: Path) -> list[Path]:
    """Files of a folder, and of the folders in it, that `data_files` passes over because of their names; hidden ones apart."""
    if not path.is_dir() or is_hidden(path) or is_saved_dataset(path):
        return []
    found = [(entry, entry.is_dir()) for entry in sorted(path.iterdir()) if not is_hidden(entry)]
    here = [entry for entry, is_folder in found if not is_folder and reader_of(entry) is None]
    return here + [file for entry, is_folder in found if is_folder for file in unread_files(entry)]


def absolute(path: Path) -> str:
    """The path as it was given, from the root: a link keeps its own name, and with it its suffix. Names of the hub stay."""
    return str(path if is_hub_name(path) else path.absolute())
