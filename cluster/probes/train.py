"""`probe train` and `probe merge`: from sample stores to a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cluster.config.loading import load_config, validate, with_overrides
from cluster.errors import ConfigError
from cluster.probes.references import measured_references
from probe.artefact import LoraProbe, save_probe
from probe.features import Block, extract
from probe.meta import META_FILE
from probe.samples import Samples
from probe.store import SampleStore
from probe.training import blocks_of, train_probe


def train_from_store(folder: Path, overrides: Sequence[str], output: Path) -> LoraProbe:
    """Train a probe on the store in `folder` and write it to `output`.

    The settings are those of the collection (the store's config.yaml), changed by the overrides.

    Raises:
        ConfigError: settings, store or samples cannot be used; names what is wrong and the fix.
    """
    if (output / META_FILE).exists():
        raise ConfigError(f"--output {output} holds a probe; name a new folder")
    try:
        store, settings = SampleStore.open(folder), folder / "config.yaml"
        config = (load_config(settings, overrides) if settings.is_file() else validate(with_overrides({}, overrides))).probe
        blocks, calibration = blocks_of(config, store.meta), None
        if config.calibration_store is not None:
            held_out = SampleStore.open(Path(config.calibration_store))
            if held_out.meta != store.meta:
                raise ConfigError(
                    f"probe.calibration_store={held_out.folder} was collected with another model, LoRA, recipe or "
                    "collect.modules than the training store; collect both with the same settings"
                )
            calibration = read_features(held_out, blocks)
        probe = train_probe(read_features(store, blocks), store.meta, config, calibration)
        references = {**probe.meta.references, **measured_references(store)}
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    probe = replace(probe, meta=replace(probe.meta, references=references))
    save_probe(output, probe)
    return probe


def merge_stores(folder: Path, others: Sequence[Path]) -> SampleStore:
    """Copy the reference clients of `others` into the store in `folder`; raises ConfigError when one does not fit."""
    try:
        store = SampleStore.open(folder)
        for other in others:
            store.merge(SampleStore.open(other))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return store


def read_features(store: SampleStore, blocks: Sequence[Block]) -> Samples:
    """The store's samples with the feature that `blocks` describe; raises ValueError as `SampleStore.read` does."""
    names = [name for block in blocks for name in block.tensors]
    return store.read(lambda delta: extract(blocks, delta), names)
