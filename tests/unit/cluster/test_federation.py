"""What a run refuses before it starts, and what it leaves alone until it has; no Ray."""

import pytest

from actors.messages import AggregatorState
from cluster.config.loading import load_config
from cluster.errors import ConfigError
from cluster.federation import Federation
from cluster.state.checkpoints import Checkpoints
from cluster.state.membership import Membership
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import RunState, encode_state
from defense.config import DefenseConfig

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


def test_going_back_removes_nothing_before_the_run_has_started(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", load_config(None, TINY))
    directory.write_summary({"rounds_done": 2})
    checkpoints = Checkpoints(str(tmp_path / "run" / "checkpoints"), keep=2, run=directory.run_id)
    start = AggregatorState(adapter=b"weights", version=0, trust={}, defense=DefenseConfig())
    for rounds_done in (1, 2):
        state = RunState(rounds_done=rounds_done, aggregator=start, membership=Membership(known={}, active=()))
        checkpoints.save(rounds_done, encode_state(state))
    Federation.resume(tmp_path / "run", from_round=1)
    assert checkpoints.complete() == [1, 2]
    assert (tmp_path / "run" / "summary.json").exists()
