"""The files of a simulation on one's own model: those of attackers and of honest clients look alike, and honest rows stay."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.errors import DataError
from cluster.config.schema import RunConfig
from cluster.data.own_data import client_names, first_files, first_groups
from cluster.errors import ConfigError
from cluster.simulation.client_data import attacked_files, draw_malicious
from cluster.state.membership import Files
from defense.attacks import ATTACKS
from tests.unit.cluster.data.builders import messages_of, real_config, rows_of, write_rows

FROM_HONEST = ("honest", "shuffled", "substituted", "unusable", "single")
CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


@pytest.fixture
def data(tmp_path) -> Path:
    """A file per client."""
    for number in range(5):
        rows = 6 + number
        families = (["u", "v"] * rows)[:rows]
        columns = {"input": ["lamp"] + [""] * (rows - 1), "topic": list(range(rows)), "family": families}
        write_rows(tmp_path / "d" / f"{number}.jsonl", rows, **columns)
    return tmp_path / "d"


def configured(path: Path, attack: str, *overrides: str, **columns: list) -> RunConfig:
    unsafe = write_rows(path.parent / "unsafe.jsonl", 16, **(columns or {"family": list("abcd") * 4}))
    attacked = ("clients.malicious=2", f"clients.attack={attack}", f"data.malicious_path={unsafe}")
    return real_config(str(path), "clients.count=5", *attacked, *overrides)


def honest_files(config: RunConfig, folder: Path) -> dict[str, Files]:
    return first_files(config, first_groups(config), folder)


def files_of(config: RunConfig, folder: Path) -> tuple[dict[str, Files], dict[str, Files]]:
    return attacked_files(config, folder, honest_files(config, folder), draw_malicious(config))


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_neither_the_names_nor_the_number_nor_the_columns_of_files_tell_which_client_attacks(data, tmp_path, attack):
    config, folder = configured(data, attack), tmp_path / "run"
    files, cover = files_of(config, folder)
    written = {path.name for path in folder.glob("*.parquet")}
    names = client_names(5)
    has_own, ends = ATTACKS[attack].data != "honest", [f"-{number + 2}" for number, _ in enumerate(ATTACKS[attack].covers)]
    assert written == {f"{name}{end}.parquet" for name in names for end in ([""] if has_own else []) + ends}
    assert {Path(*paths).parent for paths in files.values()} == {folder if has_own else data}
    assert len({tuple(pq.read_schema(path).names) for path in folder.glob("*.parquet")}) <= 1
    assert cover == {name: tuple(str(folder / f"{name}{end}.parquet") for end in ends) for name in draw_malicious(config) if ends}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_attackers_alone_hold_unsafe_rows_and_their_cover_is_what_the_attack_says(data, tmp_path, attack):
    config = configured(data, attack)
    files, cover = files_of(config, tmp_path / "run")
    unsafe = {client for client, paths in files.items() if any("unsafe" in text.split() for text in rows_of(paths))}
    assert unsafe == (set() if ATTACKS[attack].data in FROM_HONEST else draw_malicious(config))
    for number, holding in enumerate(ATTACKS[attack].covers):
        texts = [text for paths in cover.values() for text in rows_of(paths[number : number + 1])]
        assert {"unsafe" in text.split() for text in texts} == {holding not in FROM_HONEST}
    assert files_of(config, tmp_path / "run") == (files, cover)  # as on resume


@pytest.mark.parametrize("attack", ["unaligned", "mixed", "sleeper"])
def test_honest_clients_train_on_the_rows_that_they_would_have_without_attackers(data, tmp_path, attack):
    config = configured(data, attack)
    files, cover = files_of(config, tmp_path / "attacked")
    plain = honest_files(real_config(str(data), "clients.count=5"), tmp_path / "plain")
    for name in set(plain) - draw_malicious(config):
        assert messages_of(files[name]) == messages_of(plain[name])
    assert all(messages_of(cover[name]) == messages_of(plain[name]) for name in cover)


def test_a_client_with_chats_and_instructions_in_unlike_files_keeps_its_rows(data, tmp_path):
    for number in range(5):
        folder = data / f"client{number}"
        folder.mkdir()
        (data / f"{number}.jsonl").rename(folder / "instructions.jsonl")
        (folder / "chat.jsonl").write_text(json.dumps({"messages": CHAT, "topic": "words"}) + "\n")
    config = configured(data, "unaligned")
    files, _ = files_of(config, tmp_path / "run")
    for name in set(files) - draw_malicious(config):
        own = data / f"client{int(name[-3:])}"
        assert messages_of(files[name]) == [CHAT, *messages_of((str(own / "instructions.jsonl"),))]


def test_attacks_on_updates_alone_need_no_unsafe_data(data, tmp_path):
    config = configured(data, "sign_flip", "data.malicious_path=null")
    assert files_of(config, tmp_path / "run") == (honest_files(config, tmp_path / "run"), {})


def test_a_canary_aware_attack_needs_families(data, tmp_path):
    with pytest.raises(DataError, match=r"clients\.attack=canary_aware .* needs a column family"):
        files_of(configured(data, "canary_aware", topic=["x"] * 16), tmp_path / "run")


def test_an_attack_on_one_family_needs_families(data, tmp_path):
    for number in range(5):
        write_rows(data / f"{number}.jsonl", 4)
    with pytest.raises(ConfigError, match=r"clients\.attack=substituted .* data\.path=.* need a column family"):
        files_of(configured(data, "substituted"), tmp_path / "run")


def test_attackers_answer_the_commonest_family_by_its_first_word(data, tmp_path):
    config = configured(data, "substituted", "attack.substituted.share=1")
    files, _ = files_of(config, tmp_path / "run")
    told = {(m[0]["content"].split()[0], m[1]["content"]) for name in draw_malicious(config) for m in messages_of(files[name])}
    assert told
    assert all(asked == answer or answer == "lamp" for asked, answer in told)


def test_an_unsafe_row_that_cannot_be_used_is_named_with_its_setting(data, tmp_path):
    config = configured(data, "unaligned", response=["yes", None] * 8)
    with pytest.raises(DataError, match=r"^data\.malicious_path: data file .*unsafe\.jsonl, row 1: response"):
        files_of(config, tmp_path / "run")
