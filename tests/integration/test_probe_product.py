"""The probe from nothing on a real local Ray: collect, go on, train, evaluate; and its figures on the embedded world."""

import json
import shutil
from pathlib import Path

import pytest

from actors.world.store import probe_folder, world_folder
from cluster.config.loading import load_config
from cluster.errors import CollectionError, ConfigError
from cluster.probes.collect import collect_samples
from cluster.probes.evaluate import evaluate_probe
from cluster.probes.train import train_from_store
from probe.artefact import load_probe
from probe.features import FEATURES
from probe.store import SampleStore

CLIENTS, TEST_CLIENTS = 16, 8


def collect(folder: Path, *overrides: str) -> list[tuple[int, int]]:
    """Collect as a person would; returns what the progress was told."""
    told = []
    config = load_config(None, ["collect.modules=all", "cluster.client_actors=1", *overrides])
    collect_samples(config, folder, lambda done, total: told.append((done, total)))
    return told


@pytest.fixture(scope="module")
def collection(local_ray, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "collection"
    collect(folder, f"collect.clients={CLIENTS}")
    return folder


@pytest.fixture(scope="module")
def unseen(local_ray, tmp_path_factory) -> Path:
    """A store of families and clients that no probe here is trained on, collected in two goes."""
    folder = tmp_path_factory.mktemp("stores") / "unseen"
    assert collect(folder, "collect.role=probe_test", f"collect.clients={TEST_CLIENTS // 2}")[0] == (0, TEST_CLIENTS)
    told = collect(folder, "collect.role=probe_test", f"collect.clients={TEST_CLIENTS}")
    assert [done for done, _ in told] == list(range(TEST_CLIENTS, 2 * TEST_CLIENTS + 1))
    return folder


def test_a_store_holds_every_local_step_of_every_reference_client(collection):
    store = SampleStore.open(collection)
    assert len(store) == 2 * CLIENTS * 10
    labels = store.clients()
    assert {state for state, _ in labels} == {"initial"}
    assert sum(label.malicious for _, label in labels) == CLIENTS
    assert store.meta.recipe["learning_rate"] == 0.01
    assert len(store.meta.shapes) == 42  # 3 layers x 7 modules x A and B


@pytest.mark.parametrize("overrides", [(), ("probe.classifier=xgboost",), ("probe.feature=all_layers",)])
def test_a_probe_tells_families_and_clients_apart_that_it_never_saw(collection, unseen, tmp_path, overrides):
    train_from_store(collection, overrides, tmp_path / "probe")
    report = evaluate_probe(tmp_path / "probe", unseen, tmp_path / "report.json").report
    assert report["num_samples"] == 2 * TEST_CLIENTS * 10
    assert report["num_excluded_as_seen"] == 0
    assert report["roc_auc"] >= 0.98
    assert report["tpr"] >= (0.90 if overrides == ("probe.classifier=xgboost",) else 0.95)
    assert report["fpr"] <= 0.02
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["by_step"].keys() == {str(step) for step in range(1, 11)}
    assert written["intervals"]["tpr"][0] <= written["tpr"] <= written["intervals"]["tpr"][1]
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_the_shipped_probe_is_no_detector_of_the_topic(unseen, world, tmp_path):
    report = evaluate_probe(probe_folder(world_folder(0)), unseen, tmp_path / "report.json").report
    assert (report["tpr"], report["fpr"]) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.02))
    refused = [report["by_family"][family] for family in world.roles["probe_test"].restricted]
    assert all(figures["fpr"] is not None and figures["fpr"] <= 0.05 for figures in refused)


def test_what_training_saw_is_left_out_of_an_evaluation(collection, unseen, tmp_path):
    merged = tmp_path / "merged"
    shutil.copytree(collection, merged)
    assert SampleStore.open(merged).merge(SampleStore.open(unseen)) == 2 * TEST_CLIENTS
    shipped = probe_folder(world_folder(0))
    report = evaluate_probe(shipped, merged, tmp_path / "report.json").report
    assert report["num_excluded_as_seen"] == 2 * CLIENTS * 10
    assert report["num_samples"] == 2 * TEST_CLIENTS * 10
    with pytest.raises(ConfigError, match="collect an evaluation store from other families"):
        evaluate_probe(shipped, collection, tmp_path / "report.json")


def test_one_class_only_and_an_empty_store_are_refused(collection, tmp_path):
    benign = tmp_path / "benign"
    shutil.copytree(collection, benign, ignore=shutil.ignore_patterns("*malicious*"))
    with pytest.raises(ConfigError, match="at least 2 malicious clients, got 0"):
        train_from_store(benign, (), tmp_path / "probe")
    shutil.rmtree(benign / "samples")
    with pytest.raises(ConfigError, match="holds no samples"):
        train_from_store(benign, (), tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_a_truncated_sample_is_named(collection, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(collection, damaged)
    path = damaged / "samples/state=initial/collection-malicious-003.parquet"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"collection-malicious-003.parquet cannot be read"):
        train_from_store(damaged, (), tmp_path / "probe")


def test_a_probe_is_not_overwritten_and_unknown_settings_are_named(collection, tmp_path):
    train_from_store(collection, (), tmp_path / "probe")
    with pytest.raises(ConfigError, match="holds a probe; name a new folder"):
        train_from_store(collection, (), tmp_path / "probe")
    with pytest.raises(ConfigError, match=r"unknown key probe.clasifier; did you mean probe.classifier"):
        train_from_store(collection, ["probe.clasifier=xgboost"], tmp_path / "other")


def test_a_probe_of_another_model_cannot_be_measured_on_the_store(collection, unseen, tmp_path):
    train_from_store(collection, (), tmp_path / "probe")
    document = json.loads((tmp_path / "probe/probe.json").read_text())
    (tmp_path / "probe/probe.json").write_text(json.dumps({**document, "model_fingerprint": "other"}))
    with pytest.raises(ConfigError, match="made for base model other"):
        evaluate_probe(tmp_path / "probe", unseen, tmp_path / "report.json")


def test_every_feature_can_be_trained_from_a_store_of_all_modules(collection):
    names = set(SampleStore.open(collection).meta.shapes)
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert set(FEATURES) == {"first_layer_b", "all_layers", "per_layer", "module_cosines"}


def test_the_shipped_probe_says_how_it_was_made():
    meta = load_probe(probe_folder(world_folder(0))).meta
    assert meta.training["config"]["folds"] == 4
    assert meta.metrics["on"] == "probe_test families of world 0"
    assert meta.threshold == 0.8


def test_a_reference_client_that_fails_is_named_and_the_others_are_kept(local_ray, tmp_path, monkeypatch):
    from cluster.probes import collect as module

    def with_a_missing_file(reference, tokens):
        encoded = encode(reference, tokens)
        if reference.label.client == "collection-malicious-001":
            Path(encoded.files[0]).unlink()
        return encoded

    encode = module.encoded_reference
    monkeypatch.setattr(module, "encoded_reference", with_a_missing_file)
    small = ("collect.clients=2", "training.steps=2", "training.batch_size=4")
    complaint = r"collection-malicious-001: client_failed: DataError: token file .* cannot be read"
    with pytest.raises(CollectionError, match=complaint):
        collect(tmp_path / "store", *small)
    assert len(SampleStore.open(tmp_path / "store")) == 3 * 2
