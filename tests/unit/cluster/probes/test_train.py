"""Probes of one's own data: what two collections of files become, without the clients' training between."""

from pathlib import Path

import pytest
import torch

from cluster.data.server_data import prepare_references
from cluster.errors import ConfigError
from cluster.probes.evaluate import evaluate_probe, measure
from cluster.probes.train import merge_stores, train_from_store
from probe.store import SampleStore
from probe.store_meta import StoreMeta
from tests.unit.cluster.data.builders import real_config, write_rows

B = "layers.0.q.lora_B.weight"
META = StoreMeta(shapes={B: (3, 2)}, layers={B: 0}, model_fingerprint="m", lora_fingerprint="l", recipe={"steps": 2})
CLIENTS = 4


def collected(folder: Path, benign: tuple[str, ...], unsafe: tuple[str, ...], seed: int) -> Path:
    """A store as `probe collect` writes it of files of these names; the deltas of the two classes point apart."""
    for kind, names in (("good", benign), ("bad", unsafe)):
        for name in names:
            write_rows(folder / kind / f"{name}.jsonl", 8, instruction=[f"{name} {seed} {i}" for i in range(8)])
    config = real_config("d", f"collect.benign_path={folder / 'good'}", f"collect.malicious_path={folder / 'bad'}")
    store, generator = SampleStore.create_or_open(folder / "store", META), torch.Generator().manual_seed(seed)
    for reference in prepare_references(config, folder / "store/references", CLIENTS):
        towards = torch.ones(3, 2) * (1 if reference.label.malicious else -1)
        store.append("initial", reference.label, [{B: towards + 0.1 * torch.rand(3, 2, generator=generator)} for _ in range(2)])
    return folder / "store"


@pytest.fixture
def store(tmp_path) -> Path:
    return collected(tmp_path / "one", ("recipes", "travel"), ("fraud", "spies"), 0)


def test_a_second_collection_of_ones_own_data_measures_the_probe_of_the_first(store, tmp_path):
    held_out = collected(tmp_path / "two", ("sums", "verse"), ("theft", "lies"), 1)
    report = measure(train_from_store(store, (), tmp_path / "probe"), SampleStore.open(held_out)).report
    assert (report["num_excluded_as_seen"], report["num_samples"]) == (0, 2 * CLIENTS * 2)
    assert report["num_clients"] == {"benign": CLIENTS, "malicious": CLIENTS}


def test_a_second_collection_of_ones_own_data_calibrates_the_probe_of_the_first(store, tmp_path):
    held_out = collected(tmp_path / "two", ("sums", "verse"), ("theft", "lies"), 1)
    probe = train_from_store(store, [f"probe.calibration_store={held_out}", "probe.calibrate=true"], tmp_path / "probe")
    assert probe.meta.training["calibration_families"] == ["lies", "sums", "theft", "verse"]


def test_collections_of_ones_own_data_are_merged_even_of_the_same_families(store, tmp_path):
    others = [
        collected(tmp_path / "two", ("sums", "verse"), ("theft", "lies"), 1),
        collected(tmp_path / "three", ("recipes", "travel"), ("fraud", "spies"), 2),
    ]
    assert len(merge_stores(store, others).clients()) == 3 * 2 * CLIENTS


def test_a_collection_of_files_that_were_moved_is_the_same_one(store, tmp_path):
    moved = collected(tmp_path / "elsewhere", ("recipes", "travel"), ("fraud", "spies"), 0)
    assert len(merge_stores(store, [moved]).clients()) == 2 * CLIENTS


def test_other_rows_of_the_same_families_were_seen_and_the_message_says_what_a_family_is(store, tmp_path):
    again = collected(tmp_path / "again", ("recipes", "travel"), ("fraud", "spies"), 1)
    train_from_store(store, (), tmp_path / "probe")
    with pytest.raises(ConfigError, match=r"families \['fraud', 'recipes', .* other data of your own, where the column `family`"):
        evaluate_probe(tmp_path / "probe", again, tmp_path / "report.json")
