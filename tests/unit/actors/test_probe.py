"""The probe actor's class without a cluster: scores, refusals, and the fit between probe and adapter."""

import dataclasses

import numpy as np
import pytest
import torch

from actors.errors import ProbeMismatchError
from actors.probe import Probe
from actors.wire import encode_tensors
from defense.admission import OpenRound
from probe.artefact import LoraProbe, save_probe
from probe.classifiers.linear import LinearProbe
from probe.config import ProbeConfig
from probe.drift import quantiles
from probe.meta import ProbeMeta
from probe.store import ReferenceLabel
from tests.unit.actors.builders import A0, B0, LAYOUT, SHAPES, step_delta, update

META = ProbeMeta(
    classifier="linear",
    feature="first_layer_b",
    shapes={B0: SHAPES[B0]},
    layers={B0: 0},
    model_fingerprint="m",
    lora_fingerprint="l",
    threshold=0.8,
    recipe={"learning_rate": 0.5},
)
ROUND = OpenRound(round_index=0, base_version=0, client_ids=frozenset({"a", "b"}), num_steps=2, batch_size=4, max_norm=100.0)


@pytest.fixture
def probe(tmp_path):
    save_probe(tmp_path, LoraProbe(META, LinearProbe(weight=np.ones(6, dtype=np.float32), bias=-1.0)))
    made = Probe(str(tmp_path), LAYOUT)
    made.open_round(ROUND)
    return made


def test_a_step_delta_is_scored(probe):
    # Six equal values normalise to 1/sqrt(6) each; their sum is sqrt(6); minus the bias of 1.
    score = probe.score("a", step_delta("a", 0.3, step=1))
    assert score.probability == pytest.approx(1 / (1 + np.exp(1 - np.sqrt(6))))
    assert (score.client_id, score.branch, score.step, score.probe_version) == ("a", "real", 1, 1)
    assert score.refusal is None
    assert score.failure is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"junk", "malformed"),
        (step_delta("b", 1.0), "unknown_client"),
        (step_delta("a", 1.0, round_index=1), "wrong_round"),
        (step_delta("a", 1.0, base_version=1), "wrong_version"),
        (step_delta("a", 1.0, step=3), "bad_count: step=3"),
        (step_delta("a", 1.0, step=0), "bad_count: step=0"),
        (step_delta("a", 1.0, num_samples=5), "bad_count: num_samples=5"),
        (step_delta("a", 1.0, branch="other"), "malformed"),
        (step_delta("a", float("inf")), "not_finite"),
        (step_delta("a", 1.0, tensors={A0: torch.ones(2, 3)}), "wrong_keys"),
        (step_delta("a", 1e3), "norm_exceeded"),
    ],
)
def test_bad_deltas_are_refused_and_the_probe_goes_on(probe, payload, reason):
    score = probe.score("a", payload)
    assert score.probability is None
    assert score.refusal.startswith(reason)
    assert probe.score("a", step_delta("a", 1.0)).probability is not None


def test_a_score_carries_the_threshold_that_decides(probe, tmp_path):
    assert probe.score("a", step_delta("a", 0.3, step=1)).threshold == 0.8
    stricter = Probe(str(tmp_path), LAYOUT, ProbeConfig(threshold=0.6))
    stricter.open_round(ROUND)
    assert stricter.score("a", step_delta("a", 0.3, step=1)).threshold == 0.6


def test_a_batch_gives_the_scores_of_single_requests_in_order(probe):
    payloads = [step_delta("a", 0.3, step=1), b"junk", step_delta("b", -0.2, step=1), step_delta("a", 0.7, step=2)]
    clients = ["a", "a", "b", "a"]
    alone = [probe.score(client, payload) for client, payload in zip(clients, payloads, strict=True)]
    probe.open_round(ROUND)
    assert probe.score_batch(clients, *payloads) == alone
    assert [score.refusal is None for score in alone] == [True, False, True, True]


def test_a_step_sent_twice_in_one_batch_counts_once(probe):
    first, second = probe.score_batch(["a", "a"], step_delta("a", 1.0), step_delta("a", -1.0))
    assert first.probability is not None
    assert second.refusal.startswith("duplicate")


# Updates


def open_with_adapter(probe: Probe, value: float, **changes) -> None:
    adapter = encode_tensors({name: torch.full(shape, value) for name, shape in SHAPES.items()})
    probe.open_round(dataclasses.replace(ROUND, **changes), adapter)


def test_an_update_is_scored_by_what_it_adds_to_the_global_adapter(probe):
    # The global adapter is 0.5 everywhere, the update 0.8: the delta is 0.3 in all six values, as in the first test.
    open_with_adapter(probe, 0.5)
    score = probe.score_update("a", update("a", 0.8))
    assert score.probability == pytest.approx(1 / (1 + np.exp(1 - np.sqrt(6))), abs=1e-6)
    assert (score.branch, score.step, score.threshold, score.probe_version) == ("update", 1, 0.8, 1)
    # One that went the other way: -sqrt(6) - 1.
    score = probe.score_update("b", update("b", 0.2))
    assert score.probability == pytest.approx(1 / (1 + np.exp(1 + np.sqrt(6))), abs=1e-6)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"junk", "malformed"),
        (step_delta("a", 1.0), "malformed"),
        (update("b", 1.0), "unknown_client"),
        (update("a", 1.0, round_index=1), "wrong_round"),
        (update("a", 1.0, base_version=1), "wrong_version"),
        (update("a", float("nan")), "not_finite"),
        (update("a", 1.0, tensors={B0: torch.ones(3, 2)}), "wrong_keys"),
        (update("a", 1e3), "norm_exceeded"),
    ],
)
def test_bad_updates_are_refused_and_the_probe_goes_on(probe, payload, reason):
    open_with_adapter(probe, 0.5)
    refused, good = probe.score_update("a", payload), probe.score_update("b", update("b", 1.0))
    assert refused.refusal.startswith(reason)
    assert refused.probability is None
    assert good.probability is not None


def test_an_update_that_moves_a_product_too_far_is_refused(probe):
    # Each of the nine values of B A goes from 0.5 to 2: a norm of 4.5, where the delta's norm may be 100.
    open_with_adapter(probe, 0.5, max_products={A0: 4.0})
    assert probe.score_update("a", update("a", 1.0)).refusal.startswith("norm_exceeded: the product B A of base_model")
    open_with_adapter(probe, 0.5, max_products={A0: 4.6})
    assert probe.score_update("a", update("a", 1.0)).probability is not None


def test_an_update_counts_once(probe):
    open_with_adapter(probe, 0.5)
    first, second = probe.score_update("a", update("a", 1.0)), probe.score_update("a", update("a", 0.0))
    assert first.probability is not None
    assert second.refusal.startswith("duplicate")


def test_without_the_global_adapter_no_update_is_scored(probe):
    assert probe.score_update("a", update("a", 1.0)).refusal.startswith("wrong_round")


# Refresh


def reference(index: int, malicious: bool) -> ReferenceLabel:
    name = f"{'malicious' if malicious else 'benign'}-{index}"
    return ReferenceLabel(client=name, malicious=malicious, family=name, source="test")


def observe_references(probe: Probe, *, separable: bool = True, clients: int = 4) -> None:
    """Two steps each of benign clients along (1, 0, 1, 0 ...) and malicious ones along (0, 1, 0, 1 ...), with noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for malicious in (True, False):
        for index in range(clients):
            label = reference(index, malicious)
            for step in (2, 1):
                pattern = patterns[int(malicious)] if separable else torch.ones(2)
                tensors = {B0: pattern.expand(3, 2) + 0.1 * torch.randn(3, 2, generator=generator)}
                probe.observe([label], step_delta(label.client, 0.0, step, tensors=tensors))


def refreshable(tmp_path) -> Probe:
    """A probe that knows nothing: every score is 1/2."""
    meta = dataclasses.replace(META, threshold=0.5, training={"config": {"linear": {"weight_decay": 0.0}}})
    save_probe(tmp_path, LoraProbe(meta, LinearProbe(weight=np.zeros(6, dtype=np.float32), bias=0.0)))
    probe = Probe(str(tmp_path), LAYOUT, ProbeConfig(threshold=0.5))
    open_with_adapter(probe, 0.0)
    return probe


def both_ways(probe: Probe) -> list[float]:
    """Scores of a benign and of a malicious update."""
    patterns = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    sent = {name: {A0: torch.zeros(2, 3), B0: pattern.repeat(3, 1)} for name, pattern in patterns.items()}
    return [probe.score_update(name, update(name, 0.0, tensors=tensors)).probability for name, tensors in sent.items()]


def test_a_refresh_learns_from_the_reference_clients_and_counts_the_version_up(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    refreshed = probe.refresh(learning_rate=0.25)
    assert refreshed.accepted
    assert (refreshed.metrics["tpr"], refreshed.metrics["fpr"]) == (1.0, 0.0)
    probe.adopt()
    benign, malicious = both_ways(probe)
    assert benign < 0.5 <= malicious
    assert probe.meta().version == 2
    assert probe.meta().recipe["learning_rate"] == 0.25
    assert "round 1" in probe.meta().training["origin"]


def test_the_refreshed_artefact_scores_as_the_probe_does(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    for name, content in probe.refresh(learning_rate=0.25).files.items():
        (tmp_path / name).write_bytes(content)
    probe.adopt()
    loaded = Probe(str(tmp_path), LAYOUT)
    open_with_adapter(loaded, 0.0)
    assert both_ways(loaded) == both_ways(probe)
    assert loaded.meta().version == 2


def test_a_refitted_probe_that_is_not_adopted_never_judges(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    assert probe.refresh(learning_rate=0.25).accepted
    assert both_ways(probe) == [0.5, 0.5]
    probe.close_round()
    open_with_adapter(probe, 0.0)
    with pytest.raises(RuntimeError, match="no refitted probe to adopt"):
        probe.adopt()
    assert (both_ways(probe), probe.meta().version) == ([0.5, 0.5], 1)


def test_a_refresh_does_not_depend_on_the_order_of_arrival(tmp_path):
    probes = [refreshable(tmp_path) for _ in range(2)]
    observe_references(probes[0])
    recorded = []
    spy = refreshable(tmp_path)
    spy.observe = lambda labels, *payloads: recorded.append((labels, payloads))
    observe_references(spy)
    for labels, payloads in reversed(recorded):
        probes[1].observe(labels, *payloads)
    first, second = (probe.refresh(learning_rate=0.25).files for probe in probes)
    assert first == second


def test_a_refresh_that_fails_its_own_figures_changes_nothing(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe, separable=False)
    refreshed = probe.refresh(learning_rate=0.25)
    assert not refreshed.accepted
    assert "probe.refresh_min_tpr=0.6" in refreshed.why
    assert refreshed.files == {}
    with pytest.raises(RuntimeError, match="adopt only what it accepted"):
        probe.adopt()
    assert both_ways(probe) == [0.5, 0.5]
    assert probe.meta().version == 1


@pytest.mark.parametrize(("clients", "why"), [(0, "no reference client delivered"), (1, "at least 2 benign clients")])
def test_a_refresh_without_enough_references_changes_nothing(tmp_path, clients, why):
    probe = refreshable(tmp_path)
    observe_references(probe, clients=clients)
    refreshed = probe.refresh(learning_rate=0.25)
    assert not refreshed.accepted
    assert why in refreshed.why
    assert probe.meta().version == 1


def test_references_of_a_round_before_are_forgotten(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    open_with_adapter(probe, 0.0)
    assert "no reference client delivered" in probe.refresh(learning_rate=0.25).why


@pytest.mark.parametrize("bad", [{B0: torch.full((3, 2), float("nan"))}, {A0: torch.zeros(2, 3)}, {B0: torch.zeros(2, 3)}])
def test_a_reference_delta_that_is_no_sample_is_named(tmp_path, bad):
    with pytest.raises(ValueError, match="reference client benign-0, step 1: "):
        refreshable(tmp_path).observe([reference(0, False)], step_delta("benign-0", 0.0, 1, tensors=bad))


# Replacing


def test_another_artefact_can_take_over_while_a_round_runs(probe, tmp_path):
    better = dataclasses.replace(META, version=7)
    save_probe(tmp_path / "new", LoraProbe(better, LinearProbe(weight=np.zeros(6, dtype=np.float32), bias=0.0)))
    assert probe.replace(str(tmp_path / "new")).version == 7
    score = probe.score("a", step_delta("a", 0.3))
    assert (score.probability, score.probe_version) == (0.5, 7)


def damage(folder, what: str) -> None:
    if what == "weights":
        content = bytearray((folder / "probe.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "probe.safetensors").write_bytes(content)
    elif what == "json":
        (folder / "probe.json").write_text("{")
    else:
        (folder / "probe.safetensors").unlink()


@pytest.mark.parametrize(("what", "message"), [("weights", "hash mismatch"), ("json", "cannot be used"), ("file", "is missing")])
def test_a_damaged_artefact_leaves_the_probe_as_it_was(probe, tmp_path, what, message):
    save_probe(tmp_path / "new", LoraProbe(META, LinearProbe(weight=np.zeros(6, dtype=np.float32), bias=0.0)))
    damage(tmp_path / "new", what)
    before = probe.score("a", step_delta("a", 0.3)).probability
    with pytest.raises(ValueError, match=message):
        probe.replace(str(tmp_path / "new"))
    assert probe.score("b", step_delta("b", 0.3)).probability == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_fingerprint": "other"}, "made for base model other"),
        ({"feature": "all_layers", "shapes": SHAPES, "layers": dict.fromkeys(SHAPES, 0)}, "reads all_layers, the clients"),
    ],
)
def test_a_probe_of_another_model_or_feature_leaves_the_probe_as_it_was(probe, tmp_path, change, message):
    meta = dataclasses.replace(META, **change)
    size = sum(rows * columns for rows, columns in meta.shapes.values())
    save_probe(tmp_path / "new", LoraProbe(meta, LinearProbe(weight=np.zeros(size, dtype=np.float32), bias=0.0)))
    with pytest.raises(ProbeMismatchError, match=message):
        probe.replace(str(tmp_path / "new"))
    assert probe.score("a", step_delta("a", 0.3)).probability != 0.5


# Drift


def test_the_round_ends_with_its_drift(probe, tmp_path):
    scores = {"benign": quantiles([0.1, 0.2]), "malicious": quantiles([0.9, 1.0])}
    known = dataclasses.replace(META, scores=scores, training={"num_held_out": 16})
    save_probe(tmp_path / "known", LoraProbe(known, LinearProbe(weight=np.zeros(6, dtype=np.float32), bias=0.0)))
    blind = Probe(str(tmp_path / "known"), LAYOUT)
    clients = [f"c{i}" for i in range(9)]
    blind.open_round(dataclasses.replace(ROUND, client_ids=frozenset(clients)))
    blind.score_batch(clients, *(step_delta(client, 1.0) for client in clients))
    drift = blind.close_round().drift
    # Every score is 1/2, where no training score lies: in the nearest mixture half lies below and half above.
    assert drift.distance == pytest.approx(0.5, abs=0.01)
    assert drift.critical == pytest.approx(1.63 * 5 / 12)  # 9 clients against 16
    assert not drift.blind  # 0.5 < 0.68


def test_only_what_the_level_weighs_counts_as_drift(tmp_path):
    scores = {"benign": quantiles([0.1, 0.2]), "malicious": quantiles([0.9, 1.0])}
    known = dataclasses.replace(META, scores=scores, training={"num_held_out": 16})
    save_probe(tmp_path, LoraProbe(known, LinearProbe(weight=np.zeros(6, dtype=np.float32), bias=0.0)))
    probe = Probe(str(tmp_path), LAYOUT)
    probe.open_round(dataclasses.replace(ROUND, reads="shadow"))
    probe.score("a", step_delta("a", 1.0, branch="real"))
    assert probe.close_round().drift is None
    probe.open_round(dataclasses.replace(ROUND, reads="shadow"))
    probe.score("a", step_delta("a", 1.0, branch="shadow"))
    assert probe.close_round().drift is not None


def test_without_scores_or_a_training_distribution_there_is_no_drift(probe):
    probe.score("a", step_delta("a", 1.0))
    assert probe.close_round().drift is None  # the artefact tells no distribution
    with pytest.raises(RuntimeError, match="no round is open"):
        probe.close_round()


def test_the_round_ends_with_what_scoring_took(probe):
    deltas = [step_delta("a", 1.0), step_delta("b", 0.5)]
    probe.score_batch(["a", "b"], *deltas)
    for sent in (b"junk", 7):  # refused: counted, but nothing of it was scored
        assert probe.score("a", sent).refusal.startswith("malformed")
    closed = probe.close_round()
    assert closed.num_messages == 4
    assert closed.num_bytes == sum(map(len, deltas))
    assert closed.score_s > 0
    assert probe.score("a", step_delta("a", 1.0)).refusal == "wrong_round: no round is open"
    probe.open_round(ROUND)
    closed = probe.close_round()
    assert (closed.num_messages, closed.score_s, closed.num_bytes) == (0, 0.0, 0)


def test_a_step_counts_once(probe):
    assert probe.score("a", step_delta("a", 1.0)).probability is not None
    assert probe.score("a", step_delta("a", 0.5)).refusal.startswith("duplicate")
    assert probe.score("a", step_delta("a", 0.5, branch="shadow")).probability is not None
    assert probe.score("b", step_delta("b", 0.5)).probability is not None


def test_a_new_round_forgets_the_steps_of_the_last(probe):
    probe.score("a", step_delta("a", 1.0))
    probe.open_round(dataclasses.replace(ROUND, round_index=1))
    assert probe.score("a", step_delta("a", 1.0, round_index=1)).probability is not None
    assert probe.score("a", step_delta("a", 1.0)).refusal.startswith("wrong_round")


def test_before_any_round_nothing_is_scored(tmp_path):
    save_probe(tmp_path, LoraProbe(META, LinearProbe(weight=np.ones(6, dtype=np.float32), bias=0.0)))
    assert "no round is open" in Probe(str(tmp_path), LAYOUT).score("a", step_delta("a", 1.0)).refusal


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"shapes": {**SHAPES, B0: (3, 4)}},
            ["reads 1 tensors of 6 values", "offers 1 tensors of 12 values", "(3, 2)", "(3, 4)"],
        ),
        ({"model_fingerprint": "other"}, ["made for base model m", "this run has other"]),
        ({"lora_fingerprint": "other"}, ["LoRA settings and initial adapter l", "this run has other"]),
        ({"layers": {}}, ["finds no LoRA tensor"]),
    ],
)
def test_a_probe_of_another_model_or_lora_is_refused_with_both_sides(tmp_path, change, parts):
    save_probe(tmp_path, LoraProbe(META, LinearProbe(weight=np.ones(6, dtype=np.float32), bias=0.0)))
    with pytest.raises(ProbeMismatchError) as caught:
        Probe(str(tmp_path), dataclasses.replace(LAYOUT, **change))
    for part in parts:
        assert part in str(caught.value)
