"""defense/levels/__init__.py: every level by its name, with its parameters, and what all levels have in common."""

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defense.config import (
    ClientLevelConfig,
    DefenseConfig,
    LevelName,
    LiveLevelConfig,
    ShadowLevelConfig,
    SpectrumLevelConfig,
    StepLevelConfig,
    ZenoLevelConfig,
)
from defense.evidence import Agreement, ClientEvidence, Evidence, Rise, Spectrum, Unasked, Validated
from defense.levels import READS, Level, is_banned, make_level, single_level, sources_of, wants_shadow

NAMES = get_args(LevelName)


def saw(num_flagged: int = 0, probability: float = 0.0, client_id: str = "a", threshold: float = 0.8) -> Evidence:
    return Evidence(
        client_id=client_id, num_samples=48, num_flagged=num_flagged, last_probability=probability, threshold=threshold
    )


def only_level(config: DefenseConfig) -> Level:
    return single_level(config.level, config)


def first_weight(config: DefenseConfig, evidence: Evidence) -> float:
    return only_level(config)({}, [evidence])[0]["a"]


def test_every_level_says_what_it_reads():
    probed = {"step": "real", "client": "real", "shadow": "shadow", "evidence": "shadow", "live": "update"}
    validated = {"fltrust": "validation", "zeno": "validation"}
    assert {"none": None, **probed, "canary": "canary", "spectrum": "spectrum", "consensus": None, **validated} == READS
    assert set(READS) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", 1.0),
        ("step", 36.95 / 49.9),  # (0.95 + 36) / (0.95 + 36 + 0.95 + 12)
        ("client", 0.25),  # s = 0.9: 1 - 0.75
        ("shadow", 2187 / 16384),  # r = 12/48: 0.75^7
        ("live", 0.0),  # s = 0.9 is at or above 0.8
    ],
)
def test_each_name_gives_its_level_with_the_papers_defaults(name, expected):
    assert first_weight(DefenseConfig(level=name), saw(12, 0.9)) == pytest.approx(expected)


def test_the_default_level_is_shadow():
    # r = 24/48: 1 / 2^7.
    assert first_weight(DefenseConfig(), saw(24)) == 1 / 128


def test_step_parameters_reach_the_level():
    # Decay 0.5: 0.5 / (0.5 + 0.5 + 48).
    level = only_level(DefenseConfig(level="step", step=StepLevelConfig(decay=0.5, adapt_rounds=1)))
    weights, state = level({}, [saw(48)])
    assert weights["a"] == pytest.approx(0.5 / 49)
    assert level(state, [saw(0)])[0] == weights  # frozen after one round


def test_client_parameters_and_the_probes_threshold_reach_the_level():
    # Threshold 0.5: s = 0.75 lies in the middle above, factor 1 - 0.75.
    level = only_level(DefenseConfig(level="client", client=ClientLevelConfig(adapt_rounds=1)))
    weights, state = level({}, [saw(probability=0.75, threshold=0.5)])
    assert weights["a"] == pytest.approx(0.25)
    assert level(state, [saw(probability=0.0)])[0] == weights  # frozen after one round
    # Steepness 2 at s = 0: logistic(-1) = 0.2689414213699951, factor 1 - half of it.
    soft = DefenseConfig(level="client", client=ClientLevelConfig(steepness=2))
    assert first_weight(soft, saw(probability=0.0)) == pytest.approx(1 - 0.13447071068499755)


def test_shadow_strength_reaches_the_level():
    # r = 1/4: 0.75^2.
    assert first_weight(DefenseConfig(level="shadow", shadow=ShadowLevelConfig(strength=2)), saw(12)) == pytest.approx(0.5625)


def test_live_parameters_reach_the_level():
    # The client level's curve at s = 0.4, half way to the threshold: factor 1 - 0.25.
    assert first_weight(DefenseConfig(level="live", live=LiveLevelConfig(soft=True)), saw(probability=0.4)) == 0.75
    # Steepness 2 at s = 0, as above.
    soft = DefenseConfig(level="live", live=LiveLevelConfig(soft=True, steepness=2))
    assert first_weight(soft, saw(probability=0.0)) == pytest.approx(1 - 0.13447071068499755)


def test_zeno_parameters_reach_the_level():
    seen = Validated(client_id="a", cosine=0.0, fall=0.1, norm=10.0)
    for price, weight in ((0.0005, 1.0), (0.002, 0.0)):
        level = only_level(DefenseConfig(level="zeno", zeno=ZenoLevelConfig(price=price)))
        assert level({}, [seen])[0] == {"a": weight}


def test_spectrum_parameters_reach_the_level():
    for most, weight in ((0.6, 0.0), (0.8, 1.0)):
        level = only_level(DefenseConfig(level="spectrum", spectrum=SpectrumLevelConfig(max_flatness=most)))
        assert level({}, [Spectrum(client_id="a", flatness=0.7)])[0] == {"a": weight}


def test_levels_leave_the_lower_bound_on_weights_to_the_gate():
    assert first_weight(DefenseConfig(level="shadow", min_weight=0.5), saw(48)) == 0.0


def as_read(name: LevelName, seen: Evidence, state: dict) -> Evidence | Rise | Validated | Spectrum | Agreement | Unasked:
    """What the level is given where a probe would say `seen`."""
    if name == "canary":
        return Rise(client_id=seen.client_id, rise=seen.last_probability)
    if name == "spectrum":
        return Spectrum(client_id=seen.client_id, flatness=seen.last_probability)
    if name == "consensus":
        return Agreement(client_id=seen.client_id, cosine=1 - 2 * seen.last_probability)
    if name in ("fltrust", "zeno"):
        fall = 0.5 - seen.last_probability
        return Validated(client_id=seen.client_id, cosine=2 * fall, fall=fall, norm=1.0)
    if name == "evidence" and not wants_shadow(DefenseConfig(level=name), {name: state}, seen.client_id):
        return Unasked(client_id=seen.client_id)
    return seen


def everything(client_id: str, *, step: float = 0.0, update: float = 0.0, rise: float = 0.0) -> ClientEvidence:
    by_source = {source: saw(probability=step, client_id=client_id) for source in ("real", "shadow")}
    by_source |= {"update": saw(probability=update, client_id=client_id), "canary": Rise(client_id=client_id, rise=rise)}
    return ClientEvidence(client_id=client_id, by_source=by_source)


def test_a_client_weighs_the_least_of_what_its_levels_say_and_each_keeps_its_own_state():
    level = make_level(DefenseConfig(level=["live", "canary", "step"]))
    seen = [everything("a"), everything("b", update=0.9), everything("c", rise=0.6)]
    weights, state = level({}, seen)
    trusted = (0.95 + 48) / (0.95 + 48 + 0.95)
    assert weights == pytest.approx({"a": trusted, "b": 0.0, "c": 0.0})
    assert set(state["step"]) == {"a", "b", "c"}
    assert level(state, seen)[1]["step"]["a"]["rounds"] == 2


def test_levels_compose_in_yaml_and_on_the_command_line():
    assert DefenseConfig(level=["live", "canary"]) == DefenseConfig(level="live+canary")
    assert DefenseConfig(level="live+canary").levels == ("live", "canary")
    assert sources_of(DefenseConfig(level="live+canary")) == {"update", "canary"}
    assert sources_of(DefenseConfig(level="none")) == frozenset()


@pytest.mark.parametrize("level", ["live+lives", "live+live", "none+canary", "", []])
def test_levels_that_do_not_compose_are_refused_by_name(level):
    with pytest.raises(ValueError, match=r"is no level; there are none, step|name each level once, and `none` alone"):
        DefenseConfig(level=level)


def test_a_frozen_client_is_asked_for_no_shadow_but_level_shadow_always_asks():
    frozen = {"evidence": {"a": {"status": "malicious", "verdicts": [True] * 3, "weights": [0.0] * 3, "rounds": 0}}}
    assert not wants_shadow(DefenseConfig(level="evidence"), frozen, "a")
    assert wants_shadow(DefenseConfig(level="evidence"), frozen, "b")
    assert wants_shadow(DefenseConfig(level="shadow"), frozen, "a")
    assert not wants_shadow(DefenseConfig(level="live"), {}, "a")
    assert is_banned(frozen, "a")
    assert not is_banned(frozen, "b")


rounds = st.lists(
    st.lists(
        st.builds(
            saw, num_flagged=st.integers(0, 48), probability=st.floats(0, 1), client_id=st.sampled_from(["a", "b", "c", "d"])
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda evidence: evidence.client_id,
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(history=rounds)
def test_every_level_keeps_the_common_rules(name, history):
    level, state = only_level(DefenseConfig(level=name)), {}
    for round_seen in history:
        evidence = [as_read(name, item, state) for item in round_seen]
        before = json.dumps(state)
        weights, new = level(state, evidence)
        assert json.dumps(state) == before  # the state given is not changed
        assert set(weights) == {item.client_id for item in evidence}
        assert all(0 <= weight <= 1 for weight in weights.values())
        # One by one, or after a round trip through JSON, the same comes out.
        one_by_one, singly = json.loads(before), {}
        for item in evidence:
            given_weight, one_by_one = level(one_by_one, [item])
            singly |= given_weight
        assert (singly, one_by_one) == (weights, new)
        state = new


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_worse_evidence_never_weighs_more(name):
    level = only_level(DefenseConfig(level=name))
    ladder = [level({}, [as_read(name, saw(48 * i // 10, i / 10), {})])[0]["a"] for i in range(11)]
    assert ladder == sorted(ladder, reverse=True)
    assert ladder[0] > 0.9
    assert ladder[-1] < 0.05


def test_shadow_and_evidence_do_not_compose():
    with pytest.raises(ValueError, match=r"level=shadow\+canary\+evidence: evidence is shadow with fewer of them"):
        DefenseConfig(level="shadow+canary+evidence")
