"""probe/config.py: which features and classifiers go together, and what a run's settings refuse."""

import pytest
from pydantic import ValidationError

from probe.config import ProbeConfig, ProbeTraining


@pytest.mark.parametrize(
    ("classifier", "feature", "name", "trained_feature"),
    [
        ("linear", None, "linear", "first_layer_b"),
        ("linear", "first_layer_b", "linear", "first_layer_b"),
        ("linear", "all_layers", "linear", "all_layers"),
        ("linear", "per_layer", "layerwise", "per_layer"),
        ("xgboost", None, "xgboost", "module_cosines"),
        ("xgboost", "module_cosines", "xgboost", "module_cosines"),
        ("xgboost", "first_layer_b", "xgboost", "first_layer_b"),
        ("xgboost", "all_layers", "xgboost", "all_layers"),
    ],
)
def test_classifier_and_feature_select_what_is_trained(classifier, feature, name, trained_feature):
    config = ProbeConfig(classifier=classifier, feature=feature)
    assert (config.spec.name, config.trained_feature) == (name, trained_feature)


@pytest.mark.parametrize(
    ("classifier", "feature"), [("xgboost", "per_layer"), ("linear", "module_cosines"), ("layerwise", None), ("linear", "all")]
)
def test_what_does_not_go_together_is_refused_with_the_keys_and_the_choices(classifier, feature):
    message = (
        rf"classifier={classifier} cannot be fitted to feature={feature}; set probe.classifier and probe.feature to one of "
        "linear with first_layer_b, all_layers; linear with per_layer; xgboost with module_cosines"
    )
    with pytest.raises(ValidationError, match=message):
        ProbeConfig(classifier=classifier, feature=feature)


@pytest.mark.parametrize(
    "document", [{"clasifier": "linear"}, {"linear": {"rate": 1}}, {"threshold": 1}, {"xgboost": {"max_depth": 0}}]
)
def test_unknown_keys_and_values_out_of_range_are_refused(document):
    with pytest.raises(ValidationError):
        ProbeConfig.model_validate(document)


def test_settings_do_not_change():
    for settings in (ProbeConfig(), ProbeTraining(), ProbeConfig().linear, ProbeConfig().xgboost):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, next(iter(type(settings).model_fields)), 1)
