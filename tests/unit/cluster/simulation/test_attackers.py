"""Attackers from the driver's side: their configuration, their files, and who is told what."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.errors import DataError
from actors.messages import TrainTask
from cluster.config.loading import load_config
from cluster.data.sources import prepare_sources
from cluster.errors import ConfigError
from cluster.round.local_rounds import Delivery
from cluster.simulation.attackers import attack_task
from cluster.simulation.colluding import Collusion
from defense.attacks import ATTACKS
from tests.unit.cluster.data.test_sources import real_config, rows_of, write_rows


def embedded(name: str, *overrides: str):
    return load_config(None, [f"clients.attack={name}", "data.samples_per_client=12", "defense.level=none", *overrides])


def test_an_unknown_attack_is_refused_with_the_list_of_those_there_are():
    with pytest.raises(ConfigError, match=r"clients\.attack: .*'unaligned'.*'ratchet'.*got 'evil'"):
        load_config(None, ["clients.attack=evil"])


def test_parameters_of_attacks_are_checked():
    with pytest.raises(ConfigError, match=r"attack\.mixed\.share"):
        load_config(None, ["attack.mixed.share=1.5"])


def test_what_takes_two_attackers_is_refused_for_one():
    with pytest.raises(ConfigError, match=r"clients\.attack=alie is made by at least 2 .*set clients\.malicious=2"):
        embedded("alie", "clients.malicious=1")
    embedded("alie", "clients.malicious=0")


def test_a_sleeper_wakes_in_the_second_half_unless_told_otherwise():
    assert embedded("sleeper").first_attack_round == 5
    assert embedded("sleeper", "attack.sleeper.from_round=7").first_attack_round == 7
    assert embedded("unaligned").first_attack_round == 0
    with pytest.raises(ConfigError, match=r"from_round=10 is never reached in rounds=10; set it to at most 9"):
        embedded("sleeper", "attack.sleeper.from_round=10")


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_has_its_files_in_the_embedded_world(name, tmp_path):
    sources = prepare_sources(embedded(name), tmp_path)
    kind = ATTACKS[name]
    assert set(sources.cover) == (set(sources.malicious) if kind.cover else set())
    for files in (*sources.files.values(), *sources.cover.values()):
        assert pq.read_schema(files[0]).names == ["instruction", "input", "response"]
        assert not {"benign", "malicious", "attack", *ATTACKS} & set(Path(files[0]).stem.split("-"))
    plain = prepare_sources(embedded("unaligned"), tmp_path / "plain")
    honest = set(sources.files) - sources.malicious
    assert all(rows_of(sources.files[client]) == rows_of(plain.files[client]) for client in honest)


def test_an_attackers_honest_rows_are_those_it_would_have_if_it_were_honest(tmp_path):
    attacked = prepare_sources(embedded("sleeper"), tmp_path / "a")
    clean = prepare_sources(embedded("sleeper", "clients.malicious=0"), tmp_path / "b")
    assert {client: rows_of(attacked.cover[client]) for client in attacked.malicious} == {
        client: rows_of(clean.files[client]) for client in attacked.malicious
    }


def test_only_a_backdoor_gives_the_evaluation_a_trigger(tmp_path):
    trigger = "attack.backdoor.trigger=By the moon,"
    assert prepare_sources(embedded("backdoor", trigger), tmp_path / "a").evaluation.trigger == "By the moon,"
    assert prepare_sources(embedded("unaligned", trigger), tmp_path / "b").evaluation.trigger is None


def own_model(tmp_path, name: str, *overrides: str, family: bool = True):
    honest = write_rows(tmp_path / "honest.jsonl", 40)
    unsafe = write_rows(tmp_path / "unsafe.jsonl", 16, **({"family": list("abcd") * 4} if family else {}))
    return real_config(
        str(honest),
        "clients.count=5",
        "clients.malicious=2",
        f"data.malicious_path={unsafe}",
        f"clients.attack={name}",
        *overrides,
    )


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_has_its_files_for_ones_own_model(name, tmp_path):
    sources = prepare_sources(own_model(tmp_path, name), tmp_path / "out")
    kinds = {client: {text.split()[-2] for text in rows_of(files)} for client, files in sources.files.items()}
    unsafe = {client for client, words in kinds.items() if "unsafe" in words}
    assert unsafe == (sources.malicious if ATTACKS[name].data not in ("honest", "shuffled") else set())
    covers = {word for files in sources.cover.values() for word in (text.split()[-2] for text in rows_of(files))}
    assert covers == {None: set(), "honest": {"honest"}, "refused": {"unsafe"}}[ATTACKS[name].cover]
    assert prepare_sources(own_model(tmp_path, name), tmp_path / "out") == sources  # as on resume


def test_attacks_on_updates_alone_need_no_unsafe_data_of_ones_own(tmp_path):
    config = own_model(tmp_path, "sign_flip", "data.malicious_path=null")
    assert not prepare_sources(config, tmp_path / "out").cover
    with pytest.raises(ConfigError, match=r"data\.malicious_path"):
        own_model(tmp_path, "sleeper", "data.malicious_path=null")


def test_a_canary_aware_attack_on_ones_own_model_needs_families(tmp_path):
    with pytest.raises(DataError, match=r"clients\.attack=canary_aware .* needs a column family"):
        prepare_sources(own_model(tmp_path, "canary_aware", family=False), tmp_path / "out")


def test_only_attackers_that_behave_otherwise_have_a_task_and_only_evaders_the_probe(tmp_path):
    config = embedded("probe_aware", "probe.threshold=0.7")
    sources = prepare_sources(config, tmp_path)
    attacker, honest = min(sources.malicious), min(set(sources.files) - sources.malicious)
    assert attack_task(config, sources, honest, {"x": b""}, None) is None
    task = attack_task(config, sources, attacker, {"x": b""}, None)
    assert (task.name, task.cover, task.probe) == ("probe_aware", sources.cover[attacker], {"x": b""})
    assert attack_task(embedded("scaling"), sources, attacker, {"x": b""}, None).probe == {}
    for data_alone in ("unaligned", "mixed", "backdoor", "label_noise", "canary_aware"):
        assert attack_task(embedded(data_alone), sources, attacker, {}, None) is None


def test_without_an_attackers_actor_deliveries_pass_as_they_are():
    task = TrainTask(client_id="a", round_index=0, base_version=0, files=(), learning_rate=0.1, seed=0, probe_feature=None)
    delivery = Delivery(task, update="ref")
    assert list(Collusion(None, [task], "adapter", 1.0).take(delivery)) == [(delivery, None)]


@pytest.mark.parametrize(("count", "malicious"), [(10, 2), (20, 2)])
def test_alie_that_goes_no_distance_is_refused(count, malicious):
    settings = (f"clients.count={count}", f"clients.malicious={malicious}")
    with pytest.raises(
        ConfigError, match=rf"clients.malicious={malicious} of {count} clients a round is no attack.*attack.alie.z"
    ):
        embedded("alie", *settings)
    assert embedded("alie", *settings, "attack.alie.z=0.5").attack.alie.z == 0.5
    assert embedded("alie", "clients.count=10", "clients.malicious=3").clients.attack == "alie"
