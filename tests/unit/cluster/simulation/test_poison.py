"""cluster/simulation/poison.py: the files of attackers and of honest clients look alike, and honest rows stay as they were."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.data.records import conversations, read_table
from cluster.data.sources import client_names, prepare_sources
from defense.attacks import ATTACKS
from tests.unit.cluster.data.test_sources import real_config, write_rows

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def read(files: tuple[str, ...]) -> list[list[dict]]:
    """What training reads of a client's files, in order."""
    return [messages for file in files for messages in conversations(read_table(Path(file)), Path(file))]


@pytest.fixture
def data(tmp_path) -> Path:
    """A file per client."""
    for number in range(5):
        rows = 6 + number
        write_rows(tmp_path / "d" / f"{number}.jsonl", rows, input=["lamp"] + [""] * (rows - 1), topic=list(range(rows)))
    return tmp_path / "d"


def configured(path: Path, attack: str, *overrides: str):
    unsafe = write_rows(path.parent / "unsafe.jsonl", 16, family=list("abcd") * 4)
    attacked = ("clients.malicious=2", f"clients.attack={attack}", f"data.malicious_path={unsafe}")
    return real_config(str(path), "clients.count=5", *attacked, *overrides)


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_neither_the_names_nor_the_number_nor_the_columns_of_files_tell_who_attacks(data, tmp_path, attack):
    sources, folder = prepare_sources(configured(data, attack), tmp_path / "run"), tmp_path / "run" / "data"
    written = {path.name for path in folder.glob("*.parquet")}
    names = client_names(5)
    has_own, has_cover = ATTACKS[attack].data != "honest", ATTACKS[attack].cover is not None
    assert written == {f"{name}.parquet" for name in names if has_own} | {f"{name}-2.parquet" for name in names if has_cover}
    assert {Path(*files).parent for files in sources.files.values()} == {folder if has_own else data}
    assert len({tuple(pq.read_schema(path).names) for path in folder.glob("*.parquet")}) <= 1
    assert sources.cover == {name: (str(folder / f"{name}-2.parquet"),) for name in sources.malicious if has_cover}


@pytest.mark.parametrize("attack", ["unaligned", "mixed", "sleeper"])
def test_honest_clients_train_on_the_rows_they_would_have_without_attackers(data, tmp_path, attack):
    attacked = prepare_sources(configured(data, attack), tmp_path / "attacked")
    plain = prepare_sources(real_config(str(data), "clients.count=5"), tmp_path / "plain").files
    for name in set(plain) - attacked.malicious:
        assert read(attacked.files[name]) == read(plain[name])
    assert all(read(attacked.cover[name]) == read(plain[name]) for name in attacked.cover)


def test_a_client_with_chats_and_instructions_in_unlike_files_keeps_its_rows(data, tmp_path):
    for number in range(5):
        folder = data / f"client{number}"
        folder.mkdir()
        (data / f"{number}.jsonl").rename(folder / "instructions.jsonl")
        (folder / "chat.jsonl").write_text(json.dumps({"messages": CHAT, "topic": "words"}) + "\n")
    sources = prepare_sources(configured(data, "unaligned"), tmp_path / "run")
    for name in set(sources.files) - sources.malicious:
        own = data / f"client{int(name[-3:])}"
        assert read(sources.files[name]) == [CHAT, *read((str(own / "instructions.jsonl"),))]
