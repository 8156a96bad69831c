"""What a command that fills a directory says where the system does not let it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ConfigError
from cluster.exits import has_begun, resume_command

_OTHER_PLACE = "name a place with room that this user can write to"


@contextmanager
def writing_to(option: str, folder: Path) -> Iterator[None]:
    """Errors of the system while a directory is made and filled name the option that gave it."""
    shown = f"{option} {ascii(str(folder))[1:-1]:.200}"
    try:
        if not str(folder).isprintable():
            raise ConfigError(f"{shown} holds a control character; name another place")
        yield
    except OSError as error:
        if not _concerns(error, folder):
            raise
        fix = f"make room there and {resume_command(folder)}" if has_begun(folder) else _OTHER_PLACE
        raise ConfigError(f"{shown}: {error.strerror}; {fix}") from error


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether it is about the directory, what is in it or above it; the system does not say which file it could not fill."""
    if not isinstance(error.filename, str):
        return error.filename is None and error.errno is not None
    file, place = Path(error.filename).absolute(), folder.absolute()
    return file.is_relative_to(place) or place.is_relative_to(file)
