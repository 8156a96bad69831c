"""The guard on the aggregate in real runs: rolled back under attack, the same to the bit after a resume, and silent otherwise."""

import hashlib

from cluster import Federation
from cluster.reporting.callback import RunCallback
from tests.chaos import Killer
from tests.integration.conftest import MEASURED
from tests.unit.cluster.builders import state_in

GUARDED = (
    *MEASURED,
    "defense.guard.enabled=true",
    "defense.level=none",
    "clients.malicious=3",
    "clients.attack=sleeper",
    "attack.sleeper.from_round=1",  # the first round is honest
    "rounds=3",
    "training.steps=8",
    "training.batch_size=16",
    "training.learning_rate=0.01",
    "training.min_learning_rate=0.01",  # that of the first round, so that every attack does harm
    "evaluation.every=3",
    "checkpoint.keep=3",
)


class Saboteur(RunCallback):
    """Kills the canary once, before it is asked about the aggregate of the second round."""

    def __init__(self) -> None:
        self.begun_again: list[tuple[int, str]] = []

    def client_done(self, client_id, why=None):
        if not self.begun_again:
            Killer("canary", 0.0).run()

    def round_lost(self, round_index, why):
        self.begun_again.append((round_index, why))


def state_after(run, rounds_done: int):
    return state_in(run.path / "checkpoints", rounds_done)


def test_an_attacked_run_keeps_its_last_certified_adapter_to_the_bit_also_when_resumed_and_disturbed(run_small):
    run = run_small(*GUARDED)
    rows = run.rounds.to_pylist()
    assert [rows[4 * index]["round_outcome"] for index in range(3)] == ["aggregated", "rolled_back", "rolled_back"]
    for row in rows:
        assert (row["refusal_rise"] > 0.2) == (row["round_outcome"] == "rolled_back") == (row["share"] == 0)
        assert (row["weight"], row["canary_rise"]) == (1.0, None)  # no level asked the canary
    assert (run.summary["rounds_aggregated"], run.summary["rounds_rolled_back"]) == (1, 2)
    assert run.summary["rule_score"] >= 0.95
    assert run.summary["benign_loss"] < 0.8 * run.summary["base"]["benign_loss"]  # what the first round taught stays

    honest, first, second = (state_after(run, rounds_done) for rounds_done in (1, 2, 3))
    assert {state.aggregator.adapter for state in (first, second)} == {honest.aggregator.adapter}
    assert [state.aggregator.version for state in (honest, first, second)] == [1, 2, 3]
    assert first.guard == second.guard == honest.guard
    assert run.summary["adapter_sha256"] == hashlib.sha256(honest.guard.certified).hexdigest()

    saboteur = Saboteur()
    again = Federation.resume(run.path, saboteur, from_round=1).run()
    assert [round_index for round_index, _ in saboteur.begun_again] == [1]
    assert "measuring the aggregate of round 2" in saboteur.begun_again[0][1]
    assert again.summary["adapter_sha256"] == run.summary["adapter_sha256"]
    assert state_after(again, 3).guard == second.guard
    timeless = ["round", "client_id", "loss", "update_norm", "refusal_rise", "guard_sum", "round_outcome"]
    assert again.rounds.select(timeless).to_pylist() == [{name: row[name] for name in timeless} for row in rows]
