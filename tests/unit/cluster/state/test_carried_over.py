"""The configuration belongs to the checkpoint: every key that is edited is refused by name, or applied and recorded."""

import json
from collections.abc import Iterator

import pytest

from cluster.config.loading import flat_values, known_keys, load_config, validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.live.orders import _fixed
from cluster.state.carried_over import FIXED, MAY_CHANGE, changed_keys, may_change


def override(key: str, value: object) -> str:
    """KEY=VALUE as a person writes it: text without quotes."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


OWN = {"model.path": "model", "data.path": "data", "data.malicious_path": "bad", "defense.level": "none", "clients.recipes": []}
OUTSIDE = {"gateway.clients": ["client-001"], "gateway.certificate": "a.pem", "gateway.key": "a.key"}
BASES = [
    load_config(None, ["clients.malicious=0"]),
    load_config(None, ["clients.malicious=0", "aggregation.rule=krum", "aggregation.f=2"]),
    load_config(None, ["clients.malicious=0", *(override(key, value) for key, value in OWN.items())]),
    load_config(None, ["evaluation.judge.path=m", "evaluation.judge.refusal_label=no"]),
    load_config(None, ["clients.malicious=0", *(override(key, value) for key, value in OUTSIDE.items())]),
    RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d", "partition": {"by": "column", "column": "c"}}}),
]


def other_values(value: object) -> Iterator[object]:
    """Values of every type that a key may have, those like the old one first."""
    if isinstance(value, bool):
        yield not value
    if isinstance(value, int | float):
        yield from (value + 1, value * 2, value / 2, value - 1)
    yield from (None, True, False, 1, 2, 0.5, 5e-7, "other", "a=b", ["other"], [{"steps": 1}])
    yield from ("bfloat16", "eager", "all", "dirichlet", "column", "family", "retry_round", "none", "step", "lie", "sign_flip")
    yield from ("median", "krum", "nnm", "fedadam", "fedavgm", "samples", "ffa", "svd", "xgboost", "per_layer", "c2")
    yield from (
        "max",
        "sum",
        "min_max",
        "min_sum",
        "std",
        "sign",
        "unit_vector",
        "linear",
        "accuracy",
        "auto",
        "contains",
        "8bit",
    )
    yield ["tensorboard"]


def edited(key: str) -> tuple[RunConfig, RunConfig] | None:
    """A valid configuration, and another that differs in this key alone."""
    for base in BASES:
        for value in other_values(flat_values(base)[key]):
            try:
                asked = validate(with_overrides(base.model_dump(mode="json"), [override(key, value)]))
            except ConfigError:
                continue
            if [name for name, new in flat_values(asked).items() if flat_values(base)[name] != new] == [key]:
                return base, asked
    return None


@pytest.mark.parametrize("key", known_keys())
def test_every_key_that_is_edited_is_refused_by_name_or_recorded(key):
    pair = edited(key)
    assert pair is not None, f"no other valid value of {key} was found; add one to other_values"
    base, asked = pair
    old, new = flat_values(base)[key], flat_values(asked)[key]
    if may_change(key):
        assert changed_keys(base, asked) == [f"{key}: {old} -> {new}"]
    else:
        with pytest.raises(ConfigError) as caught:
            changed_keys(base, asked)
        assert str(caught.value).startswith(f"{key}: config.yaml has {new}, the committed rounds ran with {old}; put it back")
    assert changed_keys(base, base) == []


def test_every_line_of_the_table_is_a_key_or_a_section():
    for name in (*MAY_CHANGE, *FIXED):
        assert any(key == name or (name.endswith(".") and key.startswith(name)) for key in known_keys()), name


@pytest.mark.parametrize("key", [key for key in known_keys() if key.startswith("defense.")])
def test_of_the_defense_may_change_what_an_order_may_change(key):
    base, asked = edited(key)
    assert may_change(key) == (_fixed(base.defense) == _fixed(asked.defense))
