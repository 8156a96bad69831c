"""Reference clients from the embedded world or from own files, or an error that names what to set."""

import pytest

from cluster.config.loading import load_config
from cluster.data.server_data import prepare_references
from cluster.errors import ConfigError
from tests.unit.cluster.data.builders import write_rows

OWN = ("model.path=m", "data.path=d", "clients.malicious=0", "defense.level=none")


def test_the_embedded_world_brings_its_own(tmp_path):
    config = load_config(None, ["training.steps=2", "training.batch_size=4"])
    references = prepare_references(config, tmp_path, 3)
    assert [reference.label.malicious for reference in references] == [False] * 3 + [True] * 3
    assert all(reference.label.client.startswith("live_reference-") for reference in references)


def test_a_role_without_reference_families_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"collect.role=canary has no reference families"):
        prepare_references(load_config(None), tmp_path, 2, "canary")


def test_own_files_become_labelled_clients(tmp_path):
    good, bad = (write_rows(tmp_path / f"{name}.jsonl", 4) for name in ("good", "bad"))
    config = load_config(None, [*OWN, f"collect.benign_path={good}", f"collect.malicious_path={bad}"])
    references = prepare_references(config, tmp_path / "out", 2, "any")
    assert [(r.label.client.rpartition("-")[0], r.label.malicious) for r in references] == [
        ("benign-000", False),
        ("benign-001", False),
        ("malicious-000", True),
        ("malicious-001", True),
    ]


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [((), "collect.benign_path is not set"), (("collect.benign_path=x.jsonl",), "x.jsonl does not exist")],
)
def test_missing_reference_data_is_named(overrides, missing, tmp_path):
    with pytest.raises(ValueError, match=missing):
        prepare_references(load_config(None, [*OWN, *overrides]), tmp_path, 2, "any")


def test_too_few_rows_are_told_by_the_key_that_gave_the_clients(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
    file = tmp_path / "a.jsonl"
    config = load_config(None, [*OWN, f"collect.benign_path={file}", f"collect.malicious_path={file}"])
    for key in ("probe.refresh_clients", "collect.clients"):
        with pytest.raises(ValueError, match=rf"has 1 rows for 3 clients; lower {key}=3$"):
            prepare_references(config, tmp_path / "out", 3, key=key)
