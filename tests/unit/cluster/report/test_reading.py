"""What a run directory says is read as it is, also of a run that goes on."""

import pytest

from cluster.errors import ConfigError
from cluster.report.reading import find_runs, read_run
from tests.unit.cluster.report.run_directories import OWN, four_clients, write_run


def test_a_simulated_run_knows_its_attackers_and_puts_them_last(tmp_path):
    run = read_run(write_run(tmp_path / "mine", four_clients(), attackers=["client-0"]))
    assert run.attackers == {"client-0"}
    assert run.client_ids == ["client-1", "client-2", "client-3", "client-0"]
    assert run.rounds_done == 3
    assert run.rounds[1]["bounds"] == {"live": 0.9}


def test_nobody_knows_who_attacks_among_real_participants(tmp_path):
    run = read_run(write_run(tmp_path / "mine", four_clients(), overrides=OWN, attackers=[]))
    assert run.attackers is None


def test_of_a_round_that_was_run_again_the_last_line_counts_and_half_a_line_is_left_out(tmp_path):
    path = write_run(tmp_path / "mine", four_clients(1))
    with (path / "events.jsonl").open("a") as log:
        log.write('{"event": "round", "round": 0, "bounds": {"live": 0.7}}\n{"event": "rou')
    assert read_run(path).rounds[0]["bounds"] == {"live": 0.7}


def test_a_run_that_goes_on_has_no_summary(tmp_path):
    assert read_run(write_run(tmp_path / "mine", four_clients(), summary=False)).summary is None


def test_a_directory_of_runs_stands_for_all_of_them(tmp_path):
    runs = [write_run(tmp_path / name, four_clients()) for name in ("a", "b")]
    (tmp_path / "failed").mkdir()
    assert find_runs([tmp_path]) == runs
    assert find_runs(runs[:1]) == runs[:1]


def test_what_holds_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}/nowhere holds no run"):
        find_runs([tmp_path / "nowhere"])
    path = write_run(tmp_path / "new", four_clients())
    (path / "rounds.parquet").unlink()
    with pytest.raises(ConfigError, match="no committed round yet"):
        read_run(path)
    (path / "rounds.parquet").write_bytes(b"PAR1 of no kind")
    with pytest.raises(ConfigError, match=f"{path} cannot be read"):
        read_run(path)
