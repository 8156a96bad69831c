"""cluster/data/references.py: reference clients from the world or from own files, or an error that names what to set."""

import json

import pytest

from cluster.config.loading import load_config
from cluster.data.references import LIVE_ROLE, prepare_references
from cluster.errors import ConfigError

OWN = ("model.path=m", "data.path=d", "clients.malicious=0", "defense.level=none")


def test_the_embedded_world_brings_its_own(tmp_path):
    config = load_config(None, ["training.steps=2", "training.batch_size=4"])
    references = prepare_references(config, tmp_path, role=LIVE_ROLE, clients=3)
    assert [reference.label.malicious for reference in references] == [False] * 3 + [True] * 3
    assert all(reference.label.client.startswith("live_reference-") for reference in references)


def test_an_unknown_role_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"collect.role=canary has no reference families"):
        prepare_references(load_config(None), tmp_path, role="canary", clients=2)


def test_own_files_become_labelled_clients(tmp_path):
    for name in ("good", "bad"):
        rows = [{"instruction": f"{name} {i}", "response": "x"} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(
        None, [*OWN, f"collect.benign_path={tmp_path / 'good.jsonl'}", f"collect.malicious_path={tmp_path / 'bad.jsonl'}"]
    )
    references = prepare_references(config, tmp_path / "out", role="any", clients=2)
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
        prepare_references(load_config(None, [*OWN, *overrides]), tmp_path, role="any", clients=2)
