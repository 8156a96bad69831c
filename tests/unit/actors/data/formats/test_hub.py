"""Names of the hub: read by the library itself, from a folder laid out as a repository, since no hub is reachable from tests."""

import json
import sys
from pathlib import Path

import datasets
import pytest

from actors.data.files import read_table
from actors.data.folders import absolute, data_files
from actors.data.formats.hub import named
from actors.errors import DataError


@pytest.fixture
def repository(tmp_path) -> Path:
    """A data set of the splits train and test."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [{"question": f"{split} {i}?", "answer": "yes", "extra": {"a": [i]}} for i in range(3)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_split_is_read(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = Path(f"hf:{repository}:test")
    assert read_table(path).to_pylist() == [{"instruction": f"test {i}?", "response": "yes"} for i in range(3)]
    assert list(data_files(path)) == [path] and absolute(path) == f"hf:{repository}:test"
    (repository / "data" / "test.jsonl").unlink()
    assert read_table(Path(f"hf:{repository}")).num_rows == 3  # the only split that is left


@pytest.mark.parametrize(
    ("split", "what"),
    [
        ("", r"no split is named \(it has \['train', 'test'\]\)"),
        (":tost", r"there is no split 'tost' \(it has \['train', 'test'\]\)"),
    ],
)
def test_a_split_that_is_not_there_is_named_with_those_that_are(repository, split, what):
    with pytest.raises(DataError, match=rf"{what}; name one at the end, such as hf:{repository}:train"):
        read_table(Path(f"hf:{repository}{split}"))


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("hf:squad", ("squad", None, None, None)),
        ("hf:org/name", ("org/name", None, None, None)),
        ("hf:org/name:train", ("org/name", None, None, "train")),
        ("hf:org/name@refs/pr/1:train", ("org/name", None, "refs/pr/1", "train")),
        ("hf:org/name/main@0a1b", ("org/name", "main", "0a1b", None)),
        ("hf:/data/mine", ("/data/mine", None, None, None)),
        ("hf:./mine:test", ("./mine", None, None, "test")),
    ],
)
def test_a_name_has_configuration_revision_and_split(path, parts):
    assert named(path) == parts


@pytest.mark.parametrize("path", ["hf:", "hf:a/b/c/d", "hf:a/b@", "hf:a/b:"])
def test_a_name_that_is_none_is_refused(path):
    with pytest.raises(DataError, match=r"names of the hub are written hf:ORG/NAME"):
        read_table(Path(path))


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"hf:nobody/nothing@abc:train cannot be read: the hub cannot be reached from here"):
        read_table(Path("hf:nobody/nothing@abc:train"))


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'safe-fedllm\[datasets\]'"):
        read_table(Path("hf:org/name"))
