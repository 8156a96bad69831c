"""cluster/config/first_bounds.py: a level that would have no bound at its first verdict is an error before the run starts."""

from dataclasses import replace

import pytest

from cluster.config.first_bounds import check_bounds, first_references
from cluster.config.loading import load_config
from cluster.errors import ConfigError
from tests.unit.actors.builders import META

VALUES = {"benign": [0.1, 0.2, 0.3], "malicious": [0.9]}
KNOWN = replace(META, references={"last_step_probability": VALUES, "flatness": VALUES})
NO_REFRESH = "probe.refresh_every=0"


@pytest.mark.parametrize(
    ("overrides", "meta"),
    [
        (["defense.level=live+canary+spectrum+consensus"], META),  # every round measures them
        (["defense.level=shadow"], META),
        (["defense.level=none"], None),
        (["defense.level=canary", "defense.canary.max_rise=0.5"], None),
        (["defense.level=live+spectrum", NO_REFRESH], KNOWN),
        (["defense.level=live", NO_REFRESH, "probe.threshold=0.7"], META),
        (["defense.level=shadow+spectrum"], KNOWN),
    ],
)
def test_a_run_whose_levels_have_bounds_may_start(overrides, meta):
    check_bounds(load_config(None, overrides), meta)


@pytest.mark.parametrize(
    ("overrides", "meta", "message"),
    [
        (
            ["defense.level=canary"],
            None,
            "defense.level=canary: nothing says from which canary_rise on a client weighs nothing; set defense.canary.max_rise, "
            "or add live to defense.level, whose reference clients give the bound",
        ),
        (
            ["defense.level=live+canary", NO_REFRESH],
            KNOWN,
            "set defense.canary.max_rise, or let reference clients give it with probe.refresh_every=1",
        ),
        (
            ["defense.level=live+consensus", NO_REFRESH],
            META,
            "set probe.threshold and defense.consensus.min_cosine, or let reference clients give them with probe.refresh_every=1",
        ),
    ],
)
def test_a_level_without_a_bound_is_refused_with_the_key_and_the_fix(overrides, meta, message):
    with pytest.raises(ConfigError) as caught:
        check_bounds(load_config(None, overrides), meta)
    assert message in str(caught.value)


def test_the_artefact_gives_the_first_references_of_the_levels_in_use():
    found = first_references(load_config(None, ["defense.level=spectrum+consensus"]).defense, KNOWN)
    assert {column: (values.benign, values.unsafe, values.origin) for column, values in found.items()} == {
        "flatness": ((0.1, 0.2, 0.3), (1.0,), "the probe's artefact")
    }
    assert first_references(load_config(None).defense, None) == {}
