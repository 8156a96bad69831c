"""probe/artefact.py: a probe survives the disk to the bit, and a damaged folder is refused by name."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.world.store import live_probe_folder, probe_folder, world_folder
from probe.artefact import LoraProbe, load_probe, probe_files, save_probe
from probe.calibration import Calibration
from probe.classifiers.linear import LinearProbe
from probe.meta import ProbeMeta
from tests.unit.probe.builders import refused

Q = "layers.0.q_proj.lora_B.weight"
V = "layers.0.v_proj.lora_B.weight"


def make_probe(**meta) -> LoraProbe:
    """Reads Q (3 x 2) and V (1 x 2): 8 values."""
    fields = {
        "classifier": "linear",
        "feature": "first_layer_b",
        "shapes": {Q: (3, 2), V: (1, 2)},
        "layers": {Q: 0, V: 0},
        "model_fingerprint": "model-1",
        "lora_fingerprint": "lora-1",
        "threshold": 0.8,
        "recipe": {"learning_rate": 0.01, "steps": 4},
    }
    weight = np.random.default_rng(0).normal(size=8).astype(np.float32)
    # 0.1 and 1/3 have no exact float32, so a bias stored as float32 would come back changed.
    return LoraProbe(ProbeMeta(**{**fields, **meta}), LinearProbe(weight=weight, bias=0.1 + 1 / 3))


def deltas(num: int = 5) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{Q: torch.randn(3, 2, generator=generator), V: torch.randn(1, 2, generator=generator)} for _ in range(num)]


def saved(folder: Path, **meta) -> Path:
    save_probe(folder, make_probe(**meta))
    return folder


def edit_json(folder: Path, **changes) -> None:
    path = folder / "probe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_probe_comes_back_from_a_new_folder_to_the_bit(tmp_path):
    probe, loaded = make_probe(), load_probe(saved(tmp_path / "new" / "folder"))
    assert loaded.score(deltas()) == probe.score(deltas())
    assert loaded.classifier.files() == probe.classifier.files()
    digest = hashlib.sha256((tmp_path / "new/folder/probe.safetensors").read_bytes()).hexdigest()
    assert loaded.meta == dataclasses.replace(probe.meta, files={"probe.safetensors": digest})


def test_a_folder_can_be_written_again(tmp_path):
    saved(tmp_path, version=1)
    assert load_probe(saved(tmp_path, version=2)).meta.version == 2


@pytest.mark.parametrize("folder", [probe_folder, live_probe_folder])
def test_the_shipped_artefacts_are_written_as_they_are(folder):
    shipped = folder(world_folder(0))
    files = probe_files(load_probe(shipped))
    assert files == {path.name: path.read_bytes() for path in shipped.iterdir()}


def test_a_score_reads_the_unit_feature_in_sorted_order(tmp_path):
    # Only the last weight, ln 3, counts; it meets the second value of V, the last in sorted order. The delta's norm is 2,
    # so that value is 2/2 = 1: logit ln 3, probability 3/4.
    weight = np.zeros(8, dtype=np.float64)
    weight[7] = np.log(3)
    save_probe(tmp_path, LoraProbe(make_probe().meta, LinearProbe(weight=weight, bias=0.0)))
    delta = {V: torch.tensor([[0.0, 2.0]]), Q: torch.zeros(3, 2)}
    assert load_probe(tmp_path).score([delta]) == pytest.approx([0.75], abs=1e-12)


def test_scores_do_not_depend_on_the_other_deltas_of_a_request():
    probe = make_probe()
    assert probe.score(deltas()) == [score for delta in deltas() for score in probe.score([delta])]


def test_a_calibrated_probe_maps_its_scores(tmp_path):
    # sigmoid(2 x logit(p) + 1) squares the odds and multiplies them by e.
    folder = saved(tmp_path, calibration=Calibration(slope=2.0, intercept=1.0))
    plain = np.array(make_probe().score(deltas()))
    odds = np.e * (plain / (1 - plain)) ** 2
    np.testing.assert_allclose(load_probe(folder).score(deltas()), odds / (1 + odds), rtol=1e-9)


def test_the_description_comes_last_so_that_a_half_written_artefact_has_none():
    assert list(probe_files(make_probe())) == ["probe.safetensors", "probe.json"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "probe.json").unlink(), "no probe.json there"),
        (lambda folder: (folder / "probe.safetensors").unlink(), "probe.safetensors is missing"),
        (lambda folder: flip_last_bit(folder / "probe.safetensors"), "hash mismatch"),
        (lambda folder: edit_json(folder, files={}), "probe.safetensors cannot be used"),
        (lambda folder: edit_json(folder, feature="telepathy"), "unknown probe feature 'telepathy'; known: ['all_layers'"),
        (lambda folder: edit_json(folder, classifier="oracle"), "unknown classifier 'oracle'; known: ['layerwise', 'linear'"),
        # 3 x 2 + 2 x 2 = 10 values announced, 8 weights there.
        (lambda folder: edit_json(folder, shapes={Q: (3, 2), V: (2, 2)}), "reads 8 values, the feature has 10"),
    ],
)
def test_a_damaged_artefact_is_refused_with_its_folder(tmp_path, damage, problem):
    damage(saved(tmp_path))
    with refused(tmp_path, problem):
        load_probe(tmp_path)


WRONG = [
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    math.nan,
    math.inf,
    "",
    "../../x",
    "x" * 300,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": [0]},
]


def paths(document: object, path: tuple = ()) -> list[tuple]:
    """Where every value of a JSON document stands; of a list the first only."""
    items = document.items() if isinstance(document, dict) else enumerate(document[:1]) if isinstance(document, list) else ()
    return [path, *(found for key, value in items for found in paths(value, (*path, key)))]


def mutations(document: dict):
    """The document with one value replaced, or one key left out, at every place."""
    for path in paths(document)[1:]:
        for value in (*WRONG, mutations):
            changed = json.loads(json.dumps(document))
            *parents, last = path
            part = changed
            for key in parents:
                part = part[key]
            if value is mutations:
                del part[last]
            else:
                part[last] = value
            yield path, changed


@pytest.mark.parametrize("folder", [probe_folder, live_probe_folder])
def test_a_probe_json_with_any_value_changed_loads_or_is_refused_by_name(tmp_path, folder):
    for path in folder(world_folder(0)).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    document = json.loads((tmp_path / "probe.json").read_text())
    refusals = 0
    for path, changed in mutations(document):
        (tmp_path / "probe.json").write_text(json.dumps(changed))
        try:
            probe = load_probe(tmp_path)
        except ValueError as error:
            assert str(error).startswith(f"probe.path={tmp_path}: "), path
            refusals += 1
        else:
            probe_files(probe)
    assert refusals > 500


@pytest.mark.parametrize("content", [b"", b"\xff", b"7", b"null", b"[" * 200_000, b'{"a":' * 200_000, b"9" * 10_000, b"{}"])
def test_a_probe_json_that_is_no_object_is_refused(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "probe.json").write_bytes(content)
    with refused(f"probe.path={tmp_path}: probe.json cannot be used"):
        load_probe(tmp_path)


@pytest.mark.parametrize("name", ["../probe.safetensors", "/etc/passwd", ".probe", "a/b"])
def test_a_file_of_a_probe_lies_in_its_folder(tmp_path, name):
    saved(tmp_path)
    edit_json(tmp_path, files={name: "0" * 64})
    with refused("probe.json cannot be used: files."):
        load_probe(tmp_path)
