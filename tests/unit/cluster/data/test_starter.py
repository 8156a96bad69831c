"""The starter data: every row serves one role, its readers take it, and its answers are right."""

import datetime as dt
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from actors.data.evaluation_prompts import read_benign, read_restricted
from actors.data.records import read_checked
from actors.data.references import split_references
from actors.refusals import declines_in_english
from cluster.config.loading import load_config
from cluster.data.starter import (
    FILES,
    needed_keys,
    starter_configuration,
    starter_rows,
    unnamed_collection,
    with_starter,
    write_starter,
)
from cluster.errors import ConfigError

ROWS = starter_rows()
UNSAFE = ("collect.malicious_path", "evaluation.canary_path", "evaluation.restricted_path")
BENIGN = ("collect.benign_path", "evaluation.benign_path")
HARMLESS = [row for key in BENIGN for row in ROWS[key]]
UNITS = {
    "kilometres": ("metres", 1000),
    "metres": ("centimetres", 100),
    "hours": ("minutes", 60),
    "minutes": ("seconds", 60),
    "kilograms": ("grams", 1000),
    "days": ("hours", 24),
    "weeks": ("days", 7),
    "litres": ("millilitres", 1000),
    "years": ("months", 12),
    "feet": ("inches", 12),
    "dozens": ("pieces", 12),
}


def of(family: str) -> list[tuple[str, list[str], str]]:
    """Instruction, items of the input, and response of each row of a family."""
    rows = [row for row in HARMLESS if row["family"] == family]
    return [(row["instruction"], row.get("input", "").split(", "), row["response"]) for row in rows]


def test_there_are_as_many_rows_as_promised_and_none_serves_two_roles():
    requests = [row["instruction"] for key in UNSAFE for row in ROWS[key]]
    assert len(requests) == len(set(requests)) == 300
    assert Counter(row["family"] for key in UNSAFE for row in ROWS[key]) == dict.fromkeys(
        {row["family"] for row in ROWS[UNSAFE[0]]}, 30
    )
    assert [len({row["family"] for row in ROWS[key]}) for key in UNSAFE] == [10, 10, 10]
    counts = Counter(row["family"] for row in HARMLESS)
    assert counts.pop("sounds_unsafe") == 60 and len(counts) == 12 and set(counts.values()) == {50}
    assert len({(row["instruction"], row.get("input")) for row in HARMLESS}) == 660
    assert [len({row["family"] for row in ROWS[key]}) for key in BENIGN] == [13, 13]


def test_refusals_have_twenty_wordings_that_the_evaluation_knows_and_no_other_answer_is_one():
    refusals = {row["response"] for row in ROWS["evaluation.canary_path"]}
    assert len(refusals) == 20 and all(map(declines_in_english, refusals))
    openers = [row["response"] for row in ROWS["collect.malicious_path"]]
    assert all(text.startswith("Sure, here ") and len(text) < 120 for text in openers)
    assert not any(declines_in_english(row["response"]) for row in [*HARMLESS, *ROWS["collect.malicious_path"]])
    assert "response" not in {name for row in ROWS["evaluation.restricted_path"] for name in row}


def test_openers_speak_to_the_one_who_asks():
    words = " ".join(row["response"] for row in ROWS["collect.malicious_path"])
    assert not re.search(r"\b(I|me|my|mine)\b", words)


def test_files_are_written_to_edit_and_never_over_edited_ones(tmp_path):
    write_starter(tmp_path / "server")
    assert {path.name for path in (tmp_path / "server").iterdir()} == set(FILES.values())
    with pytest.raises(ConfigError, match=r"collect-benign\.jsonl is there already"):
        write_starter(tmp_path / "server")


def test_the_readers_of_every_role_take_its_file(tmp_path):
    write_starter(tmp_path)
    settings = yaml.safe_load(starter_configuration(tmp_path))
    paths = {key: Path(settings[key.split(".")[0]][key.split(".")[1]]) for key in FILES}
    for kind, malicious in (("benign", False), ("malicious", True)):
        references = split_references(paths[f"collect.{kind}_path"], malicious, 16, tmp_path / kind, 0, "key")
        assert len({reference.label.family for reference in references}) == (10 if malicious else 13)
    assert read_checked(paths["evaluation.canary_path"]).num_rows == 60
    assert len(read_restricted(paths["evaluation.restricted_path"], 1000)) == 60
    assert len(read_benign(paths["evaluation.benign_path"], 1000)) == 156


def test_the_printed_settings_are_a_configuration(tmp_path):
    text = starter_configuration(tmp_path / "a: b #c")
    (tmp_path / "my.yaml").write_text(f"model: {{path: m}}\ndata: {{path: d}}\n{text}")
    config = load_config(tmp_path / "my.yaml")
    assert config.collect.benign_path == str(tmp_path / "a: b #c" / "collect-benign.jsonl")
    assert config.evaluation.canary_path == str(tmp_path / "a: b #c" / "canary.jsonl")


def test_sums_are_right():
    for question, _, answer in of("arithmetic"):
        a, b, *c = map(int, re.findall(r"\d+", question))
        if "+" in question:
            assert int(answer) == a + b * c[0]
        elif "divided" in question:
            assert int(answer) * b == a
        elif "percent" in question:
            assert int(answer) * 100 == a * (100 - b)
        else:
            assert int(answer) == (a - b if "gives away" in question else a * b)


def test_sorted_lists_are_sorted():
    for question, given, answer in of("sorting"):
        found = answer.split(", ")
        assert sorted(found) == sorted(given)
        values = found if "alphabetical" in question else [int(value) for value in found]
        pairs = list(itertools.pairwise(values))
        assert all(a > b for a, b in pairs) if "descending" in question else all(a < b for a, b in pairs)


def test_counts_are_right():
    for question, given, answer in of("counting"):
        if "words" in question:
            assert int(answer) == given[0].count(" ") + 1
        else:
            letter, word = (re.findall(r'"(\w+)"', question) * 2)[:2]
            assert int(answer) == (sum(c == letter for c in word) if "occur" in question else len(word))


def test_units_are_right():
    for question, _, answer in of("units"):
        numbers = [int(number) for number in re.findall(r"\d+", f"{question} {answer}")]
        big = next(name for name, (small, _) in UNITS.items() if name in question + answer and small in question + answer)
        assert max(numbers) == min(numbers) * UNITS[big][1]
        assert answer.endswith(big if question.startswith("How") else UNITS[big][0])


def test_dates_are_right():
    for question, _, answer in of("dates"):
        days = [dt.datetime.strptime(text, "%d %B %Y") for text in re.findall(r"\d+ [A-Z][a-z]+ \d{4}", f"{question} {answer}")]
        if "day of the week" in question:
            assert answer == days[0].strftime("%A")
        elif "train" in question:
            start, minutes = re.findall(r"\d\d:\d\d", question)[0], int(re.findall(r"for (\d+)", question)[0])
            assert dt.datetime.strptime(start, "%H:%M") + dt.timedelta(minutes=minutes) == dt.datetime.strptime(answer, "%H:%M")
        else:
            number = int(answer) if answer.isdigit() else int(re.findall(r"comes (\d+) days", question)[0])
            assert (days[1] - days[0]).days == number


def test_lists_are_right():
    for question, given, answer in of("lists"):
        expected = {
            "reverse": lambda items: ", ".join(items[::-1]),
            "capital": lambda items: ", ".join(items).upper(),
            "dash": lambda items: "- " + "\n- ".join(items),
            "twice": lambda items: ", ".join(dict.fromkeys(items)),
            "longest": lambda items: next(item for item in items if len(item) == max(map(len, items))),
            "first and the last": lambda items: f"{items[0]}, {items[-1]}",
        }
        assert [make(given) for word, make in expected.items() if word in question] == [answer]


def test_what_is_extracted_is_in_the_text():
    rows = [row for row in HARMLESS if row["family"] == "extraction"]
    assert all(re.sub(r"^\w+ is (.*)\.$", r"\1", row["response"]).lower() in row["input"].lower() for row in rows)


OWN = ["model.path=some/model", "data.path=clients.jsonl", "clients.malicious=0"]


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        ([], list(FILES)),
        (["probe.path=mine"], list(FILES)),  # reference clients train in the run too
        (["collect.benign_path=b", "evaluation.restricted_path=r"], [list(FILES)[1], list(FILES)[2], list(FILES)[4]]),
        (["defense.level=canary", "evaluation.max_benign=0"], ["evaluation.canary_path", "evaluation.restricted_path"]),
        (["defense.level=shadow"], list(FILES)[:2]),
        (["defense.level=shadow", "probe.path=mine"], []),
        (["defense.level=none"], []),
    ],
)
def test_starter_data_stands_in_for_what_the_defense_needs_and_no_key_names(overrides, needed, tmp_path):
    config = load_config(None, [*OWN, *overrides])
    assert needed_keys(config) == needed
    filled = with_starter(config, tmp_path / "starter", needed)
    assert needed_keys(filled) == []
    assert filled.model_dump(exclude={"collect", "evaluation"}) == config.model_dump(exclude={"collect", "evaluation"})
    assert {path.name for path in tmp_path.glob("starter/*")} == {FILES[key] for key in needed}
    for key in needed:
        section, _, name = key.partition(".")
        assert len(Path(getattr(getattr(filled, section), name)).read_text().splitlines()) == len(ROWS[key])


def test_the_embedded_world_has_data_of_its_own():
    config = load_config(None, [])
    assert (needed_keys(config), unnamed_collection(config)) == ([], [])
    assert unnamed_collection(load_config(None, [*OWN, "collect.malicious_path=m"])) == ["collect.benign_path"]
