"""probe/meta.py: `probe.json` comes back as written, and what cannot be used is refused by name."""

import json
import math

import pytest

from probe.calibration import Calibration
from probe.meta import ProbeMeta, encode_meta, load_meta
from tests.unit.probe.builders import refused

META = ProbeMeta(
    classifier="linear",
    feature="first_layer_b",
    shapes={"b": (3, 2), "a": (4, 1)},
    layers={"b": 0, "a": 1},
    model_fingerprint="model-1",
    lora_fingerprint="lora-1",
    threshold=0.8,
    recipe={"learning_rate": 0.01, "steps": 4, "batch_size": 16, "weight_decay": 0.0},
    version=3,
    training={"num_samples": 20},
    metrics={"roc_auc": 0.5},
    calibration=Calibration(slope=2.0, intercept=-1.0),
    scores={"benign": [0.0, 0.1], "malicious": [0.9, 1.0]},
    references={"flatness": {"benign": [0.4, 0.5], "malicious": []}},
    files={"probe.safetensors": "ab" * 32},
)


@pytest.mark.parametrize("meta", [META, ProbeMeta(**{name: getattr(META, name) for name in list(ProbeMeta.__slots__)[:8]})])
def test_meta_comes_back_as_written_with_shapes_as_tuples(tmp_path, meta):
    (tmp_path / "probe.json").write_bytes(encode_meta(meta))
    assert load_meta(tmp_path) == meta
    assert load_meta(tmp_path).shapes["b"] == (3, 2)


def test_the_file_says_which_schema_it_follows():
    document = json.loads(encode_meta(META))
    assert document["schema_version"] == 1
    assert document["threshold"] == 0.8
    assert document["shapes"] == {"b": [3, 2], "a": [4, 1]}
    assert document["calibration"] == {"slope": 2.0, "intercept": -1.0}


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_the_file_is_refused(tmp_path, name):
    with refused(f"probe.path={tmp_path / name}: no probe.json there"):
        load_meta(tmp_path / name)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda document: document.update(schema_version=2), "schema_version 2 is not the supported 1"),
        (lambda document: document.pop("schema_version"), "schema_version None is not the supported 1"),
        (lambda document: document.pop("shapes"), "shapes"),
        (lambda document: document.pop("threshold"), "threshold"),
        (lambda document: document.update(colour="red"), "colour"),
        (lambda document: document.update(references={"flatness": {"benign": [0.5]}}), "references.flatness should hold"),
        (lambda document: document.update(references={"flatness": {"benign": ["0.5"], "malicious": []}}), "benign"),
        (lambda document: document.update(references={"flatness": {"benign": [math.nan], "malicious": []}}), "finite"),
        (lambda document: document.update(shapes=7), ""),
        (lambda document: document.update(shapes={"a": ["3", "2"]}), ""),
        (lambda document: document.update(calibration={"slope": 1.0}), "intercept"),
        (lambda document: document.update(threshold=0), "threshold: input should be "),
        (lambda document: document.update(threshold=1.5), "threshold: input should be "),
        (lambda document: document.update(threshold=float("nan")), "threshold: input should be "),
        (lambda document: document.update(threshold="high"), ""),
    ],
)
def test_a_document_that_is_not_this_schema_is_refused(tmp_path, edit, problem):
    document = json.loads(encode_meta(META))
    edit(document)
    (tmp_path / "probe.json").write_text(json.dumps(document))
    with refused(f"probe.path={tmp_path}: probe.json cannot be used", problem):
        load_meta(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"schema_version": 1', b"\xff\xfe\x00"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "probe.json").write_bytes(content)
    with refused(f"probe.path={tmp_path}: probe.json cannot be used"):
        load_meta(tmp_path)
