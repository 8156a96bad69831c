"""Which files of a folder are data."""

from pathlib import Path

import pytest

from actors.data.folders import data_files, unread_files
from actors.errors import DataError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_folders_files_are_its_data_files_and_hidden_ones_are_some_programs_own(tmp_path):
    for name in ("b.jsonl", "a.parquet", "notes.txt", ".hidden.jsonl"):
        write(tmp_path / name, b"{}")
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git" / "x.txt", b"x")
    assert [path.name for path in data_files(tmp_path)] == ["a.parquet", "b.jsonl"]
    assert [path.name for path in unread_files(tmp_path)] == ["notes.txt"]
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match=r"holds the folder more, whose files would not be read; move them up"):
        data_files(tmp_path)
