"""Under what a run's own probe is kept: everything that it follows from, and nothing else."""

import os
import threading

import pytest

from cluster import load_config
from cluster.probes.own_probe import _alone, _key, _settings
from tests.small_models import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    save_model(folder / "model", "llama")
    for name, count in (("benign", 3), ("unsafe", 4), ("more", 5)):
        (folder / f"{name}.jsonl").write_text('{"instruction": "a", "response": "b"}\n' * count)
    return folder


@pytest.fixture
def key(folder):
    def key(*overrides: str) -> str:
        own = {"model.path": folder / "model", "data.path": "d", "clients.malicious": 0}
        own |= {"collect.benign_path": folder / "benign.jsonl", "collect.malicious_path": folder / "unsafe.jsonl"}
        return _key(_settings(load_config(None, [*(f"{name}={value}" for name, value in own.items()), *overrides])))

    return key


@pytest.mark.parametrize(
    "override", ["lora.r=4", "training.steps=3", "training.learning_rate=0.001", "collect.clients=4", "probe.folds=2", "seed=1"]
)
def test_what_the_probe_follows_from_is_in_its_key(key, override):
    assert key(override) != key()


@pytest.mark.parametrize("override", ["rounds=3", "clients.count=3", "probe.refresh_clients=4", "defense.canary.max_rise=1"])
def test_what_it_does_not_follow_from_is_not(key, override):
    assert key(override) == key()


def test_other_rows_and_a_model_that_changed_on_disk_have_another_key(key, folder):
    before = key()
    assert key(f"collect.benign_path={folder / 'more.jsonl'}") != before
    weights = folder / "model" / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert key() != before


def test_the_adapter_that_a_run_continues_from_counts_by_its_values(key, folder):
    for name, values in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (folder / name).mkdir()
        (folder / name / "adapter_model.safetensors").write_bytes(values)
    one, same, other = (key(f"lora.start_from={folder / name}") for name in ("one", "same", "other"))
    assert key() != one == same != other


def test_a_level_that_judges_updates_has_samples_of_every_layer_at_the_clients_rate():
    own = ["model.path=m", "data.path=d", "clients.malicious=0", "training.learning_rate=0.001"]
    live, shadow = (_settings(load_config(None, [*own, f"defense.level={level}"])) for level in ("live", "shadow"))
    assert (live.collect.modules, live.collect.learning_rate, live.probe.feature) == ("all", 0.001, "per_layer")
    assert (shadow.collect.modules, shadow.collect.learning_rate, shadow.probe.feature) == ("first_layer_b", None, None)


def test_a_run_that_waits_for_another_says_so_and_goes_on_after_it(tmp_path):
    said, free = [], threading.Event()

    def say(line: str) -> None:
        said.append(line)
        free.set()

    def hold() -> None:
        with _alone(tmp_path / "lock", lambda line: None):
            held.set()
            assert free.wait(30)

    held, other = threading.Event(), threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    with _alone(tmp_path / "lock", say):
        assert said == ["Another run is making this probe; this one waits for it."]
    other.join()
