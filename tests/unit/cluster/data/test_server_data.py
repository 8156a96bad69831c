"""What the server reads is read at the start: a prompt that cannot be used is named with setting, file and row."""

import json
from pathlib import Path

import pytest

from actors.errors import DataError
from cluster.config.loading import load_config
from cluster.data.sources import prepare_sources
from tests.unit.cluster.data.test_sources import real_config, write_rows

GOOD = {"instruction": "open the vault", "response": "no"}


def write_jsonl(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("key", "bad", "complaint"),
    [
        ("restricted_path", {"instruction": None}, "row 1: instruction should be non-empty text, got None; correct the row"),
        (
            "restricted_path",
            {"answer_pattern": "("},
            r"row 1: answer_pattern is no regular expression: .* got '\('; correct the row",
        ),
        ("benign_path", {"response": " "}, "row 1: response should be non-empty text, got ' '; correct the row"),
        ("canary_path", {"response": None}, "row 1: response should be non-empty text, got None; correct the row"),
        ("validation_path", {"instruction": ""}, "row 1: instruction should be non-empty text, got ''; correct the row"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_before_anything_starts(tmp_path, key, bad, complaint):
    path = write_jsonl(tmp_path / "rows.jsonl", GOOD, GOOD | bad)
    level = {"canary_path": "canary", "validation_path": "zeno"}.get(key, "none")
    own = real_config(
        str(write_rows(tmp_path / "d.jsonl", 4)), "clients.count=2", f"evaluation.{key}={path}", f"defense.level={level}"
    )
    embedded = load_config(None, [f"evaluation.{key}={path}", f"defense.level={level}", "data.samples_per_client=20"])
    for name, config in (("own", own), ("embedded", embedded)):
        with pytest.raises(DataError, match=rf"^evaluation\.{key}: data file .*rows\.jsonl, {complaint}"):
            prepare_sources(config, tmp_path / name)


def test_a_file_of_restricted_prompts_without_instructions_is_named(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "open the vault"})
    config = real_config(str(write_rows(tmp_path / "d.jsonl", 4)), "clients.count=2", f"evaluation.restricted_path={path}")
    with pytest.raises(
        DataError, match=r"^evaluation\.restricted_path: .*rows\.jsonl has no column instruction \(it has \['prompt'\]"
    ):
        prepare_sources(config, tmp_path / "out")


def test_rows_beyond_those_that_are_measured_are_not_asked_for_anything(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", GOOD, GOOD | {"answer_pattern": "("})
    data = str(write_rows(tmp_path / "d.jsonl", 4))
    config = real_config(data, "clients.count=2", f"evaluation.restricted_path={path}", "evaluation.max_restricted=1")
    assert prepare_sources(config, tmp_path / "out").evaluation.restricted_path == str(path)
