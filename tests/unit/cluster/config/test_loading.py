"""Configuration files and overrides, and messages that name the key and the fix."""

import tempfile
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.config import Recipe
from cluster.config.loading import (
    EMBEDDED,
    describe_keys,
    dump_config,
    known_keys,
    load_config,
    split_arguments,
    validate,
    with_overrides,
)
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

FIXED_KEYS = {
    "seed",
    "rounds",
    "clients.count",
    "clients.malicious",
    "defense.level",
    "aggregation.rule",
    "probe.path",
    "probe.threshold",
    "training.steps",
    "training.batch_size",
    "training.learning_rate",
    "cluster.address",
    "world.seed",
}


def test_without_a_file_the_embedded_world_is_loaded():
    config = load_config(None)
    assert config.is_embedded
    assert (config.clients.count, config.clients.malicious, config.defense.level) == (10, 3, "live+canary+spectrum+consensus")


def test_keys_that_others_use_exist():
    assert set(known_keys()) >= FIXED_KEYS


def test_every_key_is_listed_with_its_default():
    lines = list(describe_keys())
    assert len(lines) == len(list(known_keys()))
    assert any(line.startswith("training.learning_rate = 5e-05   (embedded world: 0.006)") for line in lines)


def test_overrides_are_typed_and_win_over_the_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("rounds: 3\nclients: {count: 4}\n")
    config = load_config(str(path), ["rounds=5", "training.learning_rate=3e-4", "probe.threshold=null", "defense.level=step"])
    assert (config.rounds, config.clients.count, config.training.learning_rate) == (5, 4, 3e-4)
    assert config.probe.threshold is None
    assert config.defense.level == "step"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("clients.malicous=2", ["unknown key clients.malicous", "did you mean clients.malicious?"]),
        ("round=2", ["unknown key round", "did you mean rounds?"]),
        ("zzzzqqqq=2", ["unknown key zzzzqqqq", "safe-fedllm keys"]),
        ("rounds=many", ["rounds: ", "got 'many'"]),
        ("rounds=0", ["rounds: ", "greater than 0", "got 0"]),
        ("realignment.refusal_share=2", ["realignment.refusal_share: ", "less than or equal to 1", "got 2"]),
        ("defense.level=strong", ["defense.level: ", "'strong' is no level", "there are none, step", "shadow"]),
        ("probe.threshold=1.5", ["probe.threshold: ", "less than 1", "got 1.5"]),
        ("clients.recipes={steps: 5}", ["clients.recipes: ", "valid list"]),
        ("clients.recipes=[{}, {refusal: 0.5}]", ["unknown key clients.recipes.1.refusal", "mean clients.recipes.1.refusals?"]),
        ("clients.recipes=[{optimizer: lion}]", ["clients.recipes.0.optimizer: ", "'adagrad'", "got 'lion'"]),
        ("clients.recipes=[{learning_rate_factor: 0}]", ["clients.recipes.0.learning_rate_factor: ", "greater than 0"]),
        ("aggregation.optimizer=adam", ["aggregation.optimizer: ", "'fedadam'", "got 'adam'"]),
        ("aggregation.averaging=mean", ["aggregation.averaging: ", "'svd'", "got 'mean'"]),
        ("training.proximal_mu=-1", ["training.proximal_mu: ", "got -1"]),
        ("rounds.x=1", ["rounds is a value, not a section"]),
        ("rounds", ["'rounds' is not of the form key=value"]),
        ("rounds=[", ["rounds: the value '[' is not YAML"]),
        ("rounds=" + "[" * 2000, ["is not YAML: it is nested too deeply"]),
        ("defense.skip_below=2020-13-45", ["defense.skip_below: ", "valid number", "got '2020-13-45'"]),
    ],
)
def test_bad_overrides_name_the_key_and_the_fix(override, parts):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for part in parts:
        assert part in str(caught.value)


def test_recipes_are_written_on_the_command_line_as_yaml_or_json():
    yaml_form = "clients.recipes=[{learning_rate_factor: 0.5}, {steps: 5, optimizer: sgd}]"
    json_form = 'clients.recipes=[{"learning_rate_factor":0.5},{"steps":5,"optimizer":"sgd"}]'
    expected = [Recipe(learning_rate_factor=0.5), Recipe(steps=5, optimizer="sgd")]
    assert load_config(None, [yaml_form]).clients.recipes == load_config(None, [json_form]).clients.recipes == expected


def test_several_faults_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["rounds=x", "seed=y"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "should hold keys and values"), ("a: [", "cannot be read as YAML: line 1")]
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config(Path("nowhere.yaml"))


def test_the_resolved_configuration_loads_to_the_same(tmp_path):
    config = load_config(None, ["rounds=7"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@settings(deadline=None)
@given(st.text(st.characters(codec=None), min_size=1).filter(lambda text: text != "null"))
def test_any_text_survives_the_command_line_and_the_resolved_configuration(text):
    config = load_config(None, [f"evaluation.trigger={text}", "training.max_grad_norm=inf"])
    assert config.evaluation.trigger == text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_config(config))
        assert load_config(path) == config


def test_arguments_are_a_file_and_overrides_in_any_order():
    assert split_arguments(["rounds=2", "a.yaml", "seed=1"]) == (Path("a.yaml"), ["rounds=2", "seed=1"])
    assert split_arguments([]) == (None, [])
    with pytest.raises(ConfigError, match="one configuration file at most"):
        split_arguments(["a.yaml", "b.yaml"])


@pytest.mark.parametrize("path", sorted(EMBEDDED.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    assert load_config(path).rounds >= 10


def test_embedded_yaml_states_only_what_differs():
    stated = yaml.safe_load(EMBEDDED.read_text())
    defaults = RunConfig().model_dump(mode="json")

    def compare(part, default, prefix=""):
        for key, value in part.items():
            if isinstance(value, dict):
                compare(value, default[key], f"{prefix}{key}.")
            elif f"{prefix}{key}" != "defense.level":
                assert value != default[key], f"{prefix}{key} repeats the default"

    compare(stated, defaults)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("evaluation.benign_path=a#b.jsonl", "a#b.jsonl"),
        ("evaluation.benign_path=a # b: c.jsonl", "a # b: c.jsonl"),
        ("evaluation.benign_path=a=b.jsonl", "a=b.jsonl"),
        ("evaluation.benign_path=2024-01-01", "2024-01-01"),
        ("evaluation.benign_path=1e3", "1e3"),
        ("evaluation.benign_path=007", "007"),
        ("evaluation.benign_path=12:30", "12:30"),
        ("evaluation.benign_path=no", "no"),
        ("evaluation.benign_path=true", "true"),
        ("evaluation.benign_path={x}", "{x}"),
        ("evaluation.benign_path=[a].jsonl", "[a].jsonl"),
        ("evaluation.benign_path='a'", "'a'"),
        ("evaluation.benign_path= a ", " a "),
        ("evaluation.benign_path=null", None),
        ("evaluation.benign_path=", None),
    ],
)
def test_a_value_for_a_key_that_takes_text_is_the_text(override, expected):
    assert load_config(None, [override]).evaluation.benign_path == expected


def test_a_list_on_the_command_line_holds_texts_where_the_key_takes_texts():
    own = [
        "model.path=here",
        "clients.malicious=0",
        "data.path=[2024-01-01, 7, a#b.jsonl, [no, 1:30]]",
        "evaluation.refusals=[1, yes]",
    ]
    config = load_config(None, own)
    assert config.data.path == ["2024-01-01", "7", "a#b.jsonl", ["no", "1:30"]]
    assert config.evaluation.refusals == ["1", "yes"]
    assert load_config(None, ["defense.level=[live, canary]"]).defense.level == "live+canary"
    assert load_config(None, ["model.path=here", "clients.malicious=0", "data.path=[a"]).data.path == "[a"


def test_a_file_gives_text_to_keys_that_take_text_and_numbers_as_they_read(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "name: 2024\nrounds: 010\nmodel: {path: 2024-01-01}\ndata: {path: [1, on], watch: no, malicious_path: ~}\n"
        "training: {learning_rate: 1e-3}\nclients: {recipes: [{optimizer: sgd, steps: 2}]}\n"
    )
    config = load_config(path)
    assert (config.name, config.rounds, config.model.path, config.data.path) == ("2024", 10, "2024-01-01", ["1", "on"])
    assert (config.data.watch, config.data.malicious_path, config.training.learning_rate) == (False, None, 1e-3)
    assert config.clients.recipes[0].steps == 2


def test_a_part_may_be_repeated_by_an_alias_or_a_merge(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("clients:\n  recipes:\n  - &slow {steps: 2, optimizer: sgd}\n  - *slow\n  - {<<: *slow, steps: 3}\n")
    assert [(recipe.steps, recipe.optimizer) for recipe in load_config(path).clients.recipes] == [
        (2, "sgd"),
        (2, "sgd"),
        (3, "sgd"),
    ]


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: 2\nseed: 1\nrounds: 3\n", "the key rounds is given twice, in line 1 and line 3"),
        (b"training:\n  steps: 2\n  steps: 3\n", "the key training.steps is given twice, in line 2 and line 3"),
        (b"clients: {recipes: [{steps: 1, steps: 2}]}\n", "the key clients.recipes.steps is given twice"),
        (b"rounds: !!python/object/apply:os.getcwd []\n", "line 1: rounds has the tag !!python/object/apply:os.getcwd"),
        (b"name: !!timestamp 2024-01-01\n", "line 1: name has the tag !!timestamp"),
        (BOMB.encode(), "more than 100000 values"),
        (b"a: &a [*a]\n", "a part holds itself"),
        (b"training:\n\tsteps: 2\n", "line 2: found character .* not with tabs"),
        (b"rounds: 2\n---\nrounds: 3\n", "line 2: "),
        (b"rounds: " + b"[" * 100_000, "nested too deeply"),
        (b"rounds: " + b"9" * 5000, "cannot be read as YAML: .*digits"),
        (b"? [a]\n: b\n", "a key should be a word"),
        ("name: café\n".encode("latin-1"), "is not UTF-8 text"),
        ("rounds: 2\n".encode("utf-16"), "is not UTF-8 text"),
        (b"name: a\x00b\n", "cannot be read as YAML"),
        (b"\x00" * 1_000_001, "has 1000001 bytes"),
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"defense:\n", "defense: is a section and holds nothing"),
        (b"defense: {shadow: }\n", "defense.shadow: is a section and holds nothing"),
        (b"on: 1\n", "unknown key on"),
    ],
)
def test_unusable_files_are_explained_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_section_of_a_file_takes_no_override(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("defense:\n")
    with pytest.raises(ConfigError, match="defense: is a section and holds nothing"):
        load_config(path, ["defense.level=step"])


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_bytes("\ufeffrounds: 3\n".encode())
    assert load_config(path).rounds == 3


def test_a_configuration_file_may_hold_an_equals_sign(tmp_path, monkeypatch):
    (tmp_path / "lr=2.yaml").write_text("rounds: 3\n")
    (tmp_path / "rounds=5").write_text("")
    monkeypatch.chdir(tmp_path)
    assert split_arguments(["lr=2.yaml", "rounds=5"]) == (Path("lr=2.yaml"), ["rounds=5"])
    assert split_arguments([f"{tmp_path}/no=1.yaml"]) == (tmp_path / "no=1.yaml", [])
    assert split_arguments(["lr=3"]) == (None, ["lr=3"])
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(tmp_path)


def test_the_home_directory_is_written_out_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ["model.path", "data.path", "data.malicious_path", "probe.path", "probe.calibration_store", "world.path"]
    keys += [f"evaluation.{name}_path" for name in ("restricted", "benign", "canary", "validation")]
    keys += ["collect.benign_path", "collect.malicious_path", "checkpoint.path"]
    config = load_config(None, [*(f"{key}=~/{key}" for key in keys), "collect.adapters=[initial, ~/one]"])
    assert [attrgetter(key)(config) for key in keys] == [str(tmp_path / key) for key in keys]
    assert config.collect.adapters == ["initial", str(tmp_path / "one")]
    lists = load_config(None, ["model.path=x", "clients.malicious=0", "data.path=[~/a, [~/b, c~]]"])
    assert lists.data.path == [f"{tmp_path}/a", [f"{tmp_path}/b", "c~"]]
    assert split_arguments(["~/my.yaml"])[0] == tmp_path / "my.yaml"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/runs",
        "s3://KEY:SEC/RET@bucket/runs",
        "abfs://:SECRET@account.dfs.core.windows.net/runs",
        "abfs://container@account/runs?client_secret=SECRET",
        "s3://bucket/runs?region=x&access_key=SECRET",
        "[s3://KEY:SECRET@bucket/runs]",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(tmp_path, uri):
    path = tmp_path / "my.yaml"
    path.write_text(f'checkpoint: {{path: "{uri}"}}\n')
    for arguments in ((path, []), (None, [f"checkpoint.path={uri}"])):
        with pytest.raises(ConfigError, match=r"checkpoint.path: the URI holds credentials.* AWS_ACCESS_KEY_ID") as caught:
            load_config(*arguments)
        assert "SEC" not in str(caught.value).replace("AWS_SECRET", "")


@pytest.mark.parametrize(
    "uri", ["s3://bucket/runs?region=eu-west-1", "abfs://container@account/runs", "hdfs://me@host:9000/runs"]
)
def test_a_uri_without_credentials_stays_as_it_is(uri):
    assert load_config(None, [f"checkpoint.path={uri}"]).checkpoint.path == uri


VALUES = st.one_of(
    st.text(st.characters(codec=None)),
    st.text("[]{}:,#&*!|>'\"%@`-? \n\t0.1eE_~<=xya", max_size=20),
    st.sampled_from(["2020-13-45", "1e400", "-.inf", ".nan", "9" * 5000, "{a: {a: {a: 1}}}", "!!python/name:os.x", "~"]),
)


@settings(deadline=None)
@given(st.sampled_from([*known_keys(), "defense", "clients.recipes.0.steps", "a.b", "."]), VALUES)
def test_any_override_is_taken_or_refused_by_name(key, value):
    try:
        assert isinstance(validate(with_overrides({}, [f"{key}={value}"])), RunConfig)
    except ConfigError as error:
        assert str(error)


@settings(deadline=None)
@given(VALUES, st.sampled_from(["{}", "rounds: {}", "name: {}\nrounds: 2", "clients: {}", "defense:\n  level: {}\n  {}: 1"]))
def test_any_file_is_taken_or_refused_by_name(value, form):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.yaml"
        path.write_bytes(form.replace("{}", value).encode(errors="surrogatepass"))
        try:
            assert isinstance(load_config(path), RunConfig)
        except ConfigError as error:
            assert str(error)
