"""probe/artefact.py: a probe survives the disk to the bit, and a damaged folder is refused by name."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from probe.artefact import LoraProbe, load_probe, probe_files, save_probe
from probe.calibration import Calibration
from probe.classifiers.linear import LinearProbe
from probe.meta import ProbeMeta

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


def replace_weights(folder: Path, content: bytes) -> None:
    """Put other bytes in place, with the hash that belongs to them."""
    (folder / "probe.safetensors").write_bytes(content)
    edit_json(folder, files={"probe.safetensors": hashlib.sha256(content).hexdigest()})


def refused(folder: Path, problem: str):
    return pytest.raises(ValueError, match=f"(?s){re.escape(str(folder))}.*{problem}")


def test_a_probe_scores_the_same_to_the_bit_after_a_round_trip(tmp_path):
    probe, loaded = make_probe(), load_probe(saved(tmp_path / "new" / "folder"))
    assert loaded.score(deltas()) == probe.score(deltas())
    assert loaded.classifier.weight.tobytes() == probe.classifier.weight.tobytes()
    assert loaded.classifier.bias == probe.classifier.bias


def test_the_meta_comes_back_with_the_hash_of_the_weights(tmp_path):
    loaded = load_probe(saved(tmp_path))
    digest = hashlib.sha256((tmp_path / "probe.safetensors").read_bytes()).hexdigest()
    assert loaded.meta == dataclasses.replace(make_probe().meta, files={"probe.safetensors": digest})


def test_a_folder_can_be_written_again(tmp_path):
    saved(tmp_path, version=1)
    assert load_probe(saved(tmp_path, version=2)).meta.version == 2


def test_a_score_reads_the_unit_feature_in_sorted_order(tmp_path):
    # Only the last weight, ln 3, counts; it meets the second value of V, the last in sorted order. The delta's norm is 2,
    # so that value is 2/2 = 1: logit ln 3, probability 3/4.
    weight = np.zeros(8, dtype=np.float64)
    weight[7] = np.log(3)
    save_probe(tmp_path, LoraProbe(make_probe().meta, LinearProbe(weight=weight, bias=0.0)))
    delta = {V: torch.tensor([[0.0, 2.0]]), Q: torch.zeros(3, 2)}
    assert load_probe(tmp_path).score([delta]) == pytest.approx([0.75], abs=1e-12)


def test_scores_do_not_depend_on_the_other_deltas_of_a_request(tmp_path):
    probe = load_probe(saved(tmp_path))
    assert probe.score(deltas()) == [score for delta in deltas() for score in probe.score([delta])]


def test_a_calibrated_probe_maps_its_scores(tmp_path):
    # sigmoid(2 x logit(p) + 1) squares the odds and multiplies them by e.
    folder = saved(tmp_path, calibration={"slope": 2.0, "intercept": 1.0})
    plain = np.array(make_probe().score(deltas()))
    odds = np.e * (plain / (1 - plain)) ** 2
    np.testing.assert_allclose(load_probe(folder).score(deltas()), odds / (1 + odds), rtol=1e-9)
    expected = Calibration(slope=2.0, intercept=1.0).apply(plain).tolist()
    assert load_probe(folder).score(deltas()) == expected


def test_the_description_comes_last_so_that_a_half_written_artefact_has_none():
    assert list(probe_files(make_probe())) == ["probe.safetensors", "probe.json"]


def test_an_empty_folder_is_refused(tmp_path):
    with refused(tmp_path, "no probe.json there"):
        load_probe(tmp_path)


def test_a_missing_weights_file_is_refused(tmp_path):
    (saved(tmp_path) / "probe.safetensors").unlink()
    with refused(tmp_path, "probe.safetensors is missing"):
        load_probe(tmp_path)


def test_one_changed_bit_of_the_weights_is_refused(tmp_path):
    path = saved(tmp_path) / "probe.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with refused(tmp_path, "probe.safetensors .*hash mismatch"):
        load_probe(tmp_path)


def test_a_file_without_a_hash_is_not_read(tmp_path):
    edit_json(saved(tmp_path), files={})
    with refused(tmp_path, "probe.safetensors cannot be used"):
        load_probe(tmp_path)


def test_a_truncated_weights_file_is_refused_even_with_its_own_hash(tmp_path):
    content = (saved(tmp_path) / "probe.safetensors").read_bytes()
    replace_weights(tmp_path, content[:-4])
    with refused(tmp_path, "probe.safetensors cannot be used"):
        load_probe(tmp_path)


def test_a_weights_file_without_bias_is_refused(tmp_path):
    replace_weights(saved(tmp_path), save({"weight": np.zeros(8, dtype=np.float32)}))
    with refused(tmp_path, "probe.safetensors cannot be used: .*bias"):
        load_probe(tmp_path)


def test_another_schema_version_is_refused(tmp_path):
    edit_json(saved(tmp_path), schema_version=99)
    with refused(tmp_path, "schema_version 99 is not the supported 1"):
        load_probe(tmp_path)


def test_a_truncated_json_is_refused(tmp_path):
    path = saved(tmp_path) / "probe.json"
    path.write_text(path.read_text()[:100])
    with refused(tmp_path, "probe.json cannot be used"):
        load_probe(tmp_path)


def test_an_unknown_feature_is_refused(tmp_path):
    saved(tmp_path, feature="telepathy")
    with refused(tmp_path, r"unknown probe feature 'telepathy'; known: \[.*'first_layer_b'"):
        load_probe(tmp_path)


def test_an_unknown_classifier_is_refused(tmp_path):
    saved(tmp_path, classifier="oracle")
    with refused(tmp_path, "unknown classifier 'oracle'; known: .*linear"):
        load_probe(tmp_path)


def test_a_wrong_number_of_weights_is_refused_with_both_numbers(tmp_path):
    # 3 x 2 + 2 x 2 = 10 values announced, 8 weights there.
    saved(tmp_path, shapes={Q: (3, 2), V: (2, 2)})
    with refused(tmp_path, "reads 8 values, the feature has 10"):
        load_probe(tmp_path)


def test_weights_of_the_right_number_in_the_wrong_shape_are_refused(tmp_path):
    replace_weights(saved(tmp_path), save({"weight": np.zeros((2, 4), dtype=np.float32), "bias": np.zeros(1)}))
    with refused(tmp_path, r"expected a weight vector and one bias, got shapes \(2, 4\)"):
        load_probe(tmp_path)


@pytest.mark.parametrize("bias", [np.zeros(0), np.zeros(2)])
def test_a_bias_that_is_not_one_number_is_refused(tmp_path, bias):
    replace_weights(saved(tmp_path), save({"weight": np.zeros(8, dtype=np.float32), "bias": bias}))
    with refused(tmp_path, "expected a weight vector and one bias"):
        load_probe(tmp_path)


@pytest.mark.parametrize("spoiled", ["weight", "bias"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, spoiled):
    numbers = {"weight": np.zeros(8, dtype=np.float32), "bias": np.zeros(1)}
    numbers[spoiled][0] = np.nan
    replace_weights(saved(tmp_path), save(numbers))
    with refused(tmp_path, "holds NaN or infinity"):
        load_probe(tmp_path)
