"""probe/config.py: which features and classifiers go together."""

import itertools
from typing import get_args

import pytest

from cluster.config.loading import load_config
from cluster.errors import ConfigError
from probe.config import ClassifierName, FeatureName, ProbeConfig

REFUSED = [("xgboost", "per_layer"), ("linear", "module_cosines")]


@pytest.mark.parametrize(("classifier", "feature"), REFUSED)
def test_a_feature_that_a_classifier_cannot_be_fitted_to_is_refused_with_both_keys(classifier, feature):
    message = rf"feature={feature} .*classifier={classifier}; set probe\.classifier=.* probe\.feature"
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"probe.classifier={classifier}", f"probe.feature={feature}"])


def test_every_other_pair_and_a_classifier_alone_are_accepted():
    for classifier, feature in itertools.product(get_args(ClassifierName), get_args(FeatureName)):
        if (classifier, feature) not in REFUSED:
            assert ProbeConfig(classifier=classifier, feature=feature).trained_feature == feature
    assert ProbeConfig(classifier="linear").trained_feature == "first_layer_b"
    assert ProbeConfig(classifier="xgboost").trained_feature == "module_cosines"
