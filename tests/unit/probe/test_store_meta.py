"""probe/store_meta.py: `store.json` says what the samples were made with, and anything else is refused by name."""

import json
import subprocess
import sys

import pytest

from probe.store import SampleStore
from tests.unit.probe.builders import A, B, files_of, make_store, make_store_meta, refused


def test_store_json_says_what_the_samples_were_made_with(tmp_path):
    make_store(tmp_path)
    assert json.loads((tmp_path / "store.json").read_text()) == {
        "schema_version": 1,
        "shapes": {B: [3, 2], A: [2, 4]},
        "layers": {B: 0, A: 0},
        "model_fingerprint": "model-1",
        "lora_fingerprint": "lora-1",
        "recipe": {"learning_rate": 0.001, "steps": 2, "batch_size": 16, "weight_decay": 0.0},
    }
    assert SampleStore.open(tmp_path).meta == make_store_meta()


def test_a_store_opens_again_for_the_same_meta_in_another_order_of_tensors(tmp_path):
    make_store(tmp_path, "c0")
    again = make_store(tmp_path, shapes={A: (2, 4), B: (3, 2)}, layers={A: 0, B: 0})
    assert again.has("initial", "c0")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_fingerprint": "model-2"}, "model_fingerprint = model-1, not model-2"),
        ({"lora_fingerprint": "lora-2"}, "lora_fingerprint = lora-1, not lora-2"),
        ({"shapes": {B: (4, 2), A: (2, 4)}}, f"shapes {B} = [3, 2], not [4, 2]"),
        ({"shapes": {B: (3, 2)}, "layers": {B: 0}}, f"shapes {A} = [2, 4], not None"),
        ({"shapes": {B: (3, 2), A: (2, 4), "x": (1,)}, "layers": {B: 0, A: 0, "x": 1}}, "shapes x = None, not [1]"),
        ({"layers": {B: 0, A: 7}}, f"layers {A} = 0, not 7"),
        ({"recipe": {**make_store_meta().recipe, "learning_rate": 0.1}}, "recipe learning_rate = 0.001, not 0.1"),
        ({"recipe": {}}, "recipe learning_rate = 0.001, not None"),
    ],
)
def test_a_store_made_for_something_else_is_neither_opened_nor_merged(tmp_path, changes, problem):
    store, other = make_store(tmp_path / "here", "c0"), make_store(tmp_path / "other", **changes)
    for use in (lambda: SampleStore.create_or_open(store.folder, make_store_meta(**changes)), lambda: store.merge(other)):
        with refused(f"the store {store.folder} was made with {problem}; use another folder"):
            use()
    assert SampleStore.open(store.folder).meta == make_store_meta()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_store_is_refused(tmp_path, name):
    with refused(tmp_path / name, "is no sample store, it has no store.json; collect one with `safe-fedllm probe collect`"):
        SampleStore.open(tmp_path / name)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda document: document.update(schema_version=2), "schema_version 2 is not the supported 1"),
        (lambda document: document.pop("schema_version"), "schema_version None is not the supported 1"),
        (lambda document: document.pop("shapes"), "shapes"),
        (lambda document: document.pop("recipe"), "recipe"),
        (lambda document: document.update(colour="red"), "colour"),
        (lambda document: document.update(shapes=7), "shapes: "),
        (lambda document: document.update(shapes={A: ["2", "4"]}), "valid integer"),
        (lambda document: document.update(layers=None), "layers: "),
        (lambda document: document.update(layers={A: 0}), f"only one of them has {B}"),
    ],
)
def test_a_store_json_that_cannot_be_used_is_refused(tmp_path, edit, problem):
    make_store(tmp_path)
    document = json.loads((tmp_path / "store.json").read_text())
    edit(document)
    (tmp_path / "store.json").write_text(json.dumps(document))
    with refused(f"the store {tmp_path}: store.json cannot be used", problem, "restore it or collect again"):
        SampleStore.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"schema_version": 1', b"\xff\xfe", b"[]"])
def test_a_store_json_that_is_not_an_object_is_refused(tmp_path, content):
    (tmp_path / "store.json").write_bytes(content)
    with refused(tmp_path, "store.json cannot be used"):
        SampleStore.open(tmp_path)


def test_shapes_and_layers_of_other_tensors_are_refused():
    with refused("shapes and layers must name the same tensors; only one of them has", A):
        make_store_meta(layers={B: 0})


def test_a_store_json_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def broken(self, text):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", broken)
    with pytest.raises(OSError, match="No space left"):
        SampleStore.create_or_open(tmp_path, make_store_meta())
    assert files_of(tmp_path) == []


def test_configuration_and_stores_load_no_torch():
    code = "import sys, probe.store, probe.config; print(sorted({'torch', 'ray', 'xgboost'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
