"""The token files of a run: every data file is read and encoded once, before anything trains on it, and kept in the run's folder.

Clients and server train on these. So a run goes on with the same tokens, whatever becomes of the files they came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from actors.config import ModelConfig
from actors.data.dataset import num_examples
from actors.data.files import Files
from actors.data.reader import DataReader
from actors.errors import DataError, given_in


class TokenFiles:
    """Encodes data files under names of ours: a client's id, or what the server reads them for."""

    def __init__(self, model: ModelConfig, max_length: int, folder: Path, mapping: Mapping[str, str] | None = None) -> None:
        """Encode for a model.

        Args:
            folder: Where the token files lie; made when the first is written.
            mapping: Our name of a column -> the files' (`data.columns`).
        """
        self._folder = folder
        self.reader = DataReader(model, max_length, mapping)
        self.left_out: list[str] = []
        """What was left out of the files and not reported yet, a sentence each."""

    def of(self, name: str) -> Files:
        """What was encoded under a name, for actors to read."""
        return (str(self._path(name).resolve()),)

    def has(self, name: str) -> bool:
        """Whether anything was encoded under the name."""
        return self._path(name).is_file()

    def can_train(self, name: str) -> bool:
        """Whether the encoded file has an example; a file that cannot be read is its client's to report."""
        try:
            return num_examples(str(self._path(name))) > 0
        except DataError:
            return True

    def encode(self, name: str, files: Files, key: str = "", *, may_be_empty: bool = False) -> Files:
        """Encode files and return where their tokens lie.

        Args:
            key: The setting that names the files; empty: none does.
            may_be_empty: Whether it is no error that no row can be trained on (`can_train`).

        Raises:
            DataError: a file or a row cannot be used; names the setting, the file and the row. ModelError: the tokenizer cannot.
        """
        with given_in(key) if key else nullcontext():
            reading = self.reader.read(files, may_be_empty=may_be_empty)
        if reading.left_out:
            self.left_out.append(
                f"{name}: {len(reading.left_out)} of {reading.num_rows} rows have no response token within training.max_length "
                f"and are left out, such as {reading.left_out[0]}"
            )
        path = self._path(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        reading.dataset.save(part)
        part.replace(path)
        return self.of(name)

    def take_left_out(self) -> list[str]:
        """What was left out since the last call, to report it once."""
        taken, self.left_out = self.left_out, []
        return taken

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.tokens"
