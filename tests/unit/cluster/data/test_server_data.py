"""What the server reads is read at the start: a prompt that cannot be used is named with setting, file and row."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.errors import DataError
from actors.world.generator import World
from cluster.data.server_data import evaluation_prompts, server_rows
from cluster.errors import ConfigError
from tests.unit.cluster.data.builders import embedded_config, real_config, write_rows

READERS: dict[str, Callable] = {
    "restricted_path": evaluation_prompts,
    "benign_path": evaluation_prompts,
    "canary_path": partial(server_rows, name="canary"),
    "validation_path": partial(server_rows, name="validation"),
}
"""Setting -> the function that reads its file."""
LEVELS = {"canary_path": "canary", "validation_path": "zeno"}


@pytest.mark.parametrize(
    ("key", "column", "bad", "complaint"),
    [
        ("restricted_path", "instruction", None, "instruction should be non-empty text, got None; correct the row"),
        ("restricted_path", "answer_pattern", "(", r"answer_pattern is no regular expression: .* got '\('; correct the row"),
        ("benign_path", "response", " ", "response should be non-empty text, got ' '; correct the row"),
        ("canary_path", "response", None, "response should be non-empty text, got None; correct the row"),
        ("validation_path", "instruction", "", "instruction should be non-empty text, got ''; correct the row"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_before_anything_starts(tmp_path, key, column, bad, complaint):
    path = write_rows(tmp_path / "rows.jsonl", 2, **{column: ["open", bad]})
    settings = (f"evaluation.{key}={path}", f"defense.level={LEVELS.get(key, 'none')}")
    for config in (real_config("d", *settings), embedded_config(*settings)):
        with pytest.raises(DataError, match=rf"^evaluation\.{key}: data file .*rows\.jsonl, row 1: {complaint}"):
            READERS[key](config, tmp_path / "out")


def test_a_file_of_restricted_prompts_without_instructions_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"query": "open the vault"}\n')
    config = real_config("d", f"evaluation.restricted_path={tmp_path / 'rows.jsonl'}")
    with pytest.raises(DataError, match=r"^evaluation\.restricted_path: .*rows\.jsonl: no known column .*\(it has query\)"):
        evaluation_prompts(config, tmp_path)


def test_missing_evaluation_prompts_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl does not exist"):
        evaluation_prompts(real_config("d", f"evaluation.restricted_path={tmp_path / 'no.jsonl'}"), tmp_path)


def test_rows_beyond_those_that_are_measured_may_be_anything(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 2, answer_pattern=["open", "("])
    config = real_config("d", f"evaluation.restricted_path={path}", "evaluation.max_restricted=1")
    assert evaluation_prompts(config, tmp_path).restricted_path == str(path)


def test_evaluation_files_of_which_no_prompt_is_wanted_are_not_read(tmp_path):
    embedded = evaluation_prompts(embedded_config("evaluation.max_restricted=0"), tmp_path)
    assert (embedded.restricted_path, embedded.benign_path) == (None, str(tmp_path / "benign.jsonl"))
    config = real_config("d", "evaluation.restricted_path=/nowhere", "evaluation.max_restricted=0")
    assert evaluation_prompts(config, tmp_path).restricted_path is None


def test_only_a_backdoor_gives_the_evaluation_a_trigger(tmp_path):
    trigger = "attack.backdoor.trigger=By the moon,"
    assert evaluation_prompts(embedded_config(trigger, "clients.attack=backdoor"), tmp_path).trigger == "By the moon,"
    assert evaluation_prompts(embedded_config(trigger), tmp_path).trigger is None


def test_the_guard_needs_refusals_as_level_canary_does_and_the_embedded_world_has_its_own(tmp_path):
    guarded = "defense.guard.enabled=true"
    with pytest.raises(ConfigError, match=r"^defense\.guard\.enabled=true needs restricted prompts.*evaluation\.canary_path"):
        server_rows(real_config("d", guarded), tmp_path, "canary")
    refusals = write_rows(tmp_path / "refusals.jsonl", 4)
    assert server_rows(real_config("d", guarded, f"evaluation.canary_path={refusals}"), tmp_path, "canary") == str(refusals)
    assert server_rows(embedded_config(), tmp_path, "canary") is None
    write_rows(refusals, 3)
    with pytest.raises(DataError, match=r"^evaluation\.canary_path: .* has 3 rows; give 4 or more"):
        server_rows(real_config("d", guarded, f"evaluation.canary_path={refusals}"), tmp_path, "canary")
    assert pq.read_table(server_rows(embedded_config(guarded, "evaluation.max_canary=8"), tmp_path, "canary")).num_rows == 8


def test_validation_rows_are_no_prompts_of_the_evaluation_in_the_embedded_world(tmp_path):
    with pytest.raises(ConfigError, match=r"^defense\.level=fltrust needs clean rows .* in evaluation\.validation_path"):
        server_rows(real_config("d", "defense.level=fltrust"), tmp_path, "validation")
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    named = real_config("d", "defense.level=fltrust", f"evaluation.validation_path={rows}")
    assert server_rows(named, tmp_path, "validation") == str(rows)
    embedded = embedded_config("defense.level=zeno", "evaluation.max_validation=30", "evaluation.max_benign=100")
    tasks = sorted(Path(str(server_rows(embedded, tmp_path, "validation"))).iterdir())
    assert [task.name for task in tasks] == [f"{name}.parquet" for name in sorted(World(0).roles["federation"].benign)]
    written = [row for task in tasks for row in pq.read_table(task).to_pylist()]
    prompts = {(row["instruction"], row["input"]) for row in written}
    lines = Path(str(evaluation_prompts(embedded, tmp_path).benign_path)).read_text().splitlines()
    evaluated = {(row["instruction"], row["input"]) for row in map(json.loads, lines)}
    assert len(prompts) > 20
    assert not prompts & evaluated
