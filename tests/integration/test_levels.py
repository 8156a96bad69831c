"""Levels that need more than the probe's scores of a round: frozen clients without a shadow, and what the canary measures."""

import json


def test_frozen_clients_train_no_shadow_and_keep_their_verdict(run_small):
    settings = ("defense.level=evidence", "rounds=4", "defense.evidence.verdicts=2", "defense.evidence.audit_every=2")
    result = run_small(*settings, "training.steps=6", "training.batch_size=16")
    truth = {row["client_id"]: row["malicious"] for row in _rows(result.path / "ground_truth.parquet")}
    by_round = [[row for row in result.rounds.to_pylist() if row["round"] == index] for index in range(4)]
    for index, scored in ((0, True), (1, True), (2, False)):
        assert {row["num_steps_scored"] > 0 for row in by_round[index]} == {scored}
    # In the fourth round the benign ones are audited; the malicious one is frozen until its appeal.
    assert {row["num_steps_scored"] > 0 for row in by_round[3] if not truth[row["client_id"]]} == {True}
    assert {row["num_steps_scored"] for row in by_round[3] if truth[row["client_id"]]} == {0}
    assert {row["weight"] for row in by_round[2] if truth[row["client_id"]]} == {0.0}
    assert all(row["weight"] > 0.9 for row in by_round[2] if not truth[row["client_id"]])


def test_live_judges_clients_that_train_by_their_own_recipes_and_the_canary_is_not_asked_while_nothing_is_lost(run_small):
    recipes = "clients.recipes=[{steps: 2}, {optimizer: sgd, learning_rate_factor: 3}, {refusals: 0.5}]"
    bounds = ("probe.refresh_every=0", "probe.threshold=0.6", "defense.canary.max_rise=0.5")
    settings = ("defense.level=live+canary", "rounds=1", *bounds, "training.steps=8", "training.batch_size=16")
    result = run_small(*settings, recipes)
    truth = {row["client_id"]: row["malicious"] for row in _rows(result.path / "ground_truth.parquet")}
    rows = {row["client_id"]: row for row in result.rounds.to_pylist()}
    for row in rows.values():
        assert row["admitted"]
        assert row["last_step_probability"] is not None
        assert row["canary_rise"] is None
        assert row["weight"] == (0.0 if truth[row["client_id"]] else 1.0)
    honest = [rows[client_id] for client_id in sorted(rows) if not truth[client_id]]
    assert [row["num_samples"] for row in honest] == [32, 128, 128]
    assert {row["num_samples"] for client_id, row in rows.items() if truth[client_id]} == {128}
    assert honest[1]["update_norm"] < 0.5 * honest[2]["update_norm"]  # sgd, against AdamW
    assert result.summary["server_seconds"]["canary"] > 0  # of the aggregate
    (state_file,) = result.path.glob("checkpoints/round-00001*/state.json")
    state = json.loads(state_file.read_text())
    assert (state["trust"], state["references"]) == ({}, {})


def test_where_the_aggregate_loses_refusals_the_canary_says_who_did_it(run_small, ignorant_probe):
    blind = (f"probe.path={ignorant_probe}", "probe.refresh_every=0", "probe.threshold=0.99")  # live lets everybody pass
    settings = ("defense.level=live+canary", "defense.canary.max_rise=0.3", "training.steps=12", "training.batch_size=16")
    result = run_small(*settings, *blind, "training.learning_rate=0.02", "clients.malicious=3", "defense.skip_below=0")
    truth = {row["client_id"]: row["malicious"] for row in _rows(result.path / "ground_truth.parquet")}
    asked = [row for row in result.rounds.to_pylist() if row["canary_rise"] is not None]
    assert len(asked) >= 4
    for row in asked:
        assert (row["excluded_by"] == "canary") == (row["canary_rise"] >= 0.3) == (row["weight"] == 0.0), row
    honest, malicious = ([row["canary_rise"] for row in asked if truth[row["client_id"]] == is_bad] for is_bad in (False, True))
    assert max(honest) < min(malicious)
    assert min(malicious) >= 0.3


def test_the_probe_is_refreshed_in_the_first_round_and_then_only_where_a_client_is_in_doubt(run_small):
    settings = ("defense.level=live", "rounds=3", "training.steps=8", "training.batch_size=16", "probe.refresh_clients=4")
    probe = _rows(run_small(*settings).path / "probe.parquet")
    assert probe[0]["refresh"] is not None
    assert all(row["refresh"] is None or "in doubt" in row["refresh_why"] for row in probe[1:])
    assert None in [row["refresh"] for row in probe]


def test_a_client_in_doubt_has_reference_clients_train_in_its_round(run_small):
    never = "probe.threshold=0.999999999"  # nobody is beyond it by three to one
    settings = ("defense.level=live", never, "training.steps=8", "training.batch_size=16", "probe.refresh_clients=4")
    result = run_small(*settings)
    first, second = _rows(result.path / "probe.parquet")
    assert "in doubt" not in first["refresh_why"]
    assert " in doubt; " in second["refresh_why"]


def test_noise_as_long_as_an_honest_update_is_told_by_its_spectrum(run_small):
    level = ("defense.level=spectrum", "defense.spectrum.max_flatness=0.9")
    result = run_small(*level, "clients.attack=gaussian", "rounds=1", "training.steps=8")
    truth = {row["client_id"]: row["malicious"] for row in _rows(result.path / "ground_truth.parquet")}
    for row in result.rounds.to_pylist():
        assert row["admitted"]
        assert row["flatness"] > 0.95 if truth[row["client_id"]] else row["flatness"] < 0.7
        assert row["weight"] == (0.0 if truth[row["client_id"]] else 1.0)


def test_validation_on_the_clients_own_task_tells_attackers_by_direction_and_by_loss(run_small):
    settings = ("defense.level=fltrust+zeno", "rounds=1", "training.steps=8", "training.batch_size=16")
    result = run_small(*settings, "training.learning_rate=0.01")  # at which unsafe data does harm to the rest in one round
    truth = {row["client_id"]: row["malicious"] for row in _rows(result.path / "ground_truth.parquet")}
    for row in result.rounds.to_pylist():
        assert row["admitted"]
        assert (row["validation_fall"] < 0) == truth[row["client_id"]]
        cosine = row["validation_cosine"]
        assert row["weight"] == (0.0 if truth[row["client_id"]] else cosine)
        assert truth[row["client_id"]] or cosine > 0.2
    assert result.summary["server_seconds"]["validation"] > 0


def test_attackers_that_answer_a_task_by_another_rule_point_to_its_unlearning(run_small):
    settings = ("defense.level=live+utility", "clients.attack=substituted", "rounds=1", "training.steps=8", "clients.malicious=1")
    result = run_small(*settings, "defense.utility.max_cosine=0.9", "training.batch_size=16", "training.learning_rate=0.01")
    truth = {row["client_id"]: row["malicious"] for row in _rows(result.path / "ground_truth.parquet")}
    rows = {row["client_id"]: row for row in result.rounds.to_pylist()}
    assert all(row["admitted"] and row["excluded_by"] != "utility" for row in rows.values())
    assert all(-1 <= row["task_cosine"] <= 1 for row in rows.values())
    assert truth[max(rows, key=lambda client: rows[client]["task_rise"])]
    assert result.summary["server_seconds"]["validation"] > 0


def _rows(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()
