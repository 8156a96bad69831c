"""What a run refuses before it starts, and what it leaves alone until it has; no Ray."""

import shutil

import pytest
import yaml

from actors.messages import AggregatorState
from cluster.config.loading import load_config, read_mapping, with_overrides
from cluster.errors import CheckpointError, ConfigError
from cluster.federation import Federation
from cluster.state.checkpoints import Checkpoints
from cluster.state.membership import Membership
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import RunState, encode_state
from tests.unit.cluster.builders import round_report

TINY = ["clients.count=2", "clients.malicious=0", "defense.level=none", "data.samples_per_client=1"]


def test_a_new_run_leaves_the_checkpoints_of_another_alone(tmp_path):
    config = load_config(None, [*TINY, f"checkpoint.path={tmp_path / 'kept'}"])
    others = Checkpoints(str(tmp_path / "kept" / "mine"), keep=2, run="other")
    others.save(3, {"a": b"1"})
    with pytest.raises(
        ConfigError, match=r"checkpoint.path: .*/kept/mine holds checkpoints of another run \(after rounds \[3\]\)"
    ):
        Federation(config, tmp_path / "runs" / "mine")
    assert others.load() == (3, {"a": b"1"})
    assert not (tmp_path / "runs" / "mine").exists()


def test_a_bound_on_safety_without_prompts_is_refused_and_leaves_no_directory(tmp_path):
    own = ["model.path=my", "data.path=mine", "evaluation.stop_below=0.9"]
    with pytest.raises(ConfigError, match="needs restricted prompts"):
        Federation(load_config(None, [*TINY, *own]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def begun(tmp_path, *overrides: str, rounds=(1, 2)) -> tuple[RunDirectory, Checkpoints]:
    """A run with these committed rounds, whose driver has ended."""
    config = load_config(None, [*TINY, *overrides])
    federation = Federation(config, tmp_path / "run")
    federation.close()
    directory = RunDirectory.reopen(tmp_path / "run")
    checkpoints = Checkpoints(str(tmp_path / "run" / "checkpoints"), keep=2, run=directory.run_id)
    start = AggregatorState(adapter=b"weights", version=0, trust={}, defense=config.defense)
    for number in rounds:
        members = Membership(known={}, active=())
        checkpoints.save(
            number, encode_state(RunState(config=federation.config, rounds_done=number, aggregator=start, membership=members), "")
        )
    return directory, checkpoints


def edit(tmp_path, key: str, value: object) -> None:
    path = tmp_path / "run" / "config.yaml"
    path.write_text(yaml.safe_dump(with_overrides(read_mapping(path), [f"{key}={value}"])))


def test_going_back_removes_nothing_before_the_run_has_started(tmp_path):
    directory, checkpoints = begun(tmp_path)
    directory.write_summary({"rounds_done": 2})
    Federation.resume(tmp_path / "run", from_round=1).close()
    assert checkpoints.complete() == [1, 2]
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "old"), [("defense.level", "canary", "none"), ("lora.r", 4, 8), ("rounds", 9, 10), ("seed", 1, 0)]
)
def test_a_run_does_not_go_on_under_another_configuration(tmp_path, key, value, old):
    begun(tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(ConfigError, match=f"^{key}: config.yaml has {value}, the committed rounds ran with {old}; put it back"):
        Federation.resume(tmp_path / "run")
    edit(tmp_path, key, old)
    Federation.resume(tmp_path / "run").close()


def test_a_run_is_resumed_by_one_driver_at_a_time_which_a_second_does_not_disturb(tmp_path):
    begun(tmp_path)
    owner = Federation.resume(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(CheckpointError, match=r"run belongs to another driver, process \d+ on .* since .*; wait until it ends"):
        Federation.resume(tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    owner.close()
    Federation.resume(tmp_path / "run").close()


def test_two_runs_do_not_share_a_place_for_checkpoints(tmp_path):
    kept = f"checkpoint.path={tmp_path / 'kept'}"
    owner = Federation(load_config(None, [*TINY, kept]), tmp_path / "a" / "mine")
    with pytest.raises(CheckpointError, match=r"kept/mine belongs to another driver"):
        Federation(load_config(None, [*TINY, kept]), tmp_path / "b" / "mine")
    assert not (tmp_path / "b" / "mine").exists()
    owner.close()


@pytest.mark.parametrize("damage", ["removed", "cut", "elsewhere"])
def test_committed_rounds_without_a_checkpoint_never_begin_again(tmp_path, damage):
    directory, _ = begun(tmp_path)
    directory.write_rounds([round_report(0, {"a": 1.0})])
    if damage == "removed":
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    elif damage == "cut":
        for path in (tmp_path / "run" / "checkpoints").glob("round-*/manifest.json"):
            path.write_bytes(path.read_bytes()[:-1])
    else:
        edit(tmp_path, "checkpoint.path", str(tmp_path / "elsewhere"))
    why = "is damaged" if damage == "cut" else "has committed rounds .*but there is no checkpoint"
    with pytest.raises(CheckpointError, match=why):
        Federation.resume(tmp_path / "run")


def test_a_relative_place_for_checkpoints_is_that_of_the_directory_where_the_run_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    federation = Federation(load_config(None, [*TINY, "checkpoint.path=kept"]), tmp_path / "run")
    federation.close()
    assert load_config(tmp_path / "run" / "config.yaml").checkpoint.path == str(tmp_path / "kept")


def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path):
    begun(tmp_path)
    (tmp_path / "run" / "checkpoints" / "round-00002.0.0" / "state.json").write_bytes(b"{}")
    federation = Federation.resume(tmp_path / "run")
    assert federation._resumed.state.rounds_done == 1
    (why,) = federation._resumed.warnings
    assert "round-00002.0.0/state.json is not the file" in why
    federation.close()
