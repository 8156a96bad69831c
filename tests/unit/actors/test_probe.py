"""The probe actor's class without a cluster: scores, refreshes, and the fit between probe and adapter.

What it refuses is in `test_admission.py`.
"""

import dataclasses

import numpy as np
import pytest
import torch

from actors.errors import ProbeMismatchError
from actors.probe import Probe
from actors.wire import encode_tensors
from probe.config import ProbeConfig
from probe.drift import quantiles
from probe.samples import ReferenceLabel
from tests.unit.actors.builders import A0, B0, LAYOUT, SHAPES, admitted, filled, open_round, step_delta, write_probe

ROUND = open_round("a", "b")
KNOWN = {"scores": {"benign": quantiles([0.1, 0.2]), "malicious": quantiles([0.9, 1.0])}, "training": {"num_held_out": 16}}
"""With the scores of training, so that drift can be seen."""


@pytest.fixture
def probe(tmp_path):
    made = Probe(write_probe(tmp_path, 1.0, bias=-1.0), LAYOUT)
    made.open_round(ROUND)
    return made


def test_a_step_delta_is_scored(probe):
    # Six equal values normalise to 1/sqrt(6) each; their sum is sqrt(6); minus the bias of 1.
    score = probe.score("a", step_delta("a", 0.3, step=1))
    assert score.probability == pytest.approx(1 / (1 + np.exp(1 - np.sqrt(6))))
    assert (score.client_id, score.branch, score.step, score.probe_version) == ("a", "real", 1, 1)
    assert score.refusal is None
    assert score.failure is None


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


def test_a_step_counts_once(probe):
    first, second = probe.score_batch(["a", "a"], step_delta("a", 1.0), step_delta("a", -1.0))
    assert first.probability is not None
    for again in (second, probe.score("a", step_delta("a", 0.5))):
        assert again.refusal == "duplicate: real step 2 was sent twice"
    assert probe.score("a", step_delta("a", 0.5, branch="shadow")).probability is not None
    assert probe.score("b", step_delta("b", 0.5)).probability is not None


def test_a_new_round_forgets_the_steps_of_the_last(probe):
    probe.score("a", step_delta("a", 1.0))
    probe.open_round(dataclasses.replace(ROUND, round_index=1))
    assert probe.score("a", step_delta("a", 1.0, round_index=1)).probability is not None
    assert probe.score("a", step_delta("a", 1.0)).refusal.startswith("wrong_round")


# Updates


def open_with_adapter(probe: Probe, value: float) -> None:
    probe.open_round(ROUND, encode_tensors(filled(value)))


@pytest.mark.parametrize(("value", "sign"), [(0.8, 1), (0.2, -1)])
def test_an_update_is_scored_by_what_it_adds_to_the_global_adapter(probe, value, sign):
    # The global adapter is 0.5 everywhere: the delta is 0.3 in all six values, as in the first test, or the other way.
    open_with_adapter(probe, 0.5)
    score = probe.score_update(admitted("a", value))
    assert score.probability == pytest.approx(1 / (1 + np.exp(1 - sign * np.sqrt(6))), abs=1e-6)
    assert (score.branch, score.step, score.threshold, score.probe_version) == ("update", 1, 0.8, 1)


def test_a_refused_update_has_no_score_and_without_the_global_adapter_none_has(probe):
    open_with_adapter(probe, 0.5)
    assert probe.score_update(None) is None
    assert probe.close_round().num_messages == 0
    with pytest.raises(RuntimeError, match="no round is open"):
        probe.score_update(admitted("a", 1.0))
    probe.open_round(ROUND)
    with pytest.raises(RuntimeError, match="opened without a global adapter"):
        probe.score_update(admitted("a", 1.0))


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
                probe.observe([label], step_delta(label.client, tensors, step))


def refreshable(tmp_path) -> Probe:
    """A probe that knows nothing: every score is 1/2."""
    plain = {"threshold": 0.5, "training": {"config": {"linear": {"weight_decay": 0.0}}}}
    probe = Probe(write_probe(tmp_path, 0.0, **plain), LAYOUT, ProbeConfig(threshold=0.5))
    open_with_adapter(probe, 0.0)
    return probe


def both_ways(probe: Probe) -> list[float]:
    """Scores of a benign and of a malicious update."""
    patterns = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    sent = {name: filled(0.0, A0) | {B0: pattern.repeat(3, 1)} for name, pattern in patterns.items()}
    return [probe.score_update(admitted(name, tensors)).probability for name, tensors in sent.items()]


def test_a_refresh_learns_from_the_reference_clients_and_counts_the_version_up(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    refreshed = probe.refresh(0.25, 0.01)
    assert refreshed.outcome == "accepted"
    assert {name: len(values) for name, values in refreshed.scored["last_step_probability"].items()} == {
        "benign": 4,
        "malicious": 4,
    }
    assert refreshed.metrics["roc_auc"] == 1.0
    probe.adopt()
    benign, malicious = both_ways(probe)
    assert benign < 0.5 <= malicious
    assert probe.meta().version == 2
    assert probe.meta().recipe["learning_rate"] == 0.25
    assert "round 1" in probe.meta().training["origin"]


def test_a_probe_that_ranks_the_references_as_well_as_a_refit_could_stays_and_their_scores_are_held_out(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    probe.refresh(0.25, 0.01)
    probe.adopt()
    probe.close_round()
    open_with_adapter(probe, 0.0)
    observe_references(probe)
    again = probe.refresh(0.25, 0.01)
    assert (again.outcome, again.metrics, again.files) == ("kept", {"roc_auc": 1.0}, {})
    scored = again.scored["last_step_probability"]
    assert max(scored["benign"]) < min(scored["malicious"])
    with pytest.raises(RuntimeError, match="no refitted probe to adopt"):
        probe.adopt()
    assert probe.meta().version == 2


def test_the_refreshed_artefact_scores_as_the_probe_does(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    for name, content in probe.refresh(0.25, 0.01).files.items():
        (tmp_path / name).write_bytes(content)
    probe.adopt()
    loaded = Probe(str(tmp_path), LAYOUT)
    open_with_adapter(loaded, 0.0)
    assert both_ways(loaded) == both_ways(probe)
    assert loaded.meta().version == 2


def test_a_refitted_probe_that_is_not_adopted_never_judges(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    assert probe.refresh(0.25, 0.01).outcome == "accepted"
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
    first, second = (probe.refresh(0.25, 0.01).files for probe in probes)
    assert first == second


def test_a_refresh_that_fails_its_own_figures_changes_nothing(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe, separable=False)
    refreshed = probe.refresh(0.25, 0.01)
    assert refreshed.outcome == "kept"
    assert "probe.refresh_min_auc=0.75" in refreshed.why
    assert refreshed.files == {}
    assert refreshed.scored == {"last_step_probability": {"benign": [0.5] * 4, "malicious": [0.5] * 4}}
    with pytest.raises(RuntimeError, match="adopt only what it accepted"):
        probe.adopt()
    assert both_ways(probe) == [0.5, 0.5]
    assert probe.meta().version == 1


@pytest.mark.parametrize(("clients", "why"), [(0, "no reference client delivered"), (1, "at least 2 benign clients")])
def test_a_refresh_without_enough_references_changes_nothing(tmp_path, clients, why):
    probe = refreshable(tmp_path)
    observe_references(probe, clients=clients)
    refreshed = probe.refresh(0.25, 0.01)
    assert refreshed.outcome == "rejected"
    assert why in refreshed.why
    assert probe.meta().version == 1


def test_references_of_a_round_before_are_forgotten(tmp_path):
    probe = refreshable(tmp_path)
    observe_references(probe)
    open_with_adapter(probe, 0.0)
    assert "no reference client delivered" in probe.refresh(0.25, 0.01).why


@pytest.mark.parametrize("bad", [{B0: torch.full((3, 2), float("nan"))}, {A0: torch.zeros(2, 3)}, {B0: torch.zeros(2, 3)}])
def test_a_reference_delta_that_is_no_sample_is_named(tmp_path, bad):
    with pytest.raises(ValueError, match="reference client benign-0, step 1: "):
        refreshable(tmp_path).observe([reference(0, False)], step_delta("benign-0", bad, 1))


# Replacing


def test_another_artefact_can_take_over_while_a_round_runs(probe, tmp_path):
    assert probe.replace(write_probe(tmp_path / "new", 0.0, version=7)).version == 7
    score = probe.score("a", step_delta("a", 0.3))
    assert (score.probability, score.probe_version) == (0.5, 7)


def test_a_restored_artefact_scores_as_the_probe_that_gave_it_and_an_open_round_is_discarded(probe, tmp_path):
    other = Probe(write_probe(tmp_path / "other", 0.0), LAYOUT)
    other.open_round(ROUND)
    other.restore(probe.artefact())
    assert other.score("a", step_delta("a", 0.3)).refusal == "wrong_round: no round is open"
    other.open_round(ROUND)
    assert other.score("a", step_delta("a", 0.3)) == probe.score("a", step_delta("a", 0.3))


def damage(folder, what: str) -> None:
    file = folder / ("probe.json" if what == "json" else "probe.safetensors")
    if what == "file":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if what == "weights" else b"{")


@pytest.mark.parametrize(("what", "message"), [("weights", "hash mismatch"), ("json", "cannot be used"), ("file", "is missing")])
def test_a_damaged_artefact_leaves_the_probe_as_it_was(probe, tmp_path, what, message):
    folder = write_probe(tmp_path / "new", 0.0)
    damage(tmp_path / "new", what)
    before = probe.score("a", step_delta("a", 0.3)).probability
    with pytest.raises(ValueError, match=message):
        probe.replace(folder)
    assert probe.score("b", step_delta("b", 0.3)).probability == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_fingerprint": "other"}, "made for base model other"),
        ({"feature": "all_layers", "shapes": SHAPES, "layers": dict.fromkeys(SHAPES, 0)}, "reads all_layers, the clients"),
    ],
)
def test_a_probe_of_another_model_or_feature_leaves_the_probe_as_it_was(probe, tmp_path, change, message):
    with pytest.raises(ProbeMismatchError, match=message):
        probe.replace(write_probe(tmp_path / "new", 0.0, **change))
    assert probe.score("a", step_delta("a", 0.3)).probability != 0.5


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
    with pytest.raises(ProbeMismatchError) as caught:
        Probe(write_probe(tmp_path, 1.0), dataclasses.replace(LAYOUT, **change))
    assert all(part in str(caught.value) for part in parts)


# The end of a round


def test_the_round_ends_with_its_drift(tmp_path):
    blind, clients = Probe(write_probe(tmp_path, 0.0, **KNOWN), LAYOUT), [f"c{i}" for i in range(9)]
    blind.open_round(open_round(*clients))
    blind.score_batch(clients, *(step_delta(client, 1.0) for client in clients))
    drift = blind.close_round().drift
    # Every score is 1/2, where no training score lies: in the nearest mixture half lies below and half above.
    assert drift.distance == pytest.approx(0.5, abs=0.01)
    assert drift.critical == pytest.approx(1.63 * 5 / 12)  # 9 clients against 16
    assert not drift.blind  # 0.5 < 0.68


@pytest.mark.parametrize("branch", ["real", "shadow"])
def test_only_what_the_level_weighs_counts_as_drift(tmp_path, branch):
    probe = Probe(write_probe(tmp_path, 0.0, **KNOWN), LAYOUT)
    probe.open_round(dataclasses.replace(ROUND, reads=frozenset({"shadow"})))
    probe.score("a", step_delta("a", 1.0, branch=branch))
    assert (probe.close_round().drift is None) == (branch == "real")


def test_without_a_training_distribution_there_is_no_drift(probe):
    probe.score("a", step_delta("a", 1.0))
    assert probe.close_round().drift is None


def test_the_round_ends_with_what_scoring_took(probe):
    deltas = [step_delta("a", 1.0), step_delta("b", 0.5)]
    open_with_adapter(probe, 0.0)
    probe.score_batch(["a", "b"], *deltas)
    for sent in (b"junk", 7):  # refused: counted, but nothing of it was scored
        assert probe.score("a", sent).refusal.startswith("malformed")
    probe.score_update(admitted("a", 1.0))
    closed = probe.close_round()
    assert (closed.num_messages, closed.num_bytes) == (5, sum(map(len, deltas)) + 12 * 4)
    assert closed.score_s > 0
    assert probe.score("a", step_delta("a", 1.0)).refusal == "wrong_round: no round is open"
    with pytest.raises(RuntimeError, match="no round is open"):
        probe.close_round()
    probe.open_round(ROUND)
    closed = probe.close_round()
    assert (closed.num_messages, closed.score_s, closed.num_bytes) == (0, 0.0, 0)
