"""probe/training.py: from samples to a probe that was calibrated and measured on what its fits did not see."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probe.artefact import load_probe, save_probe
from probe.calibration import choose_threshold, fit_calibration
from probe.classifiers import CLASSIFIERS
from probe.classifiers.base import ClassifierSpec
from probe.classifiers.linear import LinearSettings, cross_fit_linear
from probe.config import ProbeConfig, ProbeTraining
from probe.features import FEATURES
from probe.samples import Samples
from probe.splits import folds, hold_out
from probe.store_meta import StoreMeta
from probe.training import blocks_of, final_values, train_probe
from tests.unit.probe.builders import make_samples

NAMES = [f"layers.{layer}.{module}.lora_{factor}.weight" for layer in (0, 1) for module in ("k", "q") for factor in "AB"]
STORE = StoreMeta(
    shapes={name: (2, 3) if ".lora_A." in name else (3, 2) for name in NAMES},
    layers={name: int(name.split(".")[1]) for name in NAMES},
    model_fingerprint="model",
    lora_fingerprint="lora",
    recipe={"learning_rate": 0.01, "steps": 3},
)
RECIPE = {"weight_decay": 0.01, "learning_rate": 0.05, "max_epochs": 40}
WIDTHS = {"first_layer_b": 12, "all_layers": 48, "per_layer": 48, "module_cosines": 48}


def samples(feature: str = "first_layer_b", clients: int = 8, seed: int = 0, tag: str = "") -> Samples:
    """Three steps each of `clients` a class in four families; the classes differ in the first value of every twelve."""
    rng, width = np.random.default_rng(seed), WIDTHS[feature]
    rows = [(label, index, step) for label in (0, 1) for index in range(clients) for step in (1, 2, 3)]
    labels = np.array([label for label, _, _ in rows])
    features = rng.normal(scale=0.3, size=(len(rows), width))
    features[:, ::12] += (2 * labels - 1)[:, None]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Samples(
        features=features.astype(np.float32),
        labels=labels,
        clients=np.array([f"{tag}{label}-{index}" for label, index, _ in rows]),
        families=np.array([f"{tag}{'bm'[label]}{index % 4}" for label, index, _ in rows]),
        steps=np.array([step for *_, step in rows]),
        states=np.full(len(rows), "initial"),
    )


def config(**fields) -> ProbeConfig:
    return ProbeConfig.model_validate({"linear": RECIPE, **fields})


def trainings() -> list[dict[str, str]]:
    """Every classifier with every feature that it can be fitted to, as the settings that select both."""
    return [{"classifier": spec.choice, "feature": feature} for spec in CLASSIFIERS.values() for feature in spec.features]


def test_the_classifiers_read_every_feature_and_no_other():
    assert {fields["feature"] for fields in trainings()} == set(FEATURES)
    assert all(name == spec.name for name, spec in CLASSIFIERS.items())


@dataclasses.dataclass(frozen=True)
class FirstValue:
    """P(malicious) is 0.75 where the first of `num_values` values is positive, else 0.25."""

    num_values: int

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.where(features[:, 0] > 0, 0.75, 0.25)

    def files(self) -> dict[str, bytes]:
        return {"size": str(self.num_values).encode()}


def test_a_new_classifier_is_a_spec_in_the_table(tmp_path, monkeypatch):
    spec = ClassifierSpec(
        name="first_value",
        choice="first",
        features=("first_layer_b",),
        fit=lambda data, settings: (FirstValue(sum(data.sizes)), FirstValue(sum(data.sizes)).score(data.samples.features)),
        load=lambda files: FirstValue(int(files["size"])),
    )
    monkeypatch.setitem(CLASSIFIERS, spec.name, spec)
    save_probe(tmp_path, train_probe(samples(), STORE, config(classifier="first")))
    loaded = load_probe(tmp_path)
    assert loaded.classifier == FirstValue(WIDTHS["first_layer_b"])
    assert (loaded.meta.classifier, loaded.meta.feature, loaded.meta.threshold) == ("first_value", "first_layer_b", 0.5)
    assert (loaded.meta.metrics["tpr"], loaded.meta.metrics["fpr"]) == (1, 0)


@pytest.mark.parametrize("fields", trainings(), ids=lambda fields: "-".join(fields.values()))
def test_every_classifier_learns_what_carries_over_to_new_clients_and_families_and_survives_the_disk(tmp_path, fields):
    settings = config(**fields, folds=4)
    probe = train_probe(samples(settings.trained_feature), STORE, settings)
    assert (probe.meta.classifier, probe.meta.feature) == (settings.spec.name, settings.trained_feature)
    new = samples(settings.trained_feature, clients=16, seed=1, tag="new-")
    assert roc_auc_score(new.labels, probe.score_features(new.features)) > 0.9
    save_probe(tmp_path, probe)
    loaded = load_probe(tmp_path)
    assert type(loaded.classifier) is type(probe.classifier)
    assert loaded.score_features(new.features).tobytes() == probe.score_features(new.features).tobytes()


def test_the_default_is_the_papers_single_split_at_its_threshold_uncalibrated():
    data, probe = samples(), train_probe(samples(), STORE, config())
    mask = hold_out(data, 0.1, 0)
    expected, scores = cross_fit_linear(data.features, data.labels, [mask], LinearSettings(**RECIPE))
    assert probe.classifier.weight.tobytes() == expected.weight.tobytes()
    assert (probe.meta.threshold, probe.meta.calibration) == (0.8, None)
    assert probe.meta.metrics["num_samples"] == mask.sum()
    assert probe.meta.metrics["tpr"] == np.mean(scores[mask][data.labels[mask] == 1] >= 0.8)
    assert probe.meta.training["held_out_families"] == [sorted(set(data.families[mask].tolist()))]


def test_with_folds_threshold_and_calibration_come_from_rows_that_a_fit_did_not_see():
    data = samples()
    probe = train_probe(data, STORE, config(folds=4, calibrate=True, target_fpr=0.05))
    masks = folds(data, 4, 0)
    _, scores = cross_fit_linear(data.features, data.labels, masks, LinearSettings(**RECIPE))
    platt = fit_calibration(scores, data.labels)
    assert probe.meta.calibration == platt
    assert probe.meta.threshold == choose_threshold(platt.apply(scores), data.labels, 0.05)
    assert probe.meta.metrics["num_samples"] == len(data)
    assert probe.meta.metrics["fpr"] <= 0.05
    assert len(probe.meta.training["held_out_families"]) == 4


def test_a_store_of_other_families_calibrates_instead():
    data, other = samples(), samples(seed=5, tag="other-")
    probe = train_probe(data, STORE, config(calibrate=True, target_fpr=0.05), other)
    scores = probe.classifier.score(other.features)
    assert probe.meta.calibration == fit_calibration(scores, other.labels)
    assert probe.meta.threshold == choose_threshold(probe.meta.calibration.apply(scores), other.labels, 0.05)
    assert set(probe.meta.training["families"]) == {*data.families.tolist(), *other.families.tolist()}


@pytest.mark.parametrize("fields", [{"classifier": "xgboost"}, {"feature": "per_layer"}])
def test_what_has_no_threshold_to_start_from_chooses_one_over_four_folds(fields):
    settings = config(**fields)
    probe = train_probe(samples(settings.trained_feature), STORE, settings)
    assert probe.meta.threshold != 0.8
    assert probe.meta.metrics["fpr"] <= 0.01
    assert len(probe.meta.training["held_out_families"]) == 4


def test_a_threshold_that_is_set_stands():
    assert train_probe(samples(), STORE, config(threshold=0.4, target_fpr=0.05)).meta.threshold == 0.4


def test_the_artefact_says_what_a_run_needs_to_know():
    meta = train_probe(samples(), STORE, config(folds=2)).meta
    assert list(meta.shapes) == ["layers.0.k.lora_B.weight", "layers.0.q.lora_B.weight"]
    assert set(meta.layers.values()) == {0}
    assert (meta.model_fingerprint, meta.lora_fingerprint, meta.recipe) == ("model", "lora", STORE.recipe)
    assert meta.training["num_clients"] == {"benign": 8, "malicious": 8}
    assert len(meta.training["clients"]) == 16
    assert ProbeTraining.model_validate(meta.training["config"]).linear.learning_rate == 0.05
    assert set(meta.training["versions"]) == {"torch", "numpy"}
    assert all(len(meta.scores[name]) == 101 for name in ("benign", "malicious"))
    assert set(meta.metrics["last_step"]) == {"roc_auc", "tpr", "fpr"}


def test_the_artefact_keeps_its_own_scores_of_final_deltas():
    data = samples()
    probe = train_probe(data, STORE, config(folds=4))
    scored = probe.meta.references["last_step_probability"]
    assert {name: len(values) for name, values in scored.items()} == {"benign": 8, "malicious": 8}
    last = data.take((data.steps == 3) & (data.labels == 0))
    assert sorted(probe.score_features(last.features).tolist()) == sorted(scored["benign"])


def test_final_values_are_those_of_the_last_step_in_order_of_client_and_state():
    rows = make_samples(
        [0, 0, 0, 1, 0], clients=["b", "a", "a", "m", "a"], steps=[2, 2, 1, 2, 2], states=["x", "y", "x", "x", "x"]
    )
    assert final_values(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), rows) == {"benign": [5.0, 2.0, 1.0], "malicious": [4.0]}


def test_the_same_samples_give_the_same_probe():
    first, second = (train_probe(samples(), STORE, config(folds=3)) for _ in range(2))
    assert first.meta == second.meta
    assert first.classifier.files() == second.classifier.files()


# Refusals


def test_one_class_only_is_refused():
    data = samples()
    with pytest.raises(ValueError, match="at least 2 malicious clients, got 0"):
        train_probe(data.take(data.labels == 0), STORE, config())


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("fields", trainings(), ids=lambda fields: "-".join(fields.values()))
def test_a_value_that_is_not_finite_is_refused(fields, folds):
    settings = config(**fields, folds=folds)
    data = samples(settings.trained_feature)
    data.features[7, 3] = np.nan
    with pytest.raises(ValueError, match="feature value 3 of sample 7 is nan"):
        train_probe(data, STORE, settings)


def test_calibration_families_or_clients_of_the_training_are_refused():
    with pytest.raises(ValueError, match=r"probe.calibration_store has families of the training store: \['b0'"):
        train_probe(samples(), STORE, config(), samples(seed=1))
    clients_only = dataclasses.replace(samples(seed=1), families=samples(tag="x-").families)
    with pytest.raises(ValueError, match=r"probe.calibration_store has clients of the training store"):
        train_probe(samples(), STORE, config(), clients_only)


def test_a_feature_of_all_layers_needs_a_store_of_all_layers():
    first = [name for name in NAMES if name.startswith("layers.0") and ".lora_B." in name]
    small = dataclasses.replace(STORE, shapes={name: STORE.shapes[name] for name in first}, layers=dict.fromkeys(first, 0))
    assert [block.name for block in blocks_of(config(), small)] == ["layer 0"]
    with pytest.raises(ValueError, match=r"probe.feature=all_layers reads every LoRA tensor.*collect.modules=all"):
        blocks_of(config(feature="all_layers"), small)
