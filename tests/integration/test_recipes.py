"""Honest clients that do not train alike, in a whole run: each trains as its recipe says, and the defense judges what comes."""

import pyarrow.parquet as pq

RECIPES = "clients.recipes=[{steps: 2}, {optimizer: sgd, learning_rate_factor: 3}, {refusals: 0.5}]"


def test_honest_clients_train_by_their_recipes_and_attackers_as_asked(run_small):
    result = run_small("defense.level=canary", "rounds=1", "training.steps=8", "training.batch_size=16", RECIPES)
    truth = {row["client_id"]: row["malicious"] for row in pq.read_table(result.path / "ground_truth.parquet").to_pylist()}
    rows = {row["client_id"]: row for row in result.rounds.to_pylist()}
    honest = [rows[client_id] for client_id in sorted(rows) if not truth[client_id]]
    assert [row["num_samples"] for row in honest] == [32, 128, 128]
    assert {row["num_samples"] for client_id, row in rows.items() if truth[client_id]} == {128}
    assert {row["admitted"] for row in rows.values()} == {True}
    assert honest[1]["update_norm"] < 0.5 * honest[2]["update_norm"]  # sgd, against AdamW
    assert [row["weight"] for row in honest] == [1.0] * 3
