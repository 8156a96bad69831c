"""Your own model: which client has which files of data.path at the start, when clients join, and when a run resumes."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from actors.data.evaluation_prompts import read_benign
from actors.errors import DataError
from cluster import Federation
from cluster.errors import ConfigError
from cluster.simulation.simulation import prepare_inputs
from tests.unit.cluster.data.builders import begin, join, real_config, rows_of, write_rows


def names_of(files: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {client: [Path(file).name for file in paths] for client, paths in files.items()}


def test_a_directory_gives_each_client_its_file_or_folder(tmp_path):
    write_rows(tmp_path / "d" / "a.parquet", 3)
    write_rows(tmp_path / "d" / "b" / "one.jsonl", 2)
    write_rows(tmp_path / "d" / "b" / "two.parquet", 2)
    files = begin(real_config(str(tmp_path / "d"), "clients.count=2"), tmp_path / "out")
    assert [Path(file).name for file in files["client-000"]] == ["a.parquet"]
    assert [Path(file).name for file in files["client-001"]] == ["one.jsonl", "two.parquet"]


def test_a_list_gives_each_client_an_entry(tmp_path):
    paths = [str(write_rows(tmp_path / f"{name}.jsonl", 2)) for name in "abc"]
    files = begin(real_config([paths[0], paths[1:]], "clients.count=2"), tmp_path / "out")
    assert [len(value) for value in files.values()] == [1, 2]


def test_one_file_is_split_over_the_clients(tmp_path):
    path = write_rows(tmp_path / "all.jsonl", 11)
    files = begin(real_config(str(path), "clients.count=3"), tmp_path / "out")
    parts = [rows_of(value) for value in files.values()]
    assert sorted(len(part) for part in parts) == [3, 4, 4]
    assert sorted(row for part in parts for row in part) == sorted(f"all {i}" for i in range(11))


def test_a_split_by_column_gives_each_client_its_value(tmp_path):
    path = write_rows(tmp_path / "all.parquet", 6, topic=["x", "y", "x", "y", "x", "y"])
    config = real_config(str(path), "clients.count=2", "data.partition.by=column", "data.partition.column=topic")
    files = begin(config, tmp_path / "out")
    assert [set(pq.read_table(file)["topic"].to_pylist()) for (file,) in files.values()] == [{"x"}, {"y"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.jsonl", None, r"nowhere\.jsonl does not exist"),
        ("empty.jsonl", "", r"empty\.jsonl is empty"),
        (
            "x.jsonl",
            '{"p": "p", "r": "r"}\n',
            r"no known column .*such as: data\.columns\.instruction=p data\.columns\.response=r",
        ),
        ("x.txt", "a", r"none of \.parquet, \.jsonl"),
    ],
)
def test_unusable_data_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        begin(real_config(str(tmp_path / name), "clients.count=1"), tmp_path / "out")


def test_a_directory_without_data_is_named(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=r"^data\.path: data directory .* holds no data file"):
        begin(real_config(str(tmp_path / "d"), "clients.count=1"), tmp_path / "out")


def test_another_number_of_files_than_clients_says_which_count_fits(tmp_path):
    for name in "abc":
        write_rows(tmp_path / "d" / f"{name}.parquet", 1)
    with pytest.raises(ConfigError, match=r"data of 3 clients, clients\.count=2: set clients\.count=3"):
        begin(real_config(str(tmp_path / "d"), "clients.count=2"), tmp_path / "out")


def test_a_single_file_cannot_be_watched(tmp_path):
    file = write_rows(tmp_path / "all.jsonl", 4)
    with pytest.raises(ConfigError, match=r"all\.jsonl is none"):
        begin(real_config(str(file), "clients.count=2", "data.watch=true"), tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_that_cannot_be_used_is_named_with_its_setting_before_anything_starts(tmp_path, count):
    write_rows(tmp_path / "d" / "a.jsonl", 4)
    bad = write_rows(tmp_path / "d" / "b.jsonl", 4, response=["yes", "no", " ", "yes"])
    path = tmp_path / "d" if count == 2 else bad
    with pytest.raises(
        DataError, match=r"^data\.path: data file .*b\.jsonl, row 2: response should be non-empty text, got ' '; correct"
    ):
        begin(real_config(str(path), f"clients.count={count}"), tmp_path / "out")


def test_with_too_many_files_the_message_says_how_clients_join_later(tmp_path):
    for name in "abc":
        write_rows(tmp_path / "d" / f"{name}.parquet", 1)
    with pytest.raises(ConfigError, match=r"add their files once the run is live, or start with data\.watch=true"):
        begin(real_config(str(tmp_path / "d"), "clients.count=2"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"or give one file to split over the clients$"):
        begin(real_config(str(tmp_path / "d"), "clients.count=4"), tmp_path / "out")


def test_a_run_goes_on_with_the_files_that_it_began_with_whatever_was_added_since(tmp_path):
    folder = tmp_path / "d"
    write_rows(folder / "b.parquet", 2)
    write_rows(folder / "c" / "one.parquet", 2)
    config = real_config(str(folder), "clients.count=2")
    begun = begin(config, tmp_path / "run")
    write_rows(folder / "a.parquet", 2)
    write_rows(folder / "c" / "another.parquet", 2)
    write_rows(folder / "d.parquet", 2)
    assert begin(config, tmp_path / "run") == begun
    with pytest.raises(ConfigError, match="data of 4 clients"):
        begin(config, tmp_path / "another run")
    (folder / "b.parquet").unlink()
    assert begin(config, tmp_path / "run") == begun  # their tokens are kept


def test_a_run_that_never_finished_a_round_can_be_resumed_after_files_were_added(tmp_path):
    write_rows(tmp_path / "d" / "b.parquet", 2)
    Federation(real_config(str(tmp_path / "d"), "clients.count=1"), tmp_path / "run")
    write_rows(tmp_path / "d" / "a.parquet", 2)
    assert Federation.resume(str(tmp_path / "run")).config.clients.count == 1


def test_before_a_round_is_committed_other_settings_begin_with_other_clients_and_after_it_never(tmp_path):
    for name in "ab":
        write_rows(tmp_path / "d" / f"{name}.parquet", 2)
    begin(real_config(str(tmp_path / "d"), "clients.count=2"), tmp_path / "run")
    write_rows(tmp_path / "d" / "c.parquet", 2)
    more = real_config(str(tmp_path / "d"), "clients.count=3")
    assert list(prepare_inputs(more, tmp_path / "run", has_committed=True)[0].files) == ["client-000", "client-001"]
    assert list(begin(more, tmp_path / "run")) == ["client-000", "client-001", "client-002"]


def test_a_file_that_was_split_goes_on_being_split_when_others_lie_beside_it(tmp_path):
    write_rows(tmp_path / "d" / "all.parquet", 8)
    config = real_config(str(tmp_path / "d"), "clients.count=4")
    begun = {client: rows_of(files) for client, files in begin(config, tmp_path / "run").items()}
    write_rows(tmp_path / "d" / "another.parquet", 8)
    resumed = begin(config, tmp_path / "run")
    assert {client: rows_of(files) for client, files in resumed.items()} == begun
    joining = join(config, tmp_path / "run", resumed, 1)
    assert names_of(joining) == {"client-004": ["another.parquet"]}


def test_a_run_that_was_moved_with_its_data_goes_on_with_the_same_files(tmp_path, monkeypatch):
    for name in "bc":
        write_rows(tmp_path / "here" / "d" / f"{name}.parquet", 2)
    config = real_config("d", "clients.count=2")
    monkeypatch.chdir(tmp_path / "here")
    begin(config, Path("run"))
    write_rows(Path("d") / "a.parquet", 2)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    sources = prepare_inputs(config, Path("run"))[0]
    tokens = tmp_path / "there" / "run" / "data" / "tokens"
    assert [sources.tokens.of(client) for client in sources.files] == [(str(tokens / f"client-00{i}.tokens"),) for i in range(2)]
    assert names_of(join(config, Path("run"), dict(sources.files), 1)) == {"client-002": ["a.parquet"]}


def test_clients_that_join_have_files_that_no_client_has_or_had(tmp_path):
    for name in "bd":
        write_rows(tmp_path / "d" / f"{name}.parquet", 2)
    config = real_config(str(tmp_path / "d"), "clients.count=2")
    known = begin(config, tmp_path / "run")
    attacked = {client: (str(tmp_path / "run" / "data" / f"{client}.parquet"),) for client in known}
    with pytest.raises(ConfigError, match="holds data for 0 more clients, 1 are needed"):
        join(config, tmp_path / "run", known, 1)
    for name in "ac":
        write_rows(tmp_path / "d" / f"{name}.parquet", 2)
    for files in (known, attacked):  # what clients had when the run began stays taken where a simulation has rewritten it
        joining = names_of(join(config, tmp_path / "run", files, 2))
        assert joining == {"client-002": ["a.parquet"], "client-003": ["c.parquet"]}


def test_a_client_that_joins_with_a_row_that_cannot_be_used_is_refused(tmp_path):
    write_rows(tmp_path / "d" / "a.jsonl", 2)
    config = real_config(str(tmp_path / "d"), "clients.count=1")
    known = begin(config, tmp_path / "run")
    write_rows(tmp_path / "d" / "b.jsonl", 1, instruction=[""])
    with pytest.raises(DataError, match=r"data\.path: data file .*b\.jsonl, row 0: instruction"):
        join(config, tmp_path / "run", known, 1)


def test_no_client_is_scaled_into_a_watched_directory_before_its_files_have_settled(tmp_path):
    write_rows(tmp_path / "d" / "a.jsonl", 2)
    config = real_config(str(tmp_path / "d"), "clients.count=1", "data.watch=true")
    known = begin(config, tmp_path / "run")
    write_rows(tmp_path / "d" / "b.jsonl", 2)
    with pytest.raises(ConfigError, match=r"data\.watch=true: clients join by themselves"):
        join(config, tmp_path / "run", known, 1)


def test_a_watched_run_begins_with_the_first_that_can_be_read_and_goes_on_with_them(tmp_path):
    folder = tmp_path / "d"
    for name in ("b.parquet", "c.jsonl", "d.jsonl"):
        write_rows(folder / name, 3)
    (folder / "a.parquet").write_bytes(b"PAR1 not whole")
    config = real_config(str(folder), "clients.count=2", "data.watch=true")
    begun = begin(config, tmp_path / "run")
    assert names_of(begun) == {"client-000": ["b.parquet"], "client-001": ["c.jsonl"]}
    write_rows(folder / "0.jsonl", 3)
    assert begin(config, tmp_path / "run") == begun
    with pytest.raises(ConfigError, match=r"usable data of 4 clients, .* clients\.count=9;.*a\.parquet cannot be read"):
        begin(real_config(str(folder), "clients.count=9", "data.watch=true"), tmp_path / "other")


def test_columns_of_other_names_are_named_once_for_clients_and_server(tmp_path):
    """Also where rows are split, which lie in files of ours then."""
    names = ["data.columns.instruction=q", "data.columns.response=a"]
    rows = [json.dumps({"q": f"Say {i}.", "a": "yes", "instruction": "not this"}) for i in range(4)]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    config = real_config(str(tmp_path / "d.jsonl"), "clients.count=2", f"evaluation.benign_path={tmp_path / 'd.jsonl'}", *names)
    sources = prepare_inputs(config, tmp_path / "run")[0]
    assert sorted(row for files in sources.files.values() for row in rows_of(files)) == [f"Say {i}." for i in range(4)]
    prompts = read_benign(Path(str(sources.evaluation.benign_path)), 10)
    assert [prompt.messages[0]["content"] for prompt in prompts] == [f"Say {i}." for i in range(4)]


def test_columns_that_no_file_has_are_named(tmp_path):
    for name in "ab":
        write_rows(tmp_path / "d" / f"{name}.jsonl", 2)
    config = real_config(str(tmp_path / "d"), "clients.count=2", "data.columns.response=answr")
    with pytest.raises(
        ConfigError, match=r"data\.columns names answr; no file of data\.path has .*a\.jsonl has instruction, resp"
    ):
        begin(config, tmp_path / "run")


def test_a_data_set_that_datasets_saved_is_a_client_and_a_name_of_the_hub_is_split(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": f"Say {i}.", "completion": "yes"} for i in range(4)])
    rows.save_to_disk(tmp_path / "d" / "a")
    write_rows(tmp_path / "d" / "b.jsonl", 2)
    files = begin(real_config(str(tmp_path / "d"), "clients.count=2"), tmp_path / "one")
    assert names_of(files) == {"client-000": ["a"], "client-001": ["b.jsonl"]}
    (tmp_path / "hub").mkdir()
    rows.to_csv(tmp_path / "hub" / "train.csv", index=False)
    for count in (1, 2):
        config = real_config(f"hf:{tmp_path / 'hub'}:train", f"clients.count={count}")
        files = begin(config, tmp_path / f"hub {count}")
        assert sorted(row for own in files.values() for row in rows_of(own)) == [f"Say {i}." for i in range(4)]
