"""defense/levels/__init__.py: every level by its name, with its settings, and what all levels have in common."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds, reference_values
from defense.levels import LEVELS
from defense.rules.round_updates import RoundUpdates
from defense.signals import ClientSignals, Measured, Unasked
from tests.unit.defense.levels.builders import gathered, saw

ALONE = [name for name, level in LEVELS.items() if level.compare is None]
FROZEN = {"evidence": {"a": {"status": "malicious", "verdicts": [True] * 3, "weights": [0.0] * 3, "rounds": 0}}}


def signals(client_id: str = "a", p: float = 0.0, num_flagged: int = 0, *, threshold: float = 0.8, **changes) -> ClientSignals:
    """Every signal, where all of them find a client as malicious as `p` in [0, 1]; `changes` replace some."""
    probed = saw(num_flagged, p, client_id, threshold=threshold)
    values = {
        "canary": {"canary_rise": p},
        "validation": {
            "validation_cosine": 1 - 2 * p,
            "validation_fall": 0.5 - p,
            "validation_norm": 1.0,
            "task_rise": 2.0,
            "task_cosine": p,
        },
        "spectrum": {"flatness": p},
    }
    measured = {signal: Measured(client_id=client_id, values=own) for signal, own in values.items()}
    by_signal = {"real": probed, "shadow": probed, "update": probed, **measured, **changes}
    return ClientSignals(client_id=client_id, by_signal=by_signal)


BY_HAND = {
    "canary": {"max_rise": 0.5},
    "utility": {"max_cosine": 0.2},
    "spectrum": {"max_flatness": 0.9},
    "consensus": {"min_cosine": -0.1},
}
"""Bounds that the keys set."""


def bounded(level, **settings) -> DefenseConfig:
    """A configuration in which keys set every bound."""
    return DefenseConfig.model_validate({"level": level, **BY_HAND, **settings})


def weigh(config: DefenseConfig, trust, seen, threshold: float = 0.8):
    """Weights and trust, by the bounds that the keys set."""
    said = levels.weigh(config, trust, seen, level_bounds(config, {}, threshold))
    return said.weights, said.trust


def weight(level: str, p: float = 0.0, num_flagged: int = 0, *, threshold: float = 0.8, **config) -> float:
    """What a level with this configuration makes of client a's first round."""
    seen = signals("a", p, num_flagged, threshold=threshold)
    return weigh(bounded(level, **config), {}, [seen], threshold)[0]["a"]


def test_every_level_says_what_it_reads_and_logs():
    probed = {"step": "real", "client": "real", "shadow": "shadow", "evidence": "shadow", "live": "update"}
    of_validation = {"fltrust": "validation", "zeno": "validation", "utility": "validation"}
    measured = {"canary": "canary", "spectrum": "spectrum", **of_validation}
    assert {name: level.reads for name, level in LEVELS.items()} == {"none": None, "consensus": None, **probed, **measured}
    columns = [
        "canary_rise",
        "validation_cosine",
        "validation_fall",
        "task_rise",
        "task_cosine",
        "agreement",
        "copies",
        "flatness",
    ]
    assert list(levels.SIGNAL_COLUMNS) == columns
    assert list(levels.TRUST_COLUMNS.values()) == ["step", "client", "evidence", "utility", "consensus"]


@pytest.mark.parametrize(
    ("level", "arguments", "expected"),
    [
        ("none", (1.0, 48), 1.0),
        ("step", (0.9, 12), 36.95 / 49.9),  # (0.95 + 36) / (0.95 + 36 + 0.95 + 12)
        ("client", (0.9, 12), 0.25),  # s = 0.9: 1 - 0.75
        ("shadow", (0.9, 12), 2187 / 16384),  # r = 12/48: 0.75^7
        ("evidence", (0.9, 12), 2187 / 16384),
        ("live", (0.9, 12), 0.0),  # s = 0.9 is at or above 0.8
        ("canary", (0.49,), 1.0),
        ("canary", (0.5,), 0.0),
        ("fltrust", (0.25,), 0.5),
        ("zeno", (0.4995,), 1.0),  # 0.0005 - 0.0005 x 1
        ("utility", (0.19,), 1.0),
        ("utility", (0.2,), 0.0),
        ("consensus", (1.0, 48), 1.0),  # judges no client by itself
        ("spectrum", (0.89,), 1.0),
        ("spectrum", (0.9,), 0.0),
    ],
)
def test_each_name_gives_its_level_with_the_default_settings(level, arguments, expected):
    assert weight(level, *arguments) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("level", "own", "arguments", "expected"),
    [
        ("step", {"decay": 0.5}, (0.0, 48), 0.5 / 49),  # 0.5 / (0.5 + 0.5 + 48)
        ("client", {"steepness": 2}, (0.0,), 1 - 0.13447071068499755),  # logistic(-1) = 0.2689414213699951, half of it
        ("shadow", {"strength": 2}, (0.0, 12), 0.5625),  # 0.75^2
        ("live", {"soft": True}, (0.4,), 0.75),  # half way to the threshold
        ("live", {"soft": True, "steepness": 2}, (0.0,), 1 - 0.13447071068499755),
        ("canary", {"max_rise": 0.3}, (0.4,), 0.0),
        ("zeno", {"price": 0.6}, (0.0,), 0.0),  # 0.5 - 0.6
        ("zeno", {"min_score": 0.5}, (0.1,), 0.0),
        ("spectrum", {"max_flatness": 0.6}, (0.7,), 0.0),
    ],
)
def test_settings_reach_their_level(level, own, arguments, expected):
    assert weight(level, *arguments, **{level: own}) == pytest.approx(expected)


@pytest.mark.parametrize("level", ["step", "client"])
def test_the_number_of_rounds_that_adapt_trust_reaches_its_level(level):
    config = DefenseConfig.model_validate({"level": level, level: {"adapt_rounds": 1}})
    first, trust = weigh(config, {}, [signals("a", 0.9, 48)])
    assert weigh(config, trust, [signals("a")])[0] == first


def test_evidence_takes_its_strength_from_shadow_and_a_single_verdict_where_it_is_told_so():
    config = DefenseConfig(level="evidence", shadow={"strength": 2}, evidence={"verdicts": 1})
    weights, trust = weigh(config, {}, [signals("a", 0.1, 12)])
    assert (weights["a"], trust["evidence"]["a"]["status"]) == (0.5625, "benign")


def test_the_probes_threshold_decides():
    # Threshold 0.5: s = 0.75 lies in the middle above, factor 1 - 0.75.
    assert weight("client", 0.75, threshold=0.5) == pytest.approx(0.25)
    assert weight("live", 0.5, threshold=0.5) == 0.0


def test_levels_leave_the_lower_bound_on_weights_to_the_gate():
    assert weight("shadow", 0.9, 48, min_weight=0.5) == 0.0


def test_the_default_levels_are_those_that_judge_updates():
    assert DefenseConfig().levels == ("live", "canary", "spectrum", "consensus")


def test_a_client_weighs_the_least_of_what_its_levels_say_and_each_keeps_its_own_trust():
    config = bounded(["live", "canary", "step"])
    steady, risen = (Measured(client_id=name, values={"canary_rise": rise}) for name, rise in (("b", 0.0), ("c", 0.6)))
    seen = [signals("a"), signals("b", 0.9, canary=steady), signals("c", canary=risen)]
    weights, trust = weigh(config, {}, seen)
    assert weights == pytest.approx({"a": 48.95 / 49.9, "b": 0.0, "c": 0.0})
    assert set(trust) == {"step"}
    assert set(trust["step"]) == {"a", "b", "c"}
    assert weigh(config, trust, seen)[1]["step"]["a"]["rounds"] == 2


def test_levels_compose_in_yaml_and_on_the_command_line():
    assert DefenseConfig(level=["live", "canary"]) == DefenseConfig(level="live+canary")
    assert DefenseConfig(level="live+canary").levels == ("live", "canary")


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("live+lives", "'lives' is no level; there are none, step"),
        ("", "'' is no level"),
        ([], "name each level once, and `none` alone"),
        ("live+live", "name each level once"),
        ("none+canary", "name each level once"),
        ("shadow+canary+evidence", r"level=shadow\+canary\+evidence: evidence is shadow with fewer of them"),
    ],
)
def test_levels_that_do_not_compose_are_refused_by_name(level, message):
    with pytest.raises(ValueError, match=message):
        DefenseConfig(level=level)


@pytest.mark.parametrize(
    ("level", "read", "probed", "compares"),
    [
        ("none", set(), set(), False),
        ("live+canary", {"update", "canary"}, {"update"}, False),
        ("shadow+spectrum+consensus", {"shadow", "spectrum"}, {"shadow"}, True),
    ],
)
def test_what_a_composition_reads_and_whether_it_compares(level, read, probed, compares):
    config = DefenseConfig(level=level)
    assert (levels.signals_of(config), levels.probed_signals(config)) == (read, probed)
    assert levels.compares(config) is compares


def test_a_composition_measures_what_belongs_to_its_levels():
    delta = {"w": gathered([[0.0]]).updates[0].delta["w"]}
    assert levels.measure(DefenseConfig(level="spectrum+canary"), delta) == {"spectrum": {"flatness": 0.0}}
    assert levels.measure(DefenseConfig(level="live+canary"), delta) == {}


@pytest.mark.parametrize(("level", "of_a", "of_b"), [("evidence", False, True), ("shadow", True, True), ("live", False, False)])
def test_a_frozen_client_is_asked_for_no_shadow_but_level_shadow_always_asks(level, of_a, of_b):
    asked = [levels.wants_shadow(DefenseConfig(level=level), FROZEN, client_id) for client_id in "ab"]
    assert asked == [of_a, of_b]


@pytest.mark.parametrize(("level", "of_a"), [("evidence", True), ("live+evidence", True), ("live", False)])
def test_only_a_level_in_force_bans_and_only_whom_it_froze(level, of_a):
    assert [levels.is_banned(DefenseConfig(level=level), FROZEN, client_id) for client_id in "ab"] == [of_a, False]


def test_levels_that_compare_see_the_weights_of_the_others_and_only_lower_them():
    # c3 pulls against the others and weighs nothing. c0 keeps the half that another level gave it.
    first, *others = gathered([[1, 0], [1, 0], [1, 0], [-1, 0]]).updates
    updates = RoundUpdates(updates=(replace(first, weight=0.5), *others))
    config = bounded("live+consensus")
    found = levels.compare(config, {"live": {"kept": 1}}, updates, level_bounds(config, {}, 0.8))
    assert found.weights == {"c0": 0.5, "c1": 1.0, "c2": 1.0, "c3": 0.0}
    assert set(found.trust) == {"live", "consensus"}
    assert {client_id: list(values) for client_id, values in found.values.items()} == {
        f"c{i}": ["agreement", "copies"] for i in range(4)
    }


# Bounds


def test_a_level_that_abstains_excludes_nobody_not_even_softly():
    for soft in (False, True):
        config = DefenseConfig(level="live", live={"soft": soft})
        scored = {"last_step_probability": (0.1, 0.2, 0.3)}
        known = reference_values(config, scored, scored, "round 1")
        assert levels.weigh(config, {}, [signals("a", 0.99)], level_bounds(config, known)).weights == {"a": 1.0}


def test_the_first_level_that_excludes_a_client_is_named_with_value_and_bound():
    config = bounded("canary+live+step+spectrum")
    seen = [signals("a", 0.95), signals("b", 0.8, canary=Measured(client_id="b", values={"canary_rise": 0.1})), signals("c")]
    found = levels.weigh(config, {}, seen, level_bounds(config, {}, 0.8)).exclusions
    assert {client_id: (item.level, item.value, item.bound) for client_id, item in found.items()} == {
        "a": ("canary", 0.95, 0.5),
        "b": ("live", 0.8, pytest.approx(0.8)),
    }
    assert found["b"].because == "P(malicious) 0.8 is at or above 0.8, which probe.threshold sets"


def test_a_level_without_a_bound_and_one_that_compares_say_so_too():
    said = levels.weigh(DefenseConfig(level="fltrust"), {}, [signals("a", 1.0)], {})
    assert {name: (own.level, own.value) for name, own in said.exclusions.items()} == {"a": ("fltrust", None)}
    config = bounded("consensus")
    found = levels.compare(config, {}, gathered([[1, 0], [1, 0], [1, 0], [-1, 0]]), level_bounds(config, {}))
    assert found.exclusions["c3"].because == (
        "agreement in the mean over the client's rounds -1 is at or below -0.1, which defense.consensus.min_cosine sets"
    )
    assert list(found.exclusions) == ["c3"]


# What all levels have in common

Round = Sequence[tuple[str, float, int]]
"""Client id, probability and flagged samples."""
rounds = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.floats(0, 1), st.integers(0, 48)),
        min_size=1,
        max_size=4,
        unique_by=lambda seen: seen[0],
    ),
    min_size=1,
    max_size=5,
)


def as_asked(config: DefenseConfig, trust, seen: Round) -> list[ClientSignals]:
    """The signals of a round's clients; of a shadow only where it was asked for."""
    return [
        signals(*item) if levels.wants_shadow(config, trust, item[0]) else signals(*item, shadow=Unasked(client_id=item[0]))
        for item in seen
    ]


@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=25, deadline=None)
@given(history=rounds)
def test_every_level_keeps_the_common_rules(name, history):
    config, trust = bounded(name), {}
    for seen in history:
        evidence, before = as_asked(config, trust, seen), json.dumps(trust)
        weights, new = weigh(config, trust, evidence)
        assert json.dumps(trust) == before  # the trust that was given is not changed
        assert list(weights) == [item.client_id for item in evidence]
        assert all(0 <= own <= 1 for own in weights.values())
        # One by one, or after a round trip through JSON, the same comes out.
        one_by_one, singly = json.loads(before), {}
        for item in evidence:
            own, one_by_one = weigh(config, one_by_one, [item])
            singly |= own
        assert (singly, one_by_one) == (weights, new)
        trust = new


@pytest.mark.parametrize("name", [name for name in ALONE if name != "none"])
def test_worse_evidence_never_weighs_more(name):
    ladder = [weight(name, i / 10, 48 * i // 10) for i in range(11)]
    assert ladder == sorted(ladder, reverse=True)
    assert ladder[0] > 0.9
    assert ladder[-1] < 0.05


NUMBERS = [
    f"{section}.{name}" if section else name
    for section, values in {"": {}, **bounded("none").model_dump()}.items()
    for name, value in (values if isinstance(values, dict) else {section: values}).items()
    for section in [section if isinstance(values, dict) else ""]
    if isinstance(value, int | float) and not isinstance(value, bool)
]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("number", [5e-324, 1e308, -1e308, 10**17, 1, 0.0])
def test_whatever_number_a_setting_accepts_every_level_judges_with_it_and_its_trust_can_be_kept(key, number):
    section, _, name = key.rpartition(".")
    for level in ALONE:
        own = {section: {name: number}} if section else {name: number}
        document = {"level": level, **BY_HAND, **own}
        try:
            config = DefenseConfig.model_validate(document)
        except ValueError:
            continue
        trust = {}
        for p, flagged in ((0.0, 0), (0.8, 48), (1.0, 24)):
            rests = level == "evidence" and not levels.wants_shadow(config, trust, "a")
            seen = signals("a", p, flagged, **({"shadow": Unasked(client_id="a")} if rests else {}))
            weights, trust = weigh(config, trust, [seen])
            assert 0 <= weights["a"] <= 1
        assert json.loads(json.dumps(trust, allow_nan=False)) == trust


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", NUMBERS)
def test_no_setting_accepts_what_is_no_finite_number(key, number):
    section, _, name = key.rpartition(".")
    with pytest.raises(ValueError, match=name):
        DefenseConfig.model_validate({section: {name: float(number)}} if section else {name: float(number)})
