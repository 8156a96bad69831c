"""Orders through the real control actor: whatever an order is, it is carried out or refused, and the run goes on."""

import json
import logging
from dataclasses import replace

import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.messages import AggregatorState
from cluster.config.loading import flat_values, load_config
from cluster.errors import ClusterError, ConfigError, LostError
from cluster.live.control import MOST_ORDERS, LiveRun
from cluster.live.orders import Orders, shown
from cluster.reporting.callback import Callbacks, RunCallback
from cluster.reporting.event_log import EventLog
from cluster.reporting.progress import ProgressLines
from cluster.state.membership import Membership
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import RunState
from defense.config import DefenseConfig
from tests.unit.cluster.builders import back_from_disk
from tests.unit.cluster.data.builders import tokens_in

TINY = ["clients.count=2", "clients.malicious=0", "data.samples_per_client=1"]
KEYS = list(flat_values(DefenseConfig(), "defense."))


class Workers:
    """Takes a state as the worker group does, unless it was told how to fail."""

    aggregator = probe = None

    def __init__(self) -> None:
        self.state, self.is_restored, self.error = None, True, None

    def restore(self, state) -> None:
        self.is_restored = False
        if self.error is not None:
            raise self.error
        self.state, self.is_restored = state, True

    def resize(self, num_clients) -> None:
        assert num_clients >= 1


class Log(RunCallback):
    def __init__(self) -> None:
        self.refused, self.carried_out = [], []

    def order_refused(self, why):
        self.refused.append(why)

    def order_carried_out(self, round_index, order):
        self.carried_out.append(order)


class Run:
    """A run that only stands between two rounds."""

    def __init__(self, path, *overrides: str) -> None:
        config = load_config(None, [*TINY, *overrides])
        directory = RunDirectory.create(path / "run", config)
        known = {"client-000": ("a",), "client-001": ("b",)}
        directory.write_ground_truth(known, [])
        tokens = tokens_in(directory.path / "tokens")
        self.orders, self.workers, self.log = Orders("orders", config, directory, tokens), Workers(), Log()
        self.live = LiveRun("orders")
        lines = ProgressLines(lambda line: line.encode())  # as a terminal: what is no text raises
        self.events = directory.path / "events.jsonl"
        self.orders.callback = Callbacks(self.log, lines, EventLog(self.events, "orders"))
        aggregator = AggregatorState(adapter=b"weights", version=0, trust={}, defense=config.defense)
        self.state = RunState(config=config, aggregator=aggregator, membership=Membership(known=known, active=tuple(known)))

    def order(self, verb, value=None) -> None:
        """Give an order as any session can that holds the actor."""
        ray.get(self.live._control.order.remote(verb, value))

    def carry_out(self) -> list[str]:
        """Stand between two rounds once; why orders were refused there."""
        self.log.refused.clear()
        self.log.carried_out.clear()
        self.state, stop = self.orders.carry_out(self.state, self.workers)
        assert not stop
        return list(self.log.refused)


@pytest.fixture
def run(local_ray, tmp_path):
    made = []

    def run(*overrides: str) -> Run:
        made.append(Run(tmp_path, *overrides))
        return made[-1]

    yield run
    for each in made:
        each.orders.close()


@pytest.mark.parametrize(
    ("verb", "value", "why"),
    [
        ("set", "defense.skip_below=2020-13-45", "should be a valid number"),
        ("set", "defense.skip_below=.nan", "finite number"),
        ("set", "defense.skip_below=" + "[" * 900, ""),
        ("set", "defense.skip_below=" + "9" * 900, "a valid number"),
        ("set", "defense.skip_below=0.3" + " " * 5_000, "only defense.KEY=VALUE"),
        ("set", "defense.step=[&a [1,1,1,1], &b [*a,*a,*a,*a], &c [*b,*b,*b,*b]]", "YAML aliases"),
        ("set", "defense=1", "only defense.KEY=VALUE"),
        ("set", "seed=1", "only defense.KEY=VALUE"),
        ("set", 7, "only defense.KEY=VALUE"),
        ("set", None, "only defense.KEY=VALUE"),
        ("set", "defense.level=none", "fixed while a run is live"),
        ("set", "defense." + "a." * 400 + "b=1", "unknown key"),
        ("scale", 1_000_000_000, "at most 1000 clients"),
        ("scale", 10**5_000, "whole number"),
        ("scale", True, "whole number"),
        ("scale", 2.5, "whole number"),
        ("scale", float("inf"), "whole number"),
        ("scale", "5", "whole number"),
        ("scale", 0, "whole number"),
        ("scale", [[[[5]]]], "whole number"),
        ("scale", b"\xff\x00", "whole number"),
        ("[/x]", "[bold]\x1b[2J\ud800\n", "scale, pause, resume, set and stop"),
        (7, {"a": 1}, "scale, pause, resume, set and stop"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_order_that_cannot_be_carried_out_is_refused_and_changes_nothing(run, verb, value, why):
    standing = run()
    before = standing.state
    standing.order(verb, value)
    (refused,) = standing.carry_out()
    assert why in refused
    assert len(refused) < 1_100
    assert refused.isprintable()
    assert (standing.state, standing.workers.state, standing.workers.is_restored) == (before, None, True)
    assert [json.loads(line)["event"] for line in standing.events.read_text().splitlines()].count("order_refused") == 1


def test_scale_of_ones_own_data_is_refused_before_any_name_is_made(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "hello", "response": "world"}\n')
    standing = run("model.path=my", f"data.path={tmp_path}")
    standing.order("scale", 10**15)
    assert "holds data for" in standing.carry_out()[0]


def test_orders_that_can_be_are_carried_out_in_order(run):
    standing = run()
    for verb, value in [("pause", None), ("set", "defense.skip_below=0.3"), ("scale", 3), ("scale", 1), ("resume", None)]:
        standing.order(verb, value)
    assert standing.carry_out() == []
    assert standing.log.carried_out == ["set defense.skip_below=0.3", "scale 3", "scale 1"]
    assert (len(standing.state.membership.known), standing.state.membership.active) == (3, ("client-000",))
    assert standing.workers.state.aggregator.defense.skip_below == 0.3


@pytest.mark.parametrize("error", [LostError("the aggregator is gone"), MemoryError("all of it"), KeyError("odd")])
def test_an_order_that_fails_half_way_leaves_the_old_state_and_says_that_workers_are_to_be_restored(run, error, caplog):
    standing = run()
    before, standing.workers.error = standing.state, error
    standing.order("set", "defense.skip_below=0.3")
    with caplog.at_level(logging.WARNING):
        (refused,) = standing.carry_out()
    assert refused.startswith("set defense.skip_below=0.3: ")
    assert (standing.state, standing.workers.is_restored) == (before, False)
    assert ("Traceback" in caplog.text) == (not isinstance(error, LostError))


def test_a_flood_of_orders_is_bounded_and_the_one_who_gives_too_many_is_told(run):
    standing = run()
    for _ in range(MOST_ORDERS):
        standing.order("scale", 2)
    with pytest.raises(ClusterError, match=f"run orders: {MOST_ORDERS} orders wait"):
        standing.live.scale(2)
    standing.carry_out()
    assert len(standing.log.carried_out) == MOST_ORDERS
    standing.live.scale(1)
    assert standing.carry_out() == []


def test_a_session_hears_at_once_what_can_never_be_an_order(run):
    live = run().live
    with pytest.raises(ConfigError, match="only defense"):
        live.set("seed=1")
    with pytest.raises(ConfigError, match="at least one client"):
        live.scale(0)


def test_what_is_shown_of_an_order_steers_no_terminal():
    assert shown("a\x1b[2Jb\n\ud800ü") == "a\\x1b[2Jb\\n\\ud800ü"
    assert len(shown("x" * 10_000)) < 600


words = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**30), max_value=0),
    st.integers(min_value=1, max_value=4),
    st.integers(min_value=1_001),
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=10),
    st.lists(st.integers(), max_size=3),
)
values = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=20),
    st.text(alphabet="[]{}&*!|>-:,.0123456789 \n'\"%@`#~", max_size=20),
    st.sampled_from(
        ["2020-13-45", "12:99:99", "!!binary x", "!!timestamp x", "0x", "0o9", "1e999", "~", "<<: 1", "? 1", "[[", "---"]
    ),
)
changes = st.builds(lambda key, value: f"{key}={value}", st.sampled_from([*KEYS, "defense.x", "defense..", "defense."]), values)
orders = st.tuples(st.sampled_from(["scale", "set", "resume", "join", ""]) | st.text(max_size=5), words | changes)


def test_whatever_the_orders_are_each_is_carried_out_or_refused_and_the_state_can_be_saved(run, tmp_path):
    standing = run()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(orders, min_size=5, max_size=15))
    def judge(batch):
        batch = [(verb, value) for verb, value in batch if verb not in ("pause", "stop")]
        for verb, value in batch:
            standing.live._control.order.remote(verb, value)
        refused = standing.carry_out()
        assert len(refused) + len(standing.log.carried_out) == sum(verb != "resume" for verb, _ in batch)
        assert back_from_disk(standing.state, tmp_path) == replace(standing.state, config=standing.state.config_in_force)
        assert standing.workers.is_restored

    judge()
