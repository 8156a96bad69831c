"""Which columns are read as what, by known names or by those that `data.columns` gives."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.data.columns import Columns
from actors.data.files import found_columns, read_table
from actors.errors import DataError
from tests.unit.actors.data.test_records import assistant, read, user, write

CSV = "a.csv"


@pytest.mark.parametrize(
    ("names", "read_as"),
    [
        ("instruction input output text", {"instruction": "instruction", "input": "input", "response": "output"}),  # Alpaca
        ("instruction context response category", {"instruction": "instruction", "input": "context", "response": "response"}),
        ("prompt completion", {"instruction": "prompt", "response": "completion"}),
        ("prompt response chosen", {"instruction": "prompt", "response": "response"}),
        ("question answer", {"instruction": "question", "response": "answer"}),
        ("goal target", {"instruction": "goal", "response": "target"}),  # AdvBench
        ("id conversations", {"messages": "conversations"}),  # ShareGPT
        ("messages instruction response", {"instruction": "instruction", "response": "response", "messages": "messages"}),
        ("prompt messages", {"instruction": "prompt", "messages": "messages"}),
        ("instruction prompt completion", {"instruction": "prompt", "response": "completion"}),
        ("goal", {"instruction": "goal"}),
        ("response family", {"family": "family"}),
        ("text", {}),
    ],
)
def test_known_names(names, read_as):
    columns = Columns()
    assert columns.of(names.split()) == read_as
    assert columns.found == names.split()
    assert columns.are_unknown == (not {"instruction", "messages"} & set(read_as))


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("instruction output response", "has the columns output and response; say which to read: data.columns.response=output"),
        ("question answer input context", "has the columns input and context; say which to read: data.columns.input=input"),
        ("instruction instruction output", "has two columns instruction"),
    ],
)
def test_two_columns_for_one_purpose_are_refused(names, what):
    with pytest.raises(ValueError, match=what):
        Columns().of(names.split())


@pytest.mark.parametrize(
    ("mapping", "names", "read_as"),
    [
        ({"instruction": "q", "response": "a"}, "q a extra", {"instruction": "q", "response": "a"}),
        ({"response": "response"}, "instruction output response", {"instruction": "instruction", "response": "response"}),
        ({"instruction": "q"}, "q answer messages", {"instruction": "q", "response": "answer"}),
        ({"messages": "chat"}, "chat", {"messages": "chat"}),
        ({"family": "topic"}, "goal target topic", {"instruction": "goal", "response": "target", "family": "topic"}),
        ({"instruction": "input", "response": "output"}, "input output", {"instruction": "input", "response": "output"}),
        ({"instruction": "q", "response": "a"}, "q prompt completion", {"instruction": "prompt", "response": "completion"}),
    ],
)
def test_a_mapping_counts_where_all_of_its_columns_are_there(mapping, names, read_as):
    found = Columns(mapping).of(names.split())
    assert {ours: theirs for ours, theirs in found.items() if ours != "input" or mapping.get("input")} == read_as


def test_a_file_of_other_names_is_one_error_with_its_columns_and_the_mapping_to_write(tmp_path):
    path = write(tmp_path / "d.parquet", [{"q": "Say a.", "a": "a", "source": "x"}])
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert "(it has q, a, source)" in str(caught.value)
    assert str(caught.value).endswith("such as: data.columns.instruction=q data.columns.response=a")
    assert read_table(path, mapping={"instruction": "q", "response": "a"}).to_pylist() == [
        {"instruction": "Say a.", "response": "a"}
    ]


def test_rows_of_json_may_each_have_a_layout_of_their_own(tmp_path):
    rows = [
        {"prompt": "Say a.", "completion": "a"},
        {"question": "Why?", "answer": "So."},
        {"messages": [user("b"), assistant("c")]},
    ]
    assert read(write(tmp_path / "d.jsonl", rows)) == [
        [user("Say a."), assistant("a")],
        [user("Why?"), assistant("So.")],
        [user("b"), assistant("c")],
    ]
    bad = write(tmp_path / "e.jsonl", [*rows, {"query": "Say d."}])
    with pytest.raises(DataError, match=r"row 3: instruction should be non-empty text, got None|row 3: messages should be"):
        read(bad)


def test_a_row_of_json_with_two_responses_is_named(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "response": "c"}]
    with pytest.raises(DataError, match="row 1: it has the columns output and response"):
        read_table(write(tmp_path / "d.jsonl", rows))


def test_a_copy_of_what_was_read_is_not_renamed_again(tmp_path):
    """Rows that are split over clients lie in files of ours, and are read with the same mapping."""
    path = write(tmp_path / "d.jsonl", [{"instruction": "a", "response": "Say a."}] * 2)
    swapped = {"instruction": "response", "response": "instruction"}
    table = read_table(path, mapping=swapped)
    assert found_columns(table) == ["instruction", "response"]
    assert table.to_pylist() == [{"instruction": "Say a.", "response": "a"}] * 2
    both = pa.concat_tables([table, table], promote_options="default").take(pa.array([0, 3]))
    pq.write_table(both, tmp_path / "copy.parquet")
    assert read_table(tmp_path / "copy.parquet", mapping=swapped).equals(table)


def test_as_many_keys_as_there_are_rows_are_no_trouble(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"prompt": "a", "completion": "b", f"key {i}": 1}) + "\n" for i in range(20_000)))
    table = read_table(Path(path))
    assert table.num_rows == 20_000 and len(found_columns(table)) == 1000
