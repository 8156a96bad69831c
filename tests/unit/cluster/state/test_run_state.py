"""A run's state survives its files to the bit; safety that falls ends a run, by evaluations that are due."""

import json
import math
from dataclasses import asdict, replace

import pytest

from actors.messages import AggregatorState
from cluster.config.loading import load_config
from cluster.errors import CheckpointError, ConfigError
from cluster.state.history import History
from cluster.state.membership import Membership
from cluster.state.place import Place
from cluster.state.run_state import Change, PendingEvaluation, Realigned, RunState, decode_state, encode_state, find_fall
from defense.bounds import ReferenceValues
from defense.config import DefenseConfig
from defense.guard import GuardState
from tests.unit.cluster.builders import back_from_disk, evaluation_report, probe_row, round_report

DEFENSE = DefenseConfig(skip_below=0.3)
CONFIG = load_config(None).model_copy(update={"defense": DEFENSE})


def aggregator(trust) -> AggregatorState:
    return AggregatorState(
        adapter=b"weights",
        version=1,
        trust=trust,
        defense=DEFENSE,
        rule_memory=b"remembered",
        optimizer_memory=b"moments",
        control_variates=b"gradients",
        references={"canary_rise": ReferenceValues(benign=(0.1 + 0.2, 0.4), unsafe=(2.0,), origin="round 2")},
    )


def test_a_state_comes_back_as_it_was(tmp_path):
    state = RunState(
        config=CONFIG,
        model_fingerprint="abc",
        lora_fingerprint="def",
        rounds_done=2,
        aggregator=aggregator({"client-000": {"mean": 0.1 + 0.2, "rounds": 2}}),
        membership=Membership(known={"client-000": ("a.parquet",), "client-001": ("b", "c")}, active=("client-000",)),
        guard=GuardState(error=0.1, certified=b"safe weights", certified_version=1, total=0.1 + 0.2),
        changes=(Change(round=1, order="scale 1"),),
        probe={"probe.json": b"{}", "probe.safetensors": b"numbers"},
        rounds=(round_report(0, {"a": 0.1, "b": None}), round_report(1, {"a": 1 / 3, "b": 1.0}, "skipped")),
        probe_rounds=(probe_row(0, refresh="accepted", refresh_auc=0.99), probe_row(1)),
        evaluations=(evaluation_report(0, 0.75),),
        pending={2: PendingEvaluation(adapter_version=1, adapter=b"weights")},
        elapsed_s=1.5,
    )
    assert back_from_disk(state, tmp_path) == state


def test_what_is_not_finite_survives(tmp_path):
    trust = {"a": math.inf}
    rounds = (replace(round_report(0, {}, "rolled_back"), refusal_rise=math.inf, guard_sum=math.inf),)
    state = RunState(config=CONFIG, aggregator=aggregator(trust), membership=Membership(known={}, active=()), rounds=rounds)
    assert back_from_disk(state, tmp_path) == state


def test_a_realigned_adapter_is_the_final_one_and_the_global_one_stays(tmp_path):
    state = RunState(config=CONFIG, aggregator=aggregator({}), membership=Membership(known={}, active=()))
    assert state.final_adapter == b"weights"
    realigned = replace(state, realigned=Realigned(adapter=b"repaired", seconds=0.1 + 0.2))
    assert realigned.final_adapter == b"repaired"
    assert back_from_disk(realigned, tmp_path) == realigned
    assert back_from_disk(realigned, tmp_path).aggregator.adapter == b"weights"


def test_the_file_of_a_state_keeps_its_keys():
    """A release that renames one of them says so."""
    state = RunState(config=CONFIG, aggregator=aggregator({}), membership=Membership(known={"a": ("1",)}, active=("a",)))
    plain = json.loads(encode_state(state, "")["state.json"])
    assert (
        list(plain)
        == (
            "rounds_done adapter_version trust references settled config model_fingerprint lora_fingerprint guard clients active "
            "changes elapsed_s realigned_s pending history"
        ).split()
    )
    assert (plain["clients"], plain["active"], plain["trust"]) == ({"a": ["1"]}, ["a"], {})


def test_a_checkpoint_of_before_which_holds_its_reports_itself_is_read(tmp_path):
    rounds, evaluations = (round_report(0, {"a": 1 / 3}),), (evaluation_report(0, 0.75),)
    state = RunState(
        config=CONFIG,
        aggregator=aggregator({}),
        membership=Membership(known={}, active=()),
        rounds=rounds,
        evaluations=evaluations,
    )
    files = encode_state(state, "")
    plain = json.loads(files["state.json"])
    del plain["history"]
    plain |= {name: [asdict(item) for item in getattr(state, name)] for name in ("rounds", "probe_rounds", "evaluations")}
    files["state.json"] = json.dumps(plain, default=dict).encode()
    history = History(Place(str(tmp_path)))
    assert decode_state(files, history) == state
    assert decode_state(encode_state(state, history.write(state.reports)), History(Place(str(tmp_path)))) == state


@pytest.mark.parametrize(
    ("scores", "fell"),
    [
        ({}, None),
        ({0: 0.5}, 0),
        ({0: 1.0, 2: 0.9}, None),
        ({0: 1.0, 2: 0.89}, 2),
        ({0: 1.0, 6: 0.95, 7: 0.8}, 7),
        ({0: 1.0, 2: 1.0, 3: 0.5}, None),  # not due: somebody stopped the run after three rounds
        ({0: 1.0, 6: 1.0, 7: 1.0, 8: 0.5}, None),  # not due: the realigned adapter
    ],
)
def test_a_run_falls_when_its_newest_due_evaluation_is_under_the_bound(scores, fell):
    """`scores`: rounds done -> safety; `fell`: rounds done at the fall."""
    config = load_config(None, ["rounds=7", "evaluation.every=2", "evaluation.stop_below=0.9"])
    found = find_fall(config, [evaluation_report(*item) for item in scores.items()])
    assert (found and found.rounds_done) == fell


def test_without_a_bound_or_a_prompt_nothing_falls():
    assert find_fall(load_config(None, []), [evaluation_report(0, 0.1)]) is None
    config = load_config(None, ["evaluation.stop_below=0.9"])
    assert find_fall(config, [replace(evaluation_report(0, 0.5), rule_score=None)]) is None


def test_a_bound_on_a_model_of_ones_own_needs_restricted_prompts():
    own = ["model.path=my", "data.path=mine", "clients.malicious=0", "defense.level=none", "evaluation.stop_below=0.9"]
    load_config(None, [*own, "evaluation.restricted_path=prompts.jsonl"])
    with pytest.raises(ConfigError, match=r"evaluation.stop_below=0.9 needs .* model.path=my name .* evaluation.restricted_path"):
        load_config(None, own)


def test_an_order_belongs_to_the_configuration_that_a_checkpoint_holds(tmp_path):
    ordered = DefenseConfig(skip_below=0.5)
    state = RunState(
        config=CONFIG, aggregator=replace(aggregator({}), defense=ordered), membership=Membership(known={}, active=())
    )
    assert state.config_in_force == CONFIG.model_copy(update={"defense": ordered})
    back = back_from_disk(state, tmp_path)
    assert back.config == state.config_in_force
    assert back.aggregator.defense == ordered


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"config": {"seed": -1}}'])
def test_files_that_are_no_state_are_refused(content, tmp_path):
    with pytest.raises(CheckpointError, match="holds no state that this release reads"):
        decode_state({"adapter.safetensors": b"", "state.json": content}, History(Place(str(tmp_path))))
